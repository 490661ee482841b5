//! The bytes of history's files: an index with the series and the places of their parts, and segments with the parts.
//!
//! Both are made of records of [`framing`]. An index' payloads begin with a tag; an index is read up to the first damaged one.

use std::sync::Arc;

use golectra_chunks::rollup::Resolution;
use golectra_protocol::{Kind, Source};

use super::super::framing::{self, Rest, source_name};
use super::part::{Part, SealedBlock, StoredAt};
use super::rollups::{DayRollups, RollupBlock};
use super::series::{SERIES_A_BLOCK, SeriesBlock};

/// What a segment begins with.
pub(super) const SEGMENT_HEAD: &[u8; 16] = b"golectra parts 1";
const MAGIC: &[u8; 18] = b"golectra history 1";
const HEAD: u8 = 1;
const SERIES: u8 = 2;
const PARTS: u8 = 3;
const END: u8 = 4;
const ROLLUPS: u8 = 5;
/// What a segment and the head of an index begin with, whatever the version.
const SEGMENT_FAMILY: &[u8] = b"golectra parts ";
const FAMILY: &[u8] = b"golectra history ";
/// A record of series or parts is ended beyond this.
const RECORD_BYTES: usize = 256 * 1024;

/// One series of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredSeries {
    pub(super) number: u32,
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) base: i64,
}

/// One record of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IndexRecord {
    /// The snapshot that was in place when the index was written, and when that was.
    Head { before: Option<[u8; 32]>, saved_millis: u64 },
    /// Series of a source, and the number that its next series gets.
    Series { source: Source, next: u32, series: Vec<StoredSeries> },
    /// Parts of a source: the beginning of each's window and where it stands, in order.
    Parts { source: Source, parts: Vec<(i64, StoredAt)> },
    /// Rollups of a source: their days and resolutions, and where each stands.
    Rollups { source: Source, rollups: Vec<(i64, Resolution, StoredAt)> },
    /// The end: nothing is missing.
    End,
    /// Something whose checksum is right and that this version does not know.
    Foreign,
}

/// Whether a segment that begins with this is of another version.
pub(super) fn is_foreign_segment(head: &[u8]) -> bool {
    head.starts_with(SEGMENT_FAMILY) && head != SEGMENT_HEAD
}

pub(super) fn encode_head(out: &mut Vec<u8>, before: Option<[u8; 32]>, saved_millis: u64) {
    framing::append(out, |out| {
        out.push(HEAD);
        out.extend(MAGIC);
        out.extend(saved_millis.to_le_bytes());
        out.extend(before.iter().flatten());
    });
}

pub(super) fn encode_end(out: &mut Vec<u8>) {
    framing::append(out, |out| out.push(END));
}

/// Appends the series of a source, in records of a bounded length. There is one at least.
pub(super) fn encode_series<'a>(
    out: &mut Vec<u8>,
    source: &Source,
    next: u32,
    blocks: impl IntoIterator<Item = (u32, &'a Arc<SeriesBlock>)>,
) {
    let mut blocks = blocks.into_iter().peekable();
    loop {
        framing::append(out, |out| {
            let start = out.len();
            out.push(SERIES);
            source_name(out, source);
            out.extend(next.to_le_bytes());
            while out.len() - start < RECORD_BYTES
                && let Some((number, block)) = blocks.next()
            {
                for (number, series) in (number * SERIES_A_BLOCK..).zip(block.iter()) {
                    out.extend(number.to_le_bytes());
                    out.push(u8::from(series.kind == Kind::Counter));
                    if series.kind == Kind::Counter {
                        out.extend(series.base.to_le_bytes());
                    }
                    out.extend(u16::try_from(series.id.len()).expect("an id has at most 4,096 bytes").to_le_bytes());
                    out.extend(series.id.as_bytes());
                }
            }
        });
        if blocks.peek().is_none() {
            return;
        }
    }
}

/// Appends the places of a source's parts, in records of a bounded length.
pub(super) fn encode_parts(out: &mut Vec<u8>, source: &Source, parts: &[(i64, StoredAt)]) {
    for some in parts.chunks(RECORD_BYTES / 24) {
        framing::append(out, |out| {
            out.push(PARTS);
            source_name(out, source);
            for (start, at) in some {
                out.extend(start.to_le_bytes());
                place(out, *at);
            }
        });
    }
}

/// Appends the places of a source's rollups, in records of a bounded length.
pub(super) fn encode_rollup_places(out: &mut Vec<u8>, source: &Source, rollups: &[(i64, Resolution, StoredAt)]) {
    for some in rollups.chunks(RECORD_BYTES / 25) {
        framing::append(out, |out| {
            out.push(ROLLUPS);
            source_name(out, source);
            for (day, resolution, at) in some {
                out.extend(day.to_le_bytes());
                out.push(u8::from(*resolution == Resolution::OneHour));
                place(out, *at);
            }
        });
    }
}

fn place(out: &mut Vec<u8>, StoredAt { segment, offset, bytes }: StoredAt) {
    out.extend(segment.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.extend(bytes.to_le_bytes());
}

fn read_place(rest: &mut Rest<'_>) -> Option<StoredAt> {
    Some(StoredAt { segment: rest.u32()?, offset: rest.u64()?, bytes: rest.u32()? })
}

/// Reads an index' payload whose checksum was right.
pub(super) fn decode_index(payload: &[u8]) -> Option<IndexRecord> {
    let mut rest = Rest(payload);
    let record = match rest.byte()? {
        HEAD => {
            if !rest.0.starts_with(MAGIC) && rest.0.starts_with(FAMILY) {
                return Some(IndexRecord::Foreign);
            }
            (rest.take(MAGIC.len())? == MAGIC).then_some(())?;
            let saved_millis = rest.u64()?;
            let before = if rest.0.is_empty() { None } else { Some(rest.array()?) };
            IndexRecord::Head { before, saved_millis }
        }
        SERIES => {
            let (source, next, mut series) = (rest.source()?, rest.u32()?, Vec::new());
            while !rest.0.is_empty() {
                let number = rest.u32()?;
                let (kind, base) = match rest.byte()? {
                    0 => (Kind::Gauge, 0),
                    1 => (Kind::Counter, rest.i64()?),
                    _ => return None,
                };
                let bytes = rest.u16()?;
                series.push(StoredSeries { number, id: rest.text(bytes.into())?.to_owned(), kind, base });
            }
            IndexRecord::Series { source, next, series }
        }
        PARTS => {
            let (source, mut parts) = (rest.source()?, Vec::new());
            while !rest.0.is_empty() {
                parts.push((rest.i64()?, read_place(&mut rest)?));
            }
            IndexRecord::Parts { source, parts }
        }
        ROLLUPS => {
            let (source, mut rollups) = (rest.source()?, Vec::new());
            while !rest.0.is_empty() {
                let (day, resolution) = (rest.i64()?, rest.byte()?);
                let resolution = *[Resolution::FiveMinutes, Resolution::OneHour].get(usize::from(resolution))?;
                rollups.push((day, resolution, read_place(&mut rest)?));
            }
            IndexRecord::Rollups { source, rollups }
        }
        END => IndexRecord::End,
        _ => return Some(IndexRecord::Foreign),
    };
    rest.0.is_empty().then_some(record)
}

/// Appends a part as a record of a segment.
pub(super) fn encode_part(out: &mut Vec<u8>, part: &Part) {
    framing::append(out, |out| {
        out.extend(part.samples.to_le_bytes());
        part.blocks.iter().for_each(|block| encode_block(out, block));
    });
}

/// Appends rollups as a record of a segment.
pub(super) fn encode_rollups(out: &mut Vec<u8>, rollups: &DayRollups) {
    framing::append(out, |out| {
        for RollupBlock { windows, block } in rollups.blocks.iter().map(|block| &**block) {
            out.extend(windows.to_le_bytes());
            encode_block(out, block);
        }
    });
}

fn encode_block(out: &mut Vec<u8>, block: &SealedBlock) {
    let length = |items: usize| u32::try_from(items).expect("a block is smaller than 4 GiB").to_le_bytes();
    out.extend(block.number.to_le_bytes());
    out.extend(block.counters.to_le_bytes());
    for items in [block.times.len(), block.offsets.len(), block.data.len(), block.sums.len()] {
        out.extend(length(items));
    }
    out.extend(&block.times);
    block.offsets.iter().for_each(|offset| out.extend(offset.to_le_bytes()));
    out.extend(&block.data);
    block.sums.iter().for_each(|sum| out.extend(sum.to_le_bytes()));
}

/// Reads a part's payload whose checksum was right.
pub(super) fn decode_part(payload: &[u8]) -> Option<Part> {
    let mut rest = Rest(payload);
    let samples = rest.u64()?;
    let mut blocks: Vec<SealedBlock> = Vec::new();
    while !rest.0.is_empty() {
        blocks.push(decode_block(&mut rest)?);
    }
    blocks.is_sorted_by(|one, next| one.number < next.number).then(|| Part::new(blocks, samples))
}

/// Reads the payload of rollups whose checksum was right.
pub(super) fn decode_rollups(payload: &[u8]) -> Option<DayRollups> {
    let mut rest = Rest(payload);
    let mut blocks: Vec<Arc<RollupBlock>> = Vec::new();
    while !rest.0.is_empty() {
        blocks.push(Arc::new(RollupBlock { windows: rest.u16()?, block: decode_block(&mut rest)? }));
    }
    blocks.is_sorted_by(|one, next| one.block.number < next.block.number).then(|| DayRollups::new(blocks))
}

fn decode_block(rest: &mut Rest<'_>) -> Option<SealedBlock> {
    let (number, counters) = (rest.u32()?, rest.u64()?);
    let [times, offsets, data, sums] = [rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?].map(|items| items as usize);
    let times = rest.take(times)?.into();
    let offsets = rest.take(offsets.checked_mul(4)?)?.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let data = rest.take(data)?.into();
    let sums = rest.take(sums.checked_mul(8)?)?.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    Some(SealedBlock { number, counters, times, offsets, data, sums })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::open::OpenWindow;
    use super::super::series::SeriesTable;
    use super::*;
    use crate::store::memory::table::IdHasher;

    fn part(seed: u64) -> Part {
        let (mut rng, mut open) = (fastrand::Rng::with_seed(seed), OpenWindow::default());
        for frame in 0..rng.i64(1..20) {
            let numbers: Vec<u32> = (0..200).filter(|_| rng.u8(..) < 100).collect();
            let values: Vec<u64> =
                numbers.iter().map(|number| if number % 3 == 0 { rng.u64(..100) } else { rng.f64().to_bits() }).collect();
            open.push(frame * 1000, &numbers, &values);
        }
        let counters = |block: u32| (0..64).filter(|slot| (block * 64 + slot).is_multiple_of(3)).fold(0, |all, slot| all | 1 << slot);
        Part::seal(open.frames(), open.samples(), &(0..4).map(|block| (block, counters(block))).collect::<Vec<_>>())
    }

    #[test]
    fn an_index_comes_back() {
        let (hasher, source) = (IdHasher::default(), Source::parse("n1").unwrap());
        let mut table = SeriesTable::default();
        let mut expected = Vec::new();
        for number in 0..5000 {
            let (id, kind, base) =
                (format!("m{number}{}", "x".repeat(100)), if number % 7 == 0 { Kind::Counter } else { Kind::Gauge }, 5 - i64::from(number));
            table.add(&hasher, &id, kind, base);
            expected.push(StoredSeries { number, id, kind, base: if kind == Kind::Counter { base } else { 0 } });
        }
        let parts: Vec<_> =
            (0..30_000).map(|number| (i64::from(number) - 7, StoredAt { segment: number, offset: 1 << 40, bytes: 9 })).collect();
        let mut bytes = Vec::new();
        encode_head(&mut bytes, Some([3; 32]), 77);
        encode_head(&mut bytes, None, 78);
        encode_series(&mut bytes, &source, table.next(), table.blocks().iter().map(|(number, block)| (*number, block)));
        encode_series(&mut bytes, &source, 64, []);
        encode_parts(&mut bytes, &source, &parts);
        encode_end(&mut bytes);
        let (mut records, mut rest) = (Vec::new(), bytes.as_slice());
        while let Some((first, payload)) = rest.split_first_chunk() {
            let (length, sum) = framing::head(*first);
            let (payload, behind) = payload.split_at(length as usize);
            assert_eq!(framing::sum(payload), sum);
            assert!(payload.len() < 2 * RECORD_BYTES, "{}", payload.len());
            records.push(decode_index(payload).unwrap());
            rest = behind;
        }
        assert_eq!(records[0], IndexRecord::Head { before: Some([3; 32]), saved_millis: 77 });
        assert_eq!(records[1], IndexRecord::Head { before: None, saved_millis: 78 });
        assert_eq!(records.last(), Some(&IndexRecord::End));
        let (mut series, mut places) = (Vec::new(), Vec::new());
        for one in &records[2..records.len() - 1] {
            match one {
                IndexRecord::Series { next, series: some, .. } => {
                    assert!(*next == 5000 || some.is_empty());
                    series.extend(some.iter().cloned());
                }
                IndexRecord::Parts { parts: some, .. } => places.extend(some.iter().copied()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((series, places), (expected, parts));
    }

    proptest! {
        #[test]
        fn a_part_comes_back(seed in any::<u64>()) {
            let part = part(seed);
            let mut bytes = Vec::new();
            encode_part(&mut bytes, &part);
            let read = decode_part(&bytes[framing::HEAD_BYTES..]).unwrap();
            prop_assert_eq!(&read.blocks, &part.blocks);
            prop_assert_eq!((read.samples, read.bytes()), (part.samples, part.bytes()));
        }

        #[test]
        fn changed_bytes_are_read_or_refused(seed in 0..8_u64, at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = Vec::new();
            encode_part(&mut bytes, &part(seed));
            encode_parts(&mut bytes, &Source::parse("n1").unwrap(), &[(5, StoredAt { segment: 1, offset: 2, bytes: 3 })]);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = to }
            for start in [framing::HEAD_BYTES, bytes.len() / 2, bytes.len().saturating_sub(30)] {
                let payload = bytes.get(start..).unwrap_or_default();
                let _ = (decode_part(payload), decode_index(payload));
            }
        }
    }
}

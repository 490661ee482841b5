//! The bytes of history's files: an index with the series and the places of their parts, and segments with the parts.
//!
//! Both are made of records: the payload's length and its CRC-32 (both 32 bits, little endian) and the payload. An index' payloads begin
//! with a tag. What is cut off or has a wrong checksum is damaged; an index is read up to there.

use std::sync::Arc;

use golectra_protocol::{Kind, Source};

use super::super::record;
use super::part::{Part, SealedBlock, StoredAt};
use super::series::{SERIES_A_BLOCK, SeriesBlock};

/// The bytes before a payload.
pub(super) const RECORD_HEAD_BYTES: usize = 8;
/// What a segment begins with.
pub(super) const SEGMENT_HEAD: &[u8; 16] = b"golectra parts 1";
const MAGIC: &[u8; 18] = b"golectra history 1";
const HEAD: u8 = 1;
const SERIES: u8 = 2;
const PARTS: u8 = 3;
const END: u8 = 4;
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
    /// The end: nothing is missing.
    End,
}

/// Appends a record with what `payload` appends.
pub(super) fn record(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; RECORD_HEAD_BYTES]);
    payload(out);
    let (head, body) = out[start..].split_at_mut(RECORD_HEAD_BYTES);
    let length = u32::try_from(body.len()).expect("a part is far smaller than 4 GiB");
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&record::sum(body).to_le_bytes());
}

/// The length and the checksum of a payload.
pub(super) fn head(bytes: [u8; RECORD_HEAD_BYTES]) -> (u32, u32) {
    let [l0, l1, l2, l3, s0, s1, s2, s3] = bytes;
    (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([s0, s1, s2, s3]))
}

pub(super) fn encode_head(out: &mut Vec<u8>, before: Option<[u8; 32]>, saved_millis: u64) {
    record(out, |out| {
        out.push(HEAD);
        out.extend(MAGIC);
        out.extend(saved_millis.to_le_bytes());
        out.extend(before.iter().flatten());
    });
}

pub(super) fn encode_end(out: &mut Vec<u8>) {
    record(out, |out| out.push(END));
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
        record(out, |out| {
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
        record(out, |out| {
            out.push(PARTS);
            source_name(out, source);
            for (start, StoredAt { segment, offset, bytes }) in some {
                out.extend(start.to_le_bytes());
                out.extend(segment.to_le_bytes());
                out.extend(offset.to_le_bytes());
                out.extend(bytes.to_le_bytes());
            }
        });
    }
}

fn source_name(out: &mut Vec<u8>, source: &Source) {
    let name = source.as_str();
    out.push(u8::try_from(name.len()).expect("a source has at most 253 bytes"));
    out.extend(name.as_bytes());
}

/// Reads an index' payload whose checksum was right.
pub(super) fn decode_index(payload: &[u8]) -> Option<IndexRecord> {
    let mut rest = Rest(payload);
    let record = match rest.byte()? {
        HEAD => {
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
                parts.push((rest.i64()?, StoredAt { segment: rest.u32()?, offset: rest.u64()?, bytes: rest.u32()? }));
            }
            IndexRecord::Parts { source, parts }
        }
        END => IndexRecord::End,
        _ => return None,
    };
    rest.0.is_empty().then_some(record)
}

/// Appends a part as a record of a segment.
pub(super) fn encode_part(out: &mut Vec<u8>, part: &Part) {
    let length = |items: usize| u32::try_from(items).expect("a block is smaller than 4 GiB").to_le_bytes();
    record(out, |out| {
        out.extend(part.samples.to_le_bytes());
        for block in &part.blocks {
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
    });
}

/// Reads a part's payload whose checksum was right.
pub(super) fn decode_part(payload: &[u8]) -> Option<Part> {
    let mut rest = Rest(payload);
    let samples = rest.u64()?;
    let mut blocks: Vec<SealedBlock> = Vec::new();
    while !rest.0.is_empty() {
        let (number, counters) = (rest.u32()?, rest.u64()?);
        let [times, offsets, data, sums] = [rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?].map(|items| items as usize);
        let times = rest.take(times)?.into();
        let offsets = rest.take(offsets.checked_mul(4)?)?.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let data = rest.take(data)?.into();
        let sums = rest.take(sums.checked_mul(8)?)?.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        blocks.push(SealedBlock { number, counters, times, offsets, data, sums });
    }
    blocks.is_sorted_by(|one, next| one.number < next.number).then(|| Part::new(blocks, samples))
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn text(&mut self, bytes: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(bytes)?).ok()
    }

    fn source(&mut self) -> Option<Source> {
        let bytes = self.byte()?;
        Source::from_stored(self.text(bytes.into())?).ok()
    }
}

//! The coding of rollups, in blocks like those of samples: a column for each series, and the times of the first and the last sample of each bucket once
//! for all columns that share them.
//!
//! The values of a bucket are close to each other, and those of a counter that was not reset follow from each other, so most of them are written as
//! differences: of integers, to which one scale turns them all.

use crate::block::{MAX_COLUMNS, assemble};
use crate::bytes::{Reader, put_varint};
use crate::column::{self, Kind, Opened};
use crate::scale::Scale;
use crate::times::Times;
use crate::{DecodeError, EncodedBlock, doubles, integers};

use super::{CounterBucket, GaugeBucket};

/// How many buckets a column may have: more than half a year has of five minutes.
pub const MAX_BUCKETS: usize = 1 << 16;

/// The buckets of one series, in order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RollupColumn<'a> {
    /// Of a gauge.
    Gauge(&'a [GaugeBucket]),
    /// Of a counter.
    Counter(&'a [CounterBucket]),
}

impl RollupColumn<'_> {
    /// The time of the first sample of each bucket, and that of the last where it has more than one.
    fn timestamps_ms(&self) -> Vec<i64> {
        let mut timestamps_ms = Vec::new();
        let mut add = |first_ms: i64, last_ms: i64| {
            timestamps_ms.push(first_ms);
            if last_ms > first_ms {
                timestamps_ms.push(last_ms);
            }
        };
        match self {
            Self::Gauge(buckets) => buckets.iter().for_each(|bucket| add(bucket.first_ms, bucket.last_ms)),
            Self::Counter(buckets) => buckets.iter().for_each(|bucket| add(bucket.first_ms, bucket.last_ms)),
        }
        timestamps_ms
    }
}

/// Codes the rollups of up to 64 series. A series without buckets keeps its place.
///
/// # Panics
/// If there are more than [`MAX_COLUMNS`] columns, a column has more than [`MAX_BUCKETS`] buckets, or buckets are not in order: a bucket of one sample has
/// one time, and one of several has two.
pub fn encode_rollups(columns: &[RollupColumn<'_>]) -> EncodedBlock {
    assert!(columns.len() <= MAX_COLUMNS, "a block has at most {MAX_COLUMNS} columns");
    let times: Vec<Vec<i64>> = columns.iter().map(RollupColumn::timestamps_ms).collect();
    for times in &times {
        assert!(times.len() <= 2 * MAX_BUCKETS, "a column has at most {MAX_BUCKETS} buckets");
        assert!(times.is_sorted_by(|before, after| before < after), "buckets are in order");
    }
    assemble(&times.iter().map(Vec::as_slice).collect::<Vec<_>>(), |index, set, times_checksum, bytes| match columns[index] {
        RollupColumn::Gauge(buckets) => {
            column::encode(Kind::GaugeRollup, set, times_checksum, bytes, |bytes| put_gauge(buckets, bytes));
        }
        RollupColumn::Counter(buckets) => {
            column::encode(Kind::CounterRollup, set, times_checksum, bytes, |bytes| put_counter(buckets, bytes));
        }
    })
}

/// Puts a gauge's buckets at the end of the list. After an error the list is as it was.
pub fn decode_gauge_rollup(times: &Times, column: &[u8], buckets: &mut Vec<GaugeBucket>) -> Result<(), DecodeError> {
    decode(times, column, Kind::GaugeRollup, buckets, read_gauge)
}

/// Puts a counter's buckets at the end of the list. After an error the list is as it was.
pub fn decode_counter_rollup(times: &Times, column: &[u8], buckets: &mut Vec<CounterBucket>) -> Result<(), DecodeError> {
    decode(times, column, Kind::CounterRollup, buckets, read_counter)
}

/// What the buckets of a column have in common.
struct Spans {
    counts: Vec<u32>,
    times_ms: Vec<(i64, i64)>,
}

fn decode<B>(
    times: &Times,
    column: &[u8],
    kind: Kind,
    buckets: &mut Vec<B>,
    read: impl FnOnce(u8, Reader<'_>, &Spans, &mut Vec<B>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if column.is_empty() {
        return Ok(());
    }
    let Opened { header, set, values: mut reader, .. } = column::open(times, column, kind)?;
    let count = reader.count(MAX_BUCKETS)?;
    let mut counts = Vec::new();
    integers::read_part(&mut reader, count, &mut counts)?;
    let counts: Vec<u32> = counts
        .into_iter()
        .map(|count| u32::try_from(count).ok().filter(|count| *count > 0).ok_or(DecodeError::Malformed("a bucket's count is out of range")))
        .collect::<Result<_, _>>()?;
    let mut timestamps_ms = Vec::new();
    times.decode_set(set, &mut timestamps_ms)?;
    let mut timestamps_ms = timestamps_ms.into_iter();
    let mut times_ms = Vec::with_capacity(count);
    for count in &counts {
        let first_ms = timestamps_ms.next().ok_or(MISSING_TIMES)?;
        let last_ms = if *count == 1 { first_ms } else { timestamps_ms.next().ok_or(MISSING_TIMES)? };
        times_ms.push((first_ms, last_ms));
    }
    if timestamps_ms.next().is_some() {
        return Err(DecodeError::Malformed("there are more times than buckets"));
    }
    read(header, reader, &Spans { counts, times_ms }, buckets)
}

const MISSING_TIMES: DecodeError = DecodeError::Malformed("buckets have no times");

fn put_part(bytes: &mut Vec<u8>, values: impl Iterator<Item = i64>) {
    integers::put_part(&mut values.collect::<Vec<_>>(), bytes);
}

fn put_counts(bytes: &mut Vec<u8>, counts: impl ExactSizeIterator<Item = u32>) {
    put_varint(bytes, counts.len() as u64);
    put_part(bytes, counts.map(i64::from));
}

fn put_counter(buckets: &[CounterBucket], bytes: &mut Vec<u8>) -> u8 {
    put_counts(bytes, buckets.iter().map(|bucket| bucket.count));
    put_part(bytes, buckets.iter().map(|bucket| bucket.first));
    put_part(bytes, buckets.iter().map(|bucket| bucket.sum.wrapping_sub(expected_sum(bucket.count, bucket.first, bucket.delta))));
    integers::encode(&mut buckets.iter().map(|bucket| bucket.delta).collect::<Vec<_>>(), bytes)
}

fn read_counter(header: u8, mut reader: Reader<'_>, spans: &Spans, buckets: &mut Vec<CounterBucket>) -> Result<(), DecodeError> {
    let length = spans.counts.len();
    let (mut firsts, mut sums, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
    integers::read_part(&mut reader, length, &mut firsts)?;
    integers::read_part(&mut reader, length, &mut sums)?;
    integers::decode(header, reader, length, &mut deltas)?;
    buckets.extend((0..length).map(|index| {
        let ((first_ms, last_ms), count) = (spans.times_ms[index], spans.counts[index]);
        let (first, delta) = (firsts[index], deltas[index]);
        let sum = sums[index].wrapping_add(expected_sum(count, first, delta));
        CounterBucket { first_ms, last_ms, count, first, delta, sum }
    }));
    Ok(())
}

/// The values of a bucket that one scale turns into integers.
const SCALED: [fn(&GaugeBucket) -> f64; 4] = [|bucket| bucket.first, |bucket| bucket.last, |bucket| bucket.min, |bucket| bucket.max];

/// Which of them are written: in a series that only rises, the first is the smallest and the last the largest.
const RISING: u8 = 0;
const ANY: u8 = 1;
const VALUES_OF: [usize; 2] = [2, 4];

/// Whether sums are written as doubles of their own, or as integers of the values' scale.
const SUMS_OWN_SCALE: u8 = 0;
const SUMS_SAME_SCALE: u8 = 1;

fn put_gauge(buckets: &[GaugeBucket], bytes: &mut Vec<u8>) -> u8 {
    put_counts(bytes, buckets.iter().map(|bucket| bucket.count));
    let same = |one: f64, other: f64| one.to_bits() == other.to_bits();
    let rises = buckets.iter().all(|bucket| same(bucket.min, bucket.first) && same(bucket.max, bucket.last) && same(bucket.lost, 0.0));
    let shape = if rises { RISING } else { ANY };
    bytes.push(shape);
    let length = buckets.len();
    let columns = &SCALED[..VALUES_OF[usize::from(shape)]];
    let values: Vec<f64> = columns.iter().flat_map(|value| buckets.iter().map(value)).collect();
    let (mut scaled, mut corrections) = (Vec::new(), Vec::new());
    let scale = Scale::choose(&values, &mut scaled, &mut corrections);
    bytes.push(scale.code());
    if scale.has_corrections() {
        integers::put_part(&mut corrections, bytes);
    }
    let (first, last) = (&scaled[..length], &scaled[length..2 * length]);
    let (min, max) = if rises { (first, last) } else { (&scaled[2 * length..3 * length], &scaled[3 * length..]) };
    if rises {
        put_part(bytes, last.iter().copied());
        // Mostly the step from the last sample of the bucket before.
        put_part(bytes, (0..length).map(|index| first[index].wrapping_sub(last[index.saturating_sub(1)])));
    } else {
        put_part(bytes, min.iter().copied());
        put_part(bytes, (0..length).map(|index| max[index].wrapping_sub(min[index])));
        put_part(bytes, (0..length).map(|index| max[index].wrapping_sub(last[index])));
        put_part(bytes, (0..length).map(|index| first[index].wrapping_sub(min[index])));
        doubles::put_part(&buckets.iter().map(|bucket| bucket.lost).collect::<Vec<_>>(), bytes);
    }
    let sums: Option<Vec<i64>> = buckets.iter().map(|bucket| scale.to_integer_exactly(bucket.sum)).collect();
    if let Some(sums) = sums {
        bytes.push(SUMS_SAME_SCALE);
        let expected = |index: usize| expected_sum(buckets[index].count, min[index], max[index]);
        integers::encode(&mut sums.iter().enumerate().map(|(index, sum)| sum.wrapping_sub(expected(index))).collect::<Vec<_>>(), bytes)
    } else {
        bytes.push(SUMS_OWN_SCALE);
        doubles::encode(&buckets.iter().map(|bucket| bucket.sum).collect::<Vec<_>>(), bytes)
    }
}

/// What the sum would be if the values were spread evenly; exact if they are all one value.
fn expected_sum(count: u32, min: i64, max: i64) -> i64 {
    let count = i64::from(count);
    let half_range = max.wrapping_sub(min).wrapping_mul(count) / 2;
    min.wrapping_mul(count).wrapping_add(half_range)
}

fn read_gauge(header: u8, mut reader: Reader<'_>, spans: &Spans, buckets: &mut Vec<GaugeBucket>) -> Result<(), DecodeError> {
    let length = spans.counts.len();
    let shape = reader.byte()?;
    let columns = *VALUES_OF.get(usize::from(shape)).ok_or(DecodeError::Malformed("unknown shape of buckets"))?;
    let rises = shape == RISING;
    let scale = Scale::from_code(reader.byte()?).ok_or(DecodeError::Malformed("unknown scale"))?;
    let mut corrections = Vec::new();
    if scale.has_corrections() {
        integers::read_part(&mut reader, columns * length, &mut corrections)?;
    }
    let mut coded: [Vec<i64>; 4] = Default::default();
    for part in &mut coded[..columns] {
        integers::read_part(&mut reader, length, part)?;
    }
    // First, last, and min and max where they are not the same.
    let mut scaled = Vec::with_capacity(columns * length);
    if rises {
        let [last, steps, ..] = &coded;
        scaled.extend((0..length).map(|index| steps[index].wrapping_add(last[index.saturating_sub(1)])));
        scaled.extend_from_slice(last);
    } else {
        let [min, ranges, from_max, from_min] = &coded;
        let max = |index: usize| ranges[index].wrapping_add(min[index]);
        scaled.extend((0..length).map(|index| from_min[index].wrapping_add(min[index])));
        scaled.extend((0..length).map(|index| max(index).wrapping_sub(from_max[index])));
        scaled.extend_from_slice(min);
        scaled.extend((0..length).map(max));
    }
    let mut values = Vec::new();
    scale.to_doubles(&scaled, &corrections, &mut values);
    let mut lost = Vec::new();
    if rises {
        lost.resize(length, 0.0);
    } else {
        doubles::read_part(&mut reader, length, &mut lost)?;
    }
    let (min, max) = if rises { (0, length) } else { (2 * length, 3 * length) };
    let mut sums = Vec::new();
    match reader.byte()? {
        SUMS_SAME_SCALE => {
            let mut differences = Vec::new();
            integers::decode(header, reader, length, &mut differences)?;
            for (index, difference) in differences.iter_mut().enumerate() {
                *difference = difference.wrapping_add(expected_sum(spans.counts[index], scaled[min + index], scaled[max + index]));
            }
            scale.to_doubles(&differences, &[], &mut sums);
        }
        SUMS_OWN_SCALE => doubles::decode(header, reader, length, &mut sums)?,
        _ => return Err(DecodeError::Malformed("unknown form of sums")),
    }
    buckets.extend((0..length).map(|index| {
        let (first_ms, last_ms) = spans.times_ms[index];
        GaugeBucket {
            first_ms,
            last_ms,
            count: spans.counts[index],
            sum: sums[index],
            min: values[min + index],
            max: values[max + index],
            first: values[index],
            last: values[length + index],
            lost: lost[index],
        }
    }));
    Ok(())
}

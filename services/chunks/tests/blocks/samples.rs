//! Columns of samples as the tests make them.

use golectra_chunks::{Column, ColumnValues, DecodeError, Times, decode_counter, decode_gauge};
use proptest::collection::vec;
use proptest::prelude::*;

/// A column that owns its samples. Values are compared by their bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    Gauge(Vec<i64>, Vec<u64>),
    Counter(Vec<i64>, Vec<i64>),
}

impl Samples {
    pub fn gauge(timestamps_ms: Vec<i64>, values: Vec<f64>) -> Self {
        Self::Gauge(timestamps_ms, values.into_iter().map(f64::to_bits).collect())
    }

    pub fn counter(timestamps_ms: Vec<i64>, deltas: Vec<i64>) -> Self {
        Self::Counter(timestamps_ms, deltas)
    }

    pub fn timestamps_ms(&self) -> &[i64] {
        match self {
            Self::Gauge(timestamps_ms, _) | Self::Counter(timestamps_ms, _) => timestamps_ms,
        }
    }
}

/// Codes a block of these columns.
pub fn encode(samples: &[Samples]) -> golectra_chunks::EncodedBlock {
    let doubles: Vec<Vec<f64>> = samples
        .iter()
        .map(|samples| match samples {
            Samples::Gauge(_, bits) => bits.iter().copied().map(f64::from_bits).collect(),
            Samples::Counter(..) => Vec::new(),
        })
        .collect();
    let columns: Vec<Column<'_>> = samples
        .iter()
        .zip(&doubles)
        .map(|(samples, doubles)| Column {
            timestamps_ms: samples.timestamps_ms(),
            values: match samples {
                Samples::Gauge(..) => ColumnValues::Gauge(doubles),
                Samples::Counter(_, deltas) => ColumnValues::Counter(deltas),
            },
        })
        .collect();
    golectra_chunks::encode(&columns)
}

/// Decodes a column of the kind of `like`.
pub fn decode(times: &Times, column: &[u8], like: &Samples) -> Result<Samples, DecodeError> {
    let mut timestamps_ms = Vec::new();
    match like {
        Samples::Gauge(..) => {
            let mut values = Vec::new();
            decode_gauge(times, column, &mut timestamps_ms, &mut values)?;
            Ok(Samples::gauge(timestamps_ms, values))
        }
        Samples::Counter(..) => {
            let mut deltas = Vec::new();
            decode_counter(times, column, &mut timestamps_ms, &mut deltas)?;
            Ok(Samples::counter(timestamps_ms, deltas))
        }
    }
}

/// Blocks whose columns share times, miss some, or have times of their own.
pub fn arbitrary_block() -> impl Strategy<Value = Vec<Samples>> {
    vec(arbitrary_times(), 1..4).prop_flat_map(|sets| vec(arbitrary_column(sets), 0..12))
}

fn arbitrary_times() -> impl Strategy<Value = Vec<i64>> {
    let start = prop_oneof![4 => 1_700_000_000_000..1_800_000_000_000_i64, 1 => any::<i64>()];
    let steps = prop_oneof![
        // A grid, a grid with jitter, and anything.
        (1..100_000_i64, 0..300_usize).prop_map(|(step, count)| vec![step; count]),
        vec(9_990..10_010_i64, 0..300),
        vec(prop_oneof![1..100_i64, 1..1_000_000_000_i64, 1..i64::MAX / 8], 0..40),
    ];
    (start, steps).prop_map(|(start, steps)| {
        let mut time = start;
        let mut times = vec![start];
        for step in steps {
            let Some(next) = time.checked_add(step) else { break };
            time = next;
            times.push(time);
        }
        times
    })
}

fn arbitrary_column(sets: Vec<Vec<i64>>) -> impl Strategy<Value = Samples> {
    let times = (prop::sample::select(sets), arbitrary_presence()).prop_map(|(times, (start, end, every, keep))| {
        let (start, end) = (times.len() * start / 16, times.len() * end / 16);
        let mut index = 0;
        let mut times = if start < end { times[start..end].to_vec() } else { Vec::new() };
        times.retain(|_| {
            index += 1;
            keep == (index % every == 0) || every == 1
        });
        times
    });
    times.prop_flat_map(|times| {
        let count = times.len();
        let kept = times.clone();
        prop_oneof![
            arbitrary_doubles(count).prop_map(move |values| Samples::gauge(times.clone(), values)),
            arbitrary_deltas(count).prop_map(move |deltas| Samples::counter(kept.clone(), deltas)),
        ]
    })
}

fn arbitrary_presence() -> impl Strategy<Value = (usize, usize, usize, bool)> {
    (prop_oneof![3 => Just(0), 1 => 0..16_usize], prop_oneof![3 => Just(16), 1 => 0..=16_usize], 1..6_usize, any::<bool>())
}

fn arbitrary_doubles(count: usize) -> impl Strategy<Value = Vec<f64>> {
    let decimal = (0..6_u32).prop_flat_map(move |digits| {
        vec(-1_000_000..1_000_000_i32, count)
            .prop_map(move |integers| integers.into_iter().map(|integer| f64::from(integer) / f64::from(10_i32.pow(digits))).collect())
    });
    let special = prop_oneof![
        10 => (0..1000_i32).prop_map(f64::from),
        1 => Just(f64::from_bits(0x7ff0_0000_0000_0002)),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(-0.0),
    ];
    prop_oneof![
        decimal,
        vec(any::<u64>().prop_map(f64::from_bits), count),
        vec(any::<f32>().prop_map(f64::from), count),
        vec((0..2000_i32).prop_map(|integer| f64::from(integer) * 0.001), count),
        vec((0..2000_i32).prop_map(|integer| f64::from(integer) / 4096.0), count),
        vec(special, count),
        any::<f64>().prop_map(move |value| vec![value; count]),
        (0..1_000_i32, vec(0..5_i32, count)).prop_map(|(start, steps)| {
            steps
                .into_iter()
                .scan(start, |sum, step| {
                    *sum += step * 4096;
                    Some(f64::from(*sum))
                })
                .collect()
        }),
    ]
}

fn arbitrary_deltas(count: usize) -> impl Strategy<Value = Vec<i64>> {
    prop_oneof![
        vec(arbitrary_integer(), count),
        vec(0..200_i64, count),
        vec(prop_oneof![20 => Just(0_i64), 1 => any::<i64>()], count),
        any::<i64>().prop_map(move |value| vec![value; count]),
    ]
}

pub fn arbitrary_integer() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -300..300_i64, Just(i64::MIN), Just(i64::MAX), (0..64_u32).prop_map(|bits| 1_i64.wrapping_shl(bits))]
}

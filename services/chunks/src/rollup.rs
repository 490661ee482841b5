//! Rollups: what is kept of samples when the samples themselves are too old.
//!
//! The samples of each 5 minutes, or each hour, become one bucket. Buckets are aligned to unix time and include their start but not their end. A
//! bucket of 5 minutes depends on its own samples only: it is the same whatever window it is computed in and in whatever order the samples arrived,
//! once they are merged ([`crate::merge_gauge`]). One of an hour is made of the twelve within it. Stale markers are not counted.
//!
//! # What queries need
//!
//! A bucket has what Thanos keeps (<https://thanos.io/tip/components/compact.md/#downsampling>): count, sum, minimum, maximum and what a counter
//! needs. `count_over_time`, `sum_over_time`, `avg_over_time`, `min_over_time` and `max_over_time` combine buckets. `rate`, `increase` and `delta` need
//! the values where the range begins and where it ends, their times, and what a counter lost by resets between. Thanos keeps a running total without
//! resets at the end of each bucket, which depends on all samples before; here a bucket has its first and its last value with their times, and
//! the sum of the values that were lost by resets within it. A counter was reset between two buckets if the first value of the later one is smaller than
//! the last of the earlier one. So these functions give what they give for the samples, for ranges that end where buckets end.
//!
//! Two sources may report one counter, each at its own times. Their buckets overlap, and where they do a smaller value is no reset: [`roll_up_buckets`].
//!
//! The deltas of a counter are rolled up without the total before them, which a late delta changes: [`CounterBucket`].

mod coding;

pub use coding::{MAX_BUCKETS, RollupColumn, decode_counter_rollup, decode_gauge_rollup, encode_rollups};

/// Prometheus's mark of the end of a series.
const STALE_MARKER: u64 = 0x7ff0_0000_0000_0002;

/// How long the buckets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// Five minutes.
    FiveMinutes,
    /// One hour.
    OneHour,
}

impl Resolution {
    /// How long a bucket is.
    pub const fn bucket_ms(self) -> i64 {
        match self {
            Self::FiveMinutes => 300_000,
            Self::OneHour => 3_600_000,
        }
    }

    /// When the bucket of this time begins.
    pub const fn bucket_start_ms(self, timestamp_ms: i64) -> i64 {
        timestamp_ms.saturating_sub(timestamp_ms.rem_euclid(self.bucket_ms()))
    }
}

/// The samples of a gauge, or of any series whose values are stored as they are, in one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaugeBucket {
    /// The time of its first sample.
    pub first_ms: i64,
    /// The time of its last sample.
    pub last_ms: i64,
    /// How many samples it has; at least one.
    pub count: u32,
    /// Their sum, with the rounding errors of the additions made good, as PromQL's `sum_over_time` has it.
    pub sum: f64,
    /// The smallest. NaN only if all are.
    pub min: f64,
    /// The largest. NaN only if all are.
    pub max: f64,
    /// The oldest.
    pub first: f64,
    /// The newest.
    pub last: f64,
    /// The sum of the values that a counter had before it was reset within the bucket: of those that are followed by a smaller one.
    pub lost: f64,
}

/// The deltas of a counter in one bucket, with the totals that they lead to, counted from the start of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterBucket {
    /// The time of its first sample.
    pub first_ms: i64,
    /// The time of its last sample.
    pub last_ms: i64,
    /// How many samples it has; at least one.
    pub count: u32,
    /// The first delta.
    pub first: i64,
    /// The sum of all deltas, modulo 2^64.
    pub delta: i64,
    /// The sum of the totals after each sample; at most what 64 bits hold.
    pub sum: i64,
}

impl GaugeBucket {
    fn of(timestamp_ms: i64, value: f64) -> Self {
        let (first_ms, last_ms) = (timestamp_ms, timestamp_ms);
        Self { first_ms, last_ms, count: 1, sum: value, min: value, max: value, first: value, last: value, lost: 0.0 }
    }

    /// Takes one that does not begin before it, but for the sum.
    fn append(&mut self, next: &Self) {
        if next.first_ms <= self.last_ms {
            // Both are of one counter: what one lost is what the other lost, unless that had samples on one side of the reset only.
            self.lost = self.lost.max(next.lost);
        } else {
            if next.first < self.last {
                self.lost += self.last;
            }
            self.lost += next.lost;
        }
        if next.last_ms >= self.last_ms {
            (self.last_ms, self.last) = (next.last_ms, next.last);
        }
        self.count = self.count.saturating_add(next.count);
        if next.min < self.min || self.min.is_nan() {
            self.min = next.min;
        }
        if next.max > self.max || self.max.is_nan() {
            self.max = next.max;
        }
    }
}

impl CounterBucket {
    /// The counter's running total in this bucket, as a gauge's values would be rolled up.
    #[expect(clippy::cast_precision_loss, reason = "PromQL computes with doubles")]
    pub fn totals(&self, before: i64) -> GaugeBucket {
        let (first, last) = (before.wrapping_add(self.first) as f64, before.wrapping_add(self.delta) as f64);
        let sum = i128::from(before) * i128::from(self.count) + i128::from(self.sum);
        let (first_ms, last_ms) = (self.first_ms, self.last_ms);
        GaugeBucket { first_ms, last_ms, count: self.count, sum: sum as f64, min: first, max: last, first, last, lost: 0.0 }
    }
}

/// Puts the buckets of a gauge's samples at the end of the list. The times are strictly increasing.
pub fn roll_up_gauge(timestamps_ms: &[i64], values: &[f64], resolution: Resolution, buckets: &mut Vec<GaugeBucket>) {
    assert_eq!(timestamps_ms.len(), values.len(), "each sample has a time and a value");
    let samples = timestamps_ms.iter().zip(values).filter(|(_, value)| value.to_bits() != STALE_MARKER);
    join(samples.map(|(timestamp_ms, value)| GaugeBucket::of(*timestamp_ms, *value)), resolution, buckets);
}

/// Puts what these buckets are in longer ones, or in ones of the same length, at the end of the list. They are in the order of their first times. Those that
/// overlap in time are of several sources that report the same: they are joined as if their samples were merged, but samples at equal times all count.
pub fn roll_up_buckets(shorter: &[GaugeBucket], resolution: Resolution, buckets: &mut Vec<GaugeBucket>) {
    join(shorter.iter().copied(), resolution, buckets);
}

fn join(parts: impl Iterator<Item = GaugeBucket>, resolution: Resolution, buckets: &mut Vec<GaugeBucket>) {
    let mut parts = parts.peekable();
    while let Some(mut bucket) = parts.next() {
        let start_ms = resolution.bucket_start_ms(bucket.first_ms);
        let mut sum = CompensatedSum::default();
        sum.add(bucket.sum);
        while let Some(part) = parts.next_if(|part| resolution.bucket_start_ms(part.first_ms) == start_ms) {
            bucket.append(&part);
            sum.add(part.sum);
        }
        if bucket.count > 1 {
            bucket.sum = sum.finish();
        }
        bucket.lost = canonical(bucket.lost);
        buckets.push(bucket);
    }
}

/// Puts the buckets of a counter's samples at the end of the list. The times are strictly increasing.
pub fn roll_up_counter(timestamps_ms: &[i64], deltas: &[i64], resolution: Resolution, buckets: &mut Vec<CounterBucket>) {
    assert_eq!(timestamps_ms.len(), deltas.len(), "each sample has a time and a value");
    let mut samples = timestamps_ms.iter().zip(deltas).peekable();
    while let Some((&first_ms, &first)) = samples.next() {
        let start_ms = resolution.bucket_start_ms(first_ms);
        let mut bucket = CounterBucket { first_ms, last_ms: first_ms, count: 1, first, delta: first, sum: first };
        while let Some((&last_ms, &delta)) = samples.next_if(|(timestamp_ms, _)| resolution.bucket_start_ms(**timestamp_ms) == start_ms) {
            bucket.last_ms = last_ms;
            bucket.count = bucket.count.saturating_add(1);
            bucket.delta = bucket.delta.wrapping_add(delta);
            bucket.sum = bucket.sum.saturating_add(bucket.delta);
        }
        buckets.push(bucket);
    }
}

/// Puts what these buckets of a counter are in longer ones at the end of the list. They are in order.
pub fn roll_up_counter_buckets(shorter: &[CounterBucket], resolution: Resolution, buckets: &mut Vec<CounterBucket>) {
    for parts in shorter.chunk_by(|one, next| resolution.bucket_start_ms(one.first_ms) == resolution.bucket_start_ms(next.first_ms)) {
        let (mut bucket, mut sum) = (parts[0], i128::from(parts[0].sum));
        for part in &parts[1..] {
            // The totals of a part count from its own start.
            sum += i128::from(bucket.delta) * i128::from(part.count) + i128::from(part.sum);
            bucket.last_ms = part.last_ms;
            bucket.count = bucket.count.saturating_add(part.count);
            bucket.delta = bucket.delta.wrapping_add(part.delta);
        }
        bucket.sum = i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX });
        buckets.push(bucket);
    }
}

/// Neumaier's variant of Kahan's summation.
#[derive(Default)]
struct CompensatedSum {
    sum: f64,
    compensation: f64,
}

impl CompensatedSum {
    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        if sum.is_infinite() {
            self.compensation = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.compensation += (self.sum - sum) + value;
        } else {
            self.compensation += (value - sum) + self.sum;
        }
        self.sum = sum;
    }

    fn finish(self) -> f64 {
        canonical(if self.sum.is_infinite() { self.sum } else { self.sum + self.compensation })
    }
}

/// The sign and the payload of a computed NaN depend on the processor.
fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

#[cfg(test)]
mod tests;

//! Latencies counted in buckets that grow with them: constant memory, an error of at most 1.6 %.

use std::time::Duration;

use serde::Serialize;

/// Each power of two is cut into this many buckets.
const PIECES: u64 = 64;
const PIECE_BITS: u32 = PIECES.trailing_zeros();

/// Counted durations, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; bucket(u64::MAX) + 1], count: 0, sum: 0, max: 0 }
    }
}

/// The bucket of a value: exact below 128, then 64 for each power of two.
fn bucket(micros: u64) -> usize {
    let power = (u64::BITS - micros.leading_zeros()).saturating_sub(PIECE_BITS + 1);
    usize::try_from(u64::from(power) * PIECES + (micros >> power)).expect("a few thousand")
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let power = (bucket / PIECES).saturating_sub(1);
    ((bucket - power * PIECES + 1) << power).wrapping_sub(1)
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(micros);
        self.max = self.max.max(micros);
    }

    /// The value that this share (0 to 1) of the counted ones do not exceed, in microseconds.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank of a count")]
    fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(index).min(self.max);
            }
        }
        self.max
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of a run fit")]
    pub(crate) fn latency(&self) -> Latency {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let at = |share| seconds(self.quantile(share));
        Latency {
            count: self.count,
            mean_seconds: if self.count == 0 { 0.0 } else { seconds(self.sum) / self.count as f64 },
            p50_seconds: at(0.5),
            p90_seconds: at(0.9),
            p99_seconds: at(0.99),
            p999_seconds: at(0.999),
            max_seconds: seconds(self.max),
        }
    }
}

/// How long something took: percentiles in seconds, all 0 where nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub count: u64,
    pub mean_seconds: f64,
    pub p50_seconds: f64,
    pub p90_seconds: f64,
    pub p99_seconds: f64,
    pub p999_seconds: f64,
    pub max_seconds: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_of_a_thousand() {
        let mut histogram = Histogram::default();
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        let latency = histogram.latency();
        for (found, expected) in [
            (latency.p50_seconds, 0.5),
            (latency.p90_seconds, 0.9),
            (latency.p99_seconds, 0.99),
            (latency.p999_seconds, 0.999),
            (latency.mean_seconds, 0.5005),
        ] {
            assert!((found - expected).abs() <= expected * 0.016, "{found} is not {expected}");
        }
        assert!((latency.max_seconds - 1.0).abs() < 1e-9);
        assert!(Histogram::default().latency().max_seconds.abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(micros in any::<u64>()) {
            let found = bucket(micros);
            prop_assert!(micros <= upper(found));
            prop_assert!(found == 0 || micros > upper(found - 1));
            prop_assert!(upper(found) - micros <= micros / PIECES);
        }
    }
}

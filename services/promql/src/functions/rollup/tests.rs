use proptest::prelude::*;

use super::super::over_time::{Ranges, stretches};
use super::super::windows::Samples;
use super::*;
use crate::column::{ScalarColumn, is_absent};
use crate::limits::NoInterrupt;

/// Plain and slow.
fn roll_up(samples: &[(i64, f64)], bucket_ms: i64) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for own in samples.chunk_by(|one, other| boundary_ms(one.0, bucket_ms) == boundary_ms(other.0, bucket_ms)) {
        let values = || own.iter().map(|sample| sample.1);
        buckets.push(Bucket {
            first_ms: own[0].0,
            last_ms: own[own.len() - 1].0,
            count: u32::try_from(own.len()).unwrap(),
            sum: values().sum(),
            min: values().fold(f64::INFINITY, f64::min),
            max: values().fold(f64::NEG_INFINITY, f64::max),
            first: own[0].1,
            last: own[own.len() - 1].1,
            lost: own.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1).sum(),
        });
    }
    buckets
}

proptest! {
    /// No sample lies on a boundary: there samples belong to the range that ends, and to the bucket that begins.
    #[test]
    fn functions_of_aligned_ranges_equal_those_of_the_samples(
        gaps in prop::collection::vec((1..40_i64, -20..50_i32), 1..120),
        (start, step, count) in (-10..60_i64, 1..8_i64, 1..30_i64),
        (range, offset) in (1..12_i64, -3..6_i64),
        (shift, range_shift) in (0..10_i64, 0..10_i64),
    ) {
        let bucket_ms = 10;
        let mut time_ms = 0;
        let samples: Vec<(i64, f64)> = gaps
            .iter()
            .map(|(gap, value)| {
                time_ms += gap;
                time_ms += i64::from(time_ms % bucket_ms == 0);
                (time_ms, f64::from(*value))
            })
            .collect();
        let (timestamps_ms, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        let buckets = roll_up(&samples, bucket_ms);
        let aligned = Steps::range(start * bucket_ms, (start + step * (count - 1)) * bucket_ms, step * bucket_ms).unwrap();
        let window = Window { range_ms: range * bucket_ms, offset_ms: offset * bucket_ms, at_ms: None };
        // Steps and ranges between the boundaries give the same.
        let between = Steps::range(aligned.start_ms() + shift, aligned.end_ms() + shift, aligned.step_ms()).unwrap();
        let longer = Window { range_ms: window.range_ms + shift - range_shift.min(shift), ..window };
        let (mut raw_bounds, mut rolled_up_bounds) = (Vec::new(), Vec::new());
        window.bounds(&timestamps_ms, &aligned, &mut raw_bounds);
        let rollup = Rollup { bucket_ms, buckets: &buckets };
        bounds(&rollup, &longer, &between, &mut rolled_up_bounds);
        for function in ANSWERED {
            let (mut expected, mut found) = (Vec::new(), Vec::new());
            let mut stretched = Vec::new();
            if let Some(extrapolation) = function.extrapolation() {
                stretches(extrapolation, &timestamps_ms, &raw_bounds, &window, &aligned, &mut stretched);
            }
            let raw = Ranges {
                samples: Samples { timestamps_ms: &timestamps_ms, values: &values },
                bounds: &raw_bounds,
                stretches: &stretched,
                steps: &aligned,
                parameter: &ScalarColumn::Constant(f64::NAN),
                interrupt: &NoInterrupt,
            };
            function.evaluate(&raw, &mut expected).unwrap();
            let ranges = RolledUpRanges { rollup, bounds: &rolled_up_bounds, window: longer, steps: &between };
            prop_assert!(ranges.evaluate(function, &mut found));
            for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let same = (is_absent(*found) && is_absent(*expected)) || (found - expected).abs() <= 1e-9 * expected.abs().max(1.0);
                prop_assert!(same, "{} at step {step}: {found} instead of {expected}", function.as_str());
            }
        }
    }
}

#[test]
fn means_of_sums_that_are_too_large_are_numbers() {
    let bucket =
        Bucket { first_ms: 0, last_ms: 1, count: 2, sum: f64::MAX, min: 0.0, max: f64::MAX, first: 0.0, last: f64::MAX, lost: 0.0 };
    let buckets = [bucket, Bucket { first_ms: 10, last_ms: 11, ..bucket }];
    let steps = Steps::at(20);
    let ranges = RolledUpRanges {
        rollup: Rollup { bucket_ms: 10, buckets: &buckets },
        bounds: &[Bounds { start: 0, end: 2 }],
        window: Window { range_ms: 20, offset_ms: 0, at_ms: None },
        steps: &steps,
    };
    let mut out = Vec::new();
    assert!(ranges.evaluate(OverTime::Avg, &mut out));
    assert!((out[0] / f64::MAX - 0.5).abs() < 1e-12, "{out:?}");
    assert!(!ranges.evaluate(OverTime::Quantile, &mut out), "samples are needed");
}

#[test]
fn functions_are_known_by_name() {
    for function in ANSWERED {
        assert!(can_answer(function.as_str()));
    }
    assert!(can_answer("absent_over_time"));
    for function in ["quantile_over_time", "stddev_over_time", "deriv", "changes", "irate", "resets", "predict_linear"] {
        assert!(!can_answer(function), "{function}");
    }
}

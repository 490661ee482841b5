use proptest::prelude::*;

use super::*;
use crate::column::is_absent;
use crate::limits::NoInterrupt;

const ALL: [OverTime; 20] = [
    OverTime::Avg,
    OverTime::Changes,
    OverTime::Count,
    OverTime::Delta,
    OverTime::Deriv,
    OverTime::First,
    OverTime::Idelta,
    OverTime::Increase,
    OverTime::Irate,
    OverTime::Last,
    OverTime::Max,
    OverTime::Min,
    OverTime::PredictLinear,
    OverTime::Present,
    OverTime::Quantile,
    OverTime::Rate,
    OverTime::Resets,
    OverTime::Stddev,
    OverTime::Stdvar,
    OverTime::Sum,
];

fn evaluate(function: OverTime, samples: Samples<'_>, window: Window, steps: &Steps, parameter: f64) -> Vec<f64> {
    let mut bounds = Vec::new();
    window.bounds(samples.timestamps_ms, steps, &mut bounds);
    let mut stretched = Vec::new();
    if let Some(extrapolation) = function.extrapolation() {
        stretches(extrapolation, samples.timestamps_ms, &bounds, &window, steps, &mut stretched);
    }
    let mut out = Vec::new();
    let parameter = ScalarColumn::Constant(parameter);
    let ranges = Ranges { samples, bounds: &bounds, stretches: &stretched, steps, parameter: &parameter, interrupt: &NoInterrupt };
    function.evaluate(&ranges, &mut out).unwrap();
    out
}

/// The function of one window, straight from its definition.
fn naive(function: OverTime, samples: &[(i64, f64)], start_ms: i64, end_ms: i64, now_ms: i64, parameter: f64) -> Option<f64> {
    let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
    let count = values.len() as f64;
    let pairs = |counts: &dyn Fn(f64, f64) -> bool| values.windows(2).filter(|pair| counts(pair[0], pair[1])).count() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let extrapolate = |extrapolation: Extrapolation| {
        let (first, last) = (samples.first()?, samples.last()?);
        let resets: f64 = values.windows(2).filter(|pair| extrapolation.is_counter() && pair[1] < pair[0]).map(|pair| pair[0]).sum();
        let difference = last.1 - first.1 + resets;
        let stretch = || Stretch::of(extrapolation, (first.0, last.0), samples.len(), (start_ms, end_ms));
        (samples.len() > 1).then(|| stretch().extrapolate(extrapolation.is_counter(), first.1, difference))
    };
    let line = || {
        let time = |ms: i64| (ms - now_ms) as f64 / 1000.0;
        let mean_time = samples.iter().map(|(ms, _)| time(*ms)).sum::<f64>() / count;
        let squares: f64 = samples.iter().map(|(ms, _)| (time(*ms) - mean_time).powi(2)).sum();
        let products: f64 = samples.iter().map(|(ms, value)| (time(*ms) - mean_time) * (value - mean)).sum();
        let slope = products / squares;
        (samples.len() > 1).then_some((slope, mean - slope * mean_time))
    };
    let two = || {
        let [.., before, last] = samples else { return None };
        Some((*before, *last))
    };
    if samples.is_empty() {
        return None;
    }
    match function {
        OverTime::Avg => Some(mean),
        OverTime::Changes => Some(pairs(&|before, after| before != after)),
        OverTime::Count => Some(count),
        OverTime::Delta => extrapolate(Extrapolation::Delta),
        OverTime::Increase => extrapolate(Extrapolation::Increase),
        OverTime::Rate => extrapolate(Extrapolation::Rate),
        OverTime::Deriv => line().map(|(slope, _)| slope),
        OverTime::PredictLinear => line().map(|(slope, intercept)| intercept + slope * parameter),
        OverTime::First => values.first().copied(),
        OverTime::Last => values.last().copied(),
        OverTime::Idelta => two().map(|(before, last)| last.1 - before.1),
        OverTime::Irate => two().map(|(before, last)| {
            let difference = if last.1 < before.1 { last.1 } else { last.1 - before.1 };
            difference * 1000.0 / (last.0 - before.0) as f64
        }),
        OverTime::Max => values.iter().copied().reduce(f64::max),
        OverTime::Min => values.iter().copied().reduce(f64::min),
        OverTime::Present => Some(1.0),
        OverTime::Quantile => Some(crate::functions::quantile::quantile(parameter, &mut values.clone())),
        OverTime::Resets => Some(pairs(&|before, after| after < before)),
        OverTime::Stddev => Some(variance.sqrt()),
        OverTime::Stdvar => Some(variance),
        OverTime::Sum => Some(values.iter().sum()),
    }
}

proptest! {
    #[test]
    fn every_function_equals_its_definition_on_each_window_alone(
        samples in prop::collection::vec((1..40_i64, 0..100_i32), 0..80),
        (start, step, count) in (-100..800_i64, 1..300_i64, 1..30_i64),
        (range_ms, offset_ms) in (1..600_i64, -200..200_i64),
        at_ms in prop::option::of(0..1000_i64),
    ) {
        let timestamps: Vec<i64> = samples.iter().scan(0, |time, (gap, _)| { *time += gap; Some(*time) }).collect();
        let values: Vec<f64> = samples.iter().map(|(_, value)| f64::from(*value)).collect();
        let steps = Steps::range(start, start + step * (count - 1), step).unwrap();
        let window = Window { range_ms, offset_ms, at_ms };
        for function in ALL {
            let found = evaluate(function, Samples { timestamps_ms: &timestamps, values: &values }, window, &steps, 0.3);
            for (step, found) in found.into_iter().enumerate() {
                let (start, end) = (window.start_ms(steps.time_ms(step)), window.end_ms(steps.time_ms(step)));
                let inside: Vec<(i64, f64)> = timestamps.iter().copied().zip(values.iter().copied()).filter(|(ms, _)| *ms > start && *ms <= end).collect();
                let expected = naive(function, &inside, start, end, steps.time_ms(step), 0.3);
                let close = match expected {
                    Some(expected) => (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                    None => is_absent(found),
                };
                prop_assert!(close, "{} at step {}: {} instead of {:?} of {:?}", function.as_str(), step, found, expected, inside);
            }
        }
    }
}

#[test]
fn values_that_are_no_numbers_go_through() {
    let timestamps_ms = [1000, 2000, 3000];
    let one = |function, values: [f64; 3]| {
        let window = Window { range_ms: 5000, offset_ms: 0, at_ms: None };
        evaluate(function, Samples { timestamps_ms: &timestamps_ms, values: &values }, window, &Steps::at(3000), 0.5)[0]
    };
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    assert_eq!((one(OverTime::Max, [nan, 1.0, nan]), one(OverTime::Min, [2.0, nan, 1.0])), (1.0, 1.0));
    assert!(one(OverTime::Max, [nan; 3]).is_nan() && one(OverTime::Sum, [nan, 1.0, 1.0]).is_nan());
    assert_eq!((one(OverTime::Sum, [inf, 1.0, 1.0]), one(OverTime::Avg, [inf, 1.0, 1.0])), (inf, inf));
    assert!(one(OverTime::Avg, [inf, 1.0, -inf]).is_nan());
    assert!((one(OverTime::Avg, [f64::MAX; 3]) / f64::MAX - 1.0).abs() < 1e-12);
    assert_eq!((one(OverTime::Changes, [nan, nan, 1.0]), one(OverTime::Resets, [nan, 3.0, 1.0])), (1.0, 1.0));
    assert_eq!(one(OverTime::Sum, [1.0, 1e100, -1e100]), 1.0);
}

#[test]
fn large_values_with_a_small_spread_keep_their_variance() {
    let timestamps_ms: Vec<i64> = (0..1000).map(|index| index * 1000).collect();
    let values: Vec<f64> = (0..1000).map(|index| 1e12 + f64::from(index % 2)).collect();
    let window = Window { range_ms: 1_000_000, offset_ms: 0, at_ms: None };
    let steps = Steps::range(900_000, 999_000, 1000).unwrap();
    for variance in evaluate(OverTime::Stdvar, Samples { timestamps_ms: &timestamps_ms, values: &values }, window, &steps, 0.0) {
        assert!((variance - 0.25).abs() < 1e-6, "{variance}");
    }
}

#[test]
fn a_value_changes_no_variance_of_windows_without_it() {
    let stdvar = |values: &[f64]| {
        let timestamps_ms: Vec<i64> = (0..8).map(|index| index * 1000).collect();
        let window = Window { range_ms: 4000, offset_ms: 0, at_ms: None };
        let steps = Steps::range(3000, 7000, 1000).unwrap();
        evaluate(OverTime::Stdvar, Samples { timestamps_ms: &timestamps_ms, values }, window, &steps, 0.0)
    };
    let (huge, large) = (2_f64.powi(64), 1e12);
    let found = stdvar(&[huge, 40.0, 45.0, 50.0, 55.0, 60.0, 40.0, 50.0]);
    // What promtool gives.
    let expected = [6.380_294_379_767_596e37, 31.25, 31.25, 54.6875, 54.6875];
    let is_near = |(found, expected): (&f64, &f64)| (found / expected - 1.0).abs() < 1e-12;
    assert!(found.iter().zip(&expected).all(is_near), "{found:?}");
    for other in [huge, 0.0, -huge, f64::NAN, f64::INFINITY] {
        let found = stdvar(&[other, large, large + 1.0, large, large + 1.0, large, large + 1.0, large]);
        assert!(found[1..].iter().all(|variance| (variance - 0.25).abs() < 1e-9), "after {other}: {found:?}");
    }
}

#[test]
fn what_looks_at_whole_windows_can_be_ended() {
    let bounds = vec![Bounds { start: 0, end: 40_000 }; 10];
    let samples = Samples { timestamps_ms: &(0..40_000).collect::<Vec<_>>(), values: &vec![f64::INFINITY; 40_000] };
    let (steps, parameter) = (Steps::range(0, 9, 1).unwrap(), ScalarColumn::Constant(0.5));
    for (function, ended) in [(OverTime::Quantile, true), (OverTime::Avg, true), (OverTime::Max, false)] {
        let interrupt = || Err(Interrupted::Cancelled);
        let ranges = Ranges { samples, bounds: &bounds, stretches: &[], steps: &steps, parameter: &parameter, interrupt: &interrupt };
        assert_eq!(function.evaluate(&ranges, &mut Vec::new()).is_err(), ended, "{function:?}");
    }
}

//! `rate`, `increase` and `delta`, which extrapolate to the borders of their range.

use super::sliding::sliding;
use super::windows::{Bounds, Samples};
use crate::column::{BLOCK, any_of};

/// Which of the three functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extrapolation {
    /// Per second, of a counter.
    Rate,
    /// Of a counter.
    Increase,
    /// Of a gauge.
    Delta,
}

impl Extrapolation {
    pub(crate) fn is_counter(self) -> bool {
        self != Self::Delta
    }
}

/// What the times of one window's samples contribute, which is the same for all series with these times.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stretch {
    /// Seconds from the first sample to the last.
    sampled: f64,
    /// Seconds by which it is extrapolated to both sides.
    to_start: f64,
    to_end: f64,
    /// What a rate is divided by: the length of the range in seconds; 1 for the others.
    divisor: f64,
    /// By how much the difference between the ends grows.
    factor: f64,
}

impl Stretch {
    /// That of `count` samples, two at least, in a window from `start_ms`, not included, to `end_ms`.
    ///
    /// A series that begins or ends close to a border of the range is taken to continue to the border; otherwise half of
    /// the mean distance between samples is added.
    pub(crate) fn of(extrapolation: Extrapolation, (first_ms, last_ms): (i64, i64), count: usize, (start_ms, end_ms): (i64, i64)) -> Self {
        let seconds = |from_ms: i64, to_ms: i64| (to_ms - from_ms) as f64 / 1000.0;
        let sampled = seconds(first_ms, last_ms);
        let mean_distance = sampled / (count - 1) as f64;
        let close = mean_distance * 1.1;
        let to_border = |distance: f64| if distance >= close { mean_distance / 2.0 } else { distance };
        let divisor = if extrapolation == Extrapolation::Rate { seconds(start_ms, end_ms) } else { 1.0 };
        let mut stretch = Self {
            sampled,
            to_start: to_border(seconds(start_ms, first_ms)),
            to_end: to_border(seconds(last_ms, end_ms)),
            divisor,
            factor: 0.0,
        };
        stretch.factor = stretch.factor_from(stretch.to_start);
        stretch
    }

    fn factor_from(&self, to_start: f64) -> f64 {
        (self.sampled + to_start + self.to_end) / self.sampled / self.divisor
    }

    /// The result where the values differ so much from the first to the last, with resets of counters taken into account. A counter is not extrapolated
    /// to below zero.
    pub(crate) fn extrapolate(&self, is_counter: bool, first_value: f64, difference: f64) -> f64 {
        if is_counter && difference > 0.0 && first_value >= 0.0 {
            let to_zero = self.sampled * (first_value / difference);
            if to_zero < self.to_start {
                return difference * self.factor_from(to_zero);
            }
        }
        difference * self.factor
    }
}

/// What resets of a counter took away, for each window, at a cost that does not depend on how the windows overlap.
pub(crate) fn reset_corrections(samples: Samples<'_>, bounds: &[Bounds], mut emit: impl FnMut(usize, f64)) {
    let values = samples.values;
    // Indices of the samples behind a reset. Almost always there are few.
    let mut resets: Vec<usize> = Vec::new();
    for start in (1..values.len()).step_by(BLOCK) {
        let block = start..values.len().min(start + BLOCK);
        let pairs = values[start - 1..block.end - 1].iter().zip(&values[block.clone()]);
        if any_of(pairs, |(before, value)| value < before) {
            resets.extend(block.filter(|index| values[*index] < values[*index - 1]));
        }
    }
    if resets.is_empty() {
        return;
    }
    let (mut start, mut end) = (0, 0);
    let within: Vec<Bounds> = bounds
        .iter()
        .map(|window| {
            // The first sample of a window has no predecessor in it.
            start += resets[start..].iter().take_while(|reset| **reset <= window.start).count();
            end = end.max(start);
            end += resets[end..].iter().take_while(|reset| **reset < window.end).count();
            Bounds { start, end }
        })
        .collect();
    sliding(&within, |reset| values[resets[reset] - 1], |left, right| left + right, |window, lost| emit(window, lost.unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sliding::tests::windows;
    use super::*;

    #[test]
    fn counters_are_not_extrapolated_below_zero() {
        let rate = Stretch::of(Extrapolation::Rate, (14_000, 77_000), 10, (0, 80_000)).extrapolate(true, 2.0, 142.0);
        // To zero it is 63 s * 2 / 142, less than to the start of the range.
        assert!((rate - 142.0 * (63.0 + 63.0 * 2.0 / 142.0 + 3.0) / 63.0 / 80.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn corrections_equal_those_of_each_window_alone(
            values in prop::collection::vec(prop_oneof![Just(f64::NAN), 0.0..10.0], 50),
            bounds in windows(50),
        ) {
            let timestamps: Vec<i64> = (0..50).collect();
            let mut found = vec![0.0; bounds.len()];
            reset_corrections(Samples { timestamps_ms: &timestamps, values: &values }, &bounds, |window, lost| found[window] = lost);
            for (window, bounds) in bounds.iter().enumerate() {
                let inside = &values[bounds.start..bounds.end.max(bounds.start)];
                let expected: f64 = inside.windows(2).filter(|pair| pair[1] < pair[0]).map(|pair| pair[0]).sum();
                prop_assert!((found[window] - expected).abs() < 1e-9, "{} {}", found[window], expected);
            }
        }
    }
}

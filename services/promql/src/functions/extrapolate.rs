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

/// The samples of one window at its ends.
pub(crate) struct Ends {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) first_value: f64,
    /// How many samples there are; two at least.
    pub(crate) count: usize,
    /// From the first to the last sample, with resets of counters taken into account.
    pub(crate) difference: f64,
}

impl Extrapolation {
    pub(crate) fn is_counter(self) -> bool {
        self != Self::Delta
    }

    /// The result for a window from `start_ms`, not included, to `end_ms`.
    ///
    /// A series that begins or ends close to a border of the range is taken to continue to the border; otherwise half of
    /// the mean distance between samples is added. A counter is not extrapolated to below zero.
    pub(crate) fn of(self, ends: &Ends, start_ms: i64, end_ms: i64) -> f64 {
        let seconds = |from_ms: i64, to_ms: i64| (to_ms - from_ms) as f64 / 1000.0;
        let sampled = seconds(ends.first_ms, ends.last_ms);
        let mean_distance = sampled / (ends.count - 1) as f64;
        let close = mean_distance * 1.1;
        let to_border = |distance: f64| if distance >= close { mean_distance / 2.0 } else { distance };

        let mut to_start = to_border(seconds(start_ms, ends.first_ms));
        if self.is_counter() && ends.difference > 0.0 && ends.first_value >= 0.0 {
            let to_zero = sampled * (ends.first_value / ends.difference);
            to_start = to_start.min(to_zero);
        }
        let to_end = to_border(seconds(ends.last_ms, end_ms));
        let mut factor = (sampled + to_start + to_end) / sampled;
        if self == Self::Rate {
            factor /= seconds(start_ms, end_ms);
        }
        ends.difference * factor
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
        let ends = Ends { first_ms: 14_000, last_ms: 77_000, first_value: 2.0, count: 10, difference: 142.0 };
        let rate = Extrapolation::Rate.of(&ends, 0, 80_000);
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

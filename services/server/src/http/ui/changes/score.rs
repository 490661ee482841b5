//! How much a series moved between two windows of the same length.

/// A share of the mean before: what moves less than this is not told from what stands still.
const RELATIVE_FLOOR: f64 = 0.05;

/// What a change must come to, in deviations of the window before.
pub const LEAST_SCORE: f64 = 1.0;

/// How a series moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// The difference of the means in deviations of the window before.
    pub score: f64,
    /// The mean of the window before.
    pub before: f64,
    /// The mean of the window, or the median of its part since the step.
    pub after: f64,
    /// The mean of the whole window.
    pub mean: f64,
    /// The first value after a step, where there is one.
    pub since: Option<usize>,
}

/// How a series moved from `before` to `now`, whose gaps are NaN. The deviation of the window before is at least `floor`, and a share of its mean, so
/// that what was constant does not count as moved by noise. None where there is too little to compare.
pub fn moved(before: &[f64], now: &[f64], floor: f64) -> Option<Moved> {
    let (known, values) = (finite(before), finite(now));
    if known.len() < 2 || values.len() < 2 {
        return None;
    }
    let (before_mean, mean) = (mean(&known), mean(&values));
    let deviation = deviation(&known).max(floor).max(RELATIVE_FLOOR * before_mean.abs());
    let score = (mean - before_mean).abs() / deviation;
    let since = step(now);
    // A rate at the step itself is of values from both sides of it: the median is the level without that one.
    let after = since.map_or(mean, |first| median(finite(&now[first..])));
    (score.is_finite()).then_some(Moved { score, before: before_mean, after, mean, since })
}

/// From which value on there is none any more, where there were values before: at least `steps` of them are missing at the end.
pub fn ended(before: &[f64], now: &[f64], steps: usize) -> Option<usize> {
    let first = now.iter().rposition(|value| value.is_finite()).map_or(0, |last| last + 1);
    (finite(before).len() * 2 > before.len() && now.len() - first >= steps.max(1)).then_some(first)
}

fn finite(values: &[f64]) -> Vec<f64> {
    values.iter().copied().filter(|value| value.is_finite()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "windows have tens of values")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The deviation of values: by the median of the distances from the median, which single spikes do not raise, but no less than a third of the standard
/// deviation, so that values that are mostly the same and spike now and then do not seem constant.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: Vec<_> = values.iter().map(|value| (value - mean).powi(2)).collect();
    let standard = self::mean(&squares).sqrt();
    let middle = median(values.to_vec());
    let distance = median(values.iter().map(|value| (value - middle).abs()).collect());
    (1.4826 * distance).max(standard / 3.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Where values step from one level to another: the place that splits them into two parts of least variance, if that explains most of it: of a line that
/// rises steadily it explains three quarters, which is no step.
fn step(values: &[f64]) -> Option<usize> {
    let known: Vec<_> = values.iter().enumerate().filter(|(_, value)| value.is_finite()).collect();
    let spread = |part: &[(usize, &f64)]| {
        let part: Vec<_> = part.iter().map(|(_, value)| **value).collect();
        let mean = mean(&part);
        part.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
    };
    let whole = spread(&known);
    let splits = (1..known.len()).map(|split| (spread(&known[..split]) + spread(&known[split..]), split));
    let (rest, split) = splits.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (whole > 0.0 && rest < whole * 0.2).then(|| known[split].0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: f64 = f64::NAN;

    #[test]
    fn a_step_is_found_with_its_levels_and_its_place() {
        let moved = moved(&[0.1; 10], &[0.1, 0.1, NONE, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 0.05).unwrap();
        assert_eq!(moved.since, Some(4));
        assert!((moved.before - 0.1).abs() < 1e-9 && (moved.after - 0.9).abs() < 1e-9 && moved.score > 9.0, "{moved:?}");
    }

    #[test]
    fn a_value_between_both_levels_is_not_part_of_the_level_after_a_step() {
        let moved = moved(&[0.3; 10], &[0.3, 0.3, 0.3, 0.3, 0.7, 0.98, 0.98, 0.98, 0.98, 0.98], 0.03).unwrap();
        assert!((moved.before - 0.3).abs() < 1e-9 && (moved.after - 0.98).abs() < 1e-9, "{moved:?}");
    }

    #[test]
    fn constants_and_noise_do_not_win() {
        let score = |before: &[f64], now: &[f64], floor| moved(before, now, floor).unwrap().score;
        assert!(score(&[1e9; 10], &[1.001e9; 10], 0.0) < LEAST_SCORE, "less than a share of the mean");
        assert!(score(&[0.0; 10], &[0.001; 10], 0.05) < LEAST_SCORE, "less than the floor");
        let noise: Vec<_> = (0..20).map(|n| f64::from(n % 7)).collect();
        let other: Vec<_> = (0..20).map(|n| f64::from(n % 5)).collect();
        assert!(score(&noise, &other, 0.0) < LEAST_SCORE);
        let mut spike = vec![1.0; 20];
        spike[7] = 100.0;
        assert!(score(&[1.0; 20], &spike, 0.1) > score(&spike, &[1.0; 20], 0.1), "a spike before makes what comes after it less certain");
        assert!(score(&spike, &[60.0; 20], 0.1) > 5.0, "and does not hide a step");
    }

    #[test]
    fn too_little_is_not_compared() {
        assert_eq!(moved(&[NONE; 5], &[1.0; 5], 0.1), None);
        assert_eq!(moved(&[1.0; 5], &[1.0, NONE, NONE], 0.1), None);
        assert_eq!(moved(&[0.0; 5], &[0.0; 5], 0.0), None, "0 over 0 is no score");
    }

    #[test]
    fn a_series_ends_where_values_are_missing_up_to_the_end() {
        assert_eq!(ended(&[1.0; 4], &[1.0, 1.0, NONE, NONE], 2), Some(2));
        assert_eq!(ended(&[1.0; 4], &[1.0, 1.0, 1.0, NONE], 2), None);
        assert_eq!(ended(&[1.0; 4], &[NONE; 4], 2), Some(0));
        assert_eq!(ended(&[NONE, NONE, NONE, 1.0], &[NONE; 4], 2), None, "it was hardly there");
    }

    proptest! {
        #[test]
        fn no_values_break_it(before in values(), now in values(), floor in 0.0..1e6_f64) {
            if let Some(moved) = moved(&before, &now, floor) {
                prop_assert!(moved.score >= 0.0 && moved.score.is_finite());
                prop_assert!(moved.since.is_none_or(|first| first < now.len() && now[first].is_finite()));
            }
            prop_assert!(ended(&before, &now, 3).is_none_or(|first| first <= now.len()));
        }

        #[test]
        fn the_unit_of_values_does_not_matter(before in prop::collection::vec(1.0..100.0_f64, 4..40), now in prop::collection::vec(1.0..100.0_f64, 4..40)) {
            let scaled = |values: &[f64]| values.iter().map(|value| value * 1024.0).collect::<Vec<_>>();
            let (one, other) = (moved(&before, &now, 0.0).unwrap(), moved(&scaled(&before), &scaled(&now), 0.0).unwrap());
            prop_assert!((one.score - other.score).abs() <= 1e-6 * one.score.max(1.0));
        }
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(prop_oneof![3 => -1e12..1e12_f64, 1 => Just(NONE), 1 => Just(f64::INFINITY), 1 => Just(0.0)], 0..50)
    }
}

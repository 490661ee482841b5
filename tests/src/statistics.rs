//! Statistics of measurements: median and spread of the rounds, percentiles of the latencies.

/// The median of some rounds, and their range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle value; of an even number of values the mean of the two in the middle.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

impl Spread {
    /// None if there are no rounds, or if one of them is NaN.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        if sorted.is_empty() || sorted.iter().any(|value| value.is_nan()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }
}

/// The smallest value such that at least this share (0 to 1) of the values is not greater. None if there are no values.
pub fn percentile(values: &mut [u32], share: f64) -> Option<u32> {
    if values.is_empty() {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list in memory"
    )]
    let rank = (share.clamp(0.0, 1.0) * values.len() as f64).ceil() as usize;
    let at = rank.clamp(1, values.len()) - 1;
    Some(*values.select_nth_unstable(at).1)
}

/// The ratio of the values of each round, so that a machine whose speed drifts does not affect the ratio.
pub fn ratios(values: &[f64], others: &[f64]) -> Vec<f64> {
    values.iter().zip(others).map(|(value, other)| value / other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_rounds() {
        let spread = |rounds: &[f64]| Spread::of(rounds).map(|spread| (spread.median, spread.min, spread.max));
        assert_eq!(spread(&[5.0, 1.0, 100.0, 2.0, 3.0]), Some((3.0, 1.0, 100.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 8.0]), Some((3.0, 1.0, 8.0)));
        assert_eq!(spread(&[-7.5]), Some((-7.5, -7.5, -7.5)));
    }

    #[test]
    fn no_rounds_have_no_median() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut hundred: Vec<u32> = (1..=100).rev().collect();
        for (share, value) in [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)] {
            assert_eq!(percentile(&mut hundred, share), Some(value), "{share}");
        }
        assert_eq!(percentile(&mut [7], 0.99), Some(7));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    #[test]
    fn ratios_pair_the_rounds() {
        assert_eq!(ratios(&[2.0, 9.0, 5.0], &[1.0, 3.0]), [2.0, 3.0]);
    }
}

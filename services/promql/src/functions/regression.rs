//! Means, variances and straight lines through samples, in a form in which two parts can be joined.

/// The number, the mean and the sum of squared distances from the mean of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    count: f64,
    mean: f64,
    /// What the mean lost by rounding: for large values that may be as much as their distances from it.
    lost: f64,
    squares: f64,
}

impl Spread {
    pub(crate) fn of(value: f64) -> Self {
        // A value that is not finite has no distance from a mean. The product of a negative one is -0.
        Self { count: 1.0, mean: value, lost: 0.0, squares: (value * 0.0).abs() }
    }

    #[must_use]
    pub(crate) fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        let share = other.count / count;
        let distance = (other.mean - self.mean) + (other.lost - self.lost);
        let moved = distance * share;
        let mean = self.mean + moved;
        // Knuth's two-sum, which needs no branch: a branch on which number is larger can't be predicted and would cost more.
        let added = mean - self.mean;
        let lost = (self.mean - (mean - added)) + (moved - added);
        Self { count, mean, lost: self.lost + lost, squares: self.squares + other.squares + distance * distance * (self.count * share) }
    }

    pub(crate) fn variance(self) -> f64 {
        self.squares / self.count
    }
}

/// What is needed for the straight line through some samples that fits best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    count: f64,
    /// In seconds, from an origin of the caller's choice.
    mean_time: f64,
    mean_value: f64,
    time_squares: f64,
    products: f64,
    first_value: f64,
    /// Whether all values are equal: then the line is exactly flat.
    constant: bool,
}

impl Line {
    pub(crate) fn of(seconds: f64, value: f64) -> Self {
        Self {
            count: 1.0,
            mean_time: seconds,
            mean_value: value,
            time_squares: 0.0,
            products: value * 0.0,
            first_value: value,
            constant: true,
        }
    }

    #[must_use]
    pub(crate) fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        let (time_distance, value_distance) = (other.mean_time - self.mean_time, other.mean_value - self.mean_value);
        let weight = self.count * other.count / count;
        Self {
            count,
            mean_time: self.mean_time + time_distance * (other.count / count),
            mean_value: self.mean_value + value_distance * (other.count / count),
            time_squares: self.time_squares + other.time_squares + time_distance * time_distance * weight,
            products: self.products + other.products + time_distance * value_distance * weight,
            first_value: self.first_value,
            constant: self.constant && other.constant && self.first_value == other.first_value,
        }
    }

    /// The slope per second.
    pub(crate) fn slope(self) -> f64 {
        if self.constant {
            return if self.first_value.is_infinite() { f64::NAN } else { 0.0 };
        }
        self.products / self.time_squares
    }

    /// The line's value at a time.
    pub(crate) fn at(self, seconds: f64) -> f64 {
        if self.constant {
            return if self.first_value.is_infinite() { f64::NAN } else { self.first_value };
        }
        self.mean_value + self.slope() * (seconds - self.mean_time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let line = (0..10).map(|x| Line::of(f64::from(x), 3.0 * f64::from(x) - 1.0)).reduce(Line::join).unwrap();
        assert!((line.slope() - 3.0).abs() < 1e-12 && (line.at(20.0) - 59.0).abs() < 1e-12);
        let flat = Line::of(0.0, 0.1).join(Line::of(1.0, 0.1));
        assert_eq!((flat.slope(), flat.at(7.0)), (0.0, 0.1));
        assert!(Line::of(0.0, 1.0).join(Line::of(1.0, f64::NEG_INFINITY)).slope().is_nan());
        assert!(Line::of(0.0, f64::INFINITY).join(Line::of(1.0, f64::INFINITY)).slope().is_nan());
    }

    #[test]
    fn variances_of_what_is_not_finite_are_not_numbers() {
        assert_eq!(Spread::of(4.0).variance(), 0.0);
        for value in [f64::INFINITY, f64::NAN] {
            assert!(Spread::of(value).variance().is_nan() && Spread::of(1.0).join(Spread::of(value)).variance().is_nan());
        }
    }

    #[test]
    fn the_variance_of_one_value_is_zero_and_not_below() {
        for value in [-4.0, -0.0, 0.0, 4.0] {
            assert_eq!(1.0 / Spread::of(value).variance().sqrt(), f64::INFINITY, "{value}");
        }
    }

    #[test]
    fn a_small_spread_of_large_values_is_kept_in_any_order() {
        let values: Vec<Spread> = (0..10_000).map(|index| Spread::of(1e12 + f64::from(index % 2))).collect();
        let forward = values.iter().copied().reduce(Spread::join).unwrap();
        let backward = values.iter().rev().copied().reduce(|all, value| value.join(all)).unwrap();
        let halves = values.chunks(5_000).map(|half| half.iter().copied().reduce(Spread::join).unwrap()).reduce(Spread::join).unwrap();
        for spread in [forward, backward, halves] {
            assert!((spread.variance() - 0.25).abs() < 1e-9, "{spread:?}");
        }
    }

    proptest! {
        #[test]
        fn parts_join_to_the_variance_of_the_whole(left in prop::collection::vec(-1e3..1e3, 1..20), right in prop::collection::vec(-1e3..1e3, 1..20)) {
            let spread = |values: &[f64]| values.iter().copied().map(Spread::of).reduce(Spread::join).unwrap();
            let joined = spread(&left).join(spread(&right)).variance();
            let all = [left, right].concat();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let expected = all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len() as f64;
            prop_assert!((joined - expected).abs() <= 1e-9 * expected.max(1.0));
        }
    }
}

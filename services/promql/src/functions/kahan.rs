//! Sums that do not lose what is small beside what is large (Neumaier's variant of Kahan's).

/// A sum and what its roundings lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sum {
    pub(crate) sum: f64,
    pub(crate) lost: f64,
}

impl Sum {
    pub(crate) fn of(value: f64) -> Self {
        Self { sum: value, lost: 0.0 }
    }

    #[inline]
    #[must_use]
    pub(crate) fn plus(self, value: f64) -> Self {
        let sum = self.sum + value;
        let lost = if sum.is_infinite() {
            0.0
        } else if self.sum.abs() >= value.abs() {
            self.lost + ((self.sum - sum) + value)
        } else {
            self.lost + ((value - sum) + self.sum)
        };
        Self { sum, lost }
    }

    /// The sum of two parts.
    #[inline]
    #[must_use]
    pub(crate) fn join(self, other: Self) -> Self {
        let joined = self.plus(other.sum);
        if joined.sum.is_infinite() { joined } else { Self { lost: joined.lost + other.lost, ..joined } }
    }

    pub(crate) fn total(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.lost }
    }
}

/// The mean of values, also of those whose sum is larger than a double can be.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let mut mean = Mean::default();
    for value in values {
        mean.add(value);
    }
    mean.value()
}

/// A running mean.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    /// The sum of the values, or their mean once the sum has become too large.
    sum: Sum,
    pub(crate) count: f64,
    overflowed: bool,
}

impl Mean {
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if self.count <= 1.0 {
            self.sum = Sum::of(value);
            return;
        }
        if !self.overflowed {
            let sum = self.sum.plus(value);
            if !sum.sum.is_infinite() {
                self.sum = sum;
                return;
            }
            self.overflowed = true;
            let before = self.count - 1.0;
            self.sum = Sum { sum: self.sum.sum / before, lost: self.sum.lost / before };
        }
        let kept = (self.count - 1.0) / self.count;
        self.sum = Sum { sum: self.sum.sum * kept, lost: self.sum.lost * kept }.plus(value / self.count);
    }

    pub(crate) fn value(self) -> f64 {
        if self.overflowed { self.sum.sum + self.sum.lost } else { self.sum.sum / self.count + self.sum.lost / self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        values.iter().fold(Sum::default(), |sum, value| sum.plus(*value)).total()
    }

    #[test]
    fn small_values_survive_large_ones() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        let joined = Sum::of(1.0).plus(1e100).join(Sum::of(1.0).plus(-1e100));
        assert_eq!(joined.total(), 2.0);
        assert_eq!(mean([1.0, 1e100, 1.0, -1e100].into_iter()), 0.5);
    }

    #[test]
    fn means_may_be_of_sums_too_large() {
        assert_eq!(mean([f64::MAX, f64::MAX].into_iter()), f64::MAX);
        assert!(mean([f64::MAX, f64::MAX, -f64::MAX, -f64::MAX].into_iter()).abs() < f64::MAX * 1e-12);
        assert_eq!(sum(&[f64::INFINITY, 1.0]), f64::INFINITY);
        assert_eq!(mean([f64::INFINITY, 1.0].into_iter()), f64::INFINITY);
        assert!(mean([f64::INFINITY, f64::NEG_INFINITY].into_iter()).is_nan());
        assert!(mean([f64::NAN, 1.0].into_iter()).is_nan());
    }
}

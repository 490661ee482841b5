//! Values of one series or scalar over all steps.

use crate::eval::Charge;
use crate::labels::Labels;
use crate::staleness::{STALE, STALE_BITS};

/// What stands in a column where a series has no value.
///
/// It is the stale marker: selectors never let it through, and arithmetic makes no signalling NaN of other values.
pub(crate) const ABSENT: f64 = STALE;

/// Whether a column has no value in this place.
#[inline]
pub(crate) fn is_absent(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// How many values a block has, after each of which it is asked what was found.
pub(crate) const BLOCK: usize = 256;

/// Whether this is so of any value of a block. All are looked at, without a branch: compilers turn that into vector instructions.
#[inline]
pub(crate) fn any_of<T>(block: impl Iterator<Item = T>, is: impl Fn(T) -> bool) -> bool {
    block.fold(false, |any, value| any | is(value))
}

/// Applies a function to the values that are there. They stay there: of a NaN that only has another sign than the mark of
/// absence, a function such as `abs` would make it.
#[inline]
pub(crate) fn map_present(values: &mut [f64], function: impl Fn(f64) -> f64) {
    for value in values {
        if !is_absent(*value) {
            let result = function(*value);
            *value = if is_absent(result) { f64::NAN } else { result };
        }
    }
}

/// A series while a query is evaluated: labels and one value a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    /// Whether the metric's name is left out of the result. It stays until then, so that functions for labels can use it.
    pub(crate) drop_name: bool,
    pub(crate) values: Vec<f64>,
}

impl Series {
    pub(crate) fn has_values(&self) -> bool {
        !self.values.iter().all(|value| is_absent(*value))
    }

    /// Roughly the memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<f64>() + self.labels.memory_bytes()
    }

    /// Whether the two have values at the same step.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.values.iter().zip(&other.values).any(|(mine, theirs)| !is_absent(*mine) && !is_absent(*theirs))
    }

    /// Takes the values of another series where this one has none.
    pub(crate) fn fill_from(&mut self, other: &Self) {
        for (mine, theirs) in self.values.iter_mut().zip(&other.values) {
            if is_absent(*mine) {
                *mine = *theirs;
            }
        }
    }
}

/// A scalar over all steps, with the charge for its values.
pub(crate) enum ScalarColumn<'a> {
    Constant(f64),
    PerStep(Vec<f64>, Charge<'a>),
}

impl ScalarColumn<'_> {
    #[inline]
    pub(crate) fn at(&self, step: usize) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::PerStep(values, _) => values[step],
        }
    }

    /// The values of all steps; a constant only once.
    pub(crate) fn values(&self) -> &[f64] {
        match self {
            Self::Constant(value) => std::slice::from_ref(value),
            Self::PerStep(values, _) => values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_takes_a_value_away() {
        let opposite = f64::from_bits(STALE_BITS | 1 << 63);
        let mut values = [opposite, f64::NAN, 1.0, ABSENT];
        map_present(&mut values, f64::abs);
        assert_eq!(values.map(is_absent), [false, false, false, true]);
    }

    #[test]
    fn series_fill_each_other() {
        let series = |values: [f64; 3]| Series { values: values.to_vec(), ..Series::default() };
        let mut first = series([1.0, ABSENT, ABSENT]);
        let second = series([ABSENT, 2.0, ABSENT]);
        assert!(!first.overlaps(&second) && first.overlaps(&first.clone()));
        first.fill_from(&second);
        assert_eq!(first.values[..2], [1.0, 2.0]);
        assert!(is_absent(first.values[2]) && first.has_values() && !series([ABSENT; 3]).has_values());
    }
}

//! Quantiles of values.

use std::cmp::Ordering;

use super::windows::Bounds;

/// NaN comes first, then all other values in their order.
fn order(left: f64, right: f64) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => left.partial_cmp(&right).unwrap_or(Ordering::Equal),
    }
}

/// The quantile `q` of values that may be reordered; between two values it is interpolated.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    values.sort_unstable_by(|left, right| order(*left, *right));
    of_sorted(q, values)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the rank lies within the slice")]
fn of_sorted(q: f64, values: &[f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let rank = q * (values.len() - 1) as f64;
    let lower = rank.floor() as usize;
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}

/// How many changes of so many sorted values take no longer than sorting all of them anew. A change moves half of the values, at about 0.05 ns
/// for each of them; sorting takes a few ns for each, and more the more there are.
fn most_changes(values: usize) -> usize {
    let bits = usize::try_from(usize::BITS - values.leading_zeros()).unwrap_or_default();
    (values / 8).min(8 * bits)
}

/// The sorted values of a window that moves forward.
#[derive(Default)]
pub(crate) struct SortedWindow {
    values: Vec<f64>,
    bounds: Option<Bounds>,
}

impl SortedWindow {
    /// Moves the window; few changes are made one by one, otherwise all is sorted anew.
    pub(crate) fn move_to(&mut self, bounds: Bounds, samples: &[f64]) {
        let old = self.bounds.replace(bounds).unwrap_or(Bounds { start: 0, end: 0 });
        let kept = Bounds { start: bounds.start.max(old.start), end: bounds.end.min(old.end) };
        let changes = old.len() + bounds.len() - 2 * kept.len();
        if kept.len() == 0 || changes > most_changes(bounds.len()) {
            self.values.clear();
            self.values.extend_from_slice(&samples[bounds.start..bounds.end.max(bounds.start)]);
            self.values.sort_unstable_by(|left, right| order(*left, *right));
            return;
        }
        for value in &samples[old.start..kept.start] {
            let index = self.values.partition_point(|other| order(*other, *value) == Ordering::Less);
            self.values.remove(index);
        }
        for value in &samples[kept.end..bounds.end] {
            let index = self.values.partition_point(|other| order(*other, *value) == Ordering::Less);
            self.values.insert(index, *value);
        }
    }

    pub(crate) fn quantile(&self, q: f64) -> f64 {
        of_sorted(q, &self.values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sliding::tests::windows;
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        for (q, expected) in [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.1, 1.3), (-1.0, f64::NEG_INFINITY), (2.0, f64::INFINITY)] {
            assert!(
                quantile(q, &mut [4.0, 1.0, 3.0, 2.0]) == expected || (quantile(q, &mut [4.0, 1.0, 3.0, 2.0]) - expected).abs() < 1e-12
            );
        }
        assert!(quantile(f64::NAN, &mut [1.0]).is_nan() && quantile(0.5, &mut []).is_nan());
        assert_eq!(quantile(1.0, &mut [f64::NAN, 1.0]), 1.0);
    }

    #[test]
    fn many_changes_of_a_long_window_are_sorted() {
        assert_eq!([0, 7, 80, 60_480, 1_000_000].map(most_changes), [0, 0, 10, 128, 160]);
    }

    proptest! {
        #[test]
        fn a_moving_window_equals_sorting_each(
            samples in prop::collection::vec(prop_oneof![Just(f64::NAN), -10.0..10.0], 200),
            bounds in windows(200),
            q in 0.0..1.0,
        ) {
            let mut window = SortedWindow::default();
            for bounds in bounds {
                window.move_to(bounds, &samples);
                let mut values = samples[bounds.start..bounds.end.max(bounds.start)].to_vec();
                prop_assert_eq!(window.quantile(q).to_bits(), quantile(q, &mut values).to_bits());
            }
        }
    }
}

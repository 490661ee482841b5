//! The totals of counters that are gone, so that part 1's sums never fall.

use std::collections::HashMap;
use std::sync::Arc;

/// Sums of counters without labels by their ids. A copy is cheap, and stays as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct RetiredSums(Arc<HashMap<Box<str>, i64>>);

impl RetiredSums {
    pub(super) fn get(&self, id: &str) -> Option<i64> {
        self.0.get(id).copied()
    }

    /// Adds the total of a counter that is gone, at most up to `i64::MAX`.
    pub(super) fn add(&mut self, id: &str, total: i64) {
        let sums = Arc::make_mut(&mut self.0);
        match sums.get_mut(id) {
            Some(sum) => *sum = sum.saturating_add(total),
            None => drop(sums.insert(id.into(), total)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(id, sum)| (id.as_ref(), *sum))
    }
}

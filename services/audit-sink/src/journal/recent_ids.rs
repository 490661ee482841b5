//! The ids of recent events, by which repeats are recognised.

use std::collections::{HashSet, VecDeque};

use super::id::IdHash;

/// Remembers ids for some time, up to some number.
#[derive(Debug)]
pub(super) struct RecentIds {
    hashes: HashSet<IdHash>,
    /// When each came, oldest first.
    order: VecDeque<(i64, IdHash)>,
    max_ids: usize,
    seconds: i64,
}

impl RecentIds {
    pub(super) fn new(max_ids: usize, seconds: i64) -> Self {
        Self { hashes: HashSet::new(), order: VecDeque::new(), max_ids: max_ids.max(1), seconds }
    }

    pub(super) fn contains(&self, id: IdHash) -> bool {
        self.hashes.contains(&id)
    }

    /// Remembers an id that came at this time, and forgets those that are too old or too many.
    pub(super) fn insert(&mut self, id: IdHash, at: i64) {
        if self.hashes.insert(id) {
            self.order.push_back((at, id));
        }
        self.forget(at);
    }

    /// The time before which no id is remembered.
    pub(super) fn oldest(&self, now: i64) -> i64 {
        now.saturating_sub(self.seconds)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn forget(&mut self, now: i64) {
        let oldest = self.oldest(now);
        while let Some((at, id)) = self.order.front().copied() {
            if at >= oldest && self.order.len() <= self.max_ids {
                return;
            }
            self.order.pop_front();
            self.hashes.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_by_age_and_by_number() {
        let mut recent = RecentIds::new(3, 100);
        for id in 1..=3 {
            recent.insert(id, 1000);
        }
        assert!(recent.contains(1));
        recent.insert(4, 1050);
        assert!(!recent.contains(1) && recent.contains(2) && recent.len() == 3);
        recent.insert(5, 1101);
        assert!(!recent.contains(3) && recent.contains(4) && recent.len() == 2);
        recent.insert(5, 1102);
        assert_eq!(recent.len(), 2);
    }
}

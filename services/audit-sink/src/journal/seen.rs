//! The ids of a while, so that a repeat is told from a new event.

use std::collections::{HashSet, VecDeque};

use super::id::Mark;

/// Remembers ids for so long and so many of them.
#[derive(Debug)]
pub(super) struct Seen {
    marks: HashSet<Mark>,
    order: VecDeque<(i64, Mark)>,
    most: usize,
    seconds: i64,
}

impl Seen {
    pub(super) fn new(most: usize, seconds: i64) -> Self {
        Self { marks: HashSet::new(), order: VecDeque::new(), most: most.max(1), seconds }
    }

    pub(super) fn contains(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }

    /// Remembers an id that came at this time, forgetting what is too old or too much.
    pub(super) fn insert(&mut self, mark: Mark, at: i64) {
        if self.marks.insert(mark) {
            self.order.push_back((at, mark));
        }
        self.forget(at);
    }

    /// The time before which nothing is remembered.
    pub(super) fn oldest(&self, now: i64) -> i64 {
        now.saturating_sub(self.seconds)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn forget(&mut self, now: i64) {
        let oldest = self.oldest(now);
        while let Some((at, mark)) = self.order.front().copied() {
            if at >= oldest && self.order.len() <= self.most {
                return;
            }
            self.order.pop_front();
            self.marks.remove(&mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_by_age_and_by_number() {
        let mut seen = Seen::new(3, 100);
        for mark in 1..=3 {
            seen.insert(mark, 1000);
        }
        assert!(seen.contains(1));
        seen.insert(4, 1050);
        assert!(!seen.contains(1) && seen.contains(2) && seen.len() == 3);
        seen.insert(5, 1101);
        assert!(!seen.contains(3) && seen.contains(4) && seen.len() == 2);
        seen.insert(5, 1102);
        assert_eq!(seen.len(), 2);
    }
}

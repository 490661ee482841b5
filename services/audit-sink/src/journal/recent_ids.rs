//! The ids of recent events, by which repeats are recognised.
//!
//! An id counts from the last time that it came: a server that does not get the answers sends an event again about once a minute, so that what has
//! to be remembered is the ids of a few minutes, however long that goes on.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use super::id::IdHash;

/// A server pauses up to a minute between two deliveries of an event, and another one takes over from a server that is gone in half a minute. Ids that are
/// forgotten sooner than this may be of events that are still under way.
const ENOUGH_SECONDS: i64 = 600;

/// Remembers ids for some time, up to some number.
#[derive(Debug)]
pub(super) struct RecentIds {
    hashes: HashSet<IdHash>,
    /// When each came, oldest first; one that came again is there again.
    order: VecDeque<(i64, IdHash)>,
    /// How often more than once an id is in `order`.
    repeats: HashMap<IdHash, u32>,
    max_ids: usize,
    seconds: i64,
}

impl RecentIds {
    pub(super) fn new(max_ids: usize, seconds: i64) -> Self {
        Self { hashes: HashSet::new(), order: VecDeque::new(), repeats: HashMap::new(), max_ids: max_ids.max(1), seconds }
    }

    pub(super) fn contains(&self, id: IdHash) -> bool {
        self.hashes.contains(&id)
    }

    /// Remembers an id that came at this time, perhaps again, and forgets those that are too old or too many.
    ///
    /// Returns after how many seconds an id was forgotten, if that was too soon: more come in a short time than may be remembered.
    pub(super) fn insert(&mut self, id: IdHash, at: i64) -> Option<i64> {
        if !self.hashes.insert(id) {
            *self.repeats.entry(id).or_default() += 1;
        }
        self.order.push_back((at, id));
        self.forget(at)
    }

    /// The time before which no id is remembered.
    pub(super) fn oldest(&self, now: i64) -> i64 {
        now.saturating_sub(self.seconds)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn forget(&mut self, now: i64) -> Option<i64> {
        let (oldest, mut too_soon) = (self.oldest(now), None);
        while let Some((at, id)) = self.order.front().copied() {
            if at >= oldest && self.order.len() <= self.max_ids {
                break;
            }
            self.order.pop_front();
            match self.repeats.entry(id) {
                Entry::Occupied(mut repeats) if *repeats.get() > 1 => *repeats.get_mut() -= 1,
                Entry::Occupied(repeats) => {
                    repeats.remove();
                }
                Entry::Vacant(_) => {
                    self.hashes.remove(&id);
                    too_soon = too_soon.or(Some(now - at).filter(|age| at >= oldest && *age < ENOUGH_SECONDS));
                }
            }
        }
        too_soon
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
    }

    #[test]
    fn an_id_is_remembered_from_the_last_time_that_it_came() {
        let mut recent = RecentIds::new(4, 100);
        for at in [1000, 1060, 1120, 1180] {
            recent.insert(1, at);
        }
        recent.insert(2, 1280);
        assert!(recent.contains(1) && recent.len() == 2);
        recent.insert(3, 1281);
        assert!(!recent.contains(1) && recent.contains(2));
        for repeat in 0..10 {
            recent.insert(4, 1290 + repeat);
        }
        assert!(recent.contains(4) && recent.len() == 4 && recent.hashes.len() == 1, "repeats take room as well");
        recent.insert(5, 1500);
        assert!(recent.len() == 1 && recent.repeats.is_empty());
    }

    #[test]
    fn it_is_told_when_ids_are_forgotten_while_their_events_may_come_again() {
        let mut recent = RecentIds::new(2, 10_000);
        assert_eq!([recent.insert(1, 0), recent.insert(2, 300), recent.insert(3, 599)], [None, None, Some(599)]);
        assert_eq!(recent.insert(4, 900), None, "after ten minutes no server sends an event again");
        assert_eq!(recent.insert(5, 20_000), None, "age is no lack of room");
    }
}

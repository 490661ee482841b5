//! The spool in memory: what is in it is lost with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use golectra_protocol::IdempotencyKey;

use super::turns::{PATIENCE_TRIES, Turn, Turns};
use super::{DiskFill, Fill, Left, Spool};
use crate::batch::{Batch, Deltas};
use crate::stats::{DropReason, Stats};

/// Bounds of a spool; batches under way count, but only waiting ones are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Batches.
    pub batches: usize,
    /// Their bytes in memory.
    pub bytes: usize,
}

/// Batches in memory, those that wait in the order of their keys, which is that of their times.
pub struct Memory {
    limits: Limits,
    stats: Arc<Stats>,
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
    handed_out: BTreeMap<IdempotencyKey, HandedOut>,
    given_back: Deltas,
    turns: Turns,
}

fn is_fresh(batch: &Batch) -> bool {
    batch.tries() < PATIENCE_TRIES
}

struct HandedOut {
    bytes: usize,
    polls: i64,
}

impl Memory {
    /// An empty spool, which counts what it drops in `stats`.
    pub fn new(limits: Limits, stats: Arc<Stats>) -> Self {
        Self {
            limits,
            stats,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            handed_out: BTreeMap::new(),
            given_back: Deltas::default(),
            turns: Turns::default(),
        }
    }

    fn bytes(&self) -> usize {
        self.waiting_bytes + self.handed_out.values().map(|out| out.bytes).sum::<usize>()
    }

    /// The oldest that waits, for the disk to take over; it is no longer in this spool.
    pub(super) fn pop_oldest(&mut self) -> Option<Batch> {
        self.remove(0)
    }

    fn remove(&mut self, index: usize) -> Option<Batch> {
        let batch = self.waiting.remove(index)?;
        self.waiting_bytes -= batch.memory_bytes();
        Some(batch)
    }

    /// Drops what waits until the bounds hold. The oldest first, but before any whose fate is unknown those that were
    /// certainly not applied: their counts are not lost, the next batch takes them in.
    fn shrink(&mut self) -> Vec<Batch> {
        let mut dropped = Vec::new();
        while self.waiting.len() + self.handed_out.len() > self.limits.batches || self.bytes() > self.limits.bytes {
            let index = self.waiting.iter().position(|batch| !batch.may_be_applied()).unwrap_or(0);
            match self.remove(index) {
                Some(batch) => dropped.push(batch),
                None => break,
            }
        }
        dropped
    }

    /// Hands out the one whose turn it is; where there is none of the kind, one that keeps failing.
    pub(super) fn take_turn(&mut self, turn: Turn) -> Option<Batch> {
        let index = match turn {
            Turn::Oldest => self.waiting.iter().position(is_fresh),
            Turn::Newest => self.waiting.iter().rposition(is_fresh),
            Turn::Failing => None,
        };
        let batch = self.remove(index.or_else(|| self.failing())?)?;
        self.handed_out.insert(batch.key(), HandedOut { bytes: batch.memory_bytes(), polls: batch.polls() });
        Some(batch)
    }

    /// Of those that keep failing the one with the fewest tries.
    fn failing(&self) -> Option<usize> {
        (0..self.waiting.len()).filter(|index| !is_fresh(&self.waiting[*index])).min_by_key(|index| self.waiting[*index].tries())
    }

    /// Returns what had to make room.
    fn insert(&mut self, batch: Batch) -> Vec<Batch> {
        self.waiting_bytes += batch.memory_bytes();
        let index = self.waiting.partition_point(|other| other.key() < batch.key());
        self.waiting.insert(index, batch);
        self.shrink()
    }

    fn insert_and_count(&mut self, batch: Batch) {
        for dropped in self.insert(batch) {
            self.give_up(&dropped, DropReason::QueueFull);
            tracing::warn!(key = %dropped.key(), "the queue is full: the oldest report is dropped; its counts go into the next one");
        }
    }

    fn give_up(&mut self, batch: &Batch, reason: DropReason) {
        self.stats.dropped(reason, 1);
        if !batch.may_be_applied() {
            self.given_back.add_all(batch.deltas());
        }
    }
}

impl Spool for Memory {
    fn make_room(&mut self, _now_unix_millis: u64) -> Deltas {
        std::mem::take(&mut self.given_back)
    }

    fn push(&mut self, batch: Batch) {
        self.insert_and_count(batch);
    }

    fn take(&mut self) -> Option<Batch> {
        let (failing, others) = (self.failing().map(|index| self.waiting[index].tries()), self.waiting.iter().any(is_fresh));
        let turn = self.turns.next(failing, others)?;
        self.take_turn(turn)
    }

    fn put_back(&mut self, batch: Batch) {
        self.handed_out.remove(&batch.key());
        self.turns.failed();
        self.insert_and_count(batch);
    }

    fn forget(&mut self, key: IdempotencyKey) {
        if self.handed_out.remove(&key).is_some() {
            self.turns.settled();
        }
    }

    fn refuse(&mut self, batch: &Batch, reason: DropReason) {
        if self.handed_out.remove(&batch.key()).is_some() {
            self.turns.settled();
            self.give_up(batch, reason);
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn fill(&self) -> Fill {
        let waiting = self.waiting.front().map(Batch::key);
        let handed_out = self.handed_out.keys().next().copied();
        let oldest = waiting.into_iter().chain(handed_out).min();
        Fill {
            batches: self.waiting.len() + self.handed_out.len(),
            bytes: self.bytes(),
            oldest_unix_millis: oldest.map(|key| key.unix_millis()),
            disk: DiskFill::default(),
        }
    }

    fn leave(&mut self) -> Left {
        let batches = self.waiting.len() + self.handed_out.len();
        let in_batches: i64 = self.waiting.iter().map(Batch::polls).chain(self.handed_out.values().map(|out| out.polls)).sum();
        let polls = in_batches + std::mem::take(&mut self.given_back).polls();
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.handed_out.clear();
        Left { batches: batches as u64, polls, ..Left::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::batch::Sealer;

    const ROOMY: Limits = Limits { batches: 100, bytes: 1 << 20 };

    fn batch(unix_millis: u64) -> Batch {
        let mut sealer = Sealer::new(None);
        sealer.add_poll(vec![]);
        sealer.seal(unix_millis, Deltas::default())
    }

    fn spool(limits: Limits) -> Memory {
        let stats = Stats::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap();
        Memory::new(limits, Arc::new(stats))
    }

    fn times(batches: &[Batch]) -> Vec<u64> {
        batches.iter().map(|batch| batch.key().unix_millis()).collect()
    }

    fn take_time(spool: &mut Memory) -> Option<u64> {
        spool.take().map(|batch| batch.key().unix_millis())
    }

    #[test]
    fn oldest_first_out_and_oldest_dropped_when_full() {
        let mut spool = spool(Limits { batches: 2, ..ROOMY });
        assert!(spool.insert(batch(1)).is_empty() && spool.insert(batch(2)).is_empty());
        assert_eq!(times(&spool.insert(batch(3))), [1]);
        assert_eq!((take_time(&mut spool), take_time(&mut spool), take_time(&mut spool)), (Some(2), Some(3), None));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let one = batch(1).memory_bytes();
        let mut spool = spool(Limits { batches: 100, bytes: one * 2 + one / 2 });
        let dropped: Vec<u64> = (1..=5).flat_map(|time| times(&spool.insert(batch(time)))).collect();
        assert_eq!(dropped, [1, 2, 3]);
        assert_eq!(spool.fill().batches, 2);
        assert!(spool.fill().bytes <= one * 3);
    }

    #[test]
    fn a_batch_under_way_counts_but_is_not_dropped() {
        let mut spool = spool(Limits { batches: 1, ..ROOMY });
        spool.push(batch(1));
        let under_way = spool.take().unwrap();
        assert_eq!(times(&spool.insert(batch(2))), [2], "there is no room for another one");
        assert_eq!(
            spool.fill(),
            Fill { batches: 1, bytes: under_way.memory_bytes(), oldest_unix_millis: Some(1), disk: DiskFill::default() }
        );
        spool.put_back(under_way);
        assert_eq!(take_time(&mut spool), Some(1));
        spool.forget(batch(1).key());
        assert_eq!(spool.fill().batches, 1, "another batch's key forgets nothing");
        assert_eq!(spool.leave(), Left { batches: 1, polls: 1, ..Left::default() });
        assert_eq!(spool.fill(), Fill::default());
    }

    #[test]
    fn one_of_unknown_fate_is_dropped_last() {
        let mut spool = spool(Limits { batches: 2, ..ROOMY });
        spool.push(batch(1));
        let mut unknown = spool.take().unwrap();
        unknown.tried(true);
        spool.put_back(unknown);
        spool.push(batch(2));
        assert_eq!(times(&spool.insert(batch(3))), [2]);
        assert_eq!(take_time(&mut spool), Some(1));
    }

    #[test]
    fn only_what_was_certainly_not_applied_is_given_back() {
        let mut spool = spool(ROOMY);
        for time in [1, 2] {
            spool.push(batch(time));
            let mut refused = spool.take().unwrap();
            refused.tried(time == 2);
            spool.refuse(&refused, DropReason::TooLarge);
        }
        assert_eq!(spool.stats.dropped_so_far(DropReason::TooLarge), 2);
        assert_eq!(spool.leave(), Left { batches: 0, polls: 1, ..Left::default() });
        assert_eq!(Spool::make_room(&mut spool, 3).polls(), 0);
    }

    #[test]
    fn one_that_keeps_failing_takes_turns() {
        let mut spool = spool(ROOMY);
        spool.push(batch(1));
        for _ in 0..PATIENCE_TRIES {
            let mut failing = spool.take().unwrap();
            failing.tried(true);
            spool.put_back(failing);
        }
        for time in 2..=9 {
            spool.push(batch(time));
        }
        let mut order = Vec::new();
        for _ in 0..11 {
            let mut batch = spool.take().unwrap();
            order.push(batch.key().unix_millis());
            if batch.key().unix_millis() == 1 {
                batch.tried(true);
                spool.put_back(batch);
            } else {
                spool.forget(batch.key());
            }
        }
        assert_eq!(order, [1, 2, 9, 1, 3, 8, 4, 7, 1, 5, 6]);
        assert_eq!(take_time(&mut spool), Some(1), "nothing else is left");
    }

    #[test]
    fn while_nothing_works_few_batches_are_tried() {
        let mut spool = spool(ROOMY);
        for time in 1..=20 {
            spool.push(batch(time));
        }
        for _ in 0..24 {
            let mut batch = spool.take().unwrap();
            batch.tried(true);
            spool.put_back(batch);
        }
        assert!(spool.waiting.iter().filter(|batch| batch.may_be_applied()).count() <= 5);
    }
}

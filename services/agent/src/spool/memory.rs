//! The spool in memory: what is in it is lost with the process.

use std::collections::{BTreeMap, VecDeque};

use golectra_protocol::IdempotencyKey;

use super::{Fill, Left, Spool};
use crate::batch::Batch;

/// After so many tries a batch takes turns with those that have had fewer.
const PATIENCE_TRIES: u32 = 3;

/// One that fails alone lets 64 others pass at most.
const MAX_TURN_DOUBLINGS: u32 = 6;

/// Bounds of a spool; batches under way count, but only waiting ones are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Batches.
    pub batches: usize,
    /// Their bytes in memory.
    pub bytes: usize,
}

/// Batches in memory, those that wait in the order of their keys, which is that of their times.
#[derive(Debug)]
pub struct Memory {
    limits: Limits,
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
    handed_out: BTreeMap<IdempotencyKey, HandedOut>,
    last_was_failing: bool,
    settled_since_failing: u32,
}

#[derive(Debug)]
struct HandedOut {
    bytes: usize,
    polls: i64,
}

impl Memory {
    /// An empty spool.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            handed_out: BTreeMap::new(),
            last_was_failing: false,
            settled_since_failing: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.waiting_bytes + self.handed_out.values().map(|out| out.bytes).sum::<usize>()
    }

    /// Whether a failing batch comes before one that was hardly tried. While nothing works they alternate, which keeps
    /// down how many batches are of unknown fate. Where others succeed the fault is its own, and after every
    /// further try it lets twice as many of them pass.
    fn is_turn_of(&self, failing: usize) -> bool {
        let others = 1 << (self.waiting[failing].tries() - PATIENCE_TRIES).min(MAX_TURN_DOUBLINGS);
        !self.last_was_failing && (self.settled_since_failing == 0 || self.settled_since_failing >= others)
    }

    fn remove(&mut self, index: usize) -> Option<Batch> {
        let batch = self.waiting.remove(index)?;
        self.waiting_bytes -= batch.memory_bytes();
        Some(batch)
    }

    /// Drops what waits until the bounds hold. The oldest first, but before any whose fate is unknown those that were
    /// certainly not applied: their counts are not lost, the next batch takes them in.
    fn make_room(&mut self) -> Vec<Batch> {
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

    fn insert(&mut self, batch: Batch) -> Vec<Batch> {
        self.waiting_bytes += batch.memory_bytes();
        let index = self.waiting.partition_point(|other| other.key() < batch.key());
        self.waiting.insert(index, batch);
        self.make_room()
    }
}

impl Spool for Memory {
    fn push(&mut self, batch: Batch) -> Vec<Batch> {
        self.insert(batch)
    }

    fn take(&mut self) -> Option<Batch> {
        let fresh = self.waiting.iter().position(|batch| batch.tries() < PATIENCE_TRIES);
        let failing = (0..self.waiting.len())
            .filter(|index| self.waiting[*index].tries() >= PATIENCE_TRIES)
            .min_by_key(|index| self.waiting[*index].tries());
        let index = match (failing, fresh) {
            (Some(failing), Some(_)) if self.is_turn_of(failing) => failing,
            (failing, fresh) => fresh.or(failing)?,
        };
        self.last_was_failing = Some(index) == failing;
        if self.last_was_failing {
            self.settled_since_failing = 0;
        }
        let batch = self.remove(index)?;
        self.handed_out.insert(batch.key(), HandedOut { bytes: batch.memory_bytes(), polls: batch.polls() });
        Some(batch)
    }

    fn put_back(&mut self, batch: Batch) -> Vec<Batch> {
        self.handed_out.remove(&batch.key());
        self.insert(batch)
    }

    fn forget(&mut self, key: IdempotencyKey) {
        if self.handed_out.remove(&key).is_some() {
            self.settled_since_failing = self.settled_since_failing.saturating_add(1);
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
        }
    }

    fn abandon(&mut self) -> Left {
        let batches = self.waiting.len() + self.handed_out.len();
        let polls = self.waiting.iter().map(Batch::polls).chain(self.handed_out.values().map(|out| out.polls)).sum();
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.handed_out.clear();
        Left { batches: batches as u64, polls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Carry, Sealer};

    const ROOMY: Limits = Limits { batches: 100, bytes: 1 << 20 };

    fn batch(unix_millis: u64) -> Batch {
        let mut sealer = Sealer::new(None, Carry::default());
        sealer.add_poll(vec![]);
        sealer.seal(unix_millis)
    }

    fn times(batches: &[Batch]) -> Vec<u64> {
        batches.iter().map(|batch| batch.key().unix_millis()).collect()
    }

    fn take_time(spool: &mut Memory) -> Option<u64> {
        spool.take().map(|batch| batch.key().unix_millis())
    }

    #[test]
    fn oldest_first_out_and_oldest_dropped_when_full() {
        let mut spool = Memory::new(Limits { batches: 2, ..ROOMY });
        assert!(spool.push(batch(1)).is_empty() && spool.push(batch(2)).is_empty());
        assert_eq!(times(&spool.push(batch(3))), [1]);
        assert_eq!((take_time(&mut spool), take_time(&mut spool), take_time(&mut spool)), (Some(2), Some(3), None));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let one = batch(1).memory_bytes();
        let mut spool = Memory::new(Limits { batches: 100, bytes: one * 2 + one / 2 });
        let dropped: Vec<u64> = (1..=5).flat_map(|time| times(&spool.push(batch(time)))).collect();
        assert_eq!(dropped, [1, 2, 3]);
        assert_eq!(spool.fill().batches, 2);
        assert!(spool.fill().bytes <= one * 3);
    }

    #[test]
    fn a_batch_under_way_counts_but_is_not_dropped() {
        let mut spool = Memory::new(Limits { batches: 1, ..ROOMY });
        spool.push(batch(1));
        let under_way = spool.take().unwrap();
        assert_eq!(times(&spool.push(batch(2))), [2], "there is no room for another one");
        assert_eq!(spool.fill(), Fill { batches: 1, bytes: under_way.memory_bytes(), oldest_unix_millis: Some(1) });
        assert!(spool.put_back(under_way).is_empty());
        assert_eq!(take_time(&mut spool), Some(1));
        spool.forget(batch(1).key());
        assert_eq!(spool.fill().batches, 1, "another batch's key forgets nothing");
        assert_eq!(spool.abandon(), Left { batches: 1, polls: 1 });
        assert_eq!(spool.fill(), Fill::default());
    }

    #[test]
    fn one_of_unknown_fate_is_dropped_last() {
        let mut spool = Memory::new(Limits { batches: 2, ..ROOMY });
        spool.push(batch(1));
        let mut unknown = spool.take().unwrap();
        unknown.tried(true);
        spool.put_back(unknown);
        spool.push(batch(2));
        assert_eq!(times(&spool.push(batch(3))), [2]);
        assert_eq!(take_time(&mut spool), Some(1));
    }

    #[test]
    fn one_that_keeps_failing_takes_turns() {
        let mut spool = Memory::new(ROOMY);
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
        assert_eq!(order, [1, 2, 3, 1, 4, 5, 6, 7, 1, 8, 9]);
        assert_eq!(take_time(&mut spool), Some(1), "nothing else is left");
    }

    #[test]
    fn while_nothing_works_few_batches_are_tried() {
        let mut spool = Memory::new(ROOMY);
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

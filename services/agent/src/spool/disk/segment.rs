//! The index: what is known of each batch on disk without reading it, 16 bytes each. Of a file that an earlier process
//! left, only sums are known until its batches are needed.

use std::time::Duration;

use tokio::time::Instant;

use super::super::send_order::PATIENCE_TRIES;
use super::read_again::READ_TRIES;
use crate::batch::{Age, Attempts, Batch};

/// Files take whole blocks of the disk.
const BLOCK_BYTES: u64 = 4096;

/// Milliseconds of a [`Ticks`]. Reports are at least 95 ms apart, so that their times stay different.
const TICK_MILLIS: u64 = 50;

/// When a batch was sealed: relative to the start of this process, negative for batches of earlier processes. 32 bits
/// hold three years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticks(i32);

impl Ticks {
    /// So long after the start.
    pub(super) fn after_start(since: Duration) -> Self {
        Self(i32::try_from(since.as_millis() / u128::from(TICK_MILLIS)).unwrap_or(i32::MAX))
    }

    /// So long before the start, at least one tick.
    pub(super) fn before_start(since: Duration) -> Self {
        Self(-i32::try_from(since.as_millis() / u128::from(TICK_MILLIS)).unwrap_or(i32::MAX).max(1))
    }

    fn of(age: Age, start: Instant) -> Self {
        if age.before > Duration::ZERO {
            Self::before_start(age.before)
        } else {
            Self::after_start(age.known_since.saturating_duration_since(start))
        }
    }

    /// The age that these ticks stand for.
    pub(super) fn age(self, start: Instant) -> Age {
        let distance = Duration::from_millis(u64::from(self.0.unsigned_abs()) * TICK_MILLIS);
        if self.0 < 0 {
            Age { known_since: start, before: distance }
        } else {
            Age { known_since: start + distance, before: Duration::ZERO }
        }
    }
}

/// Where a batch is: the number of its file and its place in the index of that file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) index: usize,
}

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is to be sent.
    Waiting,
    /// A sender has it.
    HandedOut,
    /// It could not be read: it is tried again, or stays for the next process.
    Left,
    /// It is not sent again, but stays until the batch that contains its deltas is stored.
    Dropped,
    /// It is no longer needed.
    Settled,
}

/// A batch on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The offset of its record in the file.
    pub(super) offset: u32,
    pub(super) sealed: Ticks,
    pub(super) polls: u32,
    pub(super) attempts: Attempts,
    pub(super) state: State,
    /// How often reading it failed since it was last read.
    pub(super) read_failures: u8,
}

impl Entry {
    /// The entry of a waiting batch. `start` is when this process opened the spool.
    pub(super) fn of(batch: &Batch, offset: u32, start: Instant) -> Self {
        Self {
            offset,
            sealed: Ticks::of(batch.age(), start),
            polls: polls(batch.polls()),
            attempts: batch.attempts(),
            state: State::Waiting,
            read_failures: 0,
        }
    }

    /// Whether it waits and is not failing.
    pub(super) fn is_fresh(&self) -> bool {
        self.state == State::Waiting && self.attempts.count() < PATIENCE_TRIES
    }
}

/// A count of polls for the index.
pub(super) fn polls(polls: i64) -> u32 {
    u32::try_from(polls.max(0)).unwrap_or(u32::MAX)
}

/// A file and its batches.
#[derive(Debug)]
pub(super) struct Segment {
    /// The length of the file.
    pub(super) bytes: u64,
    /// Its batches; none while it is cold.
    pub(super) entries: Vec<Entry>,
    waiting: usize,
    live: usize,
    cold: Option<Sums>,
    /// How often indexing it failed.
    pub(super) read_failures: u8,
    /// Whether it stays when its batches are settled, because reading failed and reports that are not in the index may be in it.
    pub(super) stays: bool,
}

/// Sums over the batches that are not settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) batches: usize,
    pub(super) polls: u64,
    pub(super) oldest: Option<Ticks>,
}

impl Sums {
    fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut sums = Self::default();
        for entry in entries.into_iter().filter(|entry| entry.state != State::Settled) {
            sums.add(Self { batches: 1, polls: entry.polls.into(), oldest: Some(entry.sealed) });
        }
        sums
    }

    pub(super) fn add(&mut self, other: Self) {
        self.batches += other.batches;
        self.polls += other.polls;
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
    }
}

impl Segment {
    /// A new file of this length.
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, entries: Vec::new(), waiting: 0, live: 0, cold: None, read_failures: 0, stays: false }
    }

    /// A file of this length of which nothing could be read.
    pub(super) fn unread(bytes: u64) -> Self {
        Self { stays: true, ..Self::new(bytes) }
    }

    /// A file of which only sums are known. All its batches wait.
    pub(super) const fn cold(bytes: u64, sums: Sums) -> Self {
        let (waiting, live) = (sums.batches, sums.batches);
        Self { bytes, entries: Vec::new(), waiting, live, cold: Some(sums), read_failures: 0, stays: false }
    }

    /// Whether only sums are known.
    pub(super) const fn is_cold(&self) -> bool {
        self.cold.is_some()
    }

    /// Adds the index of a cold file, whose batches all wait. `is_cut_off` says that it is only of the part before a read error.
    pub(super) fn warm(&mut self, entries: Vec<Entry>, is_cut_off: bool) {
        (self.waiting, self.live, self.cold) = (entries.len(), entries.len(), None);
        self.entries = entries;
        self.stays = is_cut_off;
    }

    /// None of its batches waits any more, since it could not be indexed. Says how often that failed.
    pub(super) fn leave(&mut self) -> u8 {
        self.waiting = 0;
        self.read_failures = self.read_failures.saturating_add(1);
        self.read_failures
    }

    /// Has those of its batches wait again that could not be read, but for those that were tried too often. Says which of the index they are.
    pub(super) fn wait_again(&mut self) -> Vec<usize> {
        if self.is_cold() {
            self.waiting = self.live;
        }
        let is_tried_again = |entry: &Entry| entry.state == State::Left && entry.read_failures < READ_TRIES;
        let again: Vec<usize> = (0..self.entries.len()).filter(|index| is_tried_again(&self.entries[*index])).collect();
        for index in &again {
            self.set_state(*index, State::Waiting);
        }
        again
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.waiting += 1;
        self.live += 1;
    }

    pub(super) fn set_state(&mut self, index: usize, state: State) {
        let old = std::mem::replace(&mut self.entries[index].state, state);
        self.waiting = self.waiting + usize::from(state == State::Waiting) - usize::from(old == State::Waiting);
        self.live = self.live + usize::from(state != State::Settled) - usize::from(old != State::Settled);
    }

    /// The waiting batches and their places; none while the file is cold. `number` is the file's.
    pub(super) fn waiting(&self, number: u64) -> impl Iterator<Item = (Place, &Entry)> {
        let entries = self.entries.iter().enumerate().filter(|(_, entry)| entry.state == State::Waiting);
        entries.map(move |(index, entry)| (Place { segment: number, index }, entry))
    }

    /// Whether it has batches that may be dropped for newer ones, or only stays for a later process to read the rest of it.
    pub(super) fn has_droppable(&self) -> bool {
        let only_stays = self.stays && self.live == 0;
        self.waiting > 0 || only_stays || self.is_cold() || self.droppable(0).next().is_some()
    }

    /// The batches that may be dropped for newer ones: those that wait, and those that could not be read.
    pub(super) fn droppable(&self, number: u64) -> impl Iterator<Item = Place> {
        let entries = self.entries.iter().enumerate().filter(|(_, entry)| matches!(entry.state, State::Waiting | State::Left));
        entries.map(move |(index, _)| Place { segment: number, index })
    }

    /// How many batches wait.
    pub(super) const fn waiting_count(&self) -> usize {
        self.waiting
    }

    /// How many batches are not settled.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// Sums over those.
    pub(super) fn sums(&self) -> Sums {
        self.cold.unwrap_or_else(|| Sums::of(&self.entries))
    }

    /// Whether one of its batches waits and is not failing. No batch of a cold file was tried yet.
    pub(super) fn has_fresh(&self) -> bool {
        self.waiting > 0 && (self.is_cold() || self.entries.iter().any(Entry::is_fresh))
    }

    /// What the file takes on disk.
    pub(super) const fn disk_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_ages_to_the_tick() {
        let start = Instant::now();
        let age = |ticks: Ticks| ticks.age(start);
        let later = Age { known_since: start + Duration::from_millis(12_345), before: Duration::ZERO };
        assert_eq!(age(Ticks::of(later, start)).known_since, start + Duration::from_millis(12_300));
        let before = Age { known_since: start, before: Duration::from_hours(72) };
        assert_eq!(age(Ticks::of(before, start)), before);
        assert_eq!(age(Ticks::before_start(Duration::ZERO)).before, Duration::from_millis(50), "still of an earlier process");
        assert!(Ticks::before_start(Duration::from_hours(1)) < Ticks::before_start(Duration::ZERO));
        assert_eq!(age(Ticks::before_start(Duration::MAX)).before, Duration::from_millis(50) * i32::MAX.unsigned_abs());
    }

    #[test]
    fn an_entry_has_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}

//! The index: what is known of each batch on disk without reading it, 16 bytes a batch. Of a file that an earlier process
//! left only sums are known until it is its turn.

use super::super::turns::PATIENCE_TRIES;
use super::codec::FILE_HEADER_BYTES;
use crate::batch::Batch;

/// Files take whole blocks of the disk.
const BLOCK_BYTES: u64 = 4096;

/// Where a batch is: its file's number, and its place in that file's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) index: usize,
}

/// What is to become of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is to be sent.
    Waiting,
    /// A sender has it.
    HandedOut,
    /// It is never sent again, but stays until the batch that holds its deltas stands.
    GivenUp,
    /// It is done with.
    Settled,
}

/// A batch on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Where in the file its record begins.
    pub(super) offset: u32,
    /// When it was sealed.
    pub(super) at_unix_seconds: u32,
    pub(super) polls: u32,
    /// Up to 255.
    pub(super) tries: u8,
    pub(super) may_be_applied: bool,
    pub(super) state: State,
}

impl Entry {
    /// A batch that waits.
    pub(super) fn of(batch: &Batch, offset: u32) -> Self {
        let mut entry = Self {
            offset,
            at_unix_seconds: seconds(batch.key().unix_millis()),
            polls: polls(batch.polls()),
            tries: 0,
            may_be_applied: false,
            state: State::Waiting,
        };
        entry.learn(batch);
        entry
    }

    /// Takes over what came of the batch's tries.
    pub(super) fn learn(&mut self, batch: &Batch) {
        self.tries = u8::try_from(batch.tries()).unwrap_or(u8::MAX);
        self.may_be_applied = batch.may_be_applied();
    }

    /// Whether it waits and has not failed often.
    pub(super) fn is_fresh(&self) -> bool {
        self.state == State::Waiting && u32::from(self.tries) < PATIENCE_TRIES
    }
}

/// Seconds since 1970, up to the year 2106.
pub(super) fn seconds(unix_millis: u64) -> u32 {
    u32::try_from(unix_millis / 1000).unwrap_or(u32::MAX)
}

/// A count of polls for the index.
pub(super) fn polls(polls: i64) -> u32 {
    u32::try_from(polls.max(0)).unwrap_or(u32::MAX)
}

/// A file and its batches.
#[derive(Debug)]
pub(super) struct Segment {
    /// The file's length.
    pub(super) bytes: u64,
    /// Its batches; none while it is cold.
    pub(super) entries: Vec<Entry>,
    waiting: usize,
    live: usize,
    cold: Option<Sums>,
}

/// What is known of the batches that are not done with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) batches: usize,
    pub(super) polls: u64,
    pub(super) oldest_unix_seconds: Option<u32>,
}

impl Sums {
    pub(super) fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut sums = Self::default();
        for entry in entries.into_iter().filter(|entry| entry.state != State::Settled) {
            sums.batches += 1;
            sums.polls += u64::from(entry.polls);
            sums.oldest_unix_seconds = sums.oldest_unix_seconds.into_iter().chain([entry.at_unix_seconds]).min();
        }
        sums
    }

    pub(super) fn add(&mut self, other: Self) {
        self.batches += other.batches;
        self.polls += other.polls;
        self.oldest_unix_seconds = self.oldest_unix_seconds.into_iter().chain(other.oldest_unix_seconds).min();
    }
}

impl Segment {
    /// A new file.
    pub(super) fn new() -> Self {
        Self { bytes: FILE_HEADER_BYTES as u64, entries: Vec::new(), waiting: 0, live: 0, cold: None }
    }

    /// A file of which only sums are known; all in it waits.
    pub(super) const fn cold(bytes: u64, sums: Sums) -> Self {
        Self { bytes, entries: Vec::new(), waiting: sums.batches, live: sums.batches, cold: Some(sums) }
    }

    /// Whether only sums are known.
    pub(super) const fn is_cold(&self) -> bool {
        self.cold.is_some()
    }

    /// From here on its batches are known, all of which wait.
    pub(super) fn warm(&mut self, entries: Vec<Entry>) {
        (self.waiting, self.live, self.cold) = (entries.len(), entries.len(), None);
        self.entries = entries;
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

    /// Batches that wait.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Batches that are not done with.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// Sums over those.
    pub(super) fn sums(&self) -> Sums {
        self.cold.unwrap_or_else(|| Sums::of(&self.entries))
    }

    /// Whether one of its batches waits and has not failed often; of a cold file's all are like that.
    pub(super) fn has_fresh(&self) -> bool {
        self.waiting > 0 && (self.is_cold() || self.entries.iter().any(Entry::is_fresh))
    }

    /// What it takes on disk.
    pub(super) const fn disk_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(BLOCK_BYTES)
    }
}

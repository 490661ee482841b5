//! What the history of all shards has in common: its bounds, what it takes, and what was dropped.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use golectra_process::LogLimiter;

use super::damaged::DamagedFiles;
use super::days::{Dropped, oldest};
use super::files::SAVES_WITHOUT_MOVES;
use super::source::SAMPLE_BYTES;
use crate::store::Lifetimes;

/// What is the same for all shards.
#[derive(Debug)]
pub(in crate::store::memory) struct HistoryShared {
    /// What all history may take in memory; zero: there is none.
    max_bytes: usize,
    pub(super) lifetimes: Lifetimes,
    used_bytes: AtomicUsize,
    /// What rollups take of it.
    rollup_bytes: AtomicUsize,
    /// What is known of what was dropped.
    pub(super) dropped: Dropped,
    /// Samples that left before their time, since there was no room.
    pub(super) samples_dropped: AtomicU64,
    /// Samples that were not taken, being older than what is kept when they came.
    pub(super) samples_too_old: AtomicU64,
    /// The end of the newest window that was over and left before its time.
    pub(super) dropped_until_millis: AtomicU64,
    /// Sealed columns that could not be decoded.
    pub(super) corrupt_columns: AtomicU64,
    /// Files that a start found damaged and could not keep beside their folder.
    pub(super) damaged: DamagedFiles,
    /// Held by whoever seals, folds or drops: only open samples change without it.
    pub(super) changing: Mutex<()>,
    /// Log lines about what had no room.
    pub(super) log: LogLimiter,
    /// The thread that makes room.
    pub(super) keeper: OnceLock<Thread>,
    /// The number of the next segment file.
    pub(super) next_segment: AtomicU32,
    /// How many saves are still to move nothing, after one that failed: the disk may have no space for it.
    pub(super) saves_without_moves: AtomicU32,
    /// The SHA-256 of the snapshot file that is in place, as far as is known.
    snapshot: Mutex<Option<[u8; 32]>>,
}

impl HistoryShared {
    pub(in crate::store::memory) fn new(max_bytes: usize, lifetimes: Lifetimes) -> Self {
        Self {
            max_bytes,
            lifetimes,
            used_bytes: AtomicUsize::new(0),
            rollup_bytes: AtomicUsize::new(0),
            dropped: Dropped::default(),
            samples_dropped: AtomicU64::new(0),
            samples_too_old: AtomicU64::new(0),
            dropped_until_millis: AtomicU64::new(0),
            corrupt_columns: AtomicU64::new(0),
            damaged: DamagedFiles::default(),
            changing: Mutex::new(()),
            log: LogLimiter::new(),
            keeper: OnceLock::new(),
            next_segment: AtomicU32::new(1),
            saves_without_moves: AtomicU32::new(0),
            snapshot: Mutex::new(None),
        }
    }

    pub(super) fn snapshot(&self) -> Option<[u8; 32]> {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_snapshot(&self, digest: [u8; 32]) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    }

    /// Keeps the next save from writing anything once more.
    pub(in crate::store::memory) fn move_nothing(&self) {
        self.saves_without_moves.fetch_max(1, Ordering::Relaxed);
    }

    /// Whether the last save wrote something once more, and failed. That is told once, since the next one may fail before it has looked.
    pub(in crate::store::memory) fn has_failed_to_move(&self) -> bool {
        let next = SAVES_WITHOUT_MOVES - 1;
        self.saves_without_moves.compare_exchange(SAVES_WITHOUT_MOVES, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether no history is kept.
    pub(super) fn is_off(&self) -> bool {
        self.max_bytes == 0
    }

    /// The oldest time that is kept.
    pub(super) fn oldest_millis(&self, now_millis: u64) -> i64 {
        oldest(now_millis, self.lifetimes.retention_raw_millis())
    }

    /// What history takes in memory.
    pub(in crate::store::memory) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What it may take; zero: no history is kept.
    pub(in crate::store::memory) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Samples that left before their time, since there was no room.
    pub(in crate::store::memory) fn samples_dropped(&self) -> u64 {
        self.samples_dropped.load(Ordering::Relaxed)
    }

    /// Samples that were not taken, being older than what is kept when they came.
    pub(in crate::store::memory) fn samples_too_old(&self) -> u64 {
        self.samples_too_old.load(Ordering::Relaxed)
    }

    /// What comes for a time before this would be the next to be dropped.
    pub(in crate::store::memory) fn dropped_until_millis(&self) -> u64 {
        self.dropped_until_millis.load(Ordering::Relaxed)
    }

    /// What rollups take of [`Self::used_bytes`].
    pub(in crate::store::memory) fn rollup_bytes(&self) -> usize {
        self.rollup_bytes.load(Ordering::Relaxed)
    }

    /// Days of rollups that left before their time, since there was no room.
    pub(in crate::store::memory) fn rollup_days_dropped(&self) -> u64 {
        self.dropped.crowded_out_days.load(Ordering::Relaxed)
    }

    /// No source lacks samples from this time on.
    #[cfg(test)]
    pub(in crate::store::memory) fn raw_from_ms(&self) -> i64 {
        self.dropped.raw_ms()
    }

    /// Sealed columns that could not be decoded when parts were folded.
    pub(in crate::store::memory) fn corrupt_columns(&self) -> u64 {
        self.corrupt_columns.load(Ordering::Relaxed)
    }

    /// How many damaged files stay in history's folder, since the disk was full.
    pub(in crate::store::memory) fn damaged_files(&self) -> u64 {
        self.damaged.in_folder()
    }

    /// Beyond this room is made.
    pub(super) fn high_bytes(&self) -> usize {
        self.max_bytes - self.max_bytes / 8
    }

    /// Room is made down to this.
    pub(super) fn low_bytes(&self) -> usize {
        self.max_bytes - self.max_bytes / 4
    }

    /// Whether room has to be made.
    pub(in crate::store::memory) fn is_crowded(&self) -> bool {
        self.used_bytes() > self.high_bytes()
    }

    /// Whether this many samples more fit.
    pub(in crate::store::memory) fn has_room_for(&self, samples: usize) -> bool {
        self.is_off() || self.admit(samples * SAMPLE_BYTES)
    }

    /// Whether so many bytes more fit. Where little is left, room is asked for.
    pub(super) fn admit(&self, bytes: usize) -> bool {
        let used = self.used_bytes();
        if used > self.high_bytes()
            && let Some(keeper) = self.keeper.get()
        {
            keeper.unpark();
        }
        used.saturating_add(bytes) <= self.max_bytes
    }

    pub(super) fn changed(&self, before: usize, after: usize) {
        change_by(&self.used_bytes, before, after);
    }

    pub(super) fn rollups_changed(&self, before: usize, after: usize) {
        change_by(&self.rollup_bytes, before, after);
    }
}

fn change_by(bytes: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        bytes.fetch_add(after - before, Ordering::Relaxed);
    } else {
        bytes.fetch_sub(before - after, Ordering::Relaxed);
    }
}

//! The memory store's metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the store counts and measures as it works.
#[derive(Debug, Default)]
pub struct MemoryMetrics {
    /// Idempotency keys in memory, as of the last look.
    pub keys_remembered: AtomicU64,
    /// Snapshot files put in place.
    pub snapshots_written: AtomicU64,
    /// Saves that failed.
    pub snapshot_failures: AtomicU64,
    /// How long the last save took, in milliseconds.
    pub last_snapshot_millis: AtomicU64,
    /// How long the last save kept writes waiting at the most, in microseconds.
    pub longest_pause_micros: AtomicU64,
    /// How large the last snapshot file is.
    pub last_snapshot_bytes: AtomicU64,
    /// How large the journal is.
    pub journal_bytes: AtomicU64,
    /// Writes to the journal that failed.
    pub journal_failures: AtomicU64,
    /// How many bytes of a damaged journal were skipped at the start.
    pub journal_skipped_bytes: AtomicU64,
    /// Writes since the snapshot that were read back from the journal at the start.
    pub journal_replayed: AtomicU64,
    /// What history takes in memory, as of the last look.
    pub history_bytes: AtomicU64,
    /// What it may take.
    pub history_max_bytes: AtomicU64,
    /// What rollups take of what history takes, as of the last look.
    pub history_rollup_bytes: AtomicU64,
    /// Days of rollups of a source that left history before their time for HISTORY_MAX_BYTES, as of the last look.
    pub history_dropped_rollup_days: AtomicU64,
    /// Samples that left history before their time for HISTORY_MAX_BYTES, as of the last look.
    pub history_dropped_samples: AtomicU64,
    /// Samples that history did not take, being older than what is kept when they came, as of the last look.
    pub history_too_old_samples: AtomicU64,
    /// Sealed columns of history that could not be decoded, as of the last look.
    pub history_corrupt_columns: AtomicU64,
    /// How many bytes of history's files were skipped at the start, being damaged.
    pub history_skipped_bytes: AtomicU64,
    /// Damaged files that stay in history's folder, since the disk was full, as of the last look.
    pub history_damaged_files: AtomicU64,
}

pub(super) fn set(metric: &AtomicU64, to: u64) {
    metric.store(to, Ordering::Relaxed);
}

pub(super) fn add(metric: &AtomicU64, more: u64) {
    metric.fetch_add(more, Ordering::Relaxed);
}

pub(super) fn get(metric: &AtomicU64) -> u64 {
    metric.load(Ordering::Relaxed)
}

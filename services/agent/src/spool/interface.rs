//! What the agent expects of a spool, in memory or on disk.

use golectra_protocol::IdempotencyKey;

use super::sync::{SyncResult, SyncWork};
use crate::batch::{Batch, Deltas};
use crate::metrics::DropReason;

/// Keeps sealed batches within bounds.
///
/// A batch is waiting or handed out. It stays in the spool either way until it is acknowledged or rejected, so that a batch
/// on disk is found by the next process if this one dies while sending it. Batches are never merged or split.
pub trait Spool: Send {
    /// Makes room for one more batch and returns the deltas of dropped batches that were not applied. The batch that is
    /// pushed next must contain them; until it is stored, the dropped batches stay on disk.
    fn make_room(&mut self) -> Deltas;

    /// Adds a batch. Drops the oldest waiting batches when there is no room for it.
    fn push(&mut self, batch: Batch);

    /// Hands out the batch to try next, none when nothing waits. See `send_order` for which one it is.
    fn take(&mut self) -> Option<Batch>;

    /// Takes back a batch that was handed out and is to be tried again.
    fn put_back(&mut self, batch: Batch);

    /// Takes back a batch that was handed out and whose every try was refused because of the clock, under a new key with
    /// this time. False when that is not possible now: the batch was put back as it is.
    fn seal_again(&mut self, batch: Batch, unix_millis: u64) -> bool;

    /// Forgets a batch that was handed out: the server has it.
    fn acknowledge(&mut self, key: IdempotencyKey);

    /// Drops a batch that was handed out: the server will never accept it. Its deltas are returned unless it may have been applied.
    fn reject(&mut self, batch: &Batch, reason: DropReason);

    /// How many batches wait to be handed out.
    fn waiting(&self) -> usize;

    /// What is in the spool, handed out or not.
    fn usage(&self) -> Usage;

    /// Ends the spool with the process: what is lost with it and what stays on disk.
    fn close(&mut self) -> Unsent;

    /// Has batches wait again that could not be read a while ago. Says whether there are some.
    fn read_again(&mut self) -> bool {
        false
    }

    /// The disk work that is needed so that a power failure loses nothing that was pushed; none when there is nothing to do.
    fn begin_sync(&mut self) -> Option<SyncWork> {
        None
    }

    /// Takes the result of the work from [`begin_sync`](Self::begin_sync).
    fn end_sync(&mut self, result: SyncResult) {
        drop(result);
    }
}

/// How full a spool is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Batches, on disk and in memory.
    pub batches: usize,
    /// Memory that the batches in memory take.
    pub bytes: usize,
    /// The age of the oldest, in seconds.
    pub oldest_age_seconds: Option<f64>,
    /// The part that is on disk.
    pub disk: DiskUsage,
}

/// What is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DiskUsage {
    /// Batches.
    pub batches: usize,
    /// The sum of their PollCounts.
    pub polls: u64,
    /// What the spool's files take on disk, in bytes.
    pub bytes: u64,
    /// The age of the oldest, in seconds; for batches of an earlier process by the wall clock at the start of this one.
    pub oldest_age_seconds: Option<f64>,
}

/// What was not sent when the agent ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsent {
    /// Batches that are lost with the process.
    pub lost_batches: u64,
    /// The sum of their PollCounts.
    pub lost_polls: i64,
    /// Batches that stay on disk.
    pub kept_batches: u64,
    /// The sum of their PollCounts.
    pub kept_polls: u64,
}

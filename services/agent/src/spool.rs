//! Where sealed batches wait until the server has taken them: in memory, or on disk with memory behind it.

pub mod disk;
mod memory;
mod queue;
mod turns;

use golectra_protocol::IdempotencyKey;

pub use self::disk::Disk;
pub use self::memory::{Limits, Memory};
pub use self::queue::Queue;
use crate::batch::{Batch, Deltas};
use crate::stats::DropReason;

/// Keeps sealed batches within bounds.
///
/// A batch is waiting or handed out; it is in the spool either way until it is forgotten or refused, so that one kept on
/// disk is found again by the next process if this one dies while sending it. Batches are never changed, merged or split.
pub trait Spool: Send {
    /// Makes room for one more batch, and gives what was given back: the deltas of batches that are never sent again and
    /// were certainly not applied. The batch that is pushed next must hold them; until it stands, what they came from does.
    fn make_room(&mut self, now_unix_millis: u64) -> Deltas;

    /// Takes in a batch. Drops the oldest that wait where there is no room for it.
    fn push(&mut self, batch: Batch);

    /// Hands out the batch to try next, none when nothing waits; `turns` says why which.
    fn take(&mut self) -> Option<Batch>;

    /// Takes back a batch that was handed out and is to be tried again.
    fn put_back(&mut self, batch: Batch);

    /// Forgets a batch that was handed out: the server has taken it.
    fn forget(&mut self, key: IdempotencyKey);

    /// Drops a batch that was handed out: the server will never take it. Its deltas are given back unless it may have been applied.
    fn refuse(&mut self, batch: &Batch, reason: DropReason);

    /// How many batches wait to be handed out.
    fn waiting(&self) -> usize;

    /// What is in the spool, handed out or not.
    fn fill(&self) -> Fill;

    /// Empties the memory at the end of the process, and says what is lost with it and what stays on disk, handed out or not.
    fn leave(&mut self) -> Left;

    /// What has to be done to keep what was pushed over a power cut; none when there is nothing.
    fn unsynced(&mut self) -> Option<disk::SyncWork> {
        None
    }

    /// The work of [`unsynced`](Self::unsynced) was done, or was not.
    fn synced(&mut self, done: disk::SyncDone) {
        drop(done);
    }
}

/// How full a spool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// Batches, on disk and in memory.
    pub batches: usize,
    /// Memory that those in memory take.
    pub bytes: usize,
    /// When the oldest was sealed, in unix milliseconds.
    pub oldest_unix_millis: Option<u64>,
    /// What of this is on disk.
    pub disk: DiskFill,
}

/// What is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskFill {
    /// Batches.
    pub batches: usize,
    /// Polls they tell of.
    pub polls: u64,
    /// Disk the spool's files take, in bytes.
    pub bytes: u64,
    /// When the oldest was sealed, in unix milliseconds, to the second.
    pub oldest_unix_millis: Option<u64>,
}

/// What was not sent when the agent ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Batches that are lost with the process.
    pub batches: u64,
    /// Polls they tell of.
    pub polls: i64,
    /// Batches that stay on disk.
    pub kept_batches: u64,
    /// Polls they tell of.
    pub kept_polls: u64,
}

//! Where sealed batches wait until the server has taken them.

mod memory;
mod queue;

use golectra_protocol::IdempotencyKey;

pub use self::memory::{Limits, Memory};
pub use self::queue::{Left, Queue};
use crate::batch::Batch;

/// Keeps sealed batches within bounds.
///
/// A batch is waiting or handed out; it is in the spool either way until it is forgotten, so that one kept on disk is
/// found again by the next process if this one dies while sending it. Batches are never changed, merged or split.
pub trait Spool: Send {
    /// Takes in a batch. What is returned had to make room and is no longer in the spool: the oldest that waited.
    fn push(&mut self, batch: Batch) -> Vec<Batch>;

    /// Hands out the batch to try next, none when nothing waits. The oldest first; but one that keeps failing takes turns
    /// with the others, so that a batch that a server cannot take does not hold up all that come after it.
    fn take(&mut self) -> Option<Batch>;

    /// Takes back a batch that was handed out and is to be tried again. Returns what had to make room, as [`push`](Self::push) does.
    fn put_back(&mut self, batch: Batch) -> Vec<Batch>;

    /// Forgets a batch that was handed out: the server has taken it, or never will.
    fn forget(&mut self, key: IdempotencyKey);

    /// How many batches wait to be handed out.
    fn waiting(&self) -> usize;

    /// What is in the spool, handed out or not.
    fn fill(&self) -> Fill;

    /// Empties the spool at the end of the process and returns what would be lost with it: all that is kept in memory
    /// only, handed out or not.
    fn abandon(&mut self) -> Left;
}

/// How full a spool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// Batches.
    pub batches: usize,
    /// Memory or disk they take.
    pub bytes: usize,
    /// When the oldest was sealed, in unix milliseconds.
    pub oldest_unix_millis: Option<u64>,
}

//! What waits for a writer. Bounded in bytes, so that a database that is slow or away costs a known amount of memory, and in
//! time, so that whoever is accepted is answered soon: the rest is told to come back, before it was tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::shape::Shape;
use crate::audit::Draft;
use crate::metrics::postgres::WriterMetrics;
use crate::store::postgres::partitions::{FRAMES, day_of};
use crate::store::postgres::sealed::Asked;
use crate::store::postgres::timestamp::Timestamp;
use crate::store::{Applied, Batch, RefusedSamples, StoreError};

/// What may wait or be under way in all, in bytes. About a second of what a small database takes.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// How long a write may take at most, counted from its arrival.
#[derive(Clone, Copy)]
pub struct WriteLimits {
    /// When a transaction has to take the batch.
    pub queued: Duration,
    /// When that transaction has to be done: what the batch did not wait is the transaction's.
    pub done: Duration,
    /// When the caller stops waiting, a little after the writer should have answered.
    pub answered: Duration,
}

impl Default for WriteLimits {
    /// Answers are promised within 3 s; under overload, whoever is accepted is answered within a second.
    fn default() -> Self {
        Self { queued: Duration::from_millis(500), done: Duration::from_millis(2_750), answered: Duration::from_millis(2_850) }
    }
}

/// What becomes of a batch.
pub(super) type Outcome = Result<Applied, StoreError>;

/// How much waits.
pub(super) struct QueueLoad {
    limits: WriteLimits,
    bytes: AtomicUsize,
    waiting: AtomicU64,
    metrics: WriterMetrics,
}

impl QueueLoad {
    pub(super) fn new(limits: WriteLimits, metrics: WriterMetrics) -> Arc<Self> {
        Arc::new(Self { limits, bytes: AtomicUsize::new(0), waiting: AtomicU64::new(0), metrics })
    }

    /// Room for a batch, or none. A batch that is larger than all there is gets in when it is alone.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let fits = |held: usize| (held == 0 || held.saturating_add(bytes) <= MAX_BYTES).then(|| held.saturating_add(bytes));
        if self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            self.metrics.shed.inc();
            return None;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.metrics.queue_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Some(Room { load: Arc::clone(self), bytes, waits: true })
    }

    /// How many batches wait.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A batch's room, given back when it is dropped.
pub(super) struct Room {
    load: Arc<QueueLoad>,
    bytes: usize,
    waits: bool,
}

impl Room {
    /// A writer has it now.
    fn taken(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.load.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken();
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.load.metrics.queue_bytes.sub(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }
}

/// What only a batch has whose samples are stored once for each time.
pub(super) struct SampleDetails {
    /// What each sample's series looks like, for this process.
    pub(super) shapes: Box<[Shape]>,
    /// What was refused before it was queued.
    pub(super) refused: RefusedSamples,
}

/// A batch on its way, and who waits for its answer.
pub(super) struct QueuedBatch {
    pub(super) batch: Batch,
    /// Of a batch whose samples are stored once for each time.
    pub(super) samples: Option<SampleDetails>,
    /// What its ids and types look like, for this process; of no use where there are details of samples.
    pub(super) shape: Shape,
    /// When the server took it, by the database's clock.
    pub(super) arrived: Timestamp,
    /// Its own time.
    pub(super) at: Timestamp,
    /// The day of that time.
    pub(super) day: i32,
    /// The partition of frames that it belongs to.
    pub(super) slot: i32,
    queued: Instant,
    room: Room,
    answer: oneshot::Sender<Outcome>,
}

impl QueuedBatch {
    /// A batch that arrived at this time of the database's clock, in unix milliseconds.
    pub(super) fn new(
        batch: Batch,
        samples: Option<SampleDetails>,
        shape: Shape,
        arrived: u64,
        room: Room,
        answer: oneshot::Sender<Outcome>,
    ) -> Self {
        let at = Timestamp(batch.key.unix_millis());
        let (day, slot) = (day_of(at.0), FRAMES.slot_of(at.0));
        Self { batch, samples, shape, arrived: Timestamp(arrived), at, day, slot, queued: Instant::now(), room, answer }
    }

    /// What to ask of it under its source's number, where its frame may have been sealed: its half hour was over when the clock showed its latest time.
    pub(super) fn asked(&self, place: usize, source_id: i32, latest_millis: u64) -> Option<Asked<'_>> {
        let frames_start = Timestamp(FRAMES.start_of(self.slot));
        let (key, digest) = (self.batch.key.uuid(), &self.batch.digest[..]);
        (FRAMES.end_of(self.slot) <= latest_millis).then_some(Asked { place, at: self.at, frames_start, source_id, key, digest })
    }

    /// How many bytes a batch takes while it is queued, given what its metrics take.
    pub(super) fn held_bytes(batch: &Batch, samples: Option<&SampleDetails>, metrics_bytes: usize) -> usize {
        let shapes = samples.map_or(0, |samples| size_of_val(&*samples.shapes));
        size_of::<Self>() + metrics_bytes + shapes + batch.audit.as_ref().map_or(0, Draft::held_bytes)
    }

    /// The time by which the sample at this place counts as newer than another: its own or the batch's, but never later than the batch's arrival.
    pub(super) fn effective_time(&self, index: usize) -> Timestamp {
        let own = self.batch.metrics.at_millis(index).map(|at| Timestamp(u64::try_from(at).unwrap_or(0)));
        own.unwrap_or(self.at).min(self.arrived)
    }

    /// Takes it off the queue, unless it waited for too long or nobody waits for it any more. Then it was not tried.
    pub(super) fn take(mut self) -> Option<Self> {
        self.room.taken();
        if self.queued.elapsed() > self.room.load.limits.queued {
            self.room.load.metrics.shed.inc();
            self.answer(Err(StoreError::Overloaded));
            return None;
        }
        Some(self).filter(|queued| !queued.answer.is_closed())
    }

    /// When its answer is due.
    pub(super) fn deadline(&self) -> Instant {
        self.queued + self.room.load.limits.done
    }

    /// Tells whoever waits.
    pub(super) fn answer(self, outcome: Outcome) {
        // Nobody may be there any more.
        drop(self.answer.send(outcome));
    }

    /// Whether the other is the same batch or claims to be: frames hold one row of both.
    pub(super) fn repeats(&self, other: &Self) -> bool {
        self.batch.key == other.batch.key && self.batch.source == other.batch.source
    }

    /// The order in which frames are written.
    pub(super) fn order(&self) -> (golectra_protocol::IdempotencyKey, &str) {
        (self.batch.key, self.batch.source.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_bytes_and_takes_one_that_is_larger_than_that() {
        let load = QueueLoad::new(WriteLimits::default(), WriterMetrics::unregistered());
        let large = load.reserve(MAX_BYTES * 2).expect("alone it gets in");
        assert!(load.reserve(1).is_none());
        drop(large);
        let most = load.reserve(MAX_BYTES - 1).expect("there is room again");
        let last = load.reserve(1).expect("exactly the rest");
        assert!(load.reserve(1).is_none());
        assert_eq!((load.waiting(), load.metrics.shed.get()), (2, 2));
        drop((most, last));
        assert_eq!((load.waiting(), load.metrics.queue_bytes.get()), (0, 0));
    }
}

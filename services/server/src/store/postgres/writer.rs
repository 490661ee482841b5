//! Applies batches, many in one transaction. A room apart: how batches share transactions is decided here and nowhere else.
//!
//! - `queue` holds what waits, bounded in bytes and in time.
//! - `worker` is one writer: it takes all that queued while its last transaction committed (no timer), answers after the commit,
//!   and finds the batch at fault where one spoils the group's transaction.
//! - `transaction` is that transaction: frames, newest values, outbox. `resolve` joins it for batches whose source or list of series
//!   this process does not know; `layouts` remembers those that it does. `samples` decides which samples of a batch without a key are stored
//!   already.
//!
//! The order of locks is the same in every transaction: new sources by name, sources by id, the count of all series, series
//! and layouts by source, frames by (key, source), rows of latest_blocks by id, frames under keys that nobody else has. So no two writers, of this server or another, wait
//! for each other. It rests on plans that take rows in the order in which they are asked for, see
//! [`connect::open_for_writing`](super::connect::open_for_writing).

mod blocks;
pub(super) mod context;
mod failure;
mod fold;
mod frames;
mod group;
mod layouts;
mod queue;
mod resolve;
mod samples;
mod shape;
mod sources;
mod transaction;
mod worker;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use golectra_protocol::IdempotencyKey;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::context::WriterContext;
pub(super) use self::frames::as_delta;
pub use self::queue::WriteLimits;
use self::queue::{QueueLoad, QueuedBatch, SampleDetails};
use self::shape::ShapeHasher;
use self::worker::{Command, Worker};
use crate::store::{Applied, Batch, StoreError};

/// How many writers a server has, a connection each. With one, its client would idle while the database commits and the
/// other way round; more only wait for each other's rows.
pub(super) const WRITERS: u32 = 2;

/// The writers of this server.
pub(super) struct Writers {
    pub(super) context: Arc<WriterContext>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    /// A source is always the same writer's, so that its retries meet themselves there and not in the database.
    routes: RandomState,
    shapes: ShapeHasher,
    load: Arc<QueueLoad>,
}

impl Writers {
    /// Starts the writers; they end when `stop` is cancelled and what had queued is answered.
    pub(super) fn start(context: WriterContext, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let context = Arc::new(context);
        let workers = (0..WRITERS).map(|_| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tasks.spawn(Worker::new(Arc::clone(&context), receiver).run(stop.clone()));
            sender
        });
        let load = QueueLoad::new(context.write_limits, context.metrics.clone());
        Self { workers: workers.collect(), context, routes: RandomState::new(), shapes: ShapeHasher::default(), load }
    }

    /// Applies a batch once; answers within 3 s. History before `dropped_until_millis` was dropped.
    pub(super) async fn apply(&self, mut batch: Batch, dropped_until_millis: u64) -> Result<Applied, StoreError> {
        let now = self.context.clock.unix_millis();
        let mut samples = None;
        if batch.is_once_per_time() {
            let refused = batch.take_out_of_range(&self.context.lifetimes, now, dropped_until_millis);
            if batch.metrics.is_empty() {
                return Ok(Applied::of_samples(0, refused));
            }
            batch.key = samples::key(&batch.metrics, now);
            samples = Some(SampleDetails { shapes: self.shapes.shapes(&batch.metrics), refused });
        } else if !batch.keyed {
            // The server made the key by its own clock; servers' clocks differ, and of two writes in turn the second is the newer.
            batch.key = IdempotencyKey::with_random(now, fastrand::u128(..));
        }
        // Outside of the transaction, which it would abort for all.
        batch.key.check_window(now.saturating_sub(self.context.lifetimes.dedup_window_millis()), now)?;
        let (shape, bytes) = if samples.is_some() { ((0, 0), batch.metrics.held_bytes()) } else { self.shapes.shape(&batch.metrics) };
        let Some(room) = self.load.reserve(QueuedBatch::held_bytes(&batch, samples.as_ref(), bytes)) else {
            return Err(StoreError::Overloaded);
        };
        let worker = self.routes.hash_one(&batch.source) % self.workers.len() as u64;
        let worker = &self.workers[usize::try_from(worker).unwrap_or(0)];
        let (answer, answered) = oneshot::channel();
        if worker.send(Command::Write(QueuedBatch::new(batch, samples, shape, now, room, answer))).is_err() {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        let limit = self.context.write_limits.answered;
        match timeout(limit, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Unavailable("the writer ended".into())),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {:.2} s", limit.as_secs_f32()))),
        }
    }

    /// How many batches wait.
    pub(super) fn waiting(&self) -> u64 {
        self.load.waiting()
    }

    /// How many connections the writers have open.
    pub(super) fn connections(&self) -> u32 {
        self.context.open.load(Ordering::Relaxed)
    }

    /// Writes down when sources were seen, which otherwise happens within a second.
    #[cfg(test)]
    pub(super) async fn touch(&self) {
        for worker in &self.workers {
            let (answer, touched) = oneshot::channel();
            if worker.send(Command::Touch(answer)).is_ok() {
                let _ = touched.await;
            }
        }
    }
}

//! Applies batches, many in one transaction. A room apart: how batches share transactions is decided here and nowhere else.
//!
//! - `queue` holds what waits, bounded in bytes and in time.
//! - `lane` is one writer: it takes all that queued while its last transaction committed (no timer), answers after the commit,
//!   and finds the guilty one where a batch spoils the group's transaction.
//! - `transaction` is that transaction: frames, newest values, outbox. `resolve` joins it for batches whose source or layout
//!   this process does not know; `known` is what it does.
//!
//! The order of locks is the same in every transaction: new sources by name, sources by id, the count of all series, series
//! and layouts by source, frames by (key, source), rows of latest_blocks by id. So no two writers, of this server or another, wait
//! for each other. It rests on plans that take rows in the order in which they are asked for, see
//! [`connect::open_for_writing`](super::connect::open_for_writing).

mod blocks;
mod fold;
mod known;
mod lane;
mod ledger;
mod queue;
mod resolve;
mod stamp;
mod transaction;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use golectra_protocol::Kind;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::known::Shapes;
use self::lane::Lane;
use self::queue::{Load, Pending};
use super::connect::DatabaseOptions;
use super::partitions::{Partitions, day_of};
use super::{Applied, Batch, SeriesLimits, StoreError, TransactionHook};
use crate::clock::Clock;
use crate::metrics::postgres::WriterFigures;

/// How many writers a server has, a connection each. With one, its client would idle while the database commits and the
/// other way round; more only wait for each other's rows.
pub(super) const WRITERS: u32 = 2;

/// When a caller stops waiting, a little after its writer should have answered. Answers are promised within 3 s.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_millis(2_850);

/// A type as the tables hold it.
pub(super) const fn code_of(kind: Kind) -> i16 {
    match kind {
        Kind::Gauge => 0,
        Kind::Counter => 1,
    }
}

/// What the writers share.
pub(super) struct Shared {
    pub(super) options: DatabaseOptions,
    pub(super) clock: Clock,
    pub(super) history_millis: u64,
    pub(super) limits: SeriesLimits,
    pub(super) hook: Option<Arc<dyn TransactionHook>>,
    pub(super) partitions: Arc<Partitions>,
    pub(super) figures: WriterFigures,
    /// Connections that the writers have open.
    pub(super) open: AtomicU32,
}

/// The writers of this server.
pub(super) struct Writers {
    pub(super) shared: Arc<Shared>,
    lanes: Vec<mpsc::UnboundedSender<Pending>>,
    /// A source is always the same writer's, so that its retries meet themselves there and not in the database.
    routes: RandomState,
    shapes: Shapes,
    load: Arc<Load>,
}

impl Writers {
    /// Starts the writers; they end when `stop` is cancelled and what had queued is answered.
    pub(super) fn start(shared: Shared, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let shared = Arc::new(shared);
        let lanes = (0..WRITERS).map(|_| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tasks.spawn(Lane::new(Arc::clone(&shared), receiver).run(stop.clone()));
            sender
        });
        let load = Load::new(shared.figures.clone());
        Self { lanes: lanes.collect(), shared, routes: RandomState::new(), shapes: Shapes::default(), load }
    }

    /// Applies a batch once; answers within 3 s.
    pub(super) async fn apply(&self, batch: Batch) -> Result<Applied, StoreError> {
        let now = self.shared.clock.unix_millis();
        // Outside of the transaction, which it would abort for all.
        batch.key.check_window(now.saturating_sub(self.shared.history_millis), now)?;
        let at = batch.key.unix_millis();
        let (shape, bytes) = self.shapes.of(&batch);
        let Some(room) = self.load.reserve(bytes) else { return Err(StoreError::Overloaded) };
        let lane = self.routes.hash_one(&batch.source) % self.lanes.len() as u64;
        let lane = &self.lanes[usize::try_from(lane).unwrap_or(0)];
        let (answer, answered) = oneshot::channel();
        let pending = Pending::new(batch, shape, (now, at, day_of(at)), room, answer);
        if lane.send(pending).is_err() {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        match timeout(ANSWER_LIMIT, answered).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(StoreError::Unavailable("the writer ended".into())),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {:.2} s", ANSWER_LIMIT.as_secs_f32()))),
        }
    }

    /// How many batches wait.
    pub(super) fn waiting(&self) -> u64 {
        self.load.waiting()
    }

    /// How many connections the writers have open.
    pub(super) fn connections(&self) -> u32 {
        self.shared.open.load(Ordering::Relaxed)
    }
}

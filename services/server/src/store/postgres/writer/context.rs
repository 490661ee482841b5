//! What the writers of a server share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::audit::Draft;
use crate::metrics::postgres::WriterMetrics;
use crate::store::postgres::clock::DatabaseClock;
use crate::store::postgres::connect::DatabaseOptions;
use crate::store::postgres::partitions::Partitions;
use crate::store::postgres::writer::WriteLimits;
use crate::store::{Lifetimes, SeriesLimits};

/// How many series share a row of latest_blocks. Their ids follow each other.
pub(in crate::store::postgres) const BLOCK: i32 = 64;

/// What joins a batch's transaction, so that it stands exactly when the batch stands.
#[async_trait]
pub trait TransactionHook: Send + Sync + 'static {
    /// Called once a transaction, with the drafts of those of its batches that are applied now (not of repeats), in the order of
    /// their arrival. An error undoes the transaction.
    async fn in_transaction(&self, conn: &mut PgConnection, drafts: &[&Draft]) -> Result<(), sqlx::Error>;
}

/// What the writers share.
pub(in crate::store::postgres) struct WriterContext {
    pub(in crate::store::postgres) options: DatabaseOptions,
    pub(in crate::store::postgres) clock: DatabaseClock,
    pub(in crate::store::postgres) lifetimes: Lifetimes,
    pub(in crate::store::postgres) limits: SeriesLimits,
    pub(in crate::store::postgres) write_limits: WriteLimits,
    pub(in crate::store::postgres) hook: Option<Arc<dyn TransactionHook>>,
    pub(in crate::store::postgres) partitions: Arc<Partitions>,
    pub(in crate::store::postgres) metrics: WriterMetrics,
    /// Connections that the writers have open.
    pub(in crate::store::postgres) open: AtomicU32,
    /// For how long they were busy.
    pub(in crate::store::postgres) busy: BusyTime,
}

/// For how long writers had batches to write, each writer's time added up. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::store::postgres) struct BusyTime(Arc<AtomicU64>);

impl BusyTime {
    /// A writer was busy for this time.
    pub(in crate::store::postgres) fn add(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// All of it since the start.
    pub(in crate::store::postgres) fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

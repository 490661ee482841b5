//! What the writers of a server share.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use async_trait::async_trait;
use prometheus::IntCounter;
use sqlx::PgConnection;

use crate::audit::Draft;
use crate::metrics::postgres::WriterMetrics;
use crate::store::postgres::clock::DatabaseClock;
use crate::store::postgres::commits::Commits;
use crate::store::postgres::connect::DatabaseOptions;
use crate::store::postgres::partitions::Partitions;
use crate::store::postgres::writer::WriteLimits;
use crate::store::{Lifetimes, SeriesLimits, WriterLoad};

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
    pub(in crate::store::postgres) commits: Arc<Commits>,
    pub(in crate::store::postgres) lifetimes: Lifetimes,
    pub(in crate::store::postgres) limits: SeriesLimits,
    pub(in crate::store::postgres) write_limits: WriteLimits,
    pub(in crate::store::postgres) hook: Option<Arc<dyn TransactionHook>>,
    pub(in crate::store::postgres) partitions: Arc<Partitions>,
    pub(in crate::store::postgres) metrics: WriterMetrics,
    /// Samples that are not kept, being older than the history.
    pub(in crate::store::postgres) too_old_samples: IntCounter,
    /// Connections that the writers have open.
    pub(in crate::store::postgres) open: AtomicU32,
    /// How busy they are.
    pub(in crate::store::postgres) load: WriterLoad,
}

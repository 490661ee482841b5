//! The store in PostgreSQL. Any number of servers share one database and hold nothing of their own but caches.
//!
//! - `dsn` reads where the database is, `connect` opens connections, `migrate` brings the schema up in the background,
//!   `partitions` and `retention` keep the history's days.
//! - `writer` applies batches, many in one transaction; `reader` answers.
//!
//! A server starts without its database too. Calls wait for the first attempt to reach it and to bring up the schema; when that has
//! failed they answer `Unavailable` at once until another attempt succeeds.

mod connect;
mod dsn;
mod error;
mod migrate;
mod partitions;
mod reader;
mod retention;
mod schema_name;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use async_trait::async_trait;
use golectra_process::Secret;
use golectra_protocol::{Selector, Value};
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connect::DatabaseOptions;
pub use self::error::OpenError;
use self::migrate::SchemaState;
use self::partitions::Partitions;
use self::writer::{ANSWER_LIMIT, Shared, WRITERS, Writers};
use super::{Applied, Batch, Series, SeriesFilter, SeriesLimits, Snapshot, SourceInfo, Store, StoreError, StoreStats};
use crate::audit::Draft;
use crate::clock::Clock;
use crate::metrics::postgres::WriterFigures;

/// How long closing waits for what is under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(4);

/// What joins a batch's transaction, so that it stands exactly when the batch stands.
#[async_trait]
pub trait TransactionHook: Send + Sync + 'static {
    /// Called once a transaction, with the drafts of those of its batches that are applied now (not of repeats), in the order of
    /// their arrival. An error undoes the transaction.
    async fn in_transaction(&self, conn: &mut PgConnection, drafts: &[&Draft]) -> Result<(), sqlx::Error>;
}

/// What the store needs to know.
pub struct PostgresConfig {
    /// Where the database is: a URL, or libpq's `host=… user=…`.
    pub dsn: Secret,
    /// How long batches are kept and remembered.
    pub history: Duration,
    /// How many series there may be.
    pub limits: SeriesLimits,
    /// How many connections there may be, those of the writers included, but at least one more than these; 10 is enough for most.
    pub connections: u32,
    /// Joins each transaction.
    pub hook: Option<Arc<dyn TransactionHook>>,
    /// What the writers count.
    pub figures: WriterFigures,
}

/// The promises stand in [`super`].
pub struct PostgresStore {
    pool: PgPool,
    schema: watch::Receiver<SchemaState>,
    /// Slow reads may hold half of the pool's connections, never all: the audit trail is delivered meanwhile.
    readers: Semaphore,
    writers: Writers,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl PostgresStore {
    /// Opens the store at once; the database may come later. Needs a tokio runtime.
    pub fn open(config: PostgresConfig, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let dsn = dsn::parse(config.dsn.expose())?;
        if !dsn.ignored.is_empty() {
            let parameters = dsn.ignored.join(", ");
            tracing::warn!(
                parameters,
                "DATABASE_DSN has settings of another driver's connection pool or statement cache, which have no effect: the pool's size is DATABASE_CONNECTIONS"
            );
        }
        let options = DatabaseOptions::new(dsn);
        let partitions = Arc::new(Partitions::default());
        let pool_size = config.connections.saturating_sub(WRITERS).max(1);
        let pool = connect::pool(&options, pool_size);
        let (schema_sender, schema) = watch::channel(SchemaState::FirstAttempt);
        let history_millis = u64::try_from(config.history.as_millis()).unwrap_or(u64::MAX);

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let shared = Shared {
            options: options.clone(),
            clock: clock.clone(),
            history_millis,
            limits: config.limits,
            hook: config.hook,
            partitions: Arc::clone(&partitions),
            figures: config.figures,
            open: AtomicU32::new(0),
        };
        let writers = Writers::start(shared, &tasks, &stop);
        let keeper = retention::Keeper { options, clock, history_millis, partitions };
        let stopped = stop.clone();
        tasks.spawn(async move {
            let work = async {
                migrate::bring_up(&keeper, &schema_sender).await;
                keeper.run().await;
            };
            // Dropping a connection in the middle is safe: what it had begun is rolled back.
            let _ = stopped.run_until_cancelled(work).await;
        });
        tasks.close();

        Ok(Arc::new(Self {
            pool,
            schema,
            readers: Semaphore::new((pool_size as usize / 2).max(1)),
            writers,
            tasks,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        }))
    }

    /// The connections, for others who keep their tables in the same database.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Waits until the schema is there; returns false when the store was closed before.
    pub async fn ready(&self) -> bool {
        self.schema.clone().wait_for(|schema| matches!(schema, SchemaState::Ready)).await.is_ok()
    }

    /// Waits for the first attempt to bring up the schema, no longer than this, and refuses while the schema is missing.
    async fn check_schema(&self, limit: Duration) -> Result<(), StoreError> {
        if matches!(*self.schema.borrow(), SchemaState::Ready) {
            return Ok(());
        }
        let mut schema = self.schema.clone();
        let tried = schema.wait_for(|schema| !matches!(schema, SchemaState::FirstAttempt));
        let missing = match timeout(limit, tried).await.as_deref() {
            Ok(Ok(state)) => match &**state {
                SchemaState::Ready => return Ok(()),
                SchemaState::Missing(why) => format!("the schema is not there yet: {why}"),
                SchemaState::FirstAttempt => "the schema is not there yet".to_owned(),
            },
            Ok(Err(_)) => "the store is closed".to_owned(),
            Err(_) => format!("the schema is not there yet: the first attempt is still under way after {:.1} s", limit.as_secs_f32()),
        };
        Err(StoreError::Unavailable(missing))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError> {
        if matches!(*self.schema.borrow(), SchemaState::Ready) {
            return self.writers.apply(batch).await;
        }
        let waited = async {
            self.check_schema(ANSWER_LIMIT).await?;
            self.writers.apply(batch).await
        };
        let late = |_| Err(StoreError::Unavailable(format!("no answer within {:.2} s of the start", ANSWER_LIMIT.as_secs_f32())));
        timeout(ANSWER_LIMIT, waited).await.unwrap_or_else(late)
    }

    async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError> {
        reader::value(self, selector).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        reader::snapshot(self).await
    }

    async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError> {
        reader::sources(self).await
    }

    async fn series(&self, filter: &SeriesFilter) -> Result<Vec<Series>, StoreError> {
        reader::series(self, filter).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        reader::ping(self).await
    }

    fn stats(&self) -> StoreStats {
        let (size, idle) = (self.pool.size(), u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX));
        let pool = Some((size.saturating_sub(idle) + self.writers.connections(), idle));
        StoreStats { series: None, pool, queue_depth: self.writers.waiting() }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.stop.cancel();
        let all = async {
            // What had queued is written first.
            self.tasks.wait().await;
            self.pool.close().await;
        };
        timeout(CLOSE_LIMIT, all)
            .await
            .map_err(|_| StoreError::Unavailable(format!("connections were still busy after {} s", CLOSE_LIMIT.as_secs())))
    }
}

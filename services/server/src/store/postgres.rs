//! The store in PostgreSQL. Any number of servers share one database and hold nothing of their own but caches.
//!
//! - `dsn` reads where the database is, `connect` opens connections, `migrate` brings the schema up in the background.
//! - `writer` applies batches, many in one transaction; `reader` answers, `latest` lists and `select` finds series by their labels.
//! - `sealer` codes history into chunks, and drops what is too old; `sealed` is the memory of batches whose frames are gone.
//! - `commits` keeps commits that are not answered from taking all connections.
//! - `maintenance` does what else is done from time to time: series and sources `expire`, and rows that nothing needs are `remove`d.
//!   `partitions` come and go by time, and `clock` tells the database's, by which all of that goes.
//!
//! A server starts without its database too. Calls wait for the first attempt to reach it and to bring up the schema; when that has
//! failed they answer `Unavailable` at once until another attempt succeeds.

mod alerts;
mod clock;
mod commits;
mod connect;
mod dsn;
mod error;
mod expire;
mod history;
mod identity;
mod latest;
mod maintenance;
mod metadata;
mod migrate;
mod partitions;
mod reader;
mod remove;
mod rollups;
mod schema_name;
mod sealed;
mod sealer;
mod select;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timestamp;
mod words;
mod writer;

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use golectra_process::Secret;
use golectra_protocol::remote_write::Metadata;
use golectra_protocol::{MAX_AHEAD_MILLIS, Selector, Source, Value};
use sqlx::{Connection as _, PgPool};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::alerts::PostgresAlertStore;
use self::clock::DatabaseClock;
pub use self::commits::Commits;
use self::connect::{DatabaseOptions, Lease, timed_out};
use self::error::unavailable;
pub use self::error::{OpenError, describe};
use self::history::HistoryReader;
pub use self::history::{CacheConfig, CacheMetrics};
use self::maintenance::Maintenance;
use self::metadata::KnownMetadata;
use self::migrate::SchemaState;
use self::partitions::Partitions;
use self::reader::{READ_LIMIT, Reader};
use self::sealer::{Pace, Sealer, SealerLimits, Steps};
use self::timestamp::Timestamp;
pub use self::writer::WriteLimits;
pub use self::writer::context::TransactionHook;
use self::writer::context::WriterContext;
use self::writer::{WRITERS, Writers};
use super::{
    Applied, Batch, Health, History, LatestFilter, LatestPages, Lifetimes, Newest, SeriesLimits, Snapshot, SourceInfo, StoreError,
    StoreMetrics, Write, WriterLoad,
};
use crate::alerts::store::AlertStore;
use crate::audit::Draft;
use crate::clock::Clock;
use crate::metrics::history::HistoryMetrics;
use crate::metrics::postgres::WriterMetrics;

/// How long closing waits for what is under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(4);
/// How long a ping may take; its answer is promised within 1 s.
const PING_LIMIT: Duration = Duration::from_millis(900);
/// Samples that are younger than this are never dropped: what is dropped for want of room is older than the newest day that has sealed samples, and a
/// half hour is not sealed for two minutes after its end.
const NEVER_DROPPED: Duration = Duration::from_mins(1);
/// How long a server's reads wait for a connection. Requests are answered within 3 s.
pub const READ_WAIT: Duration = Duration::from_secs(1);

/// How often the database is asked for its time and for the number of series.
const OBSERVE_EVERY: Duration = Duration::from_secs(15);

/// What the store needs to know.
pub struct PostgresConfig {
    /// Where the database is: a URL, or libpq's `host=… user=…`.
    pub dsn: Secret,
    /// How long keys, history, series and sources live.
    pub lifetimes: Lifetimes,
    /// How many series there may be.
    pub limits: SeriesLimits,
    /// How many connections there may be, those of the writers included, but at least one more than these; 10 is enough for most.
    pub connections: u32,
    /// How many connections there may be for queries of the history, beside the others.
    pub query_connections: u32,
    /// How long a write may take.
    pub write_limits: WriteLimits,
    /// How long a read waits for a connection, and a batch to learn up to where history was dropped: [`READ_WAIT`] in a server.
    pub read_wait: Duration,
    /// How long a query may take.
    pub query_timeout: Duration,
    /// What all tables may take, in bytes; beyond, the oldest history is dropped: days of samples first, then rollups.
    pub history_max_bytes: Option<u64>,
    /// Joins each transaction.
    pub hook: Option<Arc<dyn TransactionHook>>,
    /// What the writers count.
    pub metrics: WriterMetrics,
    /// What sealing counts.
    pub history: HistoryMetrics,
    /// The cache of what searches of the index of series found.
    pub index_cache: CacheConfig,
    /// The cache of sealed chunks.
    pub chunk_cache: CacheConfig,
    /// The cache of frames that are not sealed.
    pub frame_cache: CacheConfig,
}

/// The promises stand in [`super`].
pub struct PostgresStore {
    reader: Reader,
    history: HistoryReader,
    writers: Writers,
    /// How long a batch waits to learn up to where history was dropped, and what time it is.
    read_wait: Duration,
    /// Live series in the database as of the last look; negative before the first.
    series: Arc<AtomicI64>,
    metadata: KnownMetadata,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// Says which database is used, without the user and the password.
fn log_address(dsn: &dsn::Dsn) {
    let address = &dsn.options;
    let host = address.get_socket().map_or_else(|| address.get_host().to_owned(), |socket| socket.display().to_string());
    let (port, database, schema) = (address.get_port(), address.get_database(), dsn.schema.as_str());
    tracing::info!(host, port, database, schema, "metrics are kept in PostgreSQL");
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
        log_address(&dsn);
        let options = DatabaseOptions::new(dsn);
        let clock = DatabaseClock::new(clock, config.metrics.clone());
        let (partitions, commits) = (Arc::new(Partitions::default()), Arc::new(Commits::default()));
        let pool_size = config.connections.saturating_sub(WRITERS).max(1);
        let pool = connect::pool(&options, pool_size, config.read_wait);
        let query_pool = connect::query_pool(&options, config.query_connections.max(1) + 1, config.query_timeout, history::PREPARE_STATE);
        let (schema_sender, schema) = watch::channel(SchemaState::FirstAttempt);

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let context = WriterContext {
            options: options.clone(),
            clock: clock.clone(),
            commits: Arc::clone(&commits),
            lifetimes: config.lifetimes,
            limits: config.limits,
            write_limits: config.write_limits,
            hook: config.hook,
            partitions: Arc::clone(&partitions),
            metrics: config.metrics.clone(),
            too_old_samples: config.history.too_old_samples.clone(),
            open: AtomicU32::new(0),
            load: WriterLoad::of(WRITERS),
        };
        let writers = Writers::start(context, &tasks, &stop);
        let (lifetimes, metrics) = (config.lifetimes, config.metrics);
        let sealer = Sealer {
            options: options.clone(),
            clock: clock.clone(),
            lifetimes,
            max_bytes: config.history_max_bytes,
            partitions: Arc::clone(&partitions),
            metrics: config.history,
            limits: SealerLimits::default(),
            steps: Steps::default(),
            pace: Pace::new(writers.context.load.clone()),
            warned_at: Mutex::default(),
            unsealed_age: Mutex::default(),
        };
        let maintenance = Maintenance { options, clock: clock.clone(), lifetimes, partitions, metrics };
        let reader = Reader {
            pool,
            schema,
            turns: Arc::new(Semaphore::new((pool_size as usize / 2).max(1))),
            limit: READ_LIMIT.max(config.read_wait),
            commits,
        };
        let history = HistoryReader::new(query_pool, reader.clone(), config.index_cache, config.chunk_cache, config.frame_cache);
        let series = Arc::new(AtomicI64::new(-1));
        let (stopped, observed) = (stop.clone(), (reader.clone(), Arc::clone(&series)));
        tasks.spawn(async move {
            let work = async {
                migrate::bring_up(&maintenance.options, &maintenance.clock, &maintenance.partitions, &schema_sender).await;
                tokio::join!(maintenance.run(), sealer.run(), observe(&observed.0, &maintenance.clock, &observed.1));
            };
            // Dropping a connection in the middle is safe: what it had begun is rolled back.
            let _ = stopped.run_until_cancelled(work).await;
        });
        tasks.close();
        Ok(Arc::new(Self {
            reader,
            history,
            writers,
            read_wait: config.read_wait,
            series,
            metadata: KnownMetadata::default(),
            tasks,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        }))
    }

    /// The state of alerts in this database.
    pub fn alerts(&self) -> Arc<dyn AlertStore> {
        let context = &self.writers.context;
        // With turns of its own: many listings at once must not hold up what people are told.
        let turns = if self.reader.pool.options().get_max_connections() > 4 { 2 } else { 1 };
        let reader = Reader { turns: Arc::new(Semaphore::new(turns)), ..self.reader.clone() };
        Arc::new(PostgresAlertStore::new(context.options.clone(), context.clock.clone(), reader))
    }

    /// Opens the history of a database that has the schema, to read it and nothing else. Needs a tokio runtime.
    pub fn open_to_read(dsn: &Secret, query_timeout: Duration) -> Result<Arc<dyn History>, OpenError> {
        let options = DatabaseOptions::new(dsn::parse(dsn.expose())?);
        let pool = connect::query_pool(&options, 1, query_timeout, history::PREPARE_STATE);
        let (_, schema) = watch::channel(SchemaState::Ready);
        let reader = Reader { pool: pool.clone(), schema, turns: Arc::new(Semaphore::new(1)), limit: READ_LIMIT, commits: Arc::default() };
        Ok(Arc::new(HistoryReader::new(pool, reader, CacheConfig::default(), CacheConfig::default(), CacheConfig::default())))
    }

    /// The connections, for others who keep their tables in the same database.
    pub fn pool(&self) -> &PgPool {
        &self.reader.pool
    }

    /// Which commits were not answered, for those who commit on these connections.
    pub fn commits(&self) -> &Arc<Commits> {
        &self.reader.commits
    }

    /// Waits until the schema is there; returns false when the store was closed before.
    pub async fn ready(&self) -> bool {
        self.reader.schema.clone().wait_for(|schema| matches!(schema, SchemaState::Ready)).await.is_ok()
    }

    /// Forgets a source in one transaction, and tells the audit trail in it.
    async fn forget(&self, source: &Source, audit: Option<&Draft>) -> Result<bool, sqlx::Error> {
        let context = &self.writers.context;
        let mut lease = Lease::acquire(&self.reader.pool).await?;
        let mut tx = lease.conn().begin().await?;
        let found = expire::find(&mut tx, source).await?;
        if let Some(id) = found {
            let now = Timestamp(context.clock.unix_millis());
            let expired = expire::source(&mut tx, id, now).await?;
            if let (Some(hook), Some(draft)) = (&context.hook, audit) {
                hook.in_transaction(&mut tx, &[draft]).await?;
            }
            tx.commit().await?;
            context.metrics.expired_series.inc_by(expired);
        } else {
            tx.rollback().await?;
        }
        lease.give_back();
        Ok(found.is_some())
    }
}

/// Asks the database from time to time for what /metrics tells of it. Never returns.
async fn observe(reader: &Reader, clock: &DatabaseClock, series: &AtomicI64) {
    loop {
        let told = reader
            .read(async |conn| {
                clock.measure(&mut *conn).await?;
                sqlx::query_scalar!("SELECT series FROM series_total").fetch_one(conn).await
            })
            .await;
        // A database that is away is told by /ping and by writes.
        if let Ok(told) = told {
            series.store(told, Ordering::Relaxed);
        }
        sleep(OBSERVE_EVERY.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

impl PostgresStore {
    /// Applies a batch. Its samples of a time whose samples were dropped are refused: they would not be kept.
    async fn write(&self, batch: Batch) -> Result<Applied, StoreError> {
        let mut dropped_until = 0;
        if batch.is_once_per_time() {
            let clock = &self.writers.context.clock;
            let as_time = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
            let times = (0..batch.metrics.len()).filter_map(|index| batch.metrics.at_millis(index));
            let (oldest, newest) = times.fold((i64::MAX, i64::MIN), |(oldest, newest), at| (oldest.min(at), newest.max(at)));
            // Refused samples are not sent again, and this machine may have been paused since the database's clock was measured. A measurement of the last
            // second is enough, so that a sender whose clock is ahead does not cause one with each request.
            if newest > as_time(clock.unix_millis().saturating_add(MAX_AHEAD_MILLIS)) && !clock.was_just_measured() {
                self.ask(async |conn| clock.measure(conn).await).await?;
            }
            let now = clock.unix_millis();
            let never_dropped = u64::try_from(NEVER_DROPPED.as_millis()).unwrap_or(0);
            if oldest < as_time(now.saturating_sub(never_dropped)) {
                let statement = "SELECT raw FROM dropped_history";
                dropped_until = self.ask(async |conn| sqlx::query_scalar::<_, Timestamp>(statement).fetch_one(conn).await).await?.0;
            }
        }
        self.writers.apply(batch, dropped_until).await
    }

    /// Reads something that a batch's outcome depends on.
    async fn ask<T>(&self, read: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<T, sqlx::Error>) -> Result<T, StoreError> {
        let late = |_| Err(unavailable(&timed_out(self.read_wait)));
        timeout(self.read_wait, self.reader.read(read)).await.unwrap_or_else(late)
    }
}

#[async_trait]
impl Write for PostgresStore {
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError> {
        // One limit for the schema, for what was dropped and for the writer: each of them has a limit of its own, and together they are longer.
        let limit = self.writers.context.write_limits.answered;
        let applied = async {
            self.reader.check_schema(limit).await?;
            self.write(batch).await
        };
        let late = |_| Err(StoreError::Unavailable(format!("no answer within {:.2} s", limit.as_secs_f32())));
        timeout(limit, applied).await.unwrap_or_else(late)
    }

    async fn keep_metadata(&self, metadata: Vec<Metadata>) -> Result<(), StoreError> {
        let new = self.metadata.unknown(metadata);
        if new.is_empty() {
            return Ok(());
        }
        self.reader.change(async |conn| metadata::write(conn, &new).await).await?;
        self.metadata.remember(&new);
        Ok(())
    }

    async fn forget_source(&self, source: &Source, audit: Option<Draft>) -> Result<bool, StoreError> {
        let limit = self.writers.context.write_limits.answered;
        let deadline = Instant::now() + limit;
        self.reader.check_schema(limit).await?;
        let forgotten = timeout_at(deadline, self.forget(source, audit.as_ref())).await;
        forgotten.unwrap_or_else(|_| Err(timed_out(limit))).map_err(|error| unavailable(&error))
    }

    fn unix_millis(&self) -> u64 {
        self.writers.context.clock.unix_millis()
    }

    fn writer_load(&self) -> WriterLoad {
        self.writers.context.load.clone()
    }
}

#[async_trait]
impl Newest for PostgresStore {
    async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError> {
        self.reader.value(selector).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.reader.snapshot().await
    }

    async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError> {
        self.reader.sources().await
    }

    async fn latest(&self, filter: LatestFilter) -> Result<Box<dyn LatestPages>, StoreError> {
        latest::list(&self.reader, filter).await
    }
}

#[async_trait]
impl Health for PostgresStore {
    async fn ping(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + PING_LIMIT;
        self.reader.check_schema(PING_LIMIT).await?;
        let asked = async {
            let mut lease = Lease::acquire(&self.reader.pool).await?;
            let read_only = sqlx::query_scalar!(r#"SELECT current_setting('transaction_read_only')::boolean AS "read_only!""#)
                .fetch_one(lease.conn())
                .await?;
            // A connection to a primary that became a standby is of no use any more.
            if !read_only {
                lease.give_back();
            }
            Ok(read_only)
        };
        match timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(timed_out(PING_LIMIT))) {
            Ok(false) => Ok(()),
            Ok(true) => Err(StoreError::Unavailable("the database takes no writes".into())),
            Err(error) => Err(unavailable(&error)),
        }
    }

    fn metrics(&self) -> StoreMetrics {
        let pools = [&self.reader.pool, self.history.pool()];
        let idle = pools.iter().map(|pool| u32::try_from(pool.num_idle()).unwrap_or(u32::MAX)).fold(0, u32::saturating_add);
        let size: u32 = pools.iter().map(|pool| pool.size()).sum();
        let pool = Some((size.saturating_sub(idle) + self.writers.connections(), idle));
        let series = u64::try_from(self.series.load(Ordering::Relaxed)).ok();
        StoreMetrics { series, pool, queue_depth: self.writers.waiting(), unsaved_for: None }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.stop.cancel();
        let all = async {
            // What had queued is written first.
            self.tasks.wait().await;
            self.reader.pool.close().await;
            self.history.pool().close().await;
        };
        timeout(CLOSE_LIMIT, all)
            .await
            .map_err(|_| StoreError::Unavailable(format!("connections were still busy after {} s", CLOSE_LIMIT.as_secs())))
    }
}

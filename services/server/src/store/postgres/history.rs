//! Reads the history: of each selected series what is sealed in chunks, and what is still in frames.
//!
//! Queries have connections of their own, so that no query can starve a write. A selection is one transaction, which sees one state of the database.
//! A query that is given up closes its connection, which ends its statement soon.

mod cache_metrics;
mod chunk_cache;
mod chunks;
mod export;
mod frame_cache;
mod frames;
mod index_cache;
mod labels;
mod layouts;
mod reported;
mod rollups;
mod samples;
mod search;
mod snapshot;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Matcher, Reservation};
use golectra_protocol::remote_write::Metadata;
use sqlx::{Executor as _, FromRow, PgConnection, PgPool};

pub use self::cache_metrics::CacheMetrics;
use self::chunk_cache::{ChunkCache, ChunkVersion};
use self::frame_cache::{FrameCache, FrameView};
use self::frames::FramesPartition;
use self::index_cache::{Found, IndexCache, IndexVersion};
use self::layouts::LayoutLists;
use self::samples::{EqualSeries, SamplesBuilder, StoredSamples};
use self::search::{FoundSeries, Recency};
use self::snapshot::Snapshot;
use super::connect::{Lease, WRITER_PLANS};
use super::error::unavailable;
use super::reader::Reader;
use super::{PostgresStore, metadata};
use crate::store::StoreError;
use crate::store::history::rollups::Source;
use crate::store::history::{
    ExportedSeries, History, HistoryError, HistorySeries, Limited, ListedSeries, ListedSource, SeriesFilter, TimeRange,
};

/// How long a query waits for the first attempt to bring up the schema.
const START_LIMIT: Duration = Duration::from_millis(2_500);

/// Reads the history.
pub(super) struct HistoryReader {
    pool: PgPool,
    /// Knows whether the schema is there, and reads what is no history.
    reader: Reader,
    layouts: LayoutLists,
    index: IndexCache,
    chunks: ChunkCache,
    unsealed: FrameCache,
}

/// The memory that a cache may take, and what it counts. With the default it holds nothing.
#[derive(Debug, Clone, Default)]
pub struct CacheConfig {
    pub max_bytes: usize,
    pub metrics: CacheMetrics,
}

impl HistoryReader {
    /// Reads on these connections, and remembers so much of the index, of chunks and of frames.
    pub(super) fn new(pool: PgPool, reader: Reader, index: CacheConfig, chunks: CacheConfig, frames: CacheConfig) -> Self {
        let (index, chunks) = (IndexCache::new(index.max_bytes, index.metrics), ChunkCache::new(chunks.max_bytes, chunks.metrics));
        let unsealed = FrameCache::new(frames.max_bytes, frames.metrics);
        Self { pool, reader, layouts: LayoutLists::default(), index, chunks, unsealed }
    }

    /// Its connections.
    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// How long the end of a transaction may take, which nobody waits for.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Begins a transaction. Its view is of a moment after the locks: frames that are gone because they were sealed are in chunks then. What is dropped meanwhile
/// would not be seen whatever the view, so nothing is: a partition is dropped under an exclusive lock of its table.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    LOCK TABLE frames, ONLY chunks, ONLY rollups_5m, ONLY rollups_1h IN ACCESS SHARE MODE;";
/// What every read of the transaction needs, as a statement of the session: sent with [`BEGIN`] in one message, and yet planned once.
///
/// When one process of PostgreSQL crashes, the server goes on, ends all sessions and recovers: numbers of transactions whose end was not on disk yet are given out again.
/// From version 15 on it resets its statistics then, and so tells when that was.
pub(super) const PREPARE_STATE: &str = "PREPARE read_state AS
    SELECT (SELECT max(n) FROM series_changes) AS series_change,
        pg_current_snapshot()::text AS snapshot,
        (SELECT string_agg(child.relname || ' ' || inhrelid || ' ' || pg_relation_filenode(inhrelid), ' ')
            FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = 'frames'::regclass AND child.relname ~ '^frames_[0-9]+$' AND pg_relation_size(inhrelid) > 0) AS frames,
        (SELECT changes FROM chunk_total) AS chunk_change,
        (SELECT string_agg(inhrelid || ' ' || pg_relation_filenode(inhrelid), ' ' ORDER BY inhrelid)
            FROM pg_inherits WHERE inhparent = 'chunks'::regclass) AS chunks,
        (extract(epoch FROM greatest(raw, 'epoch')) * 1000)::bigint AS dropped_ms,
        (extract(epoch FROM greatest(rollups_5m, 'epoch')) * 1000)::bigint AS five_minutes_dropped_ms,
        (extract(epoch FROM greatest(pg_postmaster_start_time(), CASE WHEN tells_of_crashes THEN pg_stat_get_bgwriter_stat_reset_time() END)) * 1000000)::bigint
            AS server_started,
        tells_of_crashes
    FROM dropped_history, (SELECT current_setting('server_version_num')::integer >= 150000 AS tells_of_crashes) AS version";

/// What [`PREPARE_STATE`] answers.
#[derive(FromRow)]
struct State {
    series_change: i64,
    snapshot: String,
    frames: Option<String>,
    chunk_change: i64,
    chunks: Option<String>,
    dropped_ms: i64,
    five_minutes_dropped_ms: i64,
    server_started: i64,
    tells_of_crashes: bool,
}

/// Statements are planned once for a connection, not for each of their values: planning takes longer than reading the samples of a few series. What they
/// read is found by its index, block by block, as what writers read; the planner is not to guess from numbers of rows that it does not know then.
static PLAN_ONCE: LazyLock<String> = LazyLock::new(|| set_plans(|value| value));
/// From here on statements are planned for their values, as at the beginning of a session.
static PLAN_EACH_TIME: LazyLock<String> = LazyLock::new(|| set_plans(|_| "DEFAULT"));

fn set_plans(to: impl Fn(&'static str) -> &'static str) -> String {
    WRITER_PLANS.map(|(name, value)| format!("SET LOCAL {name} TO {};", to(value))).concat()
}

/// A transaction that sees one state of the database. Where it does not come to its end its connection is closed.
pub(super) struct ReadTransaction {
    lease: Lease,
    /// See [`index_cache`].
    index_version: IndexVersion,
    /// The partitions of frames that have any, in order: some are made hours ahead.
    frames: Vec<FramesPartition>,
    snapshot: Arc<Snapshot>,
    /// See [`chunk_cache`].
    chunks: ChunkVersion,
    /// Samples before this were dropped, in unix milliseconds.
    dropped_ms: i64,
    /// Rollups of 5 minutes before this were.
    five_minutes_dropped_ms: i64,
    /// When this database server started, or recovered from the crash of one of its processes, in unix microseconds, see [`LayoutLists`].
    server_started: i64,
    /// Whether it tells of such crashes.
    tells_of_crashes: bool,
}

impl ReadTransaction {
    async fn begin(pool: &PgPool) -> Result<Self, HistoryError> {
        let mut lease = Lease::acquire(pool).await.map_err(failed)?;
        // One message: each costs a round trip.
        let begin = format!("{BEGIN} {} EXECUTE read_state", *PLAN_ONCE);
        let state = match lease.conn().fetch_optional(begin.as_str()).await {
            // The session is older than the schema.
            Err(error) if is_not_prepared(&error) => {
                lease.conn().execute(format!("ROLLBACK; {PREPARE_STATE}").as_str()).await.map_err(failed)?;
                lease.conn().fetch_optional(begin.as_str()).await
            }
            state => state,
        };
        // A row that is missing, which somebody deleted, is an error: what is answered depends on it.
        let state = state.and_then(|row| State::from_row(&row.ok_or(sqlx::Error::RowNotFound)?)).map_err(failed)?;
        let State { dropped_ms, five_minutes_dropped_ms, server_started, tells_of_crashes, .. } = state;
        let frames = FramesPartition::read_all(&state.frames.unwrap_or_default());
        let odd = || StoreError::Unavailable(format!("the database tells of a snapshot {:?}", state.snapshot));
        let snapshot = Arc::new(Snapshot::parse(&state.snapshot).ok_or_else(odd)?);
        let index_version = IndexVersion { server_started, change: state.series_change };
        let chunks = ChunkVersion { server_started, partitions: state.chunks.unwrap_or_default().into(), change: state.chunk_change };
        Ok(Self { lease, index_version, frames, snapshot, chunks, dropped_ms, five_minutes_dropped_ms, server_started, tells_of_crashes })
    }

    fn conn(&mut self) -> &mut PgConnection {
        self.lease.conn()
    }

    /// What a cache of frames has for this transaction: nothing where numbers of transactions may come again unnoticed.
    fn view<'a>(&self, cache: &'a FrameCache) -> Option<FrameView<'a>> {
        self.tells_of_crashes.then(|| cache.view(self.server_started, &self.snapshot)).flatten()
    }

    /// Nothing depends on its end, so it has none to wait for.
    pub(super) fn end(mut self) {
        tokio::spawn(async move {
            if let Ok(Ok(_)) = tokio::time::timeout(END_LIMIT, self.lease.conn().execute("COMMIT")).await {
                self.lease.give_back();
            }
        });
    }
}

/// Whether the session does not have the statement yet that it was to execute.
fn is_not_prepared(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "26000")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: sqlx::Error) -> HistoryError {
    unavailable(&error).into()
}

impl HistoryReader {
    /// Begins a transaction that reads samples.
    async fn begin_samples(&self) -> Result<ReadTransaction, HistoryError> {
        self.reader.check_schema(START_LIMIT).await?;
        ReadTransaction::begin(&self.pool).await
    }

    pub(super) async fn begin(&self) -> Result<ReadTransaction, HistoryError> {
        let mut transaction = self.begin_samples().await?;
        transaction.conn().execute(PLAN_EACH_TIME.as_str()).await.map_err(failed)?;
        Ok(transaction)
    }

    /// The series that matchers select, with those that expired from this time on.
    async fn find(
        &self,
        transaction: &mut ReadTransaction,
        matchers: &[Matcher],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Found, HistoryError> {
        let version = transaction.index_version;
        if let Some(after) = self.index.behind(version) {
            let changes = search::changes(transaction.conn(), after).await?;
            self.index.advance(after, version, changes);
        }
        if let Some(found) = self.index.get(matchers, version, range.start_ms) {
            return Ok(found);
        }
        transaction.conn().execute(PLAN_EACH_TIME.as_str()).await.map_err(failed)?;
        let mut found = Vec::new();
        let mut bytes = 0;
        let sources = search::sources(transaction.conn()).await?;
        let searched = search::each(transaction.conn(), &sources, matchers, range, Recency::NotExpired, |series| {
            bytes += series.memory_bytes();
            reservation.grow(series.memory_bytes())?;
            found.push(series);
            Ok(())
        });
        searched.await?;
        transaction.conn().execute(PLAN_ONCE.as_str()).await.map_err(failed)?;
        // Whoever collects their samples charges them once more.
        reservation.shrink(bytes);
        let found: Found = found.into();
        self.index.put(matchers, version, range.start_ms, &found);
        Ok(found)
    }

    /// Reads the samples of these series. What they take is charged, and so many series at most may have some.
    async fn read_samples(
        &self,
        transaction: &mut ReadTransaction,
        collected: &mut [Collected],
        range: TimeRange,
        (max_series, keep): (usize, Keep),
        unsealed: Option<&FrameView<'_>>,
        reservation: &mut Reservation,
    ) -> Result<(), HistoryError> {
        let places: HashMap<i32, usize> = collected.iter().enumerate().map(|(place, one)| (one.found.id, place)).collect();
        reservation.grow(places.capacity() * size_of::<(i32, usize)>())?;
        let mut with_samples = 0;
        let mut count = |is_first: bool| {
            with_samples += usize::from(is_first);
            if with_samples > max_series { Err(HistoryError::TooManySeries { limit: max_series }) } else { Ok(()) }
        };
        let ids: Vec<i32> = collected.iter().map(|one| one.found.id).collect();
        let (conn, frames, dropped_ms) = (transaction.lease.conn(), &transaction.frames, transaction.dropped_ms);
        let server_started = transaction.server_started;
        let cache = match keep {
            Keep::Read => self.chunks.view(conn, &transaction.chunks).await.map_err(failed)?,
            Keep::Nothing => None,
        };
        chunks::each(conn, cache.as_ref(), &ids, range, None, reservation, |column| {
            let Some(one) = places.get(&column.series_id).and_then(|place| collected.get_mut(*place)) else { return Ok(()) };
            count(one.samples.is_empty())?;
            one.samples.push_sealed(column);
            Ok(())
        })
        .await?;
        for is_counter in [false, true] {
            let of_kind = collected.iter().filter(|one| one.found.is_counter == is_counter);
            let series: Vec<(i32, i32)> = of_kind.map(|one| (one.found.source_id, one.found.id)).collect();
            // What was added to a counter before is in its total.
            let start_ms = if is_counter { i64::MIN } else { range.start_ms };
            let cache = unsealed;
            let wanted =
                frames::Wanted { series: &series, start_ms, end_ms: range.end_ms, dropped_ms, partitions: frames, server_started, cache };
            frames::each(conn, &self.layouts, &wanted, reservation, |id, samples: &mut dyn Iterator<Item = _>| {
                let Some(one) = places.get(&id).and_then(|place| collected.get_mut(*place)) else { return Ok(0) };
                let was_empty = one.samples.is_empty();
                let bytes = samples.map(|sample| one.samples.push(sample)).sum();
                count(was_empty && bytes > 0)?;
                Ok(bytes)
            })
            .await?;
        }
        let without: Vec<i32> = collected.iter().filter(|one| one.samples.needs_sealed_total()).map(|one| one.found.id).collect();
        chunks::each_total_after(conn, &without, range.end_ms, |id, total| {
            if let Some(one) = places.get(&id).and_then(|place| collected.get_mut(*place)) {
                one.samples.set_sealed_total(total);
            }
        })
        .await
        .map_err(failed)
    }
}

/// Whether what is read of chunks is kept for other reads, and what is kept is used.
#[derive(Clone, Copy)]
enum Keep {
    Read,
    Nothing,
}

/// A selected series whose samples are being collected.
struct Collected {
    found: FoundSeries,
    samples: SamplesBuilder,
}

impl HistoryReader {
    /// See [`History::select`]. May use the cache of frames, and says whether it was charged for that.
    async fn select_once(
        &self,
        selection: &Selection,
        max_series: usize,
        uses_frames: &mut bool,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let may_use_frames = std::mem::take(uses_frames);
        let range = TimeRange { start_ms: selection.start_ms, end_ms: selection.end_ms };
        let mut transaction = self.begin_samples().await?;
        let found = self.find(&mut transaction, &selection.matchers, range, reservation).await?;
        let mut collected = Vec::new();
        for found in found.iter().filter(|found| !found.expired_before(range.start_ms)) {
            reservation.grow(size_of::<Collected>() + found.labels.memory_bytes())?;
            collected.push(Collected { samples: SamplesBuilder::new(range, found.is_counter), found: found.clone() });
        }
        let ids: Vec<i32> = collected.iter().map(|one| one.found.id).collect();
        let unsealed = if may_use_frames { transaction.view(&self.unsealed) } else { None };
        let source = rollups::choose(&mut transaction, selection, &ids).await?;
        if let Source::Rollups(resolution) = source {
            let found = collected.into_iter().map(|one| one.found).collect();
            let read =
                self.select_rollups(&mut transaction, resolution, (found, unsealed.as_ref()), selection, max_series, reservation).await;
            *uses_frames = unsealed.is_some_and(|view| view.is_charged());
            let series = read?;
            transaction.end();
            return Ok(series);
        }
        let read =
            self.read_samples(&mut transaction, &mut collected, range, (max_series, Keep::Read), unsealed.as_ref(), reservation).await;
        *uses_frames = unsealed.is_some_and(|view| view.is_charged());
        read?;
        transaction.end();

        let mut series: Vec<(Labels, StoredSamples)> =
            collected.into_iter().filter_map(|one| Some((one.found.labels, one.samples.build()?))).collect();
        series.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(EqualSeries::join(series))
    }
}

#[async_trait]
impl History for HistoryReader {
    async fn select(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let used_bytes = reservation.used_bytes();
        let mut uses_frames = true;
        match self.select_once(selection, max_series, &mut uses_frames, reservation).await {
            // There may be room for the samples, where there is none for frames of the cache beside them.
            Err(HistoryError::Memory(_)) if uses_frames => {
                reservation.shrink(reservation.used_bytes() - used_bytes);
                self.select_once(selection, max_series, &mut false, reservation).await
            }
            answer => answer,
        }
    }

    async fn list(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError> {
        let mut transaction = self.begin().await?;
        let listed = export::list(transaction.conn(), filter, reservation).await?;
        transaction.end();
        Ok(listed)
    }

    async fn read_listed(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        let mut transaction = self.begin_samples().await?;
        let found = export::find(transaction.conn(), source, series).await?;
        let mut collected: Vec<Collected> =
            found.into_iter().map(|found| Collected { samples: SamplesBuilder::new(range, found.is_counter), found }).collect();
        reservation.grow(collected.iter().map(|one| size_of::<Collected>() + one.found.labels.memory_bytes()).sum())?;
        // What is exported is not read again soon.
        self.read_samples(&mut transaction, &mut collected, range, (usize::MAX, Keep::Nothing), None, reservation).await?;
        transaction.end();
        Ok(collected.into_iter().filter_map(export::exported).collect())
    }

    async fn series(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<Labels>, HistoryError> {
        let mut transaction = self.begin().await?;
        let found = labels::series(transaction.conn(), filter, reservation).await?;
        transaction.end();
        Ok(found)
    }

    async fn label_names(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        let mut transaction = self.begin().await?;
        let found = labels::names(&self.index, &mut transaction, filter, reservation).await?;
        transaction.end();
        Ok(found)
    }

    async fn label_values(
        &self,
        label: &str,
        filter: &SeriesFilter,
        reservation: &mut Reservation,
    ) -> Result<Limited<String>, HistoryError> {
        let mut transaction = self.begin().await?;
        let found = labels::values(&self.index, &mut transaction, label, filter, reservation).await?;
        transaction.end();
        Ok(found)
    }

    async fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
        limit_per_metric: usize,
    ) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError> {
        self.reader.read(async |conn| metadata::read(conn, metric, limit, limit_per_metric).await).await
    }
}

/// The history of a store is read by its reader.
#[async_trait]
impl History for PostgresStore {
    async fn select(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        self.history.select(selection, max_series, reservation).await
    }

    async fn list(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError> {
        self.history.list(filter, reservation).await
    }

    async fn read_listed(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        self.history.read_listed(source, series, range, reservation).await
    }

    async fn series(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<Labels>, HistoryError> {
        self.history.series(filter, reservation).await
    }

    async fn label_names(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        self.history.label_names(filter, reservation).await
    }

    async fn label_values(
        &self,
        label: &str,
        filter: &SeriesFilter,
        reservation: &mut Reservation,
    ) -> Result<Limited<String>, HistoryError> {
        self.history.label_values(label, filter, reservation).await
    }

    async fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
        limit_per_metric: usize,
    ) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError> {
        self.history.metadata(metric, limit, limit_per_metric).await
    }
}

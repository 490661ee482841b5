//! Reads the history: of each selected series what is sealed in chunks, and what is still in frames.
//!
//! Queries have connections of their own, so that no query can starve a write. A selection is one transaction, which sees one state of the database.
//! A query that is given up closes its connection, which ends its statement soon.

mod chunks;
mod export;
mod frames;
mod labels;
mod layouts;
mod rollups;
mod samples;
mod search;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Reservation};
use golectra_protocol::remote_write::Metadata;
use sqlx::{Executor as _, PgConnection, PgPool};

use self::layouts::LayoutLists;
use self::rollups::Source;
use self::samples::{EqualSeries, SamplesBuilder, StoredSamples};
use self::search::{FoundSeries, Recency};
use super::connect::Lease;
use super::error::unavailable;
use super::reader::Reader;
use super::{PostgresStore, metadata};
use crate::store::StoreError;
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
}

impl HistoryReader {
    /// Reads on these connections.
    pub(super) fn new(pool: PgPool, reader: Reader) -> Self {
        Self { pool, reader, layouts: LayoutLists::default() }
    }

    /// Its connections.
    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// A transaction that sees one state of the database. Where it does not come to its end its connection is closed.
struct ReadTransaction(Lease);

impl ReadTransaction {
    async fn begin(pool: &PgPool) -> Result<Self, HistoryError> {
        let mut lease = Lease::acquire(pool).await.map_err(failed)?;
        // Its view is of a moment after the lock: frames that are gone because they were sealed are in chunks then.
        lease
            .conn()
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE frames IN ACCESS SHARE MODE")
            .await
            .map_err(failed)?;
        Ok(Self(lease))
    }

    fn conn(&mut self) -> &mut PgConnection {
        self.0.conn()
    }

    async fn end(mut self) -> Result<(), HistoryError> {
        self.0.conn().execute("COMMIT").await.map_err(failed)?;
        self.0.give_back();
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: sqlx::Error) -> HistoryError {
    unavailable(&error).into()
}

impl HistoryReader {
    async fn begin(&self) -> Result<ReadTransaction, HistoryError> {
        self.reader.check_schema(START_LIMIT).await?;
        ReadTransaction::begin(&self.pool).await
    }

    /// Reads the samples of these series. What they take is charged, and so many series at most may have some.
    async fn read_samples(
        &self,
        conn: &mut PgConnection,
        collected: &mut [Collected],
        range: TimeRange,
        max_series: usize,
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
        chunks::each(conn, &ids, range, None, |column, bytes| {
            let Some(one) = places.get(&column.series_id).and_then(|place| collected.get_mut(*place)) else { return Ok(()) };
            count(one.samples.is_empty())?;
            one.samples.push_sealed(column);
            Ok(reservation.grow(bytes)?)
        })
        .await?;
        for is_counter in [false, true] {
            let of_kind = collected.iter().filter(|one| one.found.is_counter == is_counter);
            let series: Vec<(i32, i32)> = of_kind.map(|one| (one.found.source_id, one.found.id)).collect();
            // What was added to a counter before is in its total.
            let start_ms = if is_counter { i64::MIN } else { range.start_ms };
            let wanted = frames::Wanted { series: &series, start_ms, end_ms: range.end_ms };
            frames::each(conn, &self.layouts, &wanted, |id, sample| {
                let Some(one) = places.get(&id).and_then(|place| collected.get_mut(*place)) else { return Ok(()) };
                let was_empty = one.samples.is_empty();
                let bytes = one.samples.push(sample);
                count(was_empty && bytes > 0)?;
                Ok(reservation.grow(bytes)?)
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

/// A selected series whose samples are being collected.
struct Collected {
    found: FoundSeries,
    samples: SamplesBuilder,
}

#[async_trait]
impl History for HistoryReader {
    async fn select(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let range = TimeRange { start_ms: selection.start_ms, end_ms: selection.end_ms };
        let mut transaction = self.begin().await?;
        let mut collected = Vec::new();
        search::each(transaction.conn(), &selection.matchers, range, Recency::NotExpired, |found| {
            reservation.grow(size_of::<Collected>() + found.labels.memory_bytes())?;
            collected.push(Collected { samples: SamplesBuilder::new(range, found.is_counter), found });
            Ok(())
        })
        .await?;
        let ids: Vec<i32> = collected.iter().map(|one| one.found.id).collect();
        let source = rollups::choose(transaction.conn(), selection, &ids).await?;
        if let Source::Rollups(resolution) = source {
            let found = collected.into_iter().map(|one| one.found).collect();
            let series = self.select_rollups(&mut transaction, resolution, found, range, max_series, reservation).await?;
            transaction.end().await?;
            return Ok(series);
        }
        self.read_samples(transaction.conn(), &mut collected, range, max_series, reservation).await?;
        transaction.end().await?;

        let mut series: Vec<(Labels, StoredSamples)> =
            collected.into_iter().filter_map(|one| Some((one.found.labels, one.samples.build()?))).collect();
        series.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(EqualSeries::join(series))
    }

    async fn list(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError> {
        let mut transaction = self.begin().await?;
        let listed = export::list(transaction.conn(), filter, reservation).await?;
        transaction.end().await?;
        Ok(listed)
    }

    async fn read_listed(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        let mut transaction = self.begin().await?;
        let found = export::find(transaction.conn(), source, series).await?;
        let mut collected: Vec<Collected> =
            found.into_iter().map(|found| Collected { samples: SamplesBuilder::new(range, found.is_counter), found }).collect();
        reservation.grow(collected.iter().map(|one| size_of::<Collected>() + one.found.labels.memory_bytes()).sum())?;
        self.read_samples(transaction.conn(), &mut collected, range, usize::MAX, reservation).await?;
        transaction.end().await?;
        Ok(collected.into_iter().filter_map(export::exported).collect())
    }

    async fn series(&self, filter: &SeriesFilter) -> Result<Limited<Labels>, HistoryError> {
        let mut transaction = self.begin().await?;
        let found = labels::series(transaction.conn(), filter).await?;
        transaction.end().await?;
        Ok(found)
    }

    async fn label_names(&self, filter: &SeriesFilter) -> Result<Limited<String>, HistoryError> {
        let mut transaction = self.begin().await?;
        let found = labels::names(transaction.conn(), filter).await?;
        transaction.end().await?;
        Ok(found)
    }

    async fn label_values(&self, label: &str, filter: &SeriesFilter) -> Result<Limited<String>, HistoryError> {
        let mut transaction = self.begin().await?;
        let found = labels::values(transaction.conn(), label, filter).await?;
        transaction.end().await?;
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

    async fn series(&self, filter: &SeriesFilter) -> Result<Limited<Labels>, HistoryError> {
        self.history.series(filter).await
    }

    async fn label_names(&self, filter: &SeriesFilter) -> Result<Limited<String>, HistoryError> {
        self.history.label_names(filter).await
    }

    async fn label_values(&self, label: &str, filter: &SeriesFilter) -> Result<Limited<String>, HistoryError> {
        self.history.label_values(label, filter).await
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

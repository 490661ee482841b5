//! A store whose operations are timed, for `golectra_store_duration_seconds`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Reservation};
use golectra_protocol::remote_write::Metadata;
use golectra_protocol::{Selector, Source, Value};

use super::history::{ExportedSeries, History, HistoryError, HistorySeries, Limited, ListedSeries, ListedSource, SeriesFilter, TimeRange};
use super::{
    Applied, Batch, Health, LatestFilter, LatestPages, Newest, Snapshot, SourceInfo, Store, StoreError, StoreMetrics, Write, WriterLoad,
};
use crate::audit::Draft;
use crate::history::labels::RULES_SOURCE;
use crate::metrics::ServerMetrics;

/// Passes everything on to the store inside. What ends in an error, or is given up on, is timed as well.
pub struct Timed {
    store: Arc<dyn Store>,
    metrics: ServerMetrics,
}

impl Timed {
    /// Times this store.
    pub fn new(store: Arc<dyn Store>, metrics: ServerMetrics) -> Self {
        Self { store, metrics }
    }
}

#[async_trait]
impl Write for Timed {
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError> {
        let _timer = self.metrics.store_timer("apply");
        self.store.apply(batch).await
    }

    async fn keep_metadata(&self, metadata: Vec<Metadata>) -> Result<(), StoreError> {
        let _timer = self.metrics.store_timer("keep_metadata");
        self.store.keep_metadata(metadata).await
    }

    async fn forget_source(&self, source: &Source, audit: Option<Draft>) -> Result<bool, StoreError> {
        let _timer = self.metrics.store_timer("forget_source");
        self.store.forget_source(source, audit).await
    }

    fn unix_millis(&self) -> u64 {
        self.store.unix_millis()
    }

    fn writer_load(&self) -> WriterLoad {
        self.store.writer_load()
    }
}

#[async_trait]
impl Newest for Timed {
    async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError> {
        let _timer = self.metrics.store_timer("value");
        self.store.value(selector).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let _timer = self.metrics.store_timer("snapshot");
        self.store.snapshot().await
    }

    async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError> {
        let _timer = self.metrics.store_timer("sources");
        let mut sources = self.store.sources().await?;
        // It is no node: the server writes its series itself.
        sources.retain(|source| source.name.as_str() != RULES_SOURCE);
        Ok(sources)
    }

    async fn latest(&self, filter: LatestFilter) -> Result<Box<dyn LatestPages>, StoreError> {
        let pages = self.store.latest(filter).await?;
        Ok(Box::new(TimedPages { pages, metrics: self.metrics.clone() }))
    }
}

#[async_trait]
impl History for Timed {
    async fn select(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let _timer = self.metrics.store_timer("select");
        self.store.select(selection, max_series, reservation).await
    }

    async fn list(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError> {
        let _timer = self.metrics.store_timer("list");
        self.store.list(filter, reservation).await
    }

    async fn read_listed(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        let _timer = self.metrics.store_timer("read_listed");
        self.store.read_listed(source, series, range, reservation).await
    }

    async fn series(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<Labels>, HistoryError> {
        let _timer = self.metrics.store_timer("series");
        self.store.series(filter, reservation).await
    }

    async fn label_names(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        let _timer = self.metrics.store_timer("label_names");
        self.store.label_names(filter, reservation).await
    }

    async fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
        limit_per_metric: usize,
    ) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError> {
        let _timer = self.metrics.store_timer("metadata");
        self.store.metadata(metric, limit, limit_per_metric).await
    }

    async fn label_values(
        &self,
        label: &str,
        filter: &SeriesFilter,
        reservation: &mut Reservation,
    ) -> Result<Limited<String>, HistoryError> {
        let _timer = self.metrics.store_timer("label_values");
        self.store.label_values(label, filter, reservation).await
    }
}

#[async_trait]
impl Health for Timed {
    async fn ping(&self) -> Result<(), StoreError> {
        let _timer = self.metrics.store_timer("ping");
        self.store.ping().await
    }

    fn metrics(&self) -> StoreMetrics {
        self.store.metrics()
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.store.flush().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

/// Pages of which each is timed.
struct TimedPages {
    pages: Box<dyn LatestPages>,
    metrics: ServerMetrics,
}

#[async_trait]
impl LatestPages for TimedPages {
    async fn next_page(&mut self) -> Result<Vec<super::Series>, StoreError> {
        let _timer = self.metrics.store_timer("latest");
        self.pages.next_page().await
    }
}

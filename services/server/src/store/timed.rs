//! A store whose operations are timed, for `golectra_store_duration_seconds`.

use std::sync::Arc;

use async_trait::async_trait;
use golectra_protocol::{Selector, Value};

use super::{Applied, Batch, Series, SeriesFilter, Snapshot, SourceInfo, Store, StoreError, StoreStats};
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
impl Store for Timed {
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError> {
        let _timer = self.metrics.store_timer("apply");
        self.store.apply(batch).await
    }

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
        self.store.sources().await
    }

    async fn series(&self, filter: &SeriesFilter) -> Result<Vec<Series>, StoreError> {
        let _timer = self.metrics.store_timer("series");
        self.store.series(filter).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let _timer = self.metrics.store_timer("ping");
        self.store.ping().await
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

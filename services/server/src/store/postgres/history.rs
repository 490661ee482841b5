//! Reads history from this store.

use std::collections::BTreeMap;

use async_trait::async_trait;
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Reservation};
use golectra_protocol::remote_write::Metadata;

use super::{PostgresStore, metadata};
use crate::store::StoreError;
use crate::store::history::{History, HistoryError, HistorySeries, Limited, SeriesFilter};

fn missing() -> HistoryError {
    StoreError::Unavailable("history is not built yet".into()).into()
}

#[async_trait]
impl History for PostgresStore {
    async fn select(
        &self,
        _selection: &Selection,
        _max_series: usize,
        _reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        Err(missing())
    }

    async fn series(&self, _filter: &SeriesFilter) -> Result<Limited<Labels>, HistoryError> {
        Err(missing())
    }

    async fn label_names(&self, _filter: &SeriesFilter) -> Result<Limited<String>, HistoryError> {
        Err(missing())
    }

    async fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
        limit_per_metric: usize,
    ) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError> {
        self.reader.read(async |conn| metadata::read(conn, metric, limit, limit_per_metric).await).await
    }

    async fn label_values(&self, _label: &str, _filter: &SeriesFilter) -> Result<Limited<String>, HistoryError> {
        Err(missing())
    }
}

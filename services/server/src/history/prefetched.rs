//! Selected series that were read from a store before a query is evaluated: PromQL's evaluation does not wait.

use golectra_promql::store::{Bucket, Hints, Rollup, Selection, SeriesSet, Store, StoreError, StoredSamples, StoredSeries};

use super::shared::SharedSelection;
use crate::store::history::HistorySeries;

/// What the selections of one query found.
#[derive(Default)]
pub struct Prefetched(Vec<(Selection, Selected)>);

/// What one selection found.
pub enum Selected {
    /// Read for this query.
    Own(Vec<HistorySeries>),
    /// Read for several queries.
    Shared(SharedSelection),
}

impl Prefetched {
    /// Adds what a selection found.
    pub fn add(&mut self, selection: Selection, found: Selected) {
        self.0.push((selection, found));
    }
}

/// Whether two selections need the same samples. What a query does with the values afterwards makes no difference.
fn reads_the_same(one: &Selection, other: &Selection) -> bool {
    let without_aggregation = |selection: &Selection| Hints { aggregation: None, ..selection.hints.clone() };
    one.matchers == other.matchers
        && (one.start_ms, one.end_ms) == (other.start_ms, other.end_ms)
        && without_aggregation(one) == without_aggregation(other)
}

impl Store for Prefetched {
    fn select<'a>(&'a self, selection: &Selection) -> Result<Box<dyn SeriesSet + 'a>, StoreError> {
        let found = self.0.iter().find(|(there, _)| reads_the_same(there, selection));
        match found.map(|(_, found)| found) {
            Some(Selected::Own(series)) => {
                Ok(Box::new(Decoding { series: series.iter(), timestamps_ms: Vec::new(), values: Vec::new(), buckets: Vec::new() }))
            }
            Some(Selected::Shared(series)) => Ok(Box::new(Decoded { series, next: 0 })),
            None => Err(StoreError::Failed("a selection was not read before the evaluation".into())),
        }
    }
}

/// Gives series that are decoded.
struct Decoded<'a> {
    series: &'a SharedSelection,
    next: usize,
}

impl SeriesSet for Decoded<'_> {
    fn next(&mut self) -> Result<Option<StoredSeries<'_>>, StoreError> {
        while let Some(series) = self.series.series(self.next) {
            self.next += 1;
            // As a store's answer has no series without samples.
            if !series.samples.is_empty() {
                return Ok(Some(series));
            }
        }
        Ok(None)
    }
}

/// Decodes one series after the other into the same buffers.
struct Decoding<'a> {
    series: std::slice::Iter<'a, HistorySeries>,
    timestamps_ms: Vec<i64>,
    values: Vec<f64>,
    buckets: Vec<Bucket>,
}

impl SeriesSet for Decoding<'_> {
    fn next(&mut self) -> Result<Option<StoredSeries<'_>>, StoreError> {
        let Some(series) = self.series.next() else { return Ok(None) };
        let failed = |error| StoreError::Failed(Box::new(error));
        let samples = if let Some(rollup) = series.samples.rollup() {
            self.buckets.clear();
            rollup.read(&mut self.buckets).map_err(failed)?;
            StoredSamples::Rollup(Rollup { bucket_ms: rollup.bucket_ms(), buckets: &self.buckets })
        } else {
            self.timestamps_ms.clear();
            self.values.clear();
            series.samples.read(&mut self.timestamps_ms, &mut self.values).map_err(failed)?;
            StoredSamples::Raw { timestamps_ms: &self.timestamps_ms, values: &self.values }
        };
        Ok(Some(StoredSeries { labels: &series.labels, samples }))
    }
}

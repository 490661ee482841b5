//! Selected series that were read from a store before a query is evaluated: PromQL's evaluation does not wait.

use std::sync::Arc;

use golectra_promql::store::{Hints, Selection, SeriesSet, Store, StoreError, StoredSeries};

use super::decode::{Decoding, Helpers};
use super::shared::SharedSelection;
use crate::store::history::HistorySeries;

/// What the selections of one query found.
#[derive(Default)]
pub struct Prefetched(Vec<(Selection, Selected)>);

/// What one selection found.
pub enum Selected {
    /// Read for this query.
    Own {
        /// The series, still coded.
        series: Arc<[HistorySeries]>,
        /// Who may help to decode them.
        helpers: Option<Arc<Helpers>>,
    },
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
            Some(Selected::Own { series, helpers }) => Ok(Box::new(Decoding::begin(series, helpers.as_deref()))),
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

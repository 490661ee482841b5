//! Series in memory, for tests and small sets of data.

use std::collections::BTreeMap;

use super::{Selection, SeriesSet, Store, StoreError, StoredSamples, StoredSeries};
use crate::labels::Labels;
use crate::matcher::{Matcher, all_match};

/// Series held in memory in the order of their labels.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    series: BTreeMap<Labels, (Vec<i64>, Vec<f64>)>,
}

impl MemoryStore {
    /// Adds a sample; one at a time that the series has already takes its place.
    pub fn add(&mut self, labels: &Labels, timestamp_ms: i64, value: f64) {
        let (timestamps, values) = self.series.entry(labels.clone()).or_default();
        match timestamps.binary_search(&timestamp_ms) {
            Ok(index) => values[index] = value,
            Err(index) => {
                timestamps.insert(index, timestamp_ms);
                values.insert(index, value);
            }
        }
    }

    /// Whether there is a series that the matchers select.
    pub fn has(&self, matchers: &[Matcher]) -> bool {
        self.series.keys().any(|labels| all_match(matchers, labels))
    }
}

impl Store for MemoryStore {
    fn select<'a>(&'a self, selection: &Selection) -> Result<Box<dyn SeriesSet + 'a>, StoreError> {
        let (matchers, start_ms, end_ms) = (selection.matchers.clone(), selection.start_ms, selection.end_ms);
        let selected = self.series.iter().filter(move |(labels, _)| all_match(&matchers, labels));
        Ok(Box::new(Selected(Box::new(selected.map(move |(labels, (timestamps, values))| {
            let start = timestamps.partition_point(|timestamp| *timestamp < start_ms);
            let end = timestamps.partition_point(|timestamp| *timestamp <= end_ms).max(start);
            let samples = StoredSamples::Raw { timestamps_ms: &timestamps[start..end], values: &values[start..end] };
            StoredSeries { labels, samples }
        })))))
    }
}

struct Selected<'a>(Box<dyn Iterator<Item = StoredSeries<'a>> + 'a>);

impl SeriesSet for Selected<'_> {
    fn next(&mut self) -> Result<Option<StoredSeries<'_>>, StoreError> {
        Ok(self.0.next())
    }
}

//! Reads: one metric, all metrics over all sources, the sources, the series.
//!
//! What reads many series takes a cheap copy first and works on that, so that writers don't wait for it.

use std::hash::BuildHasher;

use async_trait::async_trait;
use golectra_protocol::{Kind, MetricRef, Selector, Source, Value};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::recent::Seen;
use super::shard::Shards;
use super::table::{self, Stamp};
use super::{LatestFilter, Snapshot, SourceInfo};
use crate::store::newest::PAGE_SERIES;
use crate::store::{LatestPages, Series, StoreError};

/// One metric over all sources.
pub(super) fn value(shards: &Shards, selector: &Selector) -> Option<Value> {
    let hash = table::hash(shards.hasher(), selector.id.as_str().as_bytes());
    let mut all: Option<Seen> = None;
    for mut shard in shards.each() {
        Seen::merge(&mut all, shard.seen(hash, selector));
    }
    all.map(|seen| seen.value)
}

/// All metrics over all sources.
pub(super) fn snapshot(shards: &Shards) -> Snapshot {
    let copies: Vec<_> = shards.each().map(|shard| shard.sources.iter().map(|source| source.table.rows().clone()).collect()).collect();
    let copies: &Vec<Vec<_>> = &copies;
    let hasher = shards.hasher();
    let hash = |(id, _): &(&str, Kind)| hasher.hash_one(id);
    let mut all: HashTable<((&str, Kind), Seen)> = HashTable::new();
    for (metric, stamp) in copies.iter().flatten().flat_map(table::Rows::iter) {
        let series = (metric.id, metric.kind());
        match all.entry(hash(&series), |(other, _)| *other == series, |(other, _)| hash(other)) {
            Entry::Occupied(mut entry) => entry.get_mut().1.add(Seen { value: metric.value, stamp }),
            Entry::Vacant(entry) => drop(entry.insert((series, Seen { value: metric.value, stamp }))),
        }
    }
    let mut snapshot = Snapshot::default();
    for ((id, _), seen) in all {
        match seen.value {
            Value::Gauge(value) => drop(snapshot.gauges.insert(id.to_owned(), value)),
            Value::Counter(sum) => drop(snapshot.counters.insert(id.to_owned(), sum)),
        }
    }
    snapshot
}

/// All sources that have a series, sorted by name.
pub(super) fn sources(shards: &Shards) -> Vec<SourceInfo> {
    let mut all = Vec::new();
    for shard in shards.each() {
        all.extend(shard.sources.iter().filter(|source| source.len() > 0).map(|source| SourceInfo {
            name: source.name.clone(),
            first_seen_millis: source.first_seen_millis,
            last_seen_millis: source.last_seen_millis,
            series: source.len(),
        }));
    }
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Series in their order, a source at a time, so that a small limit costs little.
pub(super) fn series(shards: &Shards, filter: &LatestFilter) -> Vec<Series> {
    let asked: Vec<Source> = match &filter.source {
        Some(source) => vec![source.clone()],
        None => sources(shards).into_iter().map(|info| info.name).collect(),
    };
    let mut listed = Vec::new();
    for source in asked {
        of_source(shards, &source, filter, &mut listed);
    }
    debug_assert!(listed.is_sorted_by(|one, next| one.order() < next.order()));
    listed
}

/// Lists the series of a source.
fn of_source(shards: &Shards, name: &Source, filter: &LatestFilter, listed: &mut Vec<Series>) {
    let held = shards.of(name);
    let Some(place) = held.place() else { return };
    let rows = held.shard.source(place).table.rows().clone();
    drop(held);
    let mut found: Vec<_> = rows.iter().filter(|(metric, _)| filter.matches(name.as_str(), metric.id)).collect();
    let order = |(metric, _): &(MetricRef<'_>, Stamp), (other, _): &(MetricRef<'_>, Stamp)| {
        (metric.id, metric.kind()).cmp(&(other.id, other.kind()))
    };
    found.sort_unstable_by(order);
    let one = |(metric, stamp): (MetricRef<'_>, Stamp)| {
        let (id, value) = (metric.to_id(), metric.value);
        Series { source: name.clone(), id, value, at_millis: stamp.at_millis() }
    };
    listed.extend(found.into_iter().map(one));
}

/// A listing that stands in memory.
pub(super) struct Pages(pub(super) Vec<Series>);

#[async_trait]
impl LatestPages for Pages {
    async fn next_page(&mut self) -> Result<Vec<Series>, StoreError> {
        let many = self.0.len().min(PAGE_SERIES);
        Ok(self.0.drain(..many).collect())
    }
}

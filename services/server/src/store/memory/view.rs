//! Reads: one metric, all metrics over all sources, the sources, the series.
//!
//! What reads many series takes a cheap copy first and works on that, so that writers don't wait for it.

use std::hash::BuildHasher;

use golectra_protocol::{Kind, MetricId, MetricRef, Selector, Source, Value};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::recent::Seen;
use super::shard::Shards;
use super::table::{self, Stamp};
use super::{Series, SeriesFilter, Snapshot, SourceInfo};

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
pub(super) fn series(shards: &Shards, filter: &SeriesFilter) -> Vec<Series> {
    let asked: Vec<Source> = match &filter.source {
        Some(source) => vec![source.clone()],
        None => sources(shards).into_iter().map(|info| info.name).collect(),
    };
    let mut listed = Vec::new();
    for source in asked {
        let room = filter.limit - listed.len();
        if room == 0 {
            break;
        }
        of_source(shards, &source, filter.name.as_deref(), room, &mut listed);
    }
    debug_assert!(listed.is_sorted_by(|one, next| one.order() < next.order()));
    listed
}

/// Lists the first `room` series of a source.
fn of_source(shards: &Shards, name: &Source, asked: Option<&str>, room: usize, listed: &mut Vec<Series>) {
    let held = shards.of(name);
    let Some(place) = held.place() else { return };
    let rows = held.shard.source(place).table.rows().clone();
    drop(held);
    let mut found: Vec<_> = rows.iter().filter(|(metric, _)| asked.is_none_or(|asked| is_called(metric, asked))).collect();
    let order = |(metric, _): &(MetricRef<'_>, Stamp), (other, _): &(MetricRef<'_>, Stamp)| {
        (metric.id, metric.kind()).cmp(&(other.id, other.kind()))
    };
    if found.len() > room {
        // What is beyond the limit need not be sorted.
        found.select_nth_unstable_by(room, order);
        found.truncate(room);
    }
    found.sort_unstable_by(order);
    let one = |(metric, stamp): (MetricRef<'_>, Stamp)| {
        let (id, value) = (metric.to_id(), metric.value);
        Series { source: name.clone(), id, value, at_millis: stamp.at_millis() }
    };
    listed.extend(found.into_iter().map(one));
}

/// Whether this is the metric's id or its name without its labels.
fn is_called(metric: &MetricRef<'_>, asked: &str) -> bool {
    let Some(rest) = metric.id.strip_prefix(asked) else { return false };
    rest.is_empty() || (rest.starts_with('{') && MetricId::name(&metric.to_id()) == asked)
}

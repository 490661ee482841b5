//! Reads over all sources: one metric, all metrics, the sources.
//!
//! What reads many series works on a copy, which is cheap to take, so that writers don't wait for it.

use std::hash::BuildHasher;

use golectra_protocol::{Kind, Selector, Value};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::retired::RetiredSums;
use super::shard::retired_value;
use super::shards::Shards;
use super::table::{self, Rows};
use super::value_cache::MergedValue;
use super::{Snapshot, SourceInfo};
use crate::history::labels::RULES_SOURCE;

/// One metric over all sources.
pub(super) fn value(shards: &Shards, selector: &Selector) -> Option<Value> {
    let hash = table::hash(shards.hasher(), selector.id.as_str().as_bytes());
    let mut all: Option<MergedValue> = None;
    for mut shard in shards.each() {
        MergedValue::merge(&mut all, shard.merged(hash, selector));
    }
    all.and_then(MergedValue::shown)
}

/// All metrics over all sources but for [`RULES_SOURCE`], whose series nobody sent.
pub(super) fn snapshot(shards: &Shards) -> Snapshot {
    let copies: Vec<(Vec<Rows>, RetiredSums)> = shards
        .each()
        .map(|shard| {
            let sent = shard.sources().filter(|(_, source)| source.name.as_str() != RULES_SOURCE);
            (sent.map(|(_, source)| source.table.rows().clone()).collect(), shard.retired.clone())
        })
        .collect();
    let hasher = shards.hasher();
    let hash = |(id, _): &(&str, Kind)| hasher.hash_one(id);
    let mut all: HashTable<((&str, Kind), MergedValue)> = HashTable::new();
    let live = copies
        .iter()
        .flat_map(|(rows, _)| rows)
        .flat_map(|rows| rows.iter().map(|row| ((rows.id(row), row.kind()), MergedValue { value: row.value(), version: row.version() })));
    let retired = copies.iter().flat_map(|(_, retired)| retired.iter()).map(|(id, sum)| ((id, Kind::Counter), retired_value(sum)));
    for (series, value) in live.chain(retired) {
        match all.entry(hash(&series), |(other, _)| *other == series, |(other, _)| hash(other)) {
            Entry::Occupied(mut entry) => entry.get_mut().1.add(value),
            Entry::Vacant(entry) => drop(entry.insert((series, value))),
        }
    }
    let mut snapshot = Snapshot::default();
    for ((id, _), value) in all {
        match value.shown() {
            Some(Value::Gauge(value)) => drop(snapshot.gauges.insert(id.to_owned(), value)),
            Some(Value::Counter(sum)) => drop(snapshot.counters.insert(id.to_owned(), sum)),
            None => {}
        }
    }
    snapshot
}

/// All sources that have a live series, sorted by name.
pub(super) fn sources(shards: &Shards) -> Vec<SourceInfo> {
    let mut all = Vec::new();
    for shard in shards.each() {
        all.extend(shard.sources().filter(|(_, source)| source.is_live()).map(|(_, source)| SourceInfo {
            name: source.name.clone(),
            first_seen_millis: source.first_seen_millis,
            last_seen_millis: source.last_seen_millis,
            series: source.len(),
        }));
    }
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    all
}

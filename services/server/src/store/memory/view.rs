//! Reads: one metric, all metrics over all sources, the sources, the series.

use std::collections::HashMap;

use golectra_protocol::{Kind, MetricId, Selector, Source, Value};

use super::shard::Shards;
use super::{Series, SeriesFilter, Snapshot, SourceInfo};

/// One metric over all sources.
pub(super) fn value(shards: &Shards, selector: &Selector) -> Option<Value> {
    match selector.kind {
        Kind::Gauge => {
            let mut newest = None;
            for shard in shards.each() {
                let of_shard = shard.sources.iter().filter_map(|source| source.gauges.get(&selector.id));
                newest = of_shard.copied().chain(newest).max_by_key(|gauge| (gauge.at_millis, gauge.arrival));
            }
            newest.map(|gauge| Value::Gauge(gauge.value))
        }
        Kind::Counter => {
            let mut sum: Option<i64> = None;
            for shard in shards.each() {
                for counter in shard.sources.iter().filter_map(|source| source.counters.get(&selector.id)) {
                    sum = Some(sum.unwrap_or(0).saturating_add(counter.total));
                }
            }
            sum.map(Value::Counter)
        }
    }
}

/// All metrics over all sources.
pub(super) fn snapshot(shards: &Shards) -> Snapshot {
    let mut gauges: HashMap<MetricId, super::series::Gauge> = HashMap::new();
    let mut counters: HashMap<MetricId, i64> = HashMap::new();
    for shard in shards.each() {
        for source in &shard.sources {
            for (id, gauge) in &source.gauges {
                match gauges.get_mut(id) {
                    None => drop(gauges.insert(id.clone(), *gauge)),
                    Some(newest) if (newest.at_millis, newest.arrival) < (gauge.at_millis, gauge.arrival) => *newest = *gauge,
                    Some(_) => {}
                }
            }
            for (id, counter) in &source.counters {
                match counters.get_mut(id) {
                    None => drop(counters.insert(id.clone(), counter.total)),
                    Some(sum) => *sum = sum.saturating_add(counter.total),
                }
            }
        }
    }
    Snapshot {
        gauges: gauges.into_iter().map(|(id, gauge)| (id.as_str().to_owned(), gauge.value)).collect(),
        counters: counters.into_iter().map(|(id, sum)| (id.as_str().to_owned(), sum)).collect(),
    }
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
        if listed.len() >= filter.limit {
            break;
        }
        let start = listed.len();
        of_source(shards, &source, filter.name.as_deref(), &mut listed);
        listed[start..].sort_unstable_by(|a, b| a.order().cmp(&b.order()));
    }
    listed.truncate(filter.limit);
    listed
}

fn of_source(shards: &Shards, name: &Source, id: Option<&str>, listed: &mut Vec<Series>) {
    let shard = shards.of(name);
    let Some(source) = shard.place(name).map(|place| shard.source(place)) else { return };
    let asked = |own: &&MetricId| id.is_none_or(|id| own.as_str() == id || own.name() == id);
    let one = |id: &MetricId, value, at_millis| Series { source: name.clone(), id: id.clone(), value, at_millis };
    let gauges = source.gauges.iter().filter(|(own, _)| asked(own));
    listed.extend(gauges.map(|(id, gauge)| one(id, Value::Gauge(gauge.value), gauge.at_millis)));
    let counters = source.counters.iter().filter(|(own, _)| asked(own));
    listed.extend(counters.map(|(id, counter)| one(id, Value::Counter(counter.total), counter.at_millis)));
}

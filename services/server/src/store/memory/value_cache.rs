//! The value of a metric over a shard's sources, kept for the metrics that were asked for lately.
//!
//! POST /update answers a metric as it stands over all sources, and a look at every source costs more the more there are. What
//! is kept stays exact: a write of a single metric is merged into it, and anything else that may change it clears the cache,
//! since agents' batches should not pay for values that nobody asks for.

use golectra_protocol::{Kind, Metrics, Selector, Value};
use hashbrown::HashTable;

use super::plan::BatchTimes;
use super::table::{IdHasher, Version, hash};

/// How many metrics a shard keeps before its cache is cleared.
const MAX_ENTRIES: usize = 256;

/// A metric over some sources.
#[derive(Debug, Clone, Copy)]
pub(super) struct MergedValue {
    pub(super) value: Value,
    pub(super) version: Version,
}

impl MergedValue {
    /// Merges the same metric of another source: the newest gauge counts, counters add up.
    pub(super) fn add(&mut self, other: Self) {
        match (&mut self.value, other.value) {
            (Value::Counter(sum), Value::Counter(total)) => *sum = sum.saturating_add(total),
            _ if other.version >= self.version => *self = other,
            _ => {}
        }
    }

    /// Merges what may be absent.
    pub(super) fn merge(all: &mut Option<Self>, other: Option<Self>) {
        match (all, other) {
            (Some(all), Some(other)) => all.add(other),
            (all, Some(other)) => *all = Some(other),
            (_, None) => {}
        }
    }

    /// The value as part 1 of the protocol shows it: a gauge that is no number is absent.
    pub(super) fn shown(self) -> Option<Value> {
        Some(self.value).filter(|value| !matches!(value, Value::Gauge(value) if !value.is_finite()))
    }
}

/// The metrics of one shard that were asked for lately.
#[derive(Debug, Default)]
pub(super) struct ValueCache(HashTable<CachedValue>);

#[derive(Debug)]
struct CachedValue {
    metric: Selector,
    hash: u64,
    /// None: no source of the shard has it.
    merged: Option<MergedValue>,
}

impl ValueCache {
    /// The metric over the shard's sources, as kept or as `look` finds it. The hash is its id's.
    pub(super) fn get(&mut self, hash: u64, metric: &Selector, look: impl FnOnce() -> Option<MergedValue>) -> Option<MergedValue> {
        if let Some(cached) = self.0.find(hash, |cached| cached.metric == *metric) {
            return cached.merged;
        }
        if self.0.len() >= MAX_ENTRIES {
            self.0.clear();
        }
        let merged = look();
        self.0.insert_unique(hash, CachedValue { metric: metric.clone(), hash, merged }, |cached| cached.hash);
        merged
    }

    /// A source of the shard was written to; all values have these times.
    pub(super) fn written(&mut self, hasher: &IdHasher, metrics: &Metrics, times: BatchTimes) {
        if self.0.is_empty() {
            return;
        }
        if metrics.len() > 1 || metrics.has_times() {
            return self.0.clear();
        }
        for metric in metrics {
            let is = |cached: &CachedValue| cached.metric.kind == metric.kind() && cached.metric.id.as_str() == metric.id;
            let Ok(mut cached) = self.0.find_entry(hash(hasher, metric.id.as_bytes()), is) else { continue };
            // From before the clock went back: it may be that of the series that was written to now.
            let is_ahead = |merged: MergedValue| metric.kind() == Kind::Gauge && merged.version.at_millis() > times.latest_millis();
            if cached.get().merged.is_some_and(is_ahead) {
                cached.remove();
            } else {
                MergedValue::merge(&mut cached.get_mut().merged, Some(MergedValue { value: metric.value, version: times.of_batch() }));
            }
        }
    }

    /// Series left the shard.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

//! What a shard's sources make of a metric together, kept for the metrics that are asked for.
//!
//! POST /update answers a metric as it stands over all sources, and looking at every source for it costs more the more there
//! are. What was found stays exact: a write of a single metric is taken in, and a larger one makes the shard forget, since
//! agents' batches should not pay for what they never ask.

use golectra_protocol::{Metrics, Selector, Value};
use hashbrown::HashTable;

use super::table::{IdHasher, Stamp, hash};

/// How many metrics a shard keeps before it begins anew.
const MOST_KEPT: usize = 256;

/// A metric over the sources looked at so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) value: Value,
    pub(super) stamp: Stamp,
}

impl Seen {
    /// Takes in the same metric of another source: the newest gauge counts, counters add up.
    pub(super) fn add(&mut self, other: Self) {
        match (&mut self.value, other.value) {
            (Value::Counter(sum), Value::Counter(total)) => *sum = sum.saturating_add(total),
            _ if other.stamp >= self.stamp => *self = other,
            _ => {}
        }
    }

    /// Takes in what may be nothing.
    pub(super) fn merge(all: &mut Option<Self>, other: Option<Self>) {
        match (all, other) {
            (Some(all), Some(other)) => all.add(other),
            (all, Some(other)) => *all = Some(other),
            (_, None) => {}
        }
    }
}

/// The metrics of one shard that were asked for lately.
#[derive(Debug, Default)]
pub(super) struct Recent(HashTable<Kept>);

#[derive(Debug)]
struct Kept {
    metric: Selector,
    hash: u64,
    /// None: no source of the shard has it.
    seen: Option<Seen>,
}

impl Recent {
    /// The metric over the shard's sources, as kept or as `look` finds it. The hash is its id's.
    pub(super) fn get(&mut self, hash: u64, metric: &Selector, look: impl FnOnce() -> Option<Seen>) -> Option<Seen> {
        if let Some(kept) = self.0.find(hash, |kept| kept.metric == *metric) {
            return kept.seen;
        }
        if self.0.len() >= MOST_KEPT {
            self.0.clear();
        }
        let seen = look();
        self.0.insert_unique(hash, Kept { metric: metric.clone(), hash, seen }, |kept| kept.hash);
        seen
    }

    /// Some source of the shard was written to.
    pub(super) fn written(&mut self, hasher: &IdHasher, metrics: &Metrics, stamp: Stamp) {
        if self.0.is_empty() {
            return;
        }
        if metrics.len() > 1 {
            return self.0.clear();
        }
        for metric in metrics {
            let is = |kept: &Kept| kept.metric.kind == metric.kind() && kept.metric.id.as_str() == metric.id;
            if let Some(kept) = self.0.find_mut(hash(hasher, metric.id.as_bytes()), is) {
                Seen::merge(&mut kept.seen, Some(Seen { value: metric.value, stamp }));
            }
        }
    }
}

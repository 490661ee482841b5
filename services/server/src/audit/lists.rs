//! Lists of ids. Agents send the same ones each time: a list is sorted, written as JSON and hashed once, then found again by
//! what it looks like.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use golectra_protocol::{Metrics, audit};
use sha2::{Digest, Sha256};

/// What the cache holds at most, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A list larger than this is made anew each time: remembered, it would push out many others.
const LARGEST: usize = MAX_BYTES / 8;

/// About what a list costs beside its text.
const ENTRY_BYTES: usize = 128;

/// The ids of a write, sorted, each once.
#[derive(PartialEq, Eq)]
pub struct IdList {
    json: Box<str>,
    digest: [u8; 32],
}

impl IdList {
    /// The ids of these metrics.
    pub fn of(metrics: &Metrics) -> Self {
        let json = audit::ids_json(metrics).into_boxed_str();
        Self { digest: Sha256::digest(json.as_bytes()).into(), json }
    }

    /// As it stands in the event: `["a","b"]`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// SHA-256 of its JSON, by which the database knows it.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl fmt::Debug for IdList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.json)
    }
}

/// Lists that were made lately.
#[derive(Default)]
pub struct Lists {
    seeds: (RandomState, RandomState),
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    lists: HashMap<Shape, Arc<IdList>>,
    bytes: usize,
}

/// What tells lists apart in this process: 128 bits over the ids as they were sent, under seeds that are this process's own.
type Shape = (u64, u64);

impl Lists {
    /// The ids of these metrics. Costs a pass of hashing where they were seen before.
    pub fn of(&self, metrics: &Metrics) -> Arc<IdList> {
        let shape = self.shape(metrics);
        if let Some(list) = self.known().lists.get(&shape) {
            return Arc::clone(list);
        }
        // Two writes may make the same list at once; then both use the one that comes first.
        let list = Arc::new(IdList::of(metrics));
        let bytes = list.json.len() + ENTRY_BYTES;
        if bytes > LARGEST {
            return list;
        }
        // Declared first, so that it is freed when the lock is no longer held.
        let mut forgotten = Known::default();
        let mut guard = self.known();
        let known = &mut *guard;
        if known.bytes + bytes > MAX_BYTES {
            // Rare, and those in use are soon back.
            std::mem::swap(known, &mut forgotten);
        }
        match known.lists.entry(shape) {
            Entry::Occupied(first) => Arc::clone(first.get()),
            Entry::Vacant(free) => {
                known.bytes += bytes;
                Arc::clone(free.insert(list))
            }
        }
    }

    fn shape(&self, metrics: &Metrics) -> Shape {
        let (mut one, mut other) = (self.seeds.0.build_hasher(), self.seeds.1.build_hasher());
        for metric in metrics {
            let id = metric.id.as_bytes();
            // An id's end is told by its length.
            one.write_usize(id.len());
            one.write(id);
            other.write_usize(id.len());
            other.write(id);
        }
        (one.finish(), other.finish())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics between two changes that belong together.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{Metric, MetricId, Value};

    use super::*;

    fn metrics<T: AsRef<str>>(ids: &[T]) -> Metrics {
        ids.iter().map(|id| Metric { id: MetricId::parse(id.as_ref()).unwrap(), value: Value::Counter(1) }).collect()
    }

    #[test]
    fn the_same_ids_are_one_list() {
        let lists = Lists::default();
        let first = lists.of(&metrics(&["b", "a", "b"]));
        assert_eq!((first.json(), first.digest()), (r#"["a","b"]"#, &Sha256::digest(r#"["a","b"]"#).into()));
        let gauges: Metrics =
            ["b", "a", "b"].map(|id| Metric { id: MetricId::parse(id).unwrap(), value: Value::Gauge(2.0) }).into_iter().collect();
        assert!(Arc::ptr_eq(&first, &lists.of(&gauges)), "whatever their kinds and values");
        let ordered = lists.of(&metrics(&["a", "b"]));
        assert!(!Arc::ptr_eq(&first, &ordered) && first == ordered, "another order is another look at an equal list");
        for other in [&["ab"][..], &["a"], &["a", "b", "c"], &["ba", "b"]] {
            assert_ne!(lists.of(&metrics(other)), first, "{other:?}");
        }
    }

    #[test]
    fn the_cache_is_bounded() {
        let lists = Lists::default();
        let padded = |n: usize, ids: usize| metrics(&(0..ids).map(|id| format!("{n}-{id}-{}", "x".repeat(200))).collect::<Vec<_>>());
        let kept = lists.of(&padded(0, 500));
        for n in 1..500 {
            lists.of(&padded(n, 500));
            assert!(lists.known().bytes <= MAX_BYTES);
        }
        assert!(!Arc::ptr_eq(&kept, &lists.of(&padded(0, 500))), "it was forgotten meanwhile");
        let counted: usize = lists.known().lists.values().map(|list| list.json.len() + ENTRY_BYTES).sum();
        assert_eq!(lists.known().bytes, counted);
        let (large, before) = (padded(0, 20_000), lists.known().bytes);
        assert_eq!(lists.of(&large), lists.of(&large));
        assert_eq!(lists.known().bytes, before, "a list that large is not remembered");
    }
}

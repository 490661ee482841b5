//! Lists of metric names. Clients write the same metrics repeatedly, and pods write the same names with different labels: so a
//! list is sorted, encoded as JSON and hashed once, and shared by all events that have it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use golectra_protocol::{Metrics, audit};
use sha2::{Digest, Sha256};

/// The size limit of the cache, in bytes.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// A larger list is not cached, because it would evict many others.
const LARGEST_CACHED_BYTES: usize = CACHE_BYTES / 8;

/// The approximate overhead of a list, in bytes.
const LIST_BYTES: usize = 192;

/// The approximate cost of caching another batch with the names of a cached list, in bytes.
const IDS_HASH_BYTES: usize = 48;

/// The metric names of a write, without labels, sorted and without duplicates.
#[derive(PartialEq, Eq)]
pub struct NameList(Box<[NameListPart]>);

/// The names of one event: all names of the write, unless they are too long for one event.
#[derive(PartialEq, Eq)]
pub struct NameListPart {
    /// The names as JSON, as in the event: `["a","b"]`.
    pub json: Arc<str>,
    /// SHA-256 of the JSON, the list's key in the database.
    pub digest: [u8; 32],
}

impl NameList {
    /// The names of these metrics.
    pub fn of(metrics: &Metrics) -> Self {
        Self(audit::name_lists(metrics).into_iter().map(NameListPart::new).collect())
    }

    /// The list without names.
    pub fn empty() -> Self {
        Self(Box::new([NameListPart::new("[]".to_owned())]))
    }

    /// One part for each event. Never empty.
    pub fn parts(&self) -> &[NameListPart] {
        &self.0
    }

    /// The length of the JSON in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|part| part.json.len()).sum()
    }
}

impl NameListPart {
    fn new(json: String) -> Self {
        Self { digest: Sha256::digest(json.as_bytes()).into(), json: json.into() }
    }
}

impl fmt::Debug for NameList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|part| &part.json)).finish()
    }
}

/// A cache of the lists of recent writes.
#[derive(Default)]
pub struct NameListCache {
    seeds: (RandomState, RandomState),
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// The list of each batch of ids that was seen, so that its names need not be extracted again.
    by_ids: HashMap<IdsHash, Arc<NameList>>,
    /// Each list once, by the digest of its first part.
    by_digest: HashMap<[u8; 32], Arc<NameList>>,
    bytes: usize,
}

/// Identifies a sequence of ids in this process: 128 bits of hash, with random seeds.
type IdsHash = (u64, u64);

impl NameListCache {
    /// The names of these metrics, and whether another recent write had the same names. Costs one pass of hashing if these ids
    /// were seen before.
    pub fn get(&self, metrics: &Metrics) -> (Arc<NameList>, bool) {
        let ids_hash = self.ids_hash(metrics);
        if let Some(list) = self.entries().by_ids.get(&ids_hash) {
            return (Arc::clone(list), true);
        }
        // Made without holding the lock. Two writes may make the same list at the same time; both then use the one that was
        // cached first.
        let list = Arc::new(NameList::of(metrics));
        let bytes = list.bytes() + LIST_BYTES;
        if bytes > LARGEST_CACHED_BYTES {
            return (list, false);
        }
        // Declared before the lock, so that it is freed after the lock is released.
        let mut evicted = Entries::default();
        let mut guard = self.entries();
        let entries = &mut *guard;
        if entries.bytes + bytes + IDS_HASH_BYTES > CACHE_BYTES {
            // The whole cache is evicted. That is rare, and lists in use are cached again soon.
            std::mem::swap(entries, &mut evicted);
        }
        let (list, repeated) = match entries.by_digest.entry(list.parts()[0].digest) {
            Entry::Occupied(first) => (Arc::clone(first.get()), true),
            Entry::Vacant(free) => {
                entries.bytes += bytes;
                (Arc::clone(free.insert(list)), false)
            }
        };
        if entries.by_ids.insert(ids_hash, Arc::clone(&list)).is_none() {
            entries.bytes += IDS_HASH_BYTES;
        }
        (list, repeated)
    }

    fn ids_hash(&self, metrics: &Metrics) -> IdsHash {
        let (mut one, mut other) = (self.seeds.0.build_hasher(), self.seeds.1.build_hasher());
        for metric in metrics {
            let id = metric.id.as_bytes();
            // The length is hashed too, so that ["ab", "c"] and ["a", "bc"] differ.
            one.write_usize(id.len());
            one.write(id);
            other.write_usize(id.len());
            other.write(id);
        }
        (one.finish(), other.finish())
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // No code between related changes can panic, so the data behind a poisoned lock is consistent.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn the_same_names_are_one_list() {
        let cache = NameListCache::default();
        let (first, repeated) = cache.get(&metrics(&["b", "a", "b"]));
        assert!(!repeated);
        let part = &first.parts()[0];
        assert_eq!((&*part.json, part.digest), (r#"["a","b"]"#, Sha256::digest(r#"["a","b"]"#).into()));
        let gauges: Metrics =
            ["b", "a", "b"].map(|id| Metric { id: MetricId::parse(id).unwrap(), value: Value::Gauge(2.0) }).into_iter().collect();
        for same in [gauges, metrics(&["a", "b"]), metrics(&["a{pod=\"1\"}", "a{pod=\"2\"}", "b"])] {
            for _ in 0..2 {
                let (list, repeated) = cache.get(&same);
                assert!(repeated && Arc::ptr_eq(&first, &list), "{same:?}");
            }
        }
        for other in [&["ab"][..], &["a"], &["a", "b", "c"], &["ba", "b"]] {
            let (list, repeated) = cache.get(&metrics(other));
            assert!(!repeated && list != first, "{other:?}");
        }
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = NameListCache::default();
        let padded =
            |n: usize, names: usize| metrics(&(0..names).map(|name| format!("{n}-{name}-{}", "x".repeat(200))).collect::<Vec<_>>());
        let (kept, _) = cache.get(&padded(0, 500));
        for n in 1..500 {
            cache.get(&padded(n, 500));
            assert!(cache.entries().bytes <= CACHE_BYTES);
        }
        let (again, repeated) = cache.get(&padded(0, 500));
        assert!(!repeated && !Arc::ptr_eq(&kept, &again), "it was evicted in between");
        let entries = cache.entries();
        let lists: usize = entries.by_digest.values().map(|list| list.bytes() + LIST_BYTES).sum();
        assert_eq!(entries.bytes, lists + entries.by_ids.len() * IDS_HASH_BYTES);
        let before = entries.bytes;
        drop(entries);
        let large = padded(0, 20_000);
        assert_eq!(cache.get(&large).0, cache.get(&large).0);
        assert!(!cache.get(&large).1);
        assert_eq!(cache.entries().bytes, before, "a list that large is not cached");
    }

    #[test]
    fn ten_thousand_pods_with_the_same_names_cost_one_list() {
        let cache = NameListCache::default();
        for pod in 0..10_000 {
            let ids: Vec<String> = (0..12).map(|name| format!("some_metric_name_{name}{{pod=\"pod-{pod}\"}}")).collect();
            cache.get(&metrics(&ids));
        }
        let entries = cache.entries();
        assert_eq!((entries.by_digest.len(), entries.by_ids.len()), (1, 10_000));
        assert!(entries.bytes < 1_000_000, "{}", entries.bytes);
    }
}

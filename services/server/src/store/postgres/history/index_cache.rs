//! Which series matchers select, as searches of the index found it, within INDEX_CACHE_BYTES.
//!
//! A search that is remembered answers as a new one would: it belongs to a version of the index, which the query's own snapshot tells. Whoever makes a
//! series, takes it out of the newest state or brings it back changes the one row that counts all of them, so that row's version is that of the index.
//! Rows of series never change, and their numbers are not given out again. A series that was removed with the last of its history has no samples.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use golectra_promql::Matcher;

use super::search::FoundSeries;

/// What an entry takes beside its text and its series.
const ENTRY_BYTES: usize = 200;

/// What was found. Cheap to clone.
pub(super) type Found = Arc<[FoundSeries]>;

/// What the cache did and holds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct IndexCacheMetrics(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes: AtomicUsize,
}

impl IndexCacheMetrics {
    /// Searches that were answered from it.
    pub fn hits(&self) -> u64 {
        self.0.hits.load(Ordering::Relaxed)
    }

    /// Searches that went to the database.
    pub fn misses(&self) -> u64 {
        self.0.misses.load(Ordering::Relaxed)
    }

    /// What it holds.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

/// The cache.
pub(super) struct IndexCache {
    max_bytes: usize,
    held: Mutex<Held>,
    metrics: IndexCacheMetrics,
}

#[derive(Default)]
struct Held {
    /// The version of all entries.
    version: String,
    entries: HashMap<String, Entry>,
    bytes: usize,
    /// How many times an entry was used.
    uses: u64,
}

struct Entry {
    found: Found,
    /// Series that expired before this were not looked for.
    start_ms: i64,
    bytes: usize,
    /// When it was used last.
    used: u64,
}

/// What an entry is found by.
fn key(matchers: &[Matcher]) -> String {
    // A name in quotes has no comma of its own outside of them.
    matchers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl IndexCache {
    pub(super) fn new(max_bytes: usize, metrics: IndexCacheMetrics) -> Self {
        Self { max_bytes, held: Mutex::default(), metrics }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series that a search finds in this version of the index, those that expired before this time left out or not.
    pub(super) fn get(&self, matchers: &[Matcher], version: &str, start_ms: i64) -> Option<Found> {
        let key = key(matchers);
        let mut held = self.lock();
        held.uses += 1;
        let uses = held.uses;
        let is_same = held.version == version;
        let entry = held.entries.get_mut(&key).filter(|entry| is_same && entry.start_ms <= start_ms);
        let counter = if entry.is_some() { &self.metrics.0.hits } else { &self.metrics.0.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        entry.map(|entry| {
            entry.used = uses;
            Arc::clone(&entry.found)
        })
    }

    /// How much of a search can be remembered.
    pub(super) fn max_entry_bytes(&self) -> usize {
        self.max_bytes / 2
    }

    /// Remembers what a search found that left out series which expired before this time. What was used least recently makes room.
    pub(super) fn put(&self, matchers: &[Matcher], version: &str, start_ms: i64, found: &Found) {
        let key = key(matchers);
        let bytes = ENTRY_BYTES + key.len() + found.iter().map(FoundSeries::memory_bytes).sum::<usize>();
        if bytes > self.max_entry_bytes() {
            return;
        }
        let mut held = self.lock();
        if held.version != version {
            // Of two queries that run beside each other either may be the one that sees more; the others search anew.
            *held = Held { version: version.to_owned(), uses: held.uses, ..Held::default() };
        }
        if let Some(old) = held.entries.remove(&key) {
            held.bytes -= old.bytes;
        }
        while held.bytes + bytes > self.max_bytes {
            let oldest = held.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(gone) = oldest.and_then(|key| held.entries.remove(&key)) else { break };
            held.bytes -= gone.bytes;
        }
        held.uses += 1;
        let entry = Entry { found: Arc::clone(found), start_ms, bytes, used: held.uses };
        held.bytes += bytes;
        held.entries.insert(key, entry);
        self.metrics.0.bytes.store(held.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use golectra_promql::{Labels, MatchOp};

    use super::*;

    fn found(ids: std::ops::Range<i32>) -> Found {
        let one = |id| FoundSeries {
            id,
            source_id: 1,
            is_counter: false,
            beside_gauge: false,
            expired_ms: None,
            labels: Labels::new([("__name__", format!("metric_{id}"))]),
        };
        ids.map(one).collect()
    }

    fn named(name: &str) -> [Matcher; 1] {
        [Matcher::equal("__name__", name)]
    }

    #[test]
    fn an_entry_answers_for_its_version_and_its_time() {
        let metrics = IndexCacheMetrics::default();
        let cache = IndexCache::new(1 << 20, metrics.clone());
        assert!(cache.get(&named("a"), "1", 100).is_none());
        cache.put(&named("a"), "1", 100, &found(0..2));
        for (matchers, version, start_ms, hit) in [
            (named("a"), "1", 100, true),
            (named("a"), "1", 500, true),
            (named("a"), "1", 99, false),
            (named("b"), "1", 100, false),
            (named("a"), "2", 100, false),
        ] {
            assert_eq!(cache.get(&matchers, version, start_ms).is_some(), hit, "{matchers:?} {version} {start_ms}");
        }
        assert_eq!((metrics.hits(), metrics.misses()), (2, 4));
        // Another version ends the entries of the one before.
        cache.put(&named("b"), "2", 0, &found(0..1));
        assert!(cache.get(&named("a"), "1", 100).is_none() && cache.get(&named("b"), "2", 0).is_some());
    }

    #[test]
    fn matchers_that_differ_have_entries_of_their_own() {
        let matcher = |op, name, value| Matcher::new(op, name, value).unwrap();
        let lists = [
            vec![matcher(MatchOp::Equal, "a", "b")],
            vec![matcher(MatchOp::NotEqual, "a", "b")],
            vec![matcher(MatchOp::Match, "a", "b")],
            vec![matcher(MatchOp::Equal, "a", "b\",c=\"d")],
            vec![matcher(MatchOp::Equal, "a", "b"), matcher(MatchOp::Equal, "c", "d")],
            vec![matcher(MatchOp::Equal, "a=\"b\",c", "d")],
            vec![],
        ];
        let keys: std::collections::BTreeSet<String> = lists.iter().map(|list| key(list)).collect();
        assert_eq!(keys.len(), lists.len(), "{keys:?}");
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let metrics = IndexCacheMetrics::default();
        let cache = IndexCache::new(40_000, metrics.clone());
        for number in 0..100 {
            cache.put(&named(&format!("m{number}")), "1", 0, &found(0..10));
            assert!(metrics.bytes() <= 40_000);
            assert!(cache.get(&named("m0"), "1", 0).is_some(), "it is used all the time");
        }
        assert!(cache.get(&named("m99"), "1", 0).is_some() && cache.get(&named("m1"), "1", 0).is_none());
        let before = metrics.bytes();
        cache.put(&named("large"), "1", 0, &found(0..1_000));
        assert!(cache.get(&named("large"), "1", 0).is_none() && metrics.bytes() == before);
    }
}

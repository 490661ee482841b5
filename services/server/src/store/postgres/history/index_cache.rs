//! Which series matchers select, as searches of the index found it, within INDEX_CACHE_BYTES.
//!
//! A search that is remembered answers as a new one would: it belongs to a version of the index, which the query's own snapshot tells. Whoever makes a
//! series, takes it out of the newest state or brings it back changes the one row that counts all of them, so that row's version is that of the index.
//! Rows of series never change, and their numbers are not given out again. A series that was removed with the last of its history has no samples.
//!
//! Half of the bytes may be what lists know of reported series ([`super::reported`]), whatever the version.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use golectra_promql::Matcher;
use tokio::time::Instant;

use super::reported::{Key, Reported};
use super::search::FoundSeries;

/// What an entry takes beside its text and its series.
const ENTRY_BYTES: usize = 200;

/// What was found. Cheap to clone.
pub(super) type Found = Arc<[FoundSeries]>;

/// What is known of reported series. Whoever reads it holds the lock meanwhile; the others wait and find it there.
pub(super) type Shared = Arc<tokio::sync::Mutex<Option<Reported>>>;

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
    /// Searches and lists that were answered from it.
    pub fn hits(&self) -> u64 {
        self.0.hits.load(Ordering::Relaxed)
    }

    /// Searches and lists that went to the database.
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
    /// What the entries take.
    bytes: usize,
    /// Few: one for each minute that lists begin in.
    reported: HashMap<Key, ReportedEntry>,
    /// How many times an entry of either kind was used.
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

struct ReportedEntry {
    shared: Shared,
    /// 0 until it is there.
    bytes: usize,
    /// When it is too old, once it is there.
    kept_until: Option<Instant>,
    /// When it was used last.
    used: u64,
}

impl Held {
    fn reported_bytes(&self) -> usize {
        self.reported.values().map(|entry| entry.bytes).sum()
    }

    /// Ends what is too old or was not read to its end, unless somebody reads it or waits for it.
    fn end_old(&mut self, now: Instant) {
        self.reported.retain(|_, entry| Arc::strong_count(&entry.shared) > 1 || entry.kept_until.is_some_and(|until| now < until));
    }

    /// Searches that were used least recently make room.
    fn make_room(&mut self, bytes: usize, max_bytes: usize) {
        let reported_bytes = self.reported_bytes();
        while self.bytes + reported_bytes + bytes > max_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(gone) = oldest.and_then(|key| self.entries.remove(&key)) else { break };
            self.bytes -= gone.bytes;
        }
    }
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

    /// Counts what was asked for.
    pub(super) fn count(&self, is_hit: bool) {
        let counter = if is_hit { &self.metrics.0.hits } else { &self.metrics.0.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count_bytes(&self, held: &Held) {
        self.metrics.0.bytes.store(held.bytes + held.reported_bytes(), Ordering::Relaxed);
    }

    /// The series that a search finds in this version of the index, those that expired before this time left out or not.
    pub(super) fn get(&self, matchers: &[Matcher], version: &str, start_ms: i64) -> Option<Found> {
        let key = key(matchers);
        let mut held = self.lock();
        held.uses += 1;
        let uses = held.uses;
        let is_same = held.version == version;
        let entry = held.entries.get_mut(&key).filter(|entry| is_same && entry.start_ms <= start_ms);
        self.count(entry.is_some());
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
            version.clone_into(&mut held.version);
            held.entries = HashMap::new();
            held.bytes = 0;
        }
        if let Some(old) = held.entries.remove(&key) {
            held.bytes -= old.bytes;
        }
        held.end_old(Instant::now());
        held.make_room(bytes, self.max_bytes);
        held.uses += 1;
        let entry = Entry { found: Arc::clone(found), start_ms, bytes, used: held.uses };
        held.bytes += bytes;
        held.entries.insert(key, entry);
        self.count_bytes(&held);
    }

    /// What is known of reported series, or where whoever finds out puts it.
    pub(super) fn reported(&self, key: Key, now: Instant) -> Shared {
        let mut held = self.lock();
        held.end_old(now);
        held.uses += 1;
        let used = held.uses;
        let empty = || ReportedEntry { shared: Shared::default(), bytes: 0, kept_until: None, used };
        let entry = held.reported.entry(key).or_insert_with(empty);
        entry.used = used;
        let shared = Arc::clone(&entry.shared);
        self.count_bytes(&held);
        shared
    }

    /// Keeps what was found, for those who ask later. Those who wait for it have it either way.
    pub(super) fn keep(&self, key: Key, shared: &Shared, reported: &Reported) {
        let bytes = ENTRY_BYTES + reported.memory_bytes();
        let mut held = self.lock();
        held.reported.remove(&key);
        if bytes <= self.max_entry_bytes() {
            // What was used least recently makes room.
            while held.reported_bytes() + bytes > self.max_entry_bytes() {
                let there = held.reported.iter().filter(|(_, entry)| entry.bytes > 0);
                let oldest = there.min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
                let Some(key) = oldest else { break };
                held.reported.remove(&key);
            }
            held.make_room(bytes, self.max_bytes);
            held.uses += 1;
            let entry = ReportedEntry { shared: Arc::clone(shared), bytes, kept_until: Some(reported.kept_until()), used: held.uses };
            held.reported.insert(key, entry);
        }
        self.count_bytes(&held);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use golectra_promql::{Labels, MatchOp};

    use super::super::reported::Part;
    use super::*;
    use crate::store::postgres::timestamp::Timestamp;

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

    fn since(unix_millis: u64) -> Key {
        Key { part: Part::Terms, since: Timestamp(unix_millis) }
    }

    /// Reads so many numbers at this time.
    fn read(cache: &IndexCache, key: Key, numbers: i32, at: Instant) -> Shared {
        let shared = cache.reported(key, at);
        let mut reported = shared.try_lock().unwrap();
        cache.keep(key, &shared, reported.insert(Reported::of_test(numbers, at)));
        drop(reported);
        shared
    }

    #[test]
    fn what_is_known_of_reported_series_is_kept_for_a_minute() {
        let metrics = IndexCacheMetrics::default();
        let cache = IndexCache::new(1 << 20, metrics.clone());
        let now = Instant::now();
        let is_known = |key, at| cache.reported(key, at).try_lock().unwrap().is_some();
        let first = cache.reported(since(1), now);
        assert!(Arc::ptr_eq(&first, &cache.reported(since(1), now)), "who asks at the same time waits for the same read");
        drop(first);
        assert_eq!(metrics.bytes(), 0);
        read(&cache, since(1), 1_000, now);
        let bytes = metrics.bytes();
        assert!((4_000..5_000).contains(&bytes), "{bytes}");
        assert!(is_known(since(1), now + Duration::from_secs(59)) && !is_known(since(2), now));
        assert!(!is_known(Key { part: Part::Sources, ..since(1) }, now));
        // Another version of the index does not end it.
        cache.put(&named("a"), "1", 0, &found(0..1));
        cache.put(&named("a"), "2", 0, &found(0..1));
        assert!(is_known(since(1), now) && metrics.bytes() > bytes);
        assert!(!is_known(since(1), now + Duration::from_mins(1)));
        assert!(metrics.bytes() < bytes);
    }

    #[test]
    fn searches_and_reported_series_share_the_bound() {
        let metrics = IndexCacheMetrics::default();
        let cache = IndexCache::new(40_000, metrics.clone());
        let now = Instant::now();
        let is_known = |key| cache.reported(key, now).try_lock().unwrap().is_some();
        for number in 0..100 {
            cache.put(&named(&format!("m{number}")), "1", 0, &found(0..10));
        }
        for number in 0..20 {
            read(&cache, since(number), 1_000, now);
            assert!(metrics.bytes() <= 40_000);
            assert!(is_known(since(0)), "it is used all the time");
        }
        assert!(is_known(since(19)) && !is_known(since(1)));
        assert!(cache.get(&named("m99"), "1", 0).is_some(), "half is left for searches");
        // What does not fit is there for those who wait for it, and for nobody else.
        let large = read(&cache, since(100), 10_000, now);
        assert!(large.try_lock().unwrap().is_some() && !is_known(since(100)) && is_known(since(0)));
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

//! Which series matchers select, as searches of the index found it, within INDEX_CACHE_BYTES.
//!
//! A search that is remembered answers as a new one would. The table `series_changes` has the series that were made or came back, in the order of commits, and a
//! query's snapshot has the last of these changes. A cache that is behind it reads what came since (`search.rs`); an entry takes those that its matchers
//! select when it is used next. What a snapshot does not see yet has no samples in it. That a series expired is no change: it has no samples from
//! then on, and costs no more than the look for them. Rows of series never change, and their numbers are not given out again.
//!
//! Entries are searched anew after about an hour, because they keep what has expired meanwhile, and after series were removed: a counter's labels say whether
//! there is a gauge of its id.
//!
//! Half of the bytes may be what lists know of reported series ([`super::reported`]).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golectra_promql::{Labels, Matcher};
use tokio::time::Instant;

use super::cache_metrics::CacheMetrics;
use super::reported::{Key, Reported};
use super::search::{Changes, FoundSeries};
use crate::history::labels::TYPE_LABEL;

/// What an entry takes beside its text and its series.
const ENTRY_BYTES: usize = 200;
/// What a matcher takes in an entry, beside its text.
const MATCHER_BYTES: usize = 200;
/// For how long an entry is kept, and up to how many minutes longer, so that those which were made together are not searched anew together.
const KEPT: Duration = Duration::from_mins(45);
const SPREAD_MINUTES: u64 = 16;
/// So many changed series wait for the entries to be used. Then all entries take them.
const MAX_WAITING: usize = 2_000;

/// What was found. Cheap to clone.
pub(super) type Found = Arc<[FoundSeries]>;

/// What is known of reported series. Whoever reads it holds the lock meanwhile; the others wait and find it there.
pub(super) type Shared = Arc<tokio::sync::Mutex<Option<Reported>>>;

/// The cache.
pub(super) struct IndexCache {
    max_bytes: usize,
    held: Mutex<Held>,
    metrics: CacheMetrics,
}

/// Up to which change of series a snapshot or the cache has seen them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct IndexVersion {
    /// When the database server started, in unix microseconds: another server, a standby or a restored backup, may count its changes otherwise.
    pub(super) server_started: i64,
    /// The last change, of `series_changes`.
    pub(super) change: i64,
}

#[derive(Default)]
struct Held {
    /// Up to which change what follows is complete.
    version: IndexVersion,
    entries: HashMap<String, Entry>,
    /// Series that were made or came back after the change `waiting_after`, and by which change, in order. An entry takes them when it is used.
    waiting: Vec<(i64, FoundSeries)>,
    waiting_after: i64,
    /// What the entries and the series that wait take.
    bytes: usize,
    /// Few: one for each minute that lists begin in.
    reported: HashMap<Key, ReportedEntry>,
    /// How many times an entry of either kind was used.
    uses: u64,
}

struct Entry {
    matchers: Box<[Matcher]>,
    found: Found,
    /// Up to which change it is complete.
    change: i64,
    /// Series that expired before this were not looked for.
    start_ms: i64,
    bytes: usize,
    /// When it is searched anew.
    kept_until: Instant,
    /// When it was used last.
    used: u64,
}

impl Entry {
    fn bytes_of(key: &str, matchers: &[Matcher], found: &Found) -> usize {
        let found: usize = found.iter().map(FoundSeries::memory_bytes).sum();
        ENTRY_BYTES + 2 * key.len() + matchers.len() * MATCHER_BYTES + found
    }

    /// Takes those of these series that its matchers select, up to this change. False where it is to be searched anew: the labels of a counter change when a
    /// gauge of its id is made beside it.
    fn take(&mut self, key: &str, waiting: &[(i64, FoundSeries)], change: i64) -> bool {
        let new = &waiting[waiting.partition_point(|(at, _)| *at <= self.change)..];
        self.change = change;
        if new.is_empty() {
            return true;
        }
        if self.matchers.iter().any(|matcher| matcher.name() == TYPE_LABEL) {
            return false;
        }
        // Of a series that changed twice the last state counts.
        let selected = new.iter().map(|(_, series)| series).filter(|series| golectra_promql::all_match(&self.matchers, &series.labels));
        let mut selected: HashMap<i32, &FoundSeries> = selected.map(|series| (series.id, series)).collect();
        if selected.is_empty() {
            return true;
        }
        let gauges = selected.values().filter(|series| !series.is_counter);
        let gauges: HashSet<(i32, &Labels)> = gauges.map(|series| (series.source_id, &series.labels)).collect();
        let has_gauge = |series: &FoundSeries| gauges.contains(&(series.source_id, &series.labels));
        let mut all = self.found.iter().chain(selected.values().copied());
        if all.any(|series| series.is_counter && !series.beside_gauge && has_gauge(series)) {
            return false;
        }
        let mut found: Vec<FoundSeries> = self.found.iter().map(|series| selected.remove(&series.id).unwrap_or(series).clone()).collect();
        found.extend(selected.into_values().cloned());
        // As a search gives them: source by source. Their order within a source tells nothing.
        found.sort_by_key(|series| (series.source_id, series.id));
        self.found = found.into();
        self.bytes = Self::bytes_of(key, &self.matchers, &self.found);
        true
    }
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

    /// The same of searches.
    fn end_old_searches(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.entries.retain(|_, entry| {
            let is_kept = now < entry.kept_until;
            *bytes -= if is_kept { 0 } else { entry.bytes };
            is_kept
        });
        if self.entries.is_empty() {
            self.forget_waiting();
        }
    }

    /// Nothing waits any more.
    fn forget_waiting(&mut self) {
        self.bytes -= self.waiting.drain(..).map(|(_, series)| series.memory_bytes()).sum::<usize>();
        self.waiting_after = self.version.change;
    }

    /// Ends all searches, and begins with this version.
    fn begin(&mut self, version: IndexVersion) {
        self.entries = HashMap::new();
        self.waiting = Vec::new();
        self.bytes = 0;
        self.version = version;
        self.waiting_after = version.change;
    }

    /// Removes an entry.
    fn remove(&mut self, key: &str) {
        if let Some(gone) = self.entries.remove(key) {
            self.bytes -= gone.bytes;
        }
    }

    /// An entry takes what came since it was used last; it is removed where it can't.
    fn bring_up(&mut self, key: &str) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let before = entry.bytes;
        let is_kept = entry.take(key, &self.waiting, self.version.change);
        self.bytes = self.bytes - before + entry.bytes;
        if !is_kept {
            self.remove(key);
        }
    }

    /// Searches that were used least recently make room.
    fn make_room(&mut self, bytes: usize, max_bytes: usize) {
        let reported_bytes = self.reported_bytes();
        while self.bytes + reported_bytes + bytes > max_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(key) = oldest else { break };
            self.remove(&key);
        }
        if self.entries.is_empty() {
            self.forget_waiting();
        }
    }
}

/// What an entry is found by.
fn key(matchers: &[Matcher]) -> String {
    // A name in quotes has no comma of its own outside of them.
    matchers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl IndexCache {
    pub(super) fn new(max_bytes: usize, metrics: CacheMetrics) -> Self {
        Self { max_bytes, held: Mutex::default(), metrics }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what was asked for.
    pub(super) fn count(&self, is_hit: bool) {
        self.metrics.count(is_hit, 1);
    }

    fn count_bytes(&self, held: &Held) {
        self.metrics.set_bytes(held.bytes + held.reported_bytes());
    }

    /// After which change series are to be read before an entry can answer for this version; None where the cache has them all.
    pub(super) fn behind(&self, version: IndexVersion) -> Option<i64> {
        let mut held = self.lock();
        held.end_old_searches(Instant::now());
        if held.version.server_started != version.server_started {
            held.begin(version);
        } else if held.entries.is_empty() && held.version.change < version.change {
            held.version = version;
            held.forget_waiting();
        }
        (held.version.change < version.change).then_some(held.version.change)
    }

    /// Takes what changed after this change, up to this version.
    pub(super) fn advance(&self, after: i64, version: IndexVersion, changes: Changes) {
        let mut held = self.lock();
        if held.version != (IndexVersion { change: after, ..version }) {
            // Another query did it meanwhile. What it lacks is read by the next one.
            return;
        }
        match changes {
            Changes::Unknown => held.begin(version),
            Changes::Series(series) => {
                held.version = version;
                held.bytes += series.iter().map(|(_, series)| series.memory_bytes()).sum::<usize>();
                held.waiting.extend(series);
                if held.waiting.len() > MAX_WAITING {
                    for key in held.entries.keys().cloned().collect::<Vec<_>>() {
                        held.bring_up(&key);
                    }
                    held.forget_waiting();
                }
                held.make_room(0, self.max_bytes);
            }
        }
        self.count_bytes(&held);
    }

    /// The series that a search finds in this version of the index, those that expired before this time left out or not.
    pub(super) fn get(&self, matchers: &[Matcher], version: IndexVersion, start_ms: i64) -> Option<Found> {
        let key = key(matchers);
        let mut held = self.lock();
        let is_complete = held.version.server_started == version.server_started && held.version.change >= version.change;
        if is_complete {
            held.bring_up(&key);
            held.make_room(0, self.max_bytes);
        }
        held.uses += 1;
        let uses = held.uses;
        let entry = held.entries.get_mut(&key).filter(|entry| is_complete && entry.start_ms <= start_ms);
        self.count(entry.is_some());
        let found = entry.map(|entry| {
            entry.used = uses;
            Arc::clone(&entry.found)
        });
        self.count_bytes(&held);
        found
    }

    /// How much of a search can be remembered.
    pub(super) fn max_entry_bytes(&self) -> usize {
        self.max_bytes / 2
    }

    /// Remembers what a search of this version found that left out series which expired before this time. What was used least recently makes room.
    pub(super) fn put(&self, matchers: &[Matcher], version: IndexVersion, start_ms: i64, found: &Found) {
        let key = key(matchers);
        let bytes = Entry::bytes_of(&key, matchers, found);
        if bytes > self.max_entry_bytes() {
            return;
        }
        let now = Instant::now();
        let mut held = self.lock();
        let is_known = (held.waiting_after..=held.version.change).contains(&version.change);
        if held.version.server_started != version.server_started || !is_known {
            // What changed since is not there to be taken.
            return;
        }
        held.remove(&key);
        held.end_old(now);
        held.make_room(bytes, self.max_bytes);
        if version.change < held.waiting_after {
            // The last entry went, and what waited for it: this one would miss that.
            self.count_bytes(&held);
            return;
        }
        held.uses += 1;
        let kept_until = now + KEPT + Duration::from_mins(held.uses % SPREAD_MINUTES);
        let (matchers, change) = (matchers.into(), version.change);
        let entry = Entry { matchers, found: Arc::clone(found), change, start_ms, bytes, kept_until, used: held.uses };
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

    fn version(change: i64) -> IndexVersion {
        IndexVersion { server_started: 1, change }
    }

    /// One series, of source 1 and the name `a`.
    fn one(id: i32, is_counter: bool, labels: &[(&str, &str)]) -> FoundSeries {
        let labels = [("__name__", "a")].into_iter().chain(labels.iter().copied());
        FoundSeries { id, source_id: 1, is_counter, labels: Labels::new(labels), ..FoundSeries::default() }
    }

    fn ids(found: Option<Found>) -> Option<Vec<i32>> {
        found.map(|found| found.iter().map(|series| series.id).collect())
    }

    #[test]
    fn an_entry_answers_for_its_time_and_for_what_is_known_of_changes() {
        let metrics = CacheMetrics::default();
        let cache = IndexCache::new(1 << 20, metrics.clone());
        assert_eq!(cache.behind(version(1)), None);
        assert!(cache.get(&named("a"), version(1), 100).is_none());
        cache.put(&named("a"), version(1), 100, &found(0..2));
        for (matchers, change, start_ms, hit) in [
            (named("a"), 1, 100, true),
            (named("a"), 0, 100, true),
            (named("a"), 1, 500, true),
            (named("a"), 1, 99, false),
            (named("b"), 1, 100, false),
            (named("a"), 2, 100, false),
        ] {
            assert_eq!(cache.get(&matchers, version(change), start_ms).is_some(), hit, "{matchers:?} {change} {start_ms}");
        }
        assert_eq!((metrics.hits(), metrics.misses()), (3, 4));
        // Another server may count otherwise.
        let other = IndexVersion { server_started: 2, change: 1 };
        assert!(cache.get(&named("a"), other, 100).is_none());
        cache.put(&named("b"), other, 0, &found(0..1));
        assert_eq!(cache.behind(other), None);
        assert!(cache.get(&named("a"), version(1), 100).is_none() && cache.get(&named("b"), other, 100).is_none());
        assert_eq!(metrics.bytes(), 0);
    }

    #[test]
    fn entries_take_what_their_matchers_select_of_what_changed() {
        let cache = IndexCache::new(1 << 20, CacheMetrics::default());
        assert_eq!(cache.behind(version(1)), None);
        let b = [Matcher::equal("__name__", "a"), Matcher::equal("x", "1")];
        let gone = FoundSeries { expired_ms: Some(50), ..one(3, false, &[("x", "1")]) };
        cache.put(&named("a"), version(1), 0, &vec![one(1, false, &[]), gone.clone()].into());
        cache.put(&b, version(1), 0, &vec![gone].into());
        cache.put(&named("other"), version(1), 0, &vec![].into());
        assert_eq!(cache.behind(version(4)), Some(1));
        let back = one(3, false, &[("x", "1")]);
        let changed = vec![(2, one(2, false, &[("x", "2")])), (4, back)];
        cache.advance(1, version(4), Changes::Series(changed.clone()));
        // What two queries read counts once.
        cache.advance(1, version(4), Changes::Series(changed));
        assert_eq!(cache.behind(version(3)), None);
        let all = cache.get(&named("a"), version(4), 100).unwrap();
        assert_eq!(ids(Some(Arc::clone(&all))), Some(vec![1, 2, 3]));
        assert!(all.iter().all(|series| series.expired_ms.is_none()), "it is back");
        assert_eq!(ids(cache.get(&b, version(4), 0)), Some(vec![3]));
        assert_eq!(ids(cache.get(&named("other"), version(4), 0)), Some(vec![]));
        // A search of a snapshot from before takes what came since.
        cache.put(&named("late"), version(2), 0, &vec![].into());
        cache.put(&[Matcher::equal("x", "1")], version(2), 0, &vec![].into());
        assert_eq!(ids(cache.get(&named("late"), version(4), 0)), Some(vec![]));
        assert_eq!(ids(cache.get(&[Matcher::equal("x", "1")], version(4), 0)), Some(vec![3]));
    }

    #[test]
    fn a_search_that_replaces_the_last_entry_misses_nothing_that_waited() {
        let cache = IndexCache::new(1 << 20, CacheMetrics::default());
        assert_eq!(cache.behind(version(1)), None);
        cache.put(&named("a"), version(1), 100, &vec![].into());
        // One searches for an earlier time, and another reads meanwhile what is new.
        cache.advance(1, version(2), Changes::Series(vec![(2, one(2, false, &[]))]));
        cache.put(&named("a"), version(1), 0, &vec![].into());
        assert_ne!(ids(cache.get(&named("a"), version(2), 0)), Some(vec![]));
    }

    #[test]
    fn a_gauge_beside_a_counter_ends_what_has_the_counter() {
        for (before, changed) in
            [(vec![one(1, true, &[])], vec![(2, one(2, false, &[]))]), (vec![], vec![(2, one(1, true, &[])), (3, one(2, false, &[]))])]
        {
            let cache = IndexCache::new(1 << 20, CacheMetrics::default());
            cache.behind(version(1));
            cache.put(&named("a"), version(1), 0, &before.into());
            cache.put(&named("b"), version(1), 0, &vec![].into());
            cache.put(&[Matcher::equal(TYPE_LABEL, "counter")], version(1), 0, &vec![].into());
            cache.advance(1, version(3), Changes::Series(changed));
            assert_eq!(ids(cache.get(&named("a"), version(3), 0)), None);
            assert_eq!(ids(cache.get(&named("b"), version(3), 0)), Some(vec![]));
            assert_eq!(ids(cache.get(&[Matcher::equal(TYPE_LABEL, "counter")], version(3), 0)), None);
        }
    }

    #[test]
    fn what_is_not_known_ends_all_entries_and_much_is_taken_by_all() {
        let metrics = CacheMetrics::default();
        let cache = IndexCache::new(1 << 22, metrics.clone());
        cache.behind(version(1));
        cache.put(&named("a"), version(1), 0, &vec![].into());
        let many = (0..2_001).map(|id| (2, one(id, false, &[])));
        cache.advance(1, version(2), Changes::Series(many.collect()));
        cache.put(&named("too late"), version(1), 0, &vec![].into());
        assert_eq!(ids(cache.get(&named("a"), version(2), 0)).map(|ids| ids.len()), Some(2_001));
        assert!(cache.get(&named("too late"), version(2), 0).is_none());
        cache.advance(2, version(5), Changes::Unknown);
        assert!(cache.get(&named("a"), version(5), 0).is_none());
        assert_eq!((metrics.bytes(), cache.behind(version(5))), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn entries_are_searched_anew_after_an_hour() {
        let metrics = CacheMetrics::default();
        let cache = IndexCache::new(1 << 20, metrics.clone());
        cache.behind(version(1));
        cache.put(&named("a"), version(1), 0, &found(0..1));
        tokio::time::advance(KEPT.mul_f64(0.99)).await;
        assert_eq!(cache.behind(version(2)), Some(1));
        cache.advance(1, version(2), Changes::Series(vec![(2, one(1, false, &[]))]));
        assert!(cache.get(&named("a"), version(2), 0).is_some());
        tokio::time::advance(Duration::from_mins(SPREAD_MINUTES)).await;
        assert_eq!(cache.behind(version(3)), None, "nothing is read for what is not kept");
        assert!(cache.get(&named("a"), version(3), 0).is_none());
        assert_eq!(metrics.bytes(), 0);
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
        let metrics = CacheMetrics::default();
        let cache = IndexCache::new(1 << 20, metrics.clone());
        cache.behind(version(0));
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
        cache.put(&named("a"), version(0), 0, &found(0..1));
        cache.advance(0, version(2), Changes::Unknown);
        cache.put(&named("a"), version(2), 0, &found(0..1));
        assert!(is_known(since(1), now) && metrics.bytes() > bytes);
        assert!(!is_known(since(1), now + Duration::from_mins(1)));
        assert!(metrics.bytes() < bytes);
    }

    #[test]
    fn searches_and_reported_series_share_the_bound() {
        let metrics = CacheMetrics::default();
        let cache = IndexCache::new(40_000, metrics.clone());
        cache.behind(version(1));
        let now = Instant::now();
        let is_known = |key| cache.reported(key, now).try_lock().unwrap().is_some();
        for number in 0..100 {
            cache.put(&named(&format!("m{number}")), version(1), 0, &found(0..10));
        }
        for number in 0..20 {
            read(&cache, since(number), 1_000, now);
            assert!(metrics.bytes() <= 40_000);
            assert!(is_known(since(0)), "it is used all the time");
        }
        assert!(is_known(since(19)) && !is_known(since(1)));
        assert!(cache.get(&named("m99"), version(1), 0).is_some(), "half is left for searches");
        // What does not fit is there for those who wait for it, and for nobody else.
        let large = read(&cache, since(100), 10_000, now);
        assert!(large.try_lock().unwrap().is_some() && !is_known(since(100)) && is_known(since(0)));
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let metrics = CacheMetrics::default();
        let cache = IndexCache::new(40_000, metrics.clone());
        cache.behind(version(1));
        for number in 0..100 {
            cache.put(&named(&format!("m{number}")), version(1), 0, &found(0..10));
            assert!(metrics.bytes() <= 40_000);
            assert!(cache.get(&named("m0"), version(1), 0).is_some(), "it is used all the time");
        }
        assert!(cache.get(&named("m99"), version(1), 0).is_some() && cache.get(&named("m1"), version(1), 0).is_none());
        let before = metrics.bytes();
        cache.put(&named("large"), version(1), 0, &found(0..1_000));
        assert!(cache.get(&named("large"), version(1), 0).is_none() && metrics.bytes() == before);
    }
}

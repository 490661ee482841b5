//! Lists of names and values of labels without matchers, where something expired before the asked start.

use golectra_promql::MemoryBudget;
use golectra_protocol::{IdempotencyKey, Metric};

use super::*;
use crate::store::conformance::{batch, counter, gauge, source};
use crate::store::history::{History, HistoryError, SeriesFilter, TimeRange};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// Makes a series that expires an hour after this time, and one of source `a` that stays and is not reported again. Three hours have passed then.
async fn begin(store: &PostgresStore, clock: &Clock, start: u64) {
    put(store, "gone", start, vec![gauge("old{x=\"1\"}", 1.0)]).await;
    put(store, "a", start, vec![gauge("quiet{x=\"3\"}", 1.0)]).await;
    clock.set(start + HOUR);
    assert!(store.forget_source(&source("gone"), None).await.unwrap());
    clock.set(start + 3 * HOUR);
}

async fn put(store: &PostgresStore, source: &str, at: u64, metrics: Vec<Metric>) {
    assert_eq!(store.apply(batch(source, IdempotencyKey::at(at), metrics)).await.unwrap(), Applied::New);
}

/// The values of a label from this time on, or with an empty one the names of labels.
async fn list(store: &PostgresStore, label: &str, start: u64) -> Vec<String> {
    list_within(store, label, start, 1 << 20).await.unwrap()
}

/// The same with so many bytes of memory.
async fn list_within(store: &PostgresStore, label: &str, start: u64, bytes: usize) -> Result<Vec<String>, HistoryError> {
    let range = TimeRange { start_ms: i64::try_from(start).unwrap(), end_ms: i64::try_from(start + 3 * HOUR).unwrap() };
    let filter = SeriesFilter { any: vec![], range, limit: 100 };
    let mut memory = MemoryBudget::new(bytes).reserve(bytes);
    let found = if label.is_empty() {
        store.label_names(&filter, &mut memory).await
    } else {
        store.label_values(label, &filter, &mut memory).await
    };
    found.map(|found| found.items)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_start_in_one_minute_cost_one_read_and_have_what_is_new() {
    let Some(database) = TestDatabase::create().await else { return };
    let metrics = CacheMetrics::default();
    let start = Clock::System.unix_millis() / MINUTE * MINUTE;
    let clock = Clock::at(start);
    let open = |metrics: CacheMetrics| {
        let index_cache = cache(1 << 20, &metrics);
        PostgresStore::open(PostgresConfig { index_cache, ..config(database.dsn()) }, clock.clone()).unwrap()
    };
    let (store, other) = (open(metrics.clone()), open(CacheMetrics::default()));
    assert!(ready(&store).await && ready(&other).await);
    begin(&other, &clock, start).await;
    let (since, now) = (start + 2 * HOUR, start + 3 * HOUR);
    put(&other, "a", now, vec![gauge("g{x=\"2\"}", 1.0)]).await;

    assert_eq!(list(&store, "x", since).await, ["2"]);
    assert_eq!((metrics.hits(), metrics.misses()), (0, 1));
    assert_eq!(list(&store, "instance", since).await, ["a"]);
    assert_eq!((metrics.hits(), metrics.misses()), (1, 2), "sources are read apart from terms");
    assert_eq!(list(&store, "__name__", since + MINUTE - 1).await, ["g"]);
    assert_eq!(list(&store, "", since + 1).await, ["__name__", "instance", "x"]);
    assert_eq!((metrics.hits(), metrics.misses()), (4, 2));
    assert!(metrics.bytes() > 0);

    // Series that another server makes are there at once: in the last row of a source, in its next one, and of a new source.
    let many = (0..70).map(|n| gauge(&format!("many{{x=\"n{n:02}\"}}"), 1.0)).collect();
    put(&other, "a", now, many).await;
    put(&other, "b", now, vec![gauge("h{x=\"4\",y=\"5\"}", 1.0)]).await;
    let expected: Vec<String> = ["2", "4"].map(str::to_owned).into_iter().chain((0..70).map(|n| format!("n{n:02}"))).collect();
    for _ in 0..2 {
        assert_eq!(list(&store, "x", since).await, expected);
        assert_eq!(list(&store, "instance", since).await, ["a", "b"]);
        assert_eq!(list(&store, "__name__", since).await, ["g", "h", "many"]);
        assert_eq!(list(&store, "", since).await, ["__name__", "instance", "x", "y"]);
    }
    assert_eq!(metrics.misses(), 2);

    // Another minute is read anew, and has what was there and is reported again.
    put(&other, "a", now, vec![gauge("quiet{x=\"3\"}", 1.0)]).await;
    assert_eq!(list(&store, "__name__", since + MINUTE).await, ["g", "h", "many", "quiet"]);
    assert_eq!(metrics.misses(), 3);
    // Requests that come while it is read wait for it.
    let at_once = futures_util::future::join_all((0..8).map(|n| list(&store, "__name__", since + 2 * MINUTE + n))).await;
    assert!(at_once.iter().all(|names| *names == ["g", "h", "many", "quiet"]), "{at_once:?}");
    assert_eq!(metrics.misses(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_list_reads_of_new_series_is_charged() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = Clock::System.unix_millis() / MINUTE * MINUTE;
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    begin(&store, &clock, start).await;
    let (since, now) = (start + 2 * HOUR, start + 3 * HOUR);
    put(&store, "a", now, vec![gauge("g", 1.0)]).await;
    assert_eq!(list_within(&store, "__name__", since, 4096).await.unwrap(), ["g"]);
    put(&store, "a", now, (0..2000).map(|n| gauge(&format!("many{{x=\"{n}\"}}"), 1.0)).collect()).await;
    let refused = list_within(&store, "__name__", since, 4096).await;
    assert!(matches!(refused, Err(HistoryError::Memory(_))), "{refused:?}");
    assert_eq!(list(&store, "__name__", since).await, ["g", "many"], "what was refused was not taken for read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_beside_a_gauge_is_listed_where_it_was_reported() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = Clock::System.unix_millis() / MINUTE * MINUTE;
    let clock = Clock::at(start);
    // Without room, lists are what they are with it.
    let store =
        PostgresStore::open(PostgresConfig { index_cache: CacheConfig::default(), ..config(database.dsn()) }, clock.clone()).unwrap();
    assert!(ready(&store).await);
    let both = || vec![gauge("both", 1.0), counter("both", 1)];
    put(&store, "t", start, both()).await;
    begin(&store, &clock, start).await;
    let (since, now) = (start + 2 * HOUR, start + 3 * HOUR);
    put(&store, "a", now, vec![gauge("g", 1.0)]).await;
    let listed = async |at: u64| (list(&store, "__type__", at).await, list(&store, "", at).await.contains(&"__type__".to_owned()));
    assert_eq!(listed(start).await, (vec!["counter".to_owned()], true));
    assert_eq!(listed(since).await, (vec![], false));
    put(&store, "t", now, both()).await;
    assert_eq!(listed(since).await, (vec!["counter".to_owned()], true));

    // One that has expired counts for as long as it was reported.
    assert!(store.forget_source(&source("t"), None).await.unwrap());
    clock.set(now + HOUR);
    assert_eq!(listed(since).await, (vec!["counter".to_owned()], true));
    assert_eq!(listed(now + 30 * MINUTE).await, (vec![], false));
}

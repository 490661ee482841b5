//! Queries of the history beside writes, and how fast they are.

use std::time::Instant;

use golectra_promql::store::{Hints, Selection};
use golectra_promql::{Matcher, MemoryBudget};
use golectra_protocol::{IdempotencyKey, Metrics};
use sqlx::Executor;

use super::*;
use crate::store::conformance::{batch, counter, gauge};
use crate::store::history::{History, HistoryError};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

fn selection(matchers: Vec<Matcher>, start: u64, end: u64) -> Selection {
    let millis = |unix_millis: u64| i64::try_from(unix_millis).unwrap();
    Selection { matchers: matchers.into(), start_ms: millis(start), end_ms: millis(end), hints: Hints::default() }
}

/// Selects and decodes; the number of series and of samples.
async fn read(store: &PostgresStore, selection: &Selection) -> Result<(usize, usize), HistoryError> {
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    let series = store.select(selection, 100_000, &mut reservation).await?;
    let (mut samples, mut timestamps_ms, mut values) = (0, Vec::new(), Vec::new());
    for one in &series {
        timestamps_ms.clear();
        values.clear();
        one.samples.read(&mut timestamps_ms, &mut values).unwrap();
        samples += values.len();
    }
    Ok((series.len(), samples))
}

/// Waits until so many sessions of the test's database wait for a lock.
async fn sessions_wait(conn: &mut PgConnection, expected: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let met = tokio::time::timeout(Duration::from_mins(1), async {
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *conn).await.unwrap() != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    met.await.unwrap_or_else(|_| panic!("{expected} sessions should wait for a lock"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_hang_hold_up_no_write_and_end_when_they_are_given_up() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = PostgresStore::open(PostgresConfig { query_connections: 1, ..config(database.dsn()) }, Clock::System).unwrap();
    assert!(ready(&store).await);
    let now = Clock::System.unix_millis();
    store.apply(batch("a", IdempotencyKey::at(now), vec![gauge("g", 1.0), counter("c", 1)])).await.unwrap();
    let (mut holder, mut look) = (database.connect().await, database.connect().await);
    holder.execute("BEGIN; LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let queries: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { read(&store, &selection(vec![Matcher::equal("__name__", "g")], now - HOUR, now)).await })
        })
        .collect();
    sessions_wait(&mut look, 2).await;
    for _ in 0..10 {
        store.apply(batch("a", IdempotencyKey::at(now), vec![gauge("g", 1.0), counter("c", 1)])).await.unwrap();
        store.ping().await.unwrap();
        store.sources().await.unwrap();
    }
    for query in &queries {
        query.abort();
    }
    // Long before the statements' own limit.
    sessions_wait(&mut look, 0).await;
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(read(&store, &selection(vec![], now - HOUR, now)).await.unwrap().0, 2);
}

#[tokio::test]
async fn what_can_not_be_decoded_is_an_error_that_says_where() {
    let Some(database) = TestDatabase::create().await else { return };
    let clock = Clock::at(20_000 * 24 * HOUR);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let at = clock.unix_millis();
    store.apply(batch("a", IdempotencyKey::at(at), vec![gauge("g", 1.0), gauge("h", 1.0)])).await.unwrap();
    clock.set(at + HOUR);
    sealer(&store).round().await.unwrap();
    let all = selection(vec![], at, at + HOUR);
    assert_eq!(read(&store, &all).await.unwrap(), (2, 2));
    let mut conn = database.connect().await;
    let change = "UPDATE chunks SET data = set_byte(data, length(data) - 1, get_byte(data, length(data) - 1) # 1)";
    conn.execute(change).await.unwrap();
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    let series = store.select(&all, 10, &mut reservation).await.unwrap();
    assert!(series[0].samples.read(&mut Vec::new(), &mut Vec::new()).is_ok(), "another column is whole");
    let error = series[1].samples.read(&mut Vec::new(), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("series 65 in the chunk of block 1 at 1728000000, part 1"), "{error}");
    conn.execute("UPDATE chunks SET times = substring(times FOR 3)").await.unwrap();
    let error = read(&store, &all).await.unwrap_err();
    assert!(matches!(error, HistoryError::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn a_search_that_is_remembered_finds_what_another_server_changed() {
    let Some(database) = TestDatabase::create().await else { return };
    let metrics = CacheMetrics::default();
    let store =
        PostgresStore::open(PostgresConfig { index_cache: cache(1 << 20, &metrics), ..config(database.dsn()) }, Clock::System).unwrap();
    let other = PostgresStore::open(config(database.dsn()), Clock::System).unwrap();
    assert!(ready(&store).await && ready(&other).await);
    let now = Clock::System.unix_millis();
    let labels = async |start: u64| -> Vec<String> {
        let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
        let all = selection(vec![Matcher::equal("__name__", "g")], start, now);
        store.select(&all, 10, &mut reservation).await.unwrap().iter().map(|series| series.labels.to_string()).collect()
    };
    let put = async |source: &str, metric| other.apply(batch(source, IdempotencyKey::at(now), vec![metric])).await.unwrap();
    put("a", gauge("g", 1.0)).await;
    let mut expected = vec![r#"g{instance="a"}"#.to_owned()];
    for (hits, misses, start) in [(0, 1, now - HOUR), (1, 1, now - HOUR), (2, 1, now - MINUTE), (2, 2, now - 2 * HOUR), (3, 2, now - HOUR)]
    {
        assert_eq!(labels(start).await, expected);
        assert_eq!((metrics.hits(), metrics.misses()), (hits, misses));
    }
    put("b", gauge("g", 1.0)).await;
    expected.push(r#"g{instance="b"}"#.to_owned());
    assert_eq!(labels(now - HOUR).await, expected);
    assert_eq!((metrics.hits(), metrics.misses()), (4, 2), "only what is new was read");
    put("a", counter("g", 1)).await;
    expected.insert(0, r#"g{__type__="counter", instance="a"}"#.to_owned());
    assert_eq!(labels(now - HOUR).await, expected);
    assert_eq!((metrics.hits(), metrics.misses()), (5, 2));
    // Out of the newest state and back again.
    let source = crate::store::conformance::source("b");
    assert!(other.forget_source(&source, None).await.unwrap());
    assert_eq!(labels(now - HOUR).await, expected);
    put("b", gauge("g", 2.0)).await;
    assert_eq!(labels(now - HOUR).await, expected);
    assert_eq!((metrics.hits(), metrics.misses()), (7, 2));
    // A gauge beside a counter changes the counter's labels.
    put("b", counter("h", 1)).await;
    put("b", gauge("h", 1.0)).await;
    assert_eq!(labels(now - HOUR).await, expected);
    assert_eq!((metrics.hits(), metrics.misses()), (8, 2));
    assert!(metrics.bytes() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_that_are_remembered_and_new_ones_always_find_the_same() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * 24 * HOUR;
    let clock = Clock::at(start);
    let metrics = CacheMetrics::default();
    let open = |bytes, metrics| {
        PostgresStore::open(PostgresConfig { index_cache: cache(bytes, &metrics), ..config(database.dsn()) }, clock.clone()).unwrap()
    };
    let (store, anew) = (open(1 << 20, metrics.clone()), open(0, CacheMetrics::default()));
    assert!(ready(&store).await && ready(&anew).await);
    let selectors = [
        vec![Matcher::equal("__name__", "m1")],
        vec![Matcher::equal("x", "2")],
        vec![Matcher::equal("instance", "s1")],
        vec![Matcher::equal("__name__", "m0"), Matcher::equal("__type__", "counter")],
        vec![Matcher::equal("__name__", "m2"), Matcher::equal("__type__", "")],
    ];
    let found = async |store: &PostgresStore, matchers: &[Matcher], start: u64, end: u64| -> Vec<String> {
        let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
        let series = store.select(&selection(matchers.to_vec(), start, end), 1_000, &mut reservation).await.unwrap();
        series.iter().map(|series| series.labels.to_string()).collect()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let maintenance = maintenance(&store);
    for step in 0..120_u64 {
        let now = start + step * MINUTE;
        clock.set(now);
        let source = format!("s{}", random.u8(0..3));
        match random.u8(0..8) {
            0 => {
                store.forget_source(&crate::store::conformance::source(&source), None).await.unwrap();
            }
            1 => {
                maintenance.round().await.unwrap();
            }
            _ => {
                let id = format!("m{}{{x=\"{}\"}}", random.u8(0..3), random.u8(0..4));
                let metric = if random.bool() { gauge(&id, 1.0) } else { counter(&id, 1) };
                store.apply(batch(&source, IdempotencyKey::at(now), vec![metric])).await.unwrap();
            }
        }
        for matchers in &selectors {
            for back in [HOUR / 4, 3 * HOUR] {
                let (one, other) = (found(&store, matchers, now - back, now).await, found(&anew, matchers, now - back, now).await);
                assert_eq!(one, other, "step {step}, {matchers:?}, {back}");
            }
        }
    }
    assert!(metrics.hits() > 2 * metrics.misses(), "{} answers were remembered, {} searched", metrics.hits(), metrics.misses());
}

/// A node's report: as node_exporter's, 16 series of one name and the rest of a name each.
fn report(at: usize, node: usize, series: usize) -> Metrics {
    let mut metrics = Metrics::default();
    let number = |n: usize| f64::from(u32::try_from(n).unwrap());
    for n in 0..series {
        let id =
            if n < 16 { format!("node_cpu_seconds_total{{cpu=\"{}\",mode=\"mode{}\"}}", n / 8, n % 8) } else { format!("node_metric_{n}") };
        let value = match n % 8 {
            0..4 => number(at * (n + 1)) / 100.0,
            4 | 5 => number(at / 60 * n),
            6 => number(n),
            _ => number((at * 7_919 + node * 104_729 + n * 31) % 65_536) * 4_096.0,
        };
        metrics.push_parsed(&id, Value::Gauge(value)).unwrap();
    }
    metrics
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_of_a_day_and_of_the_newest_hours() {
    let Some(database) = TestDatabase::create().await else { return };
    let is_full = std::env::var("GOLECTRA_SCALE").is_ok_and(|scale| scale == "full");
    // 12 minutes before the end of a half hour.
    let end = 20_000 * 24 * HOUR + 18 * MINUTE;
    let (nodes, series, interval, hours) = if is_full { (50, 445, 10_000, 24) } else { (3, 40, 60_000, 4) };
    let clock = Clock::at(end - hours * HOUR);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let reports = hours * HOUR / interval;
    let started = Instant::now();
    for at in 0..reports {
        let time = end - hours * HOUR + at * interval;
        clock.set(time + 100);
        let place = usize::try_from(at).unwrap();
        let batches = (0..nodes).map(|node| {
            let plain = batch(&format!("node-{node}"), IdempotencyKey::at(time + u64::try_from(node).unwrap()), vec![gauge("unused", 0.0)]);
            store.apply(Batch { metrics: report(place, node, series), ..plain })
        });
        for answer in futures_util::future::join_all(batches).await {
            assert_eq!(answer.unwrap(), Applied::New);
        }
        if time % (30 * MINUTE) < interval {
            sealer(&store).round().await.unwrap();
        }
    }
    clock.set(end);
    sealer(&store).round().await.unwrap();
    println!("{nodes} nodes, {series} series, {reports} reports: written and sealed in {:?}", started.elapsed());
    let mut conn = database.connect().await;
    conn.execute("VACUUM ANALYZE").await.unwrap();
    let name = |name: &str| Matcher::equal("__name__", name);
    let count = usize::try_from(reports).unwrap();
    let newest = usize::try_from(3 * HOUR / interval).unwrap();
    for (case, matchers, hours, expected) in [
        ("one series", vec![name("node_metric_23"), Matcher::equal("instance", "node-1")], hours, (1, count)),
        ("one metric of all nodes", vec![name("node_metric_23")], hours, (nodes, nodes * count)),
        ("16 series of each node", vec![name("node_cpu_seconds_total")], hours, (nodes * 16, nodes * 16 * count)),
        ("one metric of all nodes, the newest", vec![name("node_metric_23")], 3, (nodes, nodes * newest)),
        ("one series, the newest hour", vec![name("node_metric_23"), Matcher::equal("instance", "node-1")], 1, (1, newest / 3)),
        ("all series of a node, five minutes", vec![Matcher::equal("instance", "node-1")], 0, (series, 0)),
    ] {
        let start = end - if hours == 0 { 5 * MINUTE } else { hours * HOUR };
        let selection = selection(matchers, start, end);
        let mut took = Vec::new();
        for _ in 0..21 {
            let started = Instant::now();
            let found = read(&store, &selection).await.unwrap();
            took.push(started.elapsed());
            assert_eq!(found.0, expected.0, "{case}");
            assert!(expected.1 == 0 || found.1 == expected.1, "{case}: {found:?} instead of {expected:?}");
        }
        took.sort();
        println!("{case}, {hours} h: median {:?}, p95 {:?}", took[10], took[19]);
    }
}

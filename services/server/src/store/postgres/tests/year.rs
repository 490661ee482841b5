//! A year of nodes and pods that come and go, within HISTORY_MAX_BYTES.
//!
//! The full form (`GOLECTRA_SCALE=full`, with `--profile quick`) has 50 nodes, 10,000 pods a day and every setting of [`Lifetimes`] at its default. What is
//! less than in a cluster, so that a machine with two cores can do it within the hour: a pod has one series with 3 samples within two hours; a node has 20
//! series and a sample every six hours; and what a server does every minute is done every six hours, or once a day.
//!
//! The small form has a report every three and a half days, and shorter times for all but rollups of an hour. It takes half a minute with the dev profile.
//!
//! ```text
//! SQLX_OFFLINE=true cargo test --locked --profile quick -p golectra-server --bin golectra-server --no-run
//! cd services/server
//! GOLECTRA_SCALE=full TEST_DATABASE_URL=… ../../target/quick/deps/golectra_server-… --nocapture a_year_of_pods
//! ```
//!
//! The full form takes half an hour and more on two cores with other work beside, with `fsync = off`. The database has 644 MB after twelve weeks, of which chunks and
//! rollups are a fifth: the rest are rows of series and of label pairs with their indexes, some 620 bytes a pod. Rows that are removed make room for others and
//! leave files as large as they were.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use futures_util::future::join_all;
use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, MemoryBudget, NoInterrupt, Query, Severity, Steps, Value as Answer};
use golectra_protocol::{IdempotencyKey, Metrics, Value};
use prometheus::Registry;
use sqlx::Executor;

use super::super::partitions::{CHUNKS, ROLLUPS_1H, ROLLUPS_5M};
use super::super::sealer::{Pace, Round, Sealer};
use super::*;
use crate::history::labels;
use crate::history::query::{Queries, QueryLimits, Question, When};
use crate::store::conformance::{batch, gauge, is_full, patiently};

const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const WEEKS: usize = 52;
/// HISTORY_MAX_BYTES is what the database takes then, so that it is reached before the middle of the year whatever a row takes.
const LIMITED_AFTER_WEEKS: usize = 12;
/// From when the database may take no more to the middle of the year. History leaves by four weeks of all of it or of rollups of an hour, with its series, so
/// rows rise and fall: what follows is compared with the most of this time.
const MIDDLE: Range<usize> = LIMITED_AFTER_WEEKS - 1..32;
/// A day and a bit, so that 300 steps are a year.
const STEP: u64 = 29 * HOUR;
const STEPS: u64 = 300;
const ASKED_NAMESPACE: &str = "namespace=\"n3\"";

/// What takes part.
#[derive(Clone, Copy)]
struct Cluster {
    nodes: u32,
    /// For how many weeks a node is there before another one takes its place. Some do in the middle of the year, as later.
    weeks_of_a_node: u64,
    /// How many samples each series of a node has in a report, an hour apart.
    node_samples: u64,
    pods_a_step: u32,
    /// Each has a few pods a day.
    namespaces: u32,
    /// How much time passes from one report to the next.
    step_millis: u64,
    start: u64,
}

impl Cluster {
    /// The end of a step.
    fn end_of(self, step: u64) -> u64 {
        self.start + (step + 1) * self.step_millis
    }

    /// The node that has a place in the cluster.
    fn name(self, node: u32, step: u64) -> String {
        let week = step * self.step_millis / WEEK;
        format!("node-{node}-{}", (week + u64::from(node)) / self.weeks_of_a_node)
    }

    /// A node's samples of the last hours of a step, two minutes before a full hour.
    fn of_node(self, node: u32, step: u64) -> Vec<(String, Value, u64)> {
        let mut all = Vec::new();
        for back in (0..self.node_samples).rev() {
            let at = self.end_of(step) - back * HOUR - 2 * MINUTE;
            let hour = u32::try_from(at / HOUR).unwrap();
            all.push(("node_load".to_owned(), Value::Gauge(f64::from((hour * 7_919 + node * 104_729) % 1_000) / 10.0), at));
            all.push(("node_work_total".to_owned(), Value::Counter(i64::from((hour + node) % 9)), at));
            all.extend((2..20).map(|n| (format!("node_metric_{n}"), Value::Gauge(f64::from((hour * n + node) % 256)), at)));
        }
        all
    }

    /// The samples of a node's pods, which live in the last two hours of a step.
    fn of_pods(self, node: u32, step: u64) -> Vec<(String, Value, u64)> {
        let mut all = Vec::new();
        let first = u32::try_from(step).unwrap() * self.pods_a_step;
        for number in (node..self.pods_a_step).step_by(self.nodes as usize).map(|n| first + n) {
            let id = format!("container_metric{{container=\"app\",namespace=\"n{}\",pod=\"web-{number:07}\"}}", number % self.namespaces);
            let times = (0..3).map(|n| self.end_of(step) - 2 * HOUR + (5 + n * 35) * MINUTE);
            all.extend(times.map(|at| (id.clone(), Value::Gauge(f64::from(number % 1_000)), at)));
        }
        all
    }

    /// What a node reports at the end of a step.
    fn batch(self, node: u32, step: u64) -> Batch {
        let mut metrics = Metrics::default();
        for (id, value, at) in self.of_node(node, step).into_iter().chain(self.of_pods(node, step)) {
            metrics.push_parsed_at(&id, value, i64::try_from(at).unwrap()).unwrap();
        }
        Batch { metrics, ..batch(&self.name(node, step), IdempotencyKey::at(self.end_of(step) - MINUTE), vec![gauge("unused", 0.0)]) }
    }

    /// The samples of what is asked for, as far as they are not from before this time.
    fn model(self, steps: u64, oldest: u64) -> MemoryStore {
        let mut model = MemoryStore::default();
        for node in 0..self.nodes {
            let (mut name, mut total) = (String::new(), 0.0);
            for step in 0..steps {
                if name != self.name(node, step) {
                    (name, total) = (self.name(node, step), 0.0);
                }
                let pods = if self.end_of(step) < oldest { Vec::new() } else { self.of_pods(node, step) };
                let pods = pods.into_iter().filter(|(id, ..)| id.contains(ASKED_NAMESPACE));
                for (id, value, at) in self.of_node(node, step).into_iter().chain(pods) {
                    let value = match value {
                        Value::Gauge(value) => value,
                        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                        Value::Counter(delta) => {
                            total += delta as f64;
                            total
                        }
                    };
                    if at >= oldest && !id.starts_with("node_metric_") {
                        model.add(&labels::of_series(&name, &id, false), i64::try_from(at).unwrap(), value);
                    }
                }
            }
        }
        model
    }
}

/// What is asked over the year.
const QUERIES: [&str; 6] = [
    "node_load",
    "avg_over_time(node_load[29h])",
    "max by (instance) (max_over_time(node_load[58h]))",
    "sum(rate(node_work_total[29h]))",
    "sum by (instance) (increase(node_work_total[58h]))",
    "count(count_over_time(container_metric{namespace=\"n3\"}[29h]))",
];

/// Rows of everything that grows with series and batches, and bytes of all.
#[derive(Default, sqlx::FromRow)]
struct Size {
    sources: i64,
    live: i64,
    series: i64,
    expired: i64,
    label_pairs: i64,
    metric_names: i64,
    free_terms: i64,
    layouts: i64,
    latest_blocks: i64,
    sealed_totals: i64,
    sealed_reports: i64,
    frames: i64,
    highest_term: i64,
    /// Numbers of blocks are not given out again; they take no room.
    highest_block: i64,
    bytes: i64,
    chunks_bytes: i64,
    rollups_5m_bytes: i64,
    rollups_1h_bytes: i64,
}

async fn size(conn: &mut PgConnection) -> Size {
    let bytes_of = |pattern: &str| {
        format!(
            "(SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
                WHERE relnamespace = 'golectra'::regnamespace AND relkind = 'r' AND relname ~ '{pattern}')"
        )
    };
    let count = |table: &str| format!("(SELECT count(*) FROM {table}) AS {table}");
    let statement = format!(
        "SELECT (SELECT series FROM series_total) AS live, {}, (SELECT count(*) FROM expired_series) AS expired, {}, {}, {}, {}, {}, {}, {}, {}, {},
            (SELECT last_value::bigint FROM terms) AS highest_term, (SELECT last_value::bigint FROM series_blocks) AS highest_block,
            {} AS bytes, {} AS chunks_bytes, {} AS rollups_5m_bytes, {} AS rollups_1h_bytes",
        count("series"),
        count("sources"),
        count("label_pairs"),
        count("metric_names"),
        count("free_terms"),
        count("layouts"),
        count("latest_blocks"),
        count("sealed_totals"),
        count("sealed_reports"),
        count("frames"),
        bytes_of(""),
        bytes_of("^chunks_"),
        bytes_of("^rollups_5m_"),
        bytes_of("^rollups_1h_"),
    );
    sqlx::query_as(&statement).fetch_one(conn).await.unwrap()
}

impl Size {
    /// What must not grow, but for the bytes of parts, which make room for each other.
    fn rows(&self) -> [(&'static str, i64); 14] {
        [
            ("sources", self.sources),
            ("live", self.live),
            ("series", self.series),
            ("expired", self.expired),
            ("label_pairs", self.label_pairs),
            ("metric_names", self.metric_names),
            ("free_terms", self.free_terms),
            ("layouts", self.layouts),
            ("latest_blocks", self.latest_blocks),
            ("sealed_totals", self.sealed_totals),
            ("sealed_reports", self.sealed_reports),
            ("frames", self.frames),
            ("highest_term", self.highest_term),
            ("bytes", self.bytes),
        ]
    }
}

/// Where a year's time goes.
#[derive(Debug, Default)]
struct Took {
    writes: Duration,
    seals: Duration,
    maintenance: Duration,
    vacuum: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_of_pods_that_come_and_go_stays_within_its_bytes_and_is_answered_from_rollups() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_006 * DAY;
    let (cluster, lifetimes) = if is_full() {
        (
            Cluster { nodes: 50, weeks_of_a_node: 20, node_samples: 1, pods_a_step: 2_500, namespaces: 499, step_millis: 6 * HOUR, start },
            Lifetimes::default(),
        )
    } else {
        // A report every quarter of SERIES_EXPIRY, as in the full form.
        let lifetimes = Lifetimes {
            retention_raw: Duration::from_hours(7 * 24),
            retention_5m: Duration::from_hours(14 * 24),
            series_expiry: Duration::from_hours(14 * 24),
            source_expiry: Duration::from_hours(28 * 24),
            ..Lifetimes::default()
        };
        (Cluster { nodes: 2, weeks_of_a_node: 8, node_samples: 2, pods_a_step: 12, namespaces: 5, step_millis: WEEK / 2, start }, lifetimes)
    };
    let clock = Clock::at(start);
    let index_cache = cache(32 << 20, &CacheMetrics::default());
    let store = PostgresStore::open(PostgresConfig { lifetimes, index_cache, ..config(database.dsn()) }, clock.clone()).unwrap();
    assert!(ready(&store).await);
    let mut conn = database.connect().await;
    let (maintenance, mut sealer) = (maintenance(&store), sealer(&store));
    // Nothing is written while it seals, so it need not rest for writers that were busy a moment ago.
    sealer.pace = Pace::new(WriterLoad::default());
    let steps_a_week = WEEK / cluster.step_millis;
    let (mut sizes, mut days, mut took, mut most_before_drop, mut too_large) = (Vec::new(), Vec::new(), Took::default(), 0, Vec::new());
    let mut dropped: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for week in 0..WEEKS {
        let began = Instant::now();
        for step in u64::try_from(week).unwrap() * steps_a_week..u64::try_from(week + 1).unwrap() * steps_a_week {
            clock.set(cluster.end_of(step));
            let started = Instant::now();
            let of_node = async |node: u32| {
                assert_eq!(patiently(&*store, &cluster.batch(node, step)).await, Applied::New);
            };
            join_all((0..cluster.nodes).map(of_node)).await;
            store.writers.touch().await;
            took.writes += started.elapsed();
            // When the half hour is sealed and its window folded.
            clock.set(cluster.end_of(step) + 20 * MINUTE);
            let started = Instant::now();
            let round = sealer.round().await.unwrap();
            took.seals += started.elapsed();
            if let Some(max_bytes) = sealer.max_bytes {
                let bytes = total_bytes(&mut conn).await;
                if is_too_large(bytes, max_bytes, &round) {
                    too_large.push(format!("week {week}: {bytes} bytes after a round, HISTORY_MAX_BYTES is {max_bytes}"));
                }
                for partition in &round.rollups {
                    dropped.entry(if partition.starts_with("rollups_5m") { "rollups_5m" } else { "rollups_1h" }).or_default().push(week);
                }
                dropped.entry("chunks").or_default().extend(round.days.iter().map(|_| week));
            }
            let started = Instant::now();
            let is_day = (step + 1) * cluster.step_millis % DAY == 0 || !is_full();
            if is_day {
                maintenance.round().await.unwrap();
            }
            took.maintenance += started.elapsed();
            // Autovacuum, which looks every minute, has no time in a test that hurries.
            let started = Instant::now();
            if is_day && is_full() {
                conn.execute("VACUUM (ANALYZE) series, expired_series, label_pairs, free_terms").await.unwrap();
                conn.execute("VACUUM latest_blocks, sources, sealed_totals, sealed_reports, layouts").await.unwrap();
            }
            took.vacuum += started.elapsed();
            if sealer.max_bytes.is_some() {
                most_before_drop = most_before_drop.max(total_bytes(&mut conn).await);
            }
        }
        let started = Instant::now();
        conn.execute("VACUUM").await.unwrap();
        took.vacuum += started.elapsed();
        let size = size(&mut conn).await;
        let kept = kept_days(&mut conn, cluster.end_of(u64::try_from(week + 1).unwrap() * steps_a_week - 1)).await;
        let Size { highest_block, chunks_bytes, rollups_5m_bytes, rollups_1h_bytes, .. } = size;
        println!(
            "week {week}, {:?}, in all {took:?}: {:?}, of these chunks {chunks_bytes}, rollups of 5 minutes {rollups_5m_bytes}, of an hour {rollups_1h_bytes}; {kept:?}; the highest number of a block is {highest_block}",
            began.elapsed(),
            size.rows()
        );
        days.push(kept);
        if week + 1 == LIMITED_AFTER_WEEKS {
            sealer.max_bytes = Some(u64::try_from(size.bytes).unwrap());
        }
        sizes.push(size);
    }
    println!("{took:?}, at most {most_before_drop} bytes before a round");
    let weeks = |table| dropped.get(table).map(|weeks| (weeks.first().copied(), weeks.len()));
    println!("dropped, from which week on and how many: {:?}", ["chunks", "rollups_5m", "rollups_1h"].map(|table| (table, weeks(table))));
    answers(&cluster, &store, &mut conn, &sealer).await;
    assert_eq!(too_large, Vec::<String>::new());
    assert!(dropped["rollups_1h"][0] < MIDDLE.end, "rollups of an hour go before the middle of the year: {dropped:?}");
    is_flat(&sizes);
    let least = |days: &dyn Fn(&Kept) -> u64, kept: &[Kept]| kept.iter().map(days).min().unwrap();
    let after = &days[LIMITED_AFTER_WEEKS..];
    let least = (least(&|kept| kept.samples, after), least(&|kept| kept.rollups_5m, after), least(&|kept| kept.rollups_1h, after));
    println!("at the end of a week at least {least:?} days of samples, rollups of 5 minutes and of an hour are left");
    if is_full() {
        // What fills the database is series of pods that are gone: the oldest of them go with all of their time, and all else stays.
        assert!(least.0 >= 14 && least.1 >= 28 && least.2 >= 28, "{least:?} days");
    }
}

/// Whether the database takes more after a round than it may. Where nothing but rollups of an hour is left to drop, as in the small form, room in the files is no
/// reason to drop them. How much room there was is taken from the round: autovacuum changes the estimate and the files' sizes at any time.
fn is_too_large(bytes: u64, max_bytes: u64, round: &Round) -> bool {
    if is_full() {
        return bytes > max_bytes;
    }
    round.too_large.is_some_and(|needed| needed > max_bytes) || bytes > max_bytes + max_bytes / 10
}

/// How many days before a time the oldest history begins.
#[derive(Debug)]
struct Kept {
    samples: u64,
    rollups_5m: u64,
    rollups_1h: u64,
}

async fn kept_days(conn: &mut PgConnection, end: u64) -> Kept {
    let mut kept = [0; 3];
    for (kept, table) in kept.iter_mut().zip([CHUNKS, ROLLUPS_5M, ROLLUPS_1H]) {
        *kept = table.existing(conn).await.unwrap().first().map_or(0, |oldest| end.saturating_sub(table.start_of(*oldest)) / DAY);
    }
    Kept { samples: kept[0], rollups_5m: kept[1], rollups_1h: kept[2] }
}

/// As the server counts them.
async fn total_bytes(conn: &mut PgConnection) -> u64 {
    let statement =
        "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relnamespace = 'golectra'::regnamespace AND relkind = 'r'
        AND relname NOT IN ('outbox', 'deliveries', 'dead_letters', 'audit_name_lists')";
    u64::try_from(sqlx::query_scalar::<_, i64>(statement).fetch_one(conn).await.unwrap()).unwrap()
}

/// Asserts that nothing is a tenth more in the second half of the year than it was in the middle; in the small form a fifth, which has
/// so few series that one of five runs had 10.8 % more.
fn is_flat(sizes: &[Size]) {
    let most = |weeks: &[Size]| {
        let mut most = Size::default().rows();
        for size in weeks {
            for (most, (_, now)) in most.iter_mut().zip(size.rows()) {
                most.1 = most.1.max(now);
            }
        }
        most
    };
    let (middle, later) = (most(&sizes[MIDDLE]), most(&sizes[MIDDLE.end..]));
    println!("most in the middle: {middle:?}\nmost after it: {later:?}");
    for ((name, before), (_, after)) in middle.into_iter().zip(later) {
        // Of the numbers up to the highest, those that are free are what names and pairs leave.
        if name == "free_terms" {
            continue;
        }
        let more = before / if is_full() { 10 } else { 5 };
        assert!(after <= before + more, "{name} grew from {before} to {after}");
    }
}

/// Asserts that queries of the year say what the samples say of the time that is left, and tells how long they take.
async fn answers(cluster: &Cluster, store: &Arc<PostgresStore>, conn: &mut PgConnection, sealer: &Sealer) {
    conn.execute("VACUUM ANALYZE").await.unwrap();
    let steps = u64::try_from(WEEKS).unwrap() * WEEK / cluster.step_millis;
    let end = cluster.end_of(steps - 1);
    let oldest = |partitions: Vec<i32>| partitions.first().copied().unwrap();
    let left = ROLLUPS_1H.start_of(oldest(ROLLUPS_1H.existing(conn).await.unwrap()));
    let days = |from: u64| (end - from.clamp(cluster.start, end)) / DAY;
    println!(
        "within {:?} bytes there are samples of {} days, rollups of 5 minutes of {} and of an hour of {}",
        sealer.max_bytes,
        days(CHUNKS.start_of(oldest(CHUNKS.existing(conn).await.unwrap()))),
        days(ROLLUPS_5M.start_of(oldest(ROLLUPS_5M.existing(conn).await.unwrap()))),
        days(left)
    );
    let model = cluster.model(steps, left);
    let limits = QueryLimits {
        concurrency: 2,
        timeout: Duration::from_secs(30),
        max_series: 100_000,
        max_bytes: 128 << 20,
        log_after: Duration::from_mins(1),
        subquery_step: Duration::from_mins(1),
    };
    let queries = Queries::start(store.clone(), limits, WriterLoad::default(), &Registry::new()).unwrap();
    let millis = |at: u64| i64::try_from(at).unwrap();
    let over = Steps::range(millis(end - (STEPS - 1) * STEP), millis(end), millis(STEP)).unwrap();
    let runs = if is_full() { 60 } else { 1 };
    for text in QUERIES {
        let question = || Question { text: text.to_owned(), when: When::Over(over), lookback_ms: None, timeout: None };
        let mut times = Vec::new();
        for run in 0..runs {
            let started = Instant::now();
            let evaluated = queries.evaluate(question()).await.unwrap_or_else(|error| panic!("{text}: {error}"));
            times.push(started.elapsed());
            if run > 0 {
                continue;
            }
            let infos = evaluated.outcome.annotations.texts(Severity::Info, text);
            assert!(infos.iter().any(|info| info.contains("answered from 1-hour rollups")), "{text}: {infos:?}");
            let query = Query::parse(text, &Engine::default().parse_limits).unwrap();
            let expected = Engine::default().range(&query, over, &model, &NoInterrupt, &MemoryBudget::new(1 << 30)).unwrap().value;
            let (Answer::Matrix(found), Answer::Matrix(expected)) = (evaluated.outcome.value, expected) else {
                panic!("{text}: no matrix")
            };
            assert!(!expected.series.is_empty(), "{text}");
            assert_eq!(found.series.len(), expected.series.len(), "{text}");
            for (found, expected) in found.series.iter().zip(&expected.series) {
                assert_eq!(found.labels, expected.labels, "{text}");
                let (found, expected): (Vec<_>, Vec<_>) = (found.samples(&over).collect(), expected.samples(&over).collect());
                assert_eq!(found.len(), expected.len(), "{text}");
                for ((at, found), (expected_at, expected)) in found.into_iter().zip(expected) {
                    let same = (found - expected).abs() <= 1e-9 * expected.abs().max(1e-3);
                    assert!(at == expected_at && same, "{text}: {found} at {at} instead of {expected} at {expected_at}");
                }
            }
        }
        times.sort();
        let p95 = times[(times.len() * 95).div_ceil(100) - 1];
        println!(
            "{text} over a year, {} runs: median {:?}, p95 {p95:?}, slowest {:?}",
            times.len(),
            times[times.len() / 2],
            times[times.len() - 1]
        );
        assert!(!is_full() || p95 <= Duration::from_millis(500), "{text}: p95 {p95:?}");
    }
}

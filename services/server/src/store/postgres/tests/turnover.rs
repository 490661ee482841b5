//! Pods, nodes and lists of series that come and go leave nothing behind.

use std::collections::BTreeMap;
use std::time::Instant;

use golectra_promql::{MatchOp, Matcher, MemoryBudget};
use golectra_protocol::{IdempotencyKey, Metric};
use sqlx::Executor;

use super::*;
use crate::store::History;
use crate::store::conformance::{batch, gauge, is_full, patiently};
use crate::store::history::{SeriesFilter, TimeRange};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

/// Rows and bytes of everything that grows with series; but for rollups, whose partitions are of weeks.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Size {
    live: i64,
    series: i64,
    expired: i64,
    label_pairs: i64,
    metric_names: i64,
    layouts: i64,
    blocks: i64,
    frames: i64,
    /// The highest number that a name or a pair ever had: the index of series keeps an entry for each.
    highest_term: i64,
    bytes: i64,
}

async fn size(conn: &mut PgConnection) -> Size {
    sqlx::query_as(
        "SELECT (SELECT series FROM series_total) AS live, (SELECT count(*) FROM series) AS series, (SELECT count(*) FROM expired_series) AS expired,
            (SELECT count(*) FROM label_pairs) AS label_pairs, (SELECT count(*) FROM metric_names) AS metric_names,
            (SELECT count(*) FROM layouts) AS layouts, (SELECT count(*) FROM latest_blocks) AS blocks, (SELECT count(*) FROM frames) AS frames,
            (SELECT last_value FROM terms) AS highest_term,
            (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
                WHERE relnamespace = 'golectra'::regnamespace AND relkind = 'r' AND relname !~ '^rollups_') AS bytes",
    )
    .fetch_one(conn)
    .await
    .unwrap()
}

/// Bytes of each table and index, those of all partitions of a table as one.
async fn bytes_of_relations(conn: &mut PgConnection) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT regexp_replace(coalesce(of_toast.relname || ' (TOAST)', class.relname), '_[0-9]{8,12}', '_*') AS name,
            sum(pg_relation_size(class.oid))::bigint
        FROM pg_class AS class LEFT JOIN pg_class AS of_toast ON of_toast.reltoastrelid = class.oid
        WHERE coalesce(of_toast.relnamespace, class.relnamespace) = 'golectra'::regnamespace AND class.relkind IN ('r', 'i', 't')
        GROUP BY name",
    )
    .fetch_all(conn)
    .await
    .unwrap();
    rows.into_iter().collect()
}

/// The twelve series of a pod.
fn pod(number: u32) -> impl Iterator<Item = Metric> {
    (0..12).map(move |n| {
        let labels = format!("container=\"app\",namespace=\"n{}\",pod=\"web-{number:07}\"", number % 20);
        gauge(&format!("container_metric_{n}{{{labels}}}"), f64::from(number))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_of_pods_that_come_and_go_leaves_rows_and_bytes_flat() {
    let Some(database) = TestDatabase::create().await else { return };
    let (nodes, pods_a_day, days, step_hours) = if is_full() { (50, 10_000, 30, 1) } else { (2, 24, 9, 3) };
    let start = 20_000 * DAY;
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let mut conn = database.connect().await;
    let (maintenance, sealer) = (maintenance(&store), sealer(&store));
    let steps_a_day = u32::try_from(24 / step_hours).unwrap();
    let pods_a_step = pods_a_day / steps_a_day;
    let (mut next_pod, mut sizes, mut relations) = (0_u32, Vec::new(), Vec::new());
    for day in 0..days {
        for hour in (0..24).step_by(step_hours) {
            let now = start + day * DAY + hour * HOUR;
            clock.set(now);
            // Each pod lives for a step, and is reported twice.
            let pods = pods_a_step;
            for node in 0..nodes {
                let mut metrics: Vec<Metric> = (0..20).map(|n| gauge(&format!("node_metric_{n}"), f64::from(n))).collect();
                metrics.extend((0..pods).filter(|n| n % nodes == node).flat_map(|n| pod(next_pod + n)));
                for report in 0..2 {
                    let one = batch(&format!("node-{node}"), IdempotencyKey::at(now + report), metrics.clone());
                    assert_eq!(patiently(&*store, &one).await, Applied::New);
                }
            }
            next_pod += pods;
            store.writers.touch().await;
            sealer.round().await.unwrap();
            maintenance.round().await.unwrap();
            // Autovacuum, which looks every minute, has no time in a test that hurries.
            if hour % 6 == 0 {
                conn.execute("VACUUM series, expired_series, label_pairs").await.unwrap();
            }
        }
        conn.execute("VACUUM").await.unwrap();
        let size = size(&mut conn).await;
        println!("day {day}: {size:?}");
        sizes.push(size);
        relations.push(bytes_of_relations(&mut conn).await);
    }
    // After the first pods expired and the first history went, four days on, nothing grows.
    let (settled, last) = (&sizes[5], sizes.last().unwrap());
    for (name, bytes) in relations.last().unwrap() {
        let before = relations[5].get(name).unwrap_or(&0);
        if bytes > before {
            println!("{name} grew from {before} to {bytes} bytes");
        }
    }
    let live_pods = i64::from(pods_a_step * (steps_a_day + 2));
    assert!(last.live <= i64::from(nodes) * 20 + live_pods * 12, "{last:?}");
    for (name, before, after) in [
        ("live", settled.live, last.live),
        ("series", settled.series, last.series),
        ("label_pairs", settled.label_pairs, last.label_pairs),
        ("metric_names", settled.metric_names, last.metric_names),
        ("layouts", settled.layouts, last.layouts),
        ("blocks", settled.blocks, last.blocks),
        ("frames", settled.frames, last.frames),
        ("highest_term", settled.highest_term, last.highest_term),
        ("bytes", settled.bytes, last.bytes),
    ] {
        assert!(after <= before + before / 10, "{name} grew from {before} to {after}");
    }
    // Without pods all of it goes but the nodes' own.
    for hour in (0..24 * 6).step_by(step_hours) {
        let now = start + days * DAY + hour * HOUR;
        clock.set(now);
        for node in 0..nodes {
            let metrics = (0..20).map(|n| gauge(&format!("node_metric_{n}"), f64::from(n))).collect();
            assert_eq!(patiently(&*store, &batch(&format!("node-{node}"), IdempotencyKey::at(now), metrics)).await, Applied::New);
        }
        store.writers.touch().await;
        sealer.round().await.unwrap();
        maintenance.round().await.unwrap();
    }
    let left = size(&mut conn).await;
    let own = i64::from(nodes) * 20;
    assert_eq!((left.live, left.series, left.expired, left.label_pairs, left.metric_names), (own, own, 0, 0, 20), "{left:?}");
    assert_eq!(left.layouts, i64::from(nodes));
}

#[tokio::test]
async fn the_number_of_live_series_is_told() {
    let Some(database) = TestDatabase::create().await else { return };
    database.store().await.apply(batch("a", IdempotencyKey::at(Clock::System.unix_millis()), pod(1).collect())).await.unwrap();
    // Another server, which wrote none of them, asks when it starts.
    let store = database.store().await;
    let told = tokio::time::timeout(Duration::from_mins(1), async {
        while store.metrics().series.is_none() {
            tokio::task::yield_now().await;
        }
        store.metrics().series
    });
    assert_eq!(told.await.expect("the database is asked within a minute"), Some(12));
}

#[tokio::test]
async fn a_source_that_is_gone_leaves_no_row() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * DAY;
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    store.apply(batch("gone", IdempotencyKey::at(start), vec![gauge("g{a=\"1\"}", 1.0)])).await.unwrap();
    let mut conn = database.connect().await;
    let rows = "SELECT (SELECT count(*) FROM sources), (SELECT count(*) FROM series), (SELECT count(*) FROM label_pairs)";
    for (day, expected) in [(6, (1, 1, 1)), (8, (1, 1, 1)), (10, (1, 0, 0)), (12, (0, 0, 0))] {
        clock.set(start + day * DAY);
        sealer(&store).round().await.unwrap();
        maintenance(&store).round().await.unwrap();
        assert_eq!(sqlx::query_as::<_, (i64, i64, i64)>(rows).fetch_one(&mut conn).await.unwrap(), expected, "day {day}");
    }
}

#[tokio::test]
async fn sealing_and_folding_do_not_read_the_series_of_pods_that_are_gone() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * DAY;
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let mut conn = database.connect().await;
    let sealer = sealer(&store);
    let rows_read = async |conn: &mut PgConnection| {
        conn.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        let statement = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'series'";
        sqlx::query_scalar::<_, i64>(statement).fetch_one(conn).await.unwrap()
    };
    let mut read = Vec::new();
    for (hour, metrics) in [(0, (0..200).flat_map(pod).collect()), (4, vec![gauge("g", 1.0)])] {
        clock.set(start + hour * HOUR);
        assert_eq!(patiently(&*store, &batch("node", IdempotencyKey::at(start + hour * HOUR), metrics)).await, Applied::New);
        conn.execute("ANALYZE series").await.unwrap();
        let before = rows_read(&mut conn).await;
        clock.set(start + (hour + 3) * HOUR);
        let round = sealer.round_on(&mut conn, i64::MAX).await.unwrap();
        assert!(round.frames == 1 && round.folded > 0, "{round:?}");
        read.push(rows_read(&mut conn).await - before);
    }
    assert!(read[0] >= 2 * 2_400, "each series is read when it is sealed and when it is folded: {read:?}");
    assert!(read[1] <= 200, "one series was reported: {read:?}");
}

#[tokio::test]
async fn removing_series_does_not_look_for_all_that_share_their_labels() {
    let Some(database) = TestDatabase::create().await else { return };
    let now = 20_000 * DAY;
    let clock = Clock::at(now);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let mut conn = database.connect().await;
    for (source, pods) in [("gone", 0..100), ("there", 1_000..1_400)] {
        let one = batch(source, IdempotencyKey::at(now), pods.flat_map(pod).collect());
        assert_eq!(patiently(&*store, &one).await, Applied::New);
    }
    conn.execute("VACUUM ANALYZE series").await.unwrap();
    let entries_read = async |conn: &mut PgConnection| {
        conn.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        let statement = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'series_by_term'";
        sqlx::query_scalar::<_, i64>(statement).fetch_one(conn).await.unwrap()
    };
    let before = entries_read(&mut conn).await;
    let gone = sqlx::query_scalar("SELECT id FROM sources WHERE name = 'gone'").fetch_one(&mut conn).await.unwrap();
    assert_eq!(expire::source(&mut conn, gone, Timestamp(now)).await.unwrap(), 1_200);
    assert_eq!(remove::series(&mut conn, Timestamp(now + 1)).await.unwrap(), 1_200);
    let read = entries_read(&mut conn).await - before;
    assert!(read <= 2 * 1_200, "{read} entries of the index were read to remove the 100 names of pods that nobody else has");
    // What the others share with them stays.
    let size = size(&mut conn).await;
    assert_eq!((size.series, size.label_pairs, size.metric_names), (4_800, 400 + 20 + 1, 12), "{size:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matchers_read_the_index_and_not_every_series() {
    let Some(database) = TestDatabase::create().await else { return };
    let (sources, pods) = if is_full() { (50, 1_667) } else { (10, 100) };
    let limits = SeriesLimits { total: 2_000_000, per_source: 100_000 };
    let store = PostgresStore::open(PostgresConfig { limits, ..config(database.dsn()) }, Clock::System).unwrap();
    assert!(ready(&store).await);
    let now = Clock::System.unix_millis();
    for source in 0..sources {
        for chunk in (0..pods).collect::<Vec<_>>().chunks(100) {
            let metrics = chunk.iter().flat_map(|n| pod(source * pods + n)).collect();
            assert_eq!(patiently(&*store, &batch(&format!("node-{source}"), IdempotencyKey::at(now), metrics)).await, Applied::New);
        }
    }
    let mut conn = database.connect().await;
    conn.execute("VACUUM ANALYZE series").await.unwrap();
    let matcher = |label: &str, op: MatchOp, value: &str| Matcher::new(op, label, value).unwrap();
    let name = || matcher("__name__", MatchOp::Equal, "container_metric_3");
    let cases = [
        (
            "name, =, =~ of a prefix",
            vec![name(), matcher("namespace", MatchOp::Equal, "n7"), matcher("pod", MatchOp::Match, "web-00000.*")],
        ),
        ("name, =, !=", vec![name(), matcher("pod", MatchOp::Equal, "web-0000107"), matcher("namespace", MatchOp::NotEqual, "n1")]),
        (
            "name, =~ of a list, !~",
            vec![name(), matcher("pod", MatchOp::Match, "web-0000003|web-0000107"), matcher("namespace", MatchOp::NotMatch, "n1.")],
        ),
    ];
    for (case, matchers) in cases {
        let filter = LatestFilter { matchers, ..LatestFilter::default() };
        let mut took = Vec::new();
        let mut found = 0;
        for _ in 0..21 {
            let started = Instant::now();
            found = crate::store::conformance::every(store.latest(filter.clone()).await.unwrap()).await.len();
            took.push(started.elapsed());
        }
        took.sort();
        println!("{} series, {case}: {found} found, median {:?}, slowest {:?}", sources * pods * 12, took[10], took[20]);
        assert!(found > 0, "{case}");
        // The work is bounded by what matches, not by what there is: the plan has no scan of the whole table.
        let terms = select::terms(&mut conn, &filter).await.unwrap();
        let wanted = select::candidates(&mut conn, &terms, None).await.unwrap().len();
        assert!(wanted <= found.max(1) * 25, "{case}: {wanted} candidates for {found}");
    }
    labels_are_read_from_their_tables(&store, sources, pods).await;
}

/// Names and values of labels of all series, and of some.
async fn labels_are_read_from_their_tables(store: &PostgresStore, sources: u32, pods: u32) {
    let range = TimeRange { start_ms: 0, end_ms: i64::MAX };
    let all = SeriesFilter { any: Vec::new(), range, limit: 100_000 };
    let name = vec![Matcher::equal("__name__", "container_metric_3"), Matcher::equal("namespace", "n7")];
    let some = SeriesFilter { any: vec![name], ..all.clone() };
    for (filter, label, expected) in [
        (&all, "__name__", 12),
        (&all, "instance", sources),
        (&all, "pod", sources * pods),
        (&some, "pod", sources * pods / 20),
        (&all, "", 5),
        (&some, "", 5),
    ] {
        let started = Instant::now();
        let mut memory = MemoryBudget::new(1 << 30).reserve(1 << 30);
        let found = if label.is_empty() {
            store.label_names(filter, &mut memory).await
        } else {
            store.label_values(label, filter, &mut memory).await
        };
        let (found, took) = (u32::try_from(found.unwrap().items.len()).unwrap(), started.elapsed());
        println!(
            "{} series, labels {label:?} of {}: {found} found, {took:?}",
            sources * pods * 12,
            if filter.any.is_empty() { "all" } else { "some" }
        );
        assert!(found.abs_diff(expected) <= 1, "{label:?}: {found} instead of {expected}");
    }
}

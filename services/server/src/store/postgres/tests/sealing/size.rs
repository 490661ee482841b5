//! How many bytes a sample takes, with what its time and its batch's key take.
//!
//! `GOLECTRA_NODES=NUMBER` has as many sources send them, `GOLECTRA_DAYS=NUMBER` so many days.

use std::cmp::Reverse;

use golectra_recorded::Node;
use sqlx::Executor as _;

use super::*;

/// How many reports of ten seconds a day has.
const REPORTS: usize = 8_640;

/// Bytes of tables with their indexes and TOAST, by the sample.
#[derive(Debug)]
struct Sizes {
    chunks: f64,
    keys: f64,
    rollups: f64,
    /// How much smaller the tables of chunks could be, of 1.
    room: f64,
}

impl Sizes {
    /// Of what nodes send from the start of a day on, so that the partitions of chunks are whole: names, and the values of each report.
    async fn of(names: &[String], mut report: impl FnMut(usize) -> Vec<f64>) -> Option<Self> {
        let number = |name: &str, usual: usize| std::env::var(name).map_or(usual, |number| number.parse().expect("a number"));
        // What an index takes at least counts for little where two send.
        let (nodes, reports) = (number("GOLECTRA_NODES", 2), number("GOLECTRA_DAYS", 1) * REPORTS);
        let start = 20_000 * DAY;
        let mut lab = Lab::new_at(start).await?;
        for number in 0..reports {
            // A timer is a few milliseconds late.
            let at = start + u64::try_from(number).unwrap() * 10_000 + fastrand::u64(0..10);
            lab.clock.set(at);
            let mut metrics = Metrics::default();
            for (name, value) in names.iter().zip(report(number)) {
                metrics.push_parsed(name, Value::Gauge(value)).unwrap();
            }
            for source in 0..nodes {
                let plain = batch(&format!("node-{source}"), IdempotencyKey::at(at), vec![gauge("unused", 0.0)]);
                lab.store.apply(Batch { metrics: metrics.clone(), ..plain }).await.unwrap();
            }
            if number % 180 == 179 {
                sealer(&lab.store).round().await.unwrap();
            }
        }
        lab.clock.set(lab.now() + 3 * HOUR);
        lab.seal_all().await;
        #[expect(clippy::cast_precision_loss, reason = "some millions")]
        let samples = (reports * nodes * names.len()) as f64;
        let chunks = bytes_of(&mut lab.conn, "^chunks_2").await;
        let keys = bytes_of(&mut lab.conn, "^sealed_reports$").await;
        let rollups = bytes_of(&mut lab.conn, "^rollups_").await;
        lab.conn.execute("VACUUM FULL chunks").await.unwrap();
        let room = 1.0 - bytes_of(&mut lab.conn, "^chunks_2").await / chunks;
        let sizes = Self { chunks: chunks / samples, keys: keys / samples, rollups: rollups / samples, room };
        println!("{nodes} nodes with {} series, {reports} reports, in bytes a sample: {sizes:.3?}", names.len());
        Some(sizes)
    }

    /// Of these series of the recorded node, by their numbers.
    async fn of_recorded(node: &Node, series: &[usize]) -> Option<Self> {
        let ids: Vec<String> = node.ids().map(str::to_owned).collect();
        let names: Vec<String> = series.iter().map(|one| ids[*one].clone()).collect();
        let report = |number| {
            let values: Vec<f64> = node.report(number).collect();
            series.iter().map(|one| values[*one]).collect()
        };
        Self::of(&names, report).await
    }
}

/// What tables take with their indexes and TOAST.
async fn bytes_of(conn: &mut PgConnection, tables: &str) -> f64 {
    let size = "SELECT sum(pg_total_relation_size(oid))::float8 FROM pg_class WHERE relkind = 'r' AND relname ~ $1";
    sqlx::query_scalar(size).bind(tables).fetch_one(conn).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_takes_few_bytes_a_sample() {
    let node = Node::load();
    let all: Vec<usize> = (0..node.ids().len()).collect();
    let Some(sizes) = Sizes::of_recorded(&node, &all).await else { return };
    assert!(sizes.chunks + sizes.keys <= 0.4, "{sizes:?}");
    assert!(sizes.chunks + sizes.keys + sizes.rollups <= 0.6, "{sizes:?}");
    assert!(sizes.room < 0.08, "the room of the last parts of a day is given back: {sizes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_that_all_move_take_few_bytes_a_sample() {
    let names: Vec<String> = (0..70).map(|number| format!("moving_{number}")).collect();
    // Half of them count up to a hundred, the others go up and down by up to fifty hundredths.
    let (mut random, mut values) = (fastrand::Rng::with_seed(7), vec![0_i32; names.len()]);
    let report = |_| {
        let next = |(number, value): (usize, &mut i32)| {
            *value += if number % 2 == 0 { random.i32(0..=100) } else { random.i32(-50..=50) };
            f64::from(*value) / if number % 2 == 0 { 1.0 } else { 100.0 }
        };
        values.iter_mut().enumerate().map(next).collect()
    };
    let Some(sizes) = Sizes::of(&names, report).await else { return };
    assert!(sizes.chunks + sizes.keys <= 1.5, "{sizes:?}");
}

/// For comparison: what counts bytes, or tells of memory, has more digits that nobody can predict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_series_of_a_node_that_move_most_take_more() {
    let node = Node::load();
    let changes: Vec<usize> = node.changes().collect();
    let mut series: Vec<usize> = (0..changes.len()).collect();
    series.sort_by_key(|one| Reverse(changes[*one]));
    series.truncate(70);
    series.sort_unstable();
    let Some(sizes) = Sizes::of_recorded(&node, &series).await else { return };
    assert!(sizes.chunks + sizes.keys <= 2.2, "{sizes:?}");
}

/// The bytes of a partition of chunks whose last window was folded, of its parts before that, and of one copy of what was folded; with another's
/// transaction meanwhile.
async fn last_window(other: Option<&str>) -> Option<[f64; 3]> {
    let start = 20_000 * DAY + 22 * HOUR;
    let mut lab = Lab::new_at(start).await?;
    let mut random = fastrand::Rng::with_seed(7);
    for second in (0..7_200).step_by(20) {
        lab.clock.set(start + second * 1000);
        let metrics = (0..64).map(|n| gauge(&format!("g{n}"), f64::from(random.u32(..)))).collect();
        lab.put(batch("a", IdempotencyKey::at(lab.now()), metrics)).await;
        if second % 1_800 == 0 {
            lab.sealer().round().await.unwrap();
        }
    }
    lab.clock.set(start + 2 * HOUR + 6 * MINUTE);
    lab.seal_all().await;
    assert_eq!(lab.count("chunks WHERE part > 0").await, 4);
    let parts = bytes_of(&mut lab.conn, "^chunks_2").await;
    let mut session = lab.database.connect().await;
    if let Some(transaction) = other {
        session.execute(transaction).await.unwrap();
        lab.limits.others = Duration::from_millis(100);
    }
    lab.clock.set(start + 3 * HOUR);
    assert_eq!(lab.seal_all().await.folded, 4);
    lab.check().await;
    let folded: f64 = sqlx::query_scalar("SELECT sum(octet_length(data))::float8 FROM chunks").fetch_one(&mut lab.conn).await.unwrap();
    Some([bytes_of(&mut lab.conn, "^chunks_2").await, parts, folded])
}

#[tokio::test]
async fn the_last_window_of_a_day_moves_into_the_room_of_its_parts() {
    // VACUUM makes its maps of what is free, of 32 KiB.
    let Some([bytes, parts, folded]) = last_window(None).await else { return };
    assert!(bytes < parts + 0.5 * folded, "{bytes} bytes, {parts} of parts, {folded} folded");
    for other in ["BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM chunks LIMIT 0", "BEGIN; CREATE TEMPORARY TABLE written ()"] {
        let Some([bytes, parts, folded]) = last_window(Some(other)).await else { return };
        assert!(
            bytes < parts + 1.5 * folded,
            "nothing moves that finds no room, beside {other}: {bytes} bytes, {parts} of parts, {folded} folded"
        );
    }
}

#[tokio::test]
async fn it_is_seen_how_many_numbers_of_series_are_left() {
    let Some(mut lab) = Lab::new().await else { return };
    let sealer = lab.sealer();
    sealer.round().await.unwrap();
    assert!(sealer.metrics.series_ids_used_ratio.get() < 1e-6);
    sqlx::query("SELECT setval('series_blocks', 33554431 / 2)").execute(&mut lab.conn).await.unwrap();
    sealer.round().await.unwrap();
    let ratio = sealer.metrics.series_ids_used_ratio.get();
    assert!((ratio - 0.5).abs() < 1e-6, "{ratio}");
}

//! How many bytes a sample takes.
//!
//! `GOLECTRA_NODE_SAMPLES=FILE` measures real ones: for each report a line `@ NUMBER`, then a line `NAME VALUE` for each series.
//! `GOLECTRA_NODES=NUMBER` has as many sources send them.

use std::fmt::Write as _;

use super::*;

/// Reports of ten seconds.
fn reports() -> Vec<Vec<(String, f64)>> {
    let Some(file) = std::env::var_os("GOLECTRA_NODE_SAMPLES") else {
        let mut random = fastrand::Rng::with_seed(7);
        let mut values = vec![0.0_f64; 128];
        // Of a node's series most stand still or count; some are noise.
        let mut report = |number: usize| {
            for (place, value) in values.iter_mut().enumerate() {
                match place % 8 {
                    4 | 5 => *value += f64::from(random.u32(0..50)),
                    6 if number.is_multiple_of(6) => *value += 0.01,
                    0..4 | 6 => {}
                    _ => *value = f64::from(random.u32(0..1 << 20)) * 4096.0,
                }
            }
            values.iter().enumerate().map(|(n, value)| (format!("node_metric_{n}"), *value)).collect()
        };
        return (0..1_440).map(&mut report).collect();
    };
    let text = std::fs::read_to_string(file).expect("GOLECTRA_NODE_SAMPLES names a file");
    let mut all: Vec<Vec<(String, f64)>> = Vec::new();
    for line in text.lines() {
        if line.starts_with('@') {
            all.push(Vec::new());
        } else if let (Some(last), Some((name, value))) = (all.last_mut(), line.rsplit_once(' ')) {
            last.push((name.to_owned(), value.parse().expect("a number")));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_history_takes_few_bytes_a_sample() {
    let Some(mut lab) = Lab::new().await else { return };
    let reports = reports();
    let nodes = std::env::var("GOLECTRA_NODES").map_or(1, |nodes| nodes.parse().expect("a number"));
    let (mut samples, mut frames_bytes) = (0, 0);
    let mut sealing = Duration::ZERO;
    let size = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class WHERE relkind = 'r' AND relname ~ $1";
    for (number, report) in reports.iter().enumerate() {
        let at = START + u64::try_from(number).unwrap() * 10_000 + fastrand::u64(0..20);
        lab.clock.set(at);
        let mut metrics = Metrics::default();
        for (name, value) in report {
            metrics.push_parsed(name, Value::Gauge(*value)).unwrap();
        }
        for node in 0..nodes {
            samples += report.len();
            let plain = batch(&format!("node-{node}"), IdempotencyKey::at(at), vec![gauge("unused", 0.0)]);
            lab.store.apply(Batch { metrics: metrics.clone(), ..plain }).await.unwrap();
        }
        if number % 180 == 179 || number + 1 == reports.len() {
            let bytes: i64 = sqlx::query_scalar(size).bind("^frames_").fetch_one(&mut lab.conn).await.unwrap();
            frames_bytes = frames_bytes.max(bytes);
            let started = std::time::Instant::now();
            sealer(&lab.store).round().await.unwrap();
            sealing += started.elapsed();
        }
    }
    lab.clock.set(lab.now() + 3 * HOUR);
    lab.seal_all().await;
    let mut said = format!("{} reports, {samples} samples, frames at most {frames_bytes} bytes, sealed in {sealing:?};", reports.len());
    let mut all = 0.0;
    for tables in ["^chunks_", "^sealed_", "^rollups_5m_", "^rollups_1h_"] {
        let bytes: i64 = sqlx::query_scalar(size).bind(tables).fetch_one(&mut lab.conn).await.unwrap();
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let each = bytes as f64 / samples as f64;
        all += if tables.starts_with("^rollups") { 0.0 } else { each };
        write!(said, " {tables} {bytes} bytes, {each:.3} a sample;").unwrap();
    }
    let (rows, coded, row): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), sum(octet_length(data) + octet_length(times))::bigint, sum(pg_column_size(chunks) + octet_length(data))::bigint FROM chunks",
    )
    .fetch_one(&mut lab.conn)
    .await
    .unwrap();
    println!("{said} {rows} rows of chunks, {coded} bytes coded, {row} bytes at most in rows");
    // So few samples share the first pages of tables and indexes; a frame takes ten bytes a sample.
    assert!(all < 2.5, "{all} bytes a sample");
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

//! How long queries take, for each sample that they read: `cargo run --release --example bench -p golectra-promql`.
//!
//! 400 series of a day at 10 s, evaluated in 300 steps. The store hands out slices, so what is measured is the evaluation.
#![expect(clippy::cast_precision_loss, reason = "counts of samples are far below 2^53")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, Labels, METRIC_NAME, MemoryBudget, NoInterrupt, Query, Statistics, Steps};

const SERIES: usize = 400;
const SAMPLES: i64 = 8640;
const STEPS: i64 = 300;

const QUERIES: &[&str] = &[
    "sum by (mode) (rate(x_total[5m]))",
    "sum by (mode) (rate(x_total[1h]))",
    "sum by (mode) (rate(gauge[5m]))",
    "gauge",
    "sum(gauge)",
    "avg(gauge)",
    "stddev(gauge)",
    "quantile(0.9, gauge)",
    "topk(5, rate(x_total[5m]))",
    "sum(max_over_time(gauge[1h]))",
    "sum(avg_over_time(gauge[1h]))",
    "sum(stddev_over_time(gauge[1h]))",
    "sum(quantile_over_time(0.9, gauge[1h]))",
    "sum(deriv(gauge[1h]))",
    "rate(x_total[5m]) / ignoring (mode) group_left () sum without (mode) (rate(x_total[5m]))",
    "gauge > 50 and on (host) x_total",
    "sum(max_over_time(rate(x_total[5m])[1h:1m]))",
    "label_replace(gauge, \"short\", \"$1\", \"host\", \"host-(.*)\")",
];

fn main() {
    let store = store();
    let engine = Engine::default();
    let budget = MemoryBudget::new(1 << 30);
    let rounds = std::env::args().nth(1).map_or(7, |rounds| rounds.parse().expect("the argument is a number of rounds"));
    let end_ms = SAMPLES * 10_000;
    let steps = Steps::range(end_ms / STEPS, end_ms, end_ms / STEPS).unwrap();
    println!("{:>9} {:>9} {:>10} {:>9}", "ms", "ns/sample", "ns/point", "peak KiB");
    for text in QUERIES {
        let query = Query::parse(text, &engine.parse_limits).unwrap();
        let mut best = Duration::MAX;
        let mut statistics = Statistics::default();
        for _ in 0..rounds {
            let start = Instant::now();
            let outcome = black_box(engine.range(&query, steps, &store, &NoInterrupt, &budget).unwrap());
            best = best.min(start.elapsed());
            statistics = outcome.statistics;
        }
        let nanoseconds = best.as_secs_f64() * 1e9;
        println!(
            "{:>9.2} {:>9.2} {:>10.1} {:>9} {text}",
            best.as_secs_f64() * 1e3,
            nanoseconds / statistics.samples as f64,
            nanoseconds / (statistics.series * steps.len()) as f64,
            statistics.peak_bytes / 1024
        );
    }
}

fn store() -> MemoryStore {
    let mut store = MemoryStore::default();
    for series in 0..SERIES {
        let (host, mode) = (format!("host-{}", series / 8), format!("mode-{}", series % 8));
        let labels = |name| Labels::new([(METRIC_NAME, name), ("host", host.as_str()), ("mode", mode.as_str()), ("job", "node")]);
        let (counter, gauge) = (labels("x_total"), labels("gauge"));
        let mut random = fastrand::Rng::with_seed(series as u64);
        let mut total = 0.0;
        for sample in 0..SAMPLES {
            let timestamp_ms = sample * 10_000 + random.i64(0..500);
            total = if random.u32(0..5000) == 0 { 0.0 } else { total + random.f64() * 10.0 };
            store.add(&counter, timestamp_ms, total);
            store.add(&gauge, timestamp_ms, random.f64() * 100.0);
        }
    }
    store
}

//! Size and speed of the coding: `cargo run --release --example bench -p golectra-chunks [-- SCRAPES…]`.
//!
//! Each file has scrapes in Prometheus's text format, each after a line `@ NUMBER`; they are taken as 10 s apart. Besides,
//! pods are generated: 12 series of a container, every 30 s.
#![expect(clippy::cast_precision_loss, reason = "counts of samples and bytes are far below 2^53")]

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use golectra_chunks::{Column, ColumnValues, EncodedBlock, Times, decode_counter, decode_gauge, encode};

const WINDOW_MS: i64 = 7_200_000;
const START_MS: i64 = 1_764_000_000_000;
const BLOCK_SERIES: usize = 64;

enum Values {
    Gauge(Vec<f64>),
    Counter(Vec<i64>),
}

struct Series {
    name: String,
    timestamps_ms: Vec<i64>,
    values: Values,
}

impl Series {
    fn column(&self) -> Column<'_> {
        let values = match &self.values {
            Values::Gauge(values) => ColumnValues::Gauge(values),
            Values::Counter(deltas) => ColumnValues::Counter(deltas),
        };
        Column { timestamps_ms: &self.timestamps_ms, values }
    }
}

fn main() {
    let mut random = fastrand::Rng::with_seed(1);
    for file in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&file).expect("a file of scrapes is readable");
        measure(&format!("{file}, 2 h"), &windows(&scrapes(&text, WINDOW_MS, &mut random)));
        measure(&format!("{file}, 30 min"), &windows(&scrapes(&text, WINDOW_MS / 4, &mut random)));
    }
    let pods: Vec<Vec<Series>> = (0..200).map(|_| pod(&mut random)).collect();
    measure("generated pods, 2 h", &pods);
}

/// The series of all scrapes, one list for each window of time.
fn scrapes(text: &str, window_ms: i64, random: &mut fastrand::Rng) -> Vec<Vec<Series>> {
    let mut windows: Vec<Vec<Series>> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    let mut time = START_MS;
    let mut next = START_MS;
    for line in text.lines() {
        if line.starts_with('@') {
            if (next - START_MS) % window_ms == 0 {
                windows.push(Vec::new());
                index.clear();
            }
            time = next + random.i64(0..4);
            next += 10_000;
        } else if let Some((name, value)) = line.rsplit_once(' ') {
            let series = windows.last_mut().expect("a scrape begins with its number");
            let position = *index.entry(name).or_insert_with(|| {
                series.push(Series { name: name.to_owned(), timestamps_ms: Vec::new(), values: Values::Gauge(Vec::new()) });
                series.len() - 1
            });
            series[position].timestamps_ms.push(time);
            let Values::Gauge(values) = &mut series[position].values else { unreachable!("all of them are gauges") };
            values.push(value.parse().expect("a value is a number"));
        }
    }
    windows
}

fn windows(windows: &[Vec<Series>]) -> Vec<&[Series]> {
    windows.iter().flat_map(|window| window.chunks(BLOCK_SERIES)).collect()
}

/// A container as the kubelet sees it: memory that wanders, CPU time, counters of traffic, and what never changes.
fn pod(random: &mut fastrand::Rng) -> Vec<Series> {
    let offset = random.i64(0..30_000);
    let timestamps_ms: Vec<i64> = (0..240).map(|index| START_MS + offset + index * 30_000 + random.i64(0..4)).collect();
    let busy = random.f64().powi(3);
    let gauges = [
        ("memory_working_set_bytes", wander(random, busy, 2e8, 2e6)),
        ("memory_rss_bytes", wander(random, busy, 1.5e8, 1e6)),
        ("memory_usage_bytes", wander(random, busy, 2.5e8, 3e6)),
        ("cpu_usage_seconds_total", count(random, busy * 3e8).map(|nanoseconds| nanoseconds / 1e9).collect()),
        ("network_receive_bytes_total", count(random, busy * 30_000.0).collect()),
        ("network_transmit_bytes_total", count(random, busy * 10_000.0).collect()),
        ("filesystem_used_bytes", wander(random, busy / 10.0, 1e7, 1e5)),
        ("filesystem_capacity_bytes", vec![1e11; 240]),
        ("page_faults_total", count(random, busy * 500.0).collect()),
        ("major_page_faults_total", count(random, busy * 0.2).collect()),
        ("start_time_seconds", vec![1_764_000_123.5; 240]),
    ];
    let events: Vec<i64> = (0..240).map(|_| i64::from(random.f64() < busy) * random.i64(0..9)).collect();
    let gauges = gauges.into_iter().map(|(name, values)| (name, Values::Gauge(values)));
    gauges
        .chain([("events_total", Values::Counter(events))])
        .map(|(name, values)| Series { name: name.to_owned(), timestamps_ms: timestamps_ms.clone(), values })
        .collect()
}

/// Pages of memory of which some change now and then.
fn wander(random: &mut fastrand::Rng, busy: f64, start: f64, step: f64) -> Vec<f64> {
    let mut value = start;
    let mut next = || {
        if random.f64() < busy {
            value = (value + (random.f64() - 0.5) * step).max(0.0);
        }
        (value / 4096.0).round() * 4096.0
    };
    (0..240).map(|_| next()).collect()
}

fn count(random: &mut fastrand::Rng, mean: f64) -> impl Iterator<Item = f64> {
    let mut total = 0.0;
    (0..240).map(move |_| {
        total += (random.f64() * 2.0 * mean).round();
        total
    })
}

fn measure<S: AsRef<[Series]>>(what: &str, blocks: &[S]) {
    let columns: Vec<Vec<Column<'_>>> = blocks.iter().map(|block| block.as_ref().iter().map(Series::column).collect()).collect();
    let samples: usize = columns.iter().flatten().map(|column| column.timestamps_ms.len()).sum();
    let encoded: Vec<EncodedBlock> = columns.iter().map(|columns| encode(columns)).collect();
    let times: usize = encoded.iter().map(|block| block.times.len()).sum();
    let data: usize = encoded.iter().map(|block| block.data.len()).sum();
    let offsets: usize = encoded.iter().map(|block| block.offsets.len() * 4).sum();
    let encode_time = fastest(|| columns.iter().for_each(|columns| drop(black_box(encode(columns)))));
    let one_by_one = fastest(|| read(&columns, &encoded));
    let series: usize = columns.iter().map(Vec::len).sum();
    println!(
        "{what}: {series} columns, {samples} samples; {:.4} B/sample, of which times {:.4} (offsets {:.4} more); encode {:.1}M samples/s; decode {:.2} µs a column",
        (times + data) as f64 / samples as f64,
        times as f64 / samples as f64,
        offsets as f64 / samples as f64,
        samples as f64 / encode_time.as_secs_f64() / 1e6,
        one_by_one.as_secs_f64() * 1e6 / series as f64,
    );
    if std::env::var_os("COLUMNS_LISTED").is_some() {
        let mut sizes: Vec<(usize, usize, &str)> = Vec::new();
        for (block, encoded) in blocks.iter().zip(&encoded) {
            for (index, series) in block.as_ref().iter().enumerate() {
                sizes.push((encoded.column(index).len(), series.timestamps_ms.len(), &series.name));
            }
        }
        sizes.sort_unstable_by_key(|size| std::cmp::Reverse(size.0));
        for (bytes, samples, name) in sizes.iter().take(60) {
            println!("  {bytes:6} B {samples:5} samples {:.3} B/sample {name}", *bytes as f64 / *samples as f64);
        }
        let constant = sizes.iter().filter(|size| size.0 < 20).count();
        println!("  {constant} columns have less than 20 bytes");
    }
}

/// Reads every column, the times of each block decoded anew, as a query of one series does.
fn read(columns: &[Vec<Column<'_>>], encoded: &[EncodedBlock]) {
    let (mut timestamps_ms, mut values, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
    for (columns, block) in columns.iter().zip(encoded) {
        for (index, column) in columns.iter().enumerate() {
            let times = Times::decode(&block.times).expect("just written");
            timestamps_ms.clear();
            values.clear();
            deltas.clear();
            match column.values {
                ColumnValues::Gauge(_) => decode_gauge(&times, block.column(index), &mut timestamps_ms, &mut values),
                ColumnValues::Counter(_) => decode_counter(&times, block.column(index), &mut timestamps_ms, &mut deltas),
            }
            .expect("just written");
            assert_eq!(timestamps_ms.len(), column.timestamps_ms.len());
            black_box((&timestamps_ms, &values, &deltas));
        }
    }
}

fn fastest(mut action: impl FnMut()) -> Duration {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            action();
            start.elapsed()
        })
        .min()
        .expect("it ran")
}

//! Bodies that are made before the clock starts, each with values of its own.

use std::fmt::Write as _;

use fastrand::Rng;
use golectra_protocol::{gzip, hash};
use golectra_tests::{AGENT_GAUGES, KEY};

/// The share of the machine's free memory that one pool may take.
const MEMORY_SHARE: u64 = 4;

/// A series as an agent names it. One in ten of the thousand is a counter.
#[derive(Debug, Clone)]
pub struct Series {
    name: String,
    counter: bool,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON array, gzipped.
    Batch,
    /// One JSON object as it is.
    Single,
    /// One JSON object, gzipped.
    PackedSingle,
    /// The same metrics in Prometheus's text format, gzipped.
    Text,
}

impl Format {
    /// Whether the body is gzipped.
    pub fn packed(self) -> bool {
        self != Self::Single
    }
}

/// One body.
pub struct Payload {
    /// What is sent.
    pub bytes: Box<[u8]>,
    /// HashSHA256 of what it unpacks to.
    pub hash: Box<str>,
    /// The sum of its counters' deltas.
    pub deltas: u64,
}

/// Bodies of one kind.
pub struct Pool {
    /// In the order in which they are sent.
    pub payloads: Vec<Payload>,
    /// How many metrics each of them holds.
    pub metrics_each: usize,
    /// How they are written.
    pub format: Format,
}

/// The sixty series of an agent: its process, its host, its processors.
pub fn sixty() -> Vec<Series> {
    let gauges = AGENT_GAUGES.map(|name| Series { name: name.to_owned(), counter: false });
    let polls = Series { name: "PollCount".to_owned(), counter: true };
    let processors = (1..).map(|number| Series { name: format!("CPUutilization{number}"), counter: false });
    gauges.into_iter().chain([polls]).chain(processors).take(60).collect()
}

/// This block of a thousand series; every block has names of its own.
pub fn thousand(block: usize) -> Vec<Series> {
    const STEMS: [&str; 10] = [
        "disk_read_bytes",
        "disk_writes",
        "net_rx_bytes",
        "net_tx_errors",
        "queue_depth",
        "cache_hits",
        "request_seconds",
        "memory_used",
        "open_files",
        "tasks_total",
    ];
    let name = |number: usize| format!("{}_{:05}", STEMS[number % STEMS.len()], block * 100 + number / STEMS.len());
    (0..1000).map(|number| Series { name: name(number), counter: number % 10 == 9 }).collect()
}

impl Pool {
    /// Makes this many bodies, or as many as memory has room for; body `i` holds the series `series(i)`.
    pub fn prepare<'a>(count: usize, format: Format, series: impl Fn(usize) -> &'a [Series] + Sync) -> Self {
        let metrics_each = match format {
            Format::Single | Format::PackedSingle => 1,
            Format::Batch | Format::Text => series(0).len(),
        };
        // A payload and its two owners' words.
        let each = payload(format, series(0), 0).bytes.len() + 160;
        let count = count.min(usize::try_from(free_memory_bytes() / MEMORY_SHARE).expect("memory fits") / each).max(1);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let step = count.div_ceil(threads);
        let payloads = std::thread::scope(|scope| {
            let series = &series;
            let makers: Vec<_> = (0..count)
                .step_by(step)
                .map(|first| {
                    scope.spawn(move || {
                        (first..count.min(first + step)).map(|index| payload(format, series(index), index)).collect::<Vec<_>>()
                    })
                })
                .collect();
            makers.into_iter().flat_map(|maker| maker.join().expect("making bodies never fails")).collect()
        });
        Self { payloads, metrics_each, format }
    }

    /// How many bodies there are.
    pub fn len(&self) -> usize {
        self.payloads.len()
    }
}

/// The body of this index. Its values are the same in every format: they come from the index alone.
fn payload(format: Format, series: &[Series], index: usize) -> Payload {
    let mut random = Rng::with_seed(0x6f1e_c724 ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut text = String::with_capacity(series.len() * 56);
    let mut deltas = 0;
    match format {
        Format::Single | Format::PackedSingle => object(&mut text, &series[index % series.len()], index, &mut random, &mut deltas),
        Format::Batch => {
            for (position, one) in series.iter().enumerate() {
                text.push(if position == 0 { '[' } else { ',' });
                object(&mut text, one, position, &mut random, &mut deltas);
            }
            text.push(']');
        }
        Format::Text => {
            for (position, one) in series.iter().enumerate() {
                text.push_str(&one.name);
                text.push(' ');
                deltas += value(&mut text, one, position, &mut random);
                text.push('\n');
            }
        }
    }
    let hash = hash::body_hash(text.as_bytes(), KEY.as_bytes()).into_boxed_str();
    let bytes = if format.packed() { gzip::pack(text.as_bytes()) } else { text.into_bytes() };
    Payload { bytes: bytes.into_boxed_slice(), hash, deltas }
}

fn object(text: &mut String, series: &Series, position: usize, random: &mut Rng, deltas: &mut u64) {
    let (kind, field) = if series.counter { ("counter", "delta") } else { ("gauge", "value") };
    write!(text, r#"{{"id":"{}","type":"{kind}","{field}":"#, series.name).expect("a string takes everything");
    *deltas += value(text, series, position, random);
    text.push('}');
}

/// A counter's delta, or a gauge: a whole number such as bytes and a double of all its digits in turn. Returns the delta.
fn value(text: &mut String, series: &Series, position: usize, random: &mut Rng) -> u64 {
    let delta = if series.counter { random.u64(1..1000) } else { 0 };
    let written = if series.counter {
        write!(text, "{delta}")
    } else if position.is_multiple_of(2) {
        write!(text, "{}", random.u64(..1 << 33))
    } else {
        write!(text, "{}", random.f64() * 1000.0)
    };
    written.expect("a string takes everything");
    delta
}

fn free_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(1 << 30, |kib| kib * 1024)
}

//! Reports of simulated agents, with samples of any time of the last two days: a report's key says when it was sampled, and its half hour is due to be sealed
//! when that is over, however late the report comes.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use golectra_loadgen::Address;
use golectra_protocol::{IdempotencyKey, gzip, hash};
use golectra_tests::KEY;

use crate::bodies::{Format, Payload};
use crate::history::node_data::Node;
use crate::history::pod_data::Pod;
use crate::load::{LIMIT, exchange};
use crate::wire::batch;

/// Between two reports of a node, and between two of its pods, in milliseconds.
pub const NODE_INTERVAL_MS: i64 = 10_000;
pub const POD_INTERVAL_MS: i64 = 30_000;

/// Reports under way at once.
const AT_ONCE: usize = 16;
/// How long after a refusal a report is sent again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How much time one pass makes reports for, in milliseconds: what is in memory stays small.
const PASS_MS: i64 = 300_000;

/// A node's agent, with the pods of its node.
pub struct Agent {
    source: String,
    node: Node,
    pods: Vec<Pod>,
    rng: Rng,
    /// Each metric's JSON up to its value.
    node_objects: Vec<String>,
    pod_objects: Vec<String>,
}

impl Agent {
    /// The agent of this number, whose source has this first name.
    pub fn new(kind: &str, number: usize, series: usize, pods: usize) -> Self {
        let node = Node::new(number, series);
        let pods: Vec<Pod> = (0..pods).map(|pod| Pod::new(number * pods + pod)).collect();
        let node_objects = node.labels().iter().map(|labels| object(&id(labels))).collect();
        let pod_objects = pods.iter().flat_map(Pod::ids).map(|id| object(&id)).collect();
        let (source, rng) = (format!("{kind}-{number:03}"), Rng::with_seed(number as u64));
        Self { source, node, pods, rng, node_objects, pod_objects }
    }

    /// Its reports of these times, in order.
    fn reports(&mut self, start_ms: i64, end_ms: i64) -> Vec<Report> {
        let mut reports = Vec::new();
        for at_ms in (start_ms..end_ms).step_by(usize::try_from(NODE_INTERVAL_MS).unwrap_or(1)) {
            let values = self.node.advance();
            // A timer is a few milliseconds late.
            reports.push(Report::new(&self.source, at_ms + self.rng.i64(0..4), &self.node_objects, &values));
            if !self.pods.is_empty() && at_ms % POD_INTERVAL_MS == 0 {
                let mut values = Vec::with_capacity(self.pod_objects.len());
                self.pods.iter_mut().for_each(|pod| pod.advance(&mut values));
                // An agent asks its kubelet a little later than it looks at its host.
                reports.push(Report::new(&self.source, at_ms + 1000 + self.rng.i64(0..4), &self.pod_objects, &values));
            }
        }
        reports
    }
}

/// A metric's id, without the labels that an agent leaves to the server.
fn id(labels: &[(String, String)]) -> String {
    let name = labels.iter().find(|(key, _)| key == "__name__").map_or("", |(_, value)| value);
    let mut id = format!("{name}{{");
    for (key, value) in labels.iter().filter(|(key, _)| !["__name__", "instance", "job"].contains(&key.as_str())) {
        let _ = write!(id, r#"{key}="{value}","#);
    }
    id + r#"job="node-exporter"}"#
}

fn object(id: &str) -> String {
    format!(r#"{{"id":"{}","type":"gauge","value":"#, id.replace('"', r#"\""#))
}

/// One report: who, when, and what.
struct Report {
    source: String,
    at_ms: i64,
    samples: usize,
    payload: Payload,
}

impl Report {
    fn new(source: &str, at_ms: i64, objects: &[String], values: &[f64]) -> Self {
        let mut text = String::with_capacity(objects.len() * 110);
        for (object, value) in objects.iter().zip(values) {
            text.push(if text.is_empty() { '[' } else { ',' });
            let _ = write!(text, "{object}{value}}}");
        }
        text.push(']');
        let hash = hash::body_hash(text.as_bytes(), KEY.as_bytes()).into_boxed_str();
        let payload = Payload { bytes: gzip::pack(text.as_bytes()).into_boxed_slice(), hash, deltas: 0 };
        Self { source: source.to_owned(), at_ms, samples: values.len(), payload }
    }
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    pub samples: f64,
    /// How long it took, without the making of the bodies.
    pub seconds: f64,
}

/// Sends all reports of a time, as fast as they are taken.
pub fn send(agents: &mut [Agent], address: &Address, start_ms: i64, end_ms: i64) -> Sent {
    let mut all = Sent::default();
    let mut from = start_ms;
    while from < end_ms {
        let to = end_ms.min(from + PASS_MS);
        let sent = send_once(&make(agents, from, to), address, None);
        all.samples += sent.samples;
        all.seconds += sent.seconds;
        from = to;
    }
    all
}

/// Sends the reports of so many seconds at the pace at which agents do.
pub fn send_live(agents: &mut [Agent], address: &Address, start_ms: i64, seconds: f64) -> Sent {
    #[expect(clippy::cast_possible_truncation, reason = "some minutes")]
    let end_ms = start_ms + (seconds * 1000.0) as i64;
    send_once(&make(agents, start_ms, end_ms), address, Some(seconds))
}

/// Makes the reports of a time on all processors, in the order of their times.
fn make(agents: &mut [Agent], start_ms: i64, end_ms: i64) -> Vec<Report> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = agents.len().div_ceil(threads).max(1);
    let mut reports: Vec<Report> = std::thread::scope(|scope| {
        let makers: Vec<_> = agents
            .chunks_mut(each)
            .map(|some| scope.spawn(move || some.iter_mut().flat_map(|agent| agent.reports(start_ms, end_ms)).collect::<Vec<_>>()))
            .collect();
        makers.into_iter().flat_map(|maker| maker.join().expect("making bodies never fails")).collect()
    });
    reports.sort_by_key(|report| report.at_ms);
    reports
}

/// Sends them in their order, some at once; spread over so many seconds where there is a pace.
fn send_once(reports: &[Report], address: &Address, pace_seconds: Option<f64>) -> Sent {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    #[expect(clippy::cast_precision_loss, reason = "reports and samples of a run")]
    let (count, samples) = (reports.len() as f64, reports.iter().map(|report| report.samples).sum::<usize>() as f64);
    let (start, next) = (Instant::now(), Cell::new(0));
    let due = |index: usize| {
        #[expect(clippy::cast_precision_loss, reason = "reports of a run")]
        let index = index as f64;
        start + Duration::from_secs_f64(pace_seconds.map_or(0.0, |seconds| index * seconds / count))
    };
    runtime.block_on(async {
        let connections: FuturesUnordered<_> = (0..AT_ONCE).map(|_| send_in_turn(reports, address, &next, due)).collect();
        connections.collect::<Vec<()>>().await;
    });
    Sent { samples, seconds: start.elapsed().as_secs_f64() }
}

/// One connection: takes the next report, sends it when it is due, and again until it is taken.
async fn send_in_turn(reports: &[Report], address: &Address, next: &Cell<usize>, due: impl Fn(usize) -> Instant) {
    let (mut connection, mut request) = (None, Vec::new());
    loop {
        let index = next.get();
        let Some(report) = reports.get(index) else { return };
        next.set(index + 1);
        tokio::time::sleep_until(due(index).into()).await;
        let key = IdempotencyKey::at(u64::try_from(report.at_ms).expect("a time after 1970"));
        request.clear();
        batch(&mut request, "/updates", &report.payload, Format::Batch, &report.source, &key);
        let begun = Instant::now();
        loop {
            let status = exchange(&mut connection, address, &request).await.expect("the server answers").status;
            if status == 200 {
                break;
            }
            assert!([429, 503].contains(&status) && begun.elapsed() < LIMIT, "a report was answered {status}");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

//! Clients that write history and ask for it while something goes wrong.
//!
//! Batches are sampled in half hours that are over, so that they are sealed, folded and rolled up in the next round of the server that does so. Until
//! then, and afterwards, each answer has to be an error or exact: all samples that were acknowledged before the question, none that was not sent before
//! the answer, each of them once and with its value.

mod answers;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use golectra_tests::{Answer, Client, key_at, runtime, unix_millis, until};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use self::answers::ask;
pub use self::stored::History;
use crate::load::LIMIT;
use crate::{amount, load};

const SOURCES: [&str; 3] = ["history-a", "history-b", "history-c"];
/// So many that the series of a source stand in two blocks.
const GAUGES: u64 = 66;
/// The half hours that are written, counted from 40 to 42 hours ago: five in four windows of two hours, of two or three days.
const HALF_HOURS: [u64; 5] = [0, 1, 4, 40, 76];
const HALF_HOUR_MS: u64 = 30 * 60 * 1000;
const WINDOW_MS: u64 = 4 * HALF_HOUR_MS;
const HOUR_MS: i64 = 60 * 60 * 1000;
/// A range that has all of them.
const RANGE: &str = "43h";
/// How long a batch may be tried.
const RETRY_FOR: Duration = Duration::from_mins(5);

/// What was sent to one source.
#[derive(Default)]
struct OfSource {
    /// Batches by time, with their numbers.
    sent: BTreeMap<i64, u64>,
    acknowledged: BTreeSet<i64>,
}

/// All that was sent.
struct Sent {
    /// When the first half hour begins, in unix milliseconds.
    start_ms: u64,
    next: AtomicU64,
    failed_tries: AtomicU64,
    sources: [Mutex<OfSource>; 3],
}

/// A batch.
struct Batch {
    number: u64,
    source: usize,
    at_ms: u64,
    key: String,
}

/// A gauge's value in a batch.
fn value(number: u64, gauge: u64) -> f64 {
    f64::from(u32::try_from(number * GAUGES + gauge).expect("few batches")) * 0.1
}

/// What a batch adds to the counter.
fn delta(number: u64) -> i64 {
    i64::try_from(1 + number % 1000).expect("at most 1000")
}

impl Batch {
    fn body(&self) -> Value {
        let gauges = (0..GAUGES).map(|gauge| json!({"id": format!("g{gauge}"), "type": "gauge", "value": value(self.number, gauge)}));
        gauges.chain([json!({"id": "c", "type": "counter", "delta": delta(self.number)})]).collect()
    }

    async fn send(&self, client: &Client, body: &Value) -> Option<Answer> {
        let request = client.post("/updates").source(SOURCES[self.source]).idempotency_key(&self.key).json(body);
        request.try_send().await.ok()
    }
}

impl Sent {
    fn new() -> Self {
        let window = unix_millis() / WINDOW_MS * WINDOW_MS;
        Self {
            start_ms: window - 80 * HALF_HOUR_MS,
            next: AtomicU64::new(0),
            failed_tries: AtomicU64::new(0),
            sources: <[Mutex<OfSource>; 3]>::default(),
        }
    }

    fn of(&self, source: usize) -> MutexGuard<'_, OfSource> {
        self.sources[source].lock().expect("no holder panics")
    }

    /// The next batch, which counts as sent. No two have the same time, and they are in no order.
    fn next(&self) -> Batch {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let source = usize::try_from(number % 3).expect("small");
        let place = usize::try_from(number / 3 % 5).expect("small");
        // The numbers have no common divisor. Never at the end of an hour, which may be in one range or two.
        let at_ms = self.start_ms + HALF_HOURS[place] * HALF_HOUR_MS + 1 + number * 7_919 % 1_799_000;
        self.of(source).sent.insert(signed(at_ms), number);
        Batch { number, source, at_ms, key: key_at(at_ms) }
    }
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).expect("a time of today")
}

/// A number of samples or a total as PromQL computes with it. Those here are small enough to stay exact.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn as_double(number: i64) -> f64 {
    number as f64
}

/// How many answers were what they had to be, and how many were errors.
#[derive(Default)]
pub struct Answers {
    exact: AtomicU64,
    errors: AtomicU64,
}

/// Clients at work.
pub struct HistoryLoad {
    sent: Arc<Sent>,
    answers: Arc<Answers>,
    writing: Arc<AtomicBool>,
    reading: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

impl HistoryLoad {
    /// Starts clients that write to each of these ports and ask each of them.
    pub fn start(ports: &[u16]) -> Self {
        let clients: Vec<Client> = ports.iter().map(|port| Client::new(&format!("http://127.0.0.1:{port}"), None)).collect();
        let mut load = Self {
            sent: Arc::new(Sent::new()),
            answers: Arc::default(),
            writing: Arc::new(AtomicBool::new(true)),
            reading: Arc::new(AtomicBool::new(true)),
            writers: Vec::new(),
            readers: Vec::new(),
        };
        for _ in 0..4 {
            let (sent, clients, writing) = (Arc::clone(&load.sent), clients.clone(), Arc::clone(&load.writing));
            load.writers.push(runtime().spawn(async move {
                while writing.load(Ordering::SeqCst) {
                    write_one(&sent, &clients).await;
                    load::pass(Duration::from_millis(amount(20, 100))).await;
                }
            }));
        }
        for reader in 0..2 {
            let (sent, clients, reading, answers) =
                (Arc::clone(&load.sent), clients.clone(), Arc::clone(&load.reading), Arc::clone(&load.answers));
            load.readers.push(runtime().spawn(async move {
                let mut number = reader;
                while reading.load(Ordering::SeqCst) {
                    let client = &clients[number % clients.len()];
                    let exact = ask(&sent, client, number).await;
                    let counter = if exact { &answers.exact } else { &answers.errors };
                    counter.fetch_add(1, Ordering::SeqCst);
                    number += 1;
                    load::pass(Duration::from_millis(amount(50, 100))).await;
                }
            }));
        }
        load
    }

    /// How many batches are acknowledged.
    fn acknowledged(&self) -> usize {
        (0..SOURCES.len()).map(|source| self.sent.of(source).acknowledged.len()).sum()
    }

    /// Waits until this many more tries to write have failed.
    pub async fn is_refused(&self, tries: u64) {
        let failed = || self.sent.failed_tries.load(Ordering::SeqCst);
        let before = failed();
        until("writes are refused", LIMIT, async || {
            self.fail_early();
            failed() >= before + tries
        })
        .await;
    }

    /// Waits until more is acknowledged than now, and more is answered.
    pub async fn goes_on(&self) {
        let exact = || self.answers.exact.load(Ordering::SeqCst);
        let (written, answered) = (self.acknowledged(), exact());
        until("more is acknowledged and answered", LIMIT, async || {
            self.fail_early();
            self.acknowledged() >= written + 20 && exact() >= answered + 6
        })
        .await;
    }

    /// Panics where a client has found a wrong answer.
    pub fn fail_early(&self) {
        assert!(!self.readers.iter().chain(&self.writers).any(JoinHandle::is_finished), "a client has found a wrong answer, see above");
    }

    /// Ends the load; every batch is acknowledged then.
    pub async fn finish(mut self) -> History {
        self.writing.store(false, Ordering::SeqCst);
        for writer in self.writers.drain(..) {
            writer.await.expect("every batch was taken once");
        }
        self.reading.store(false, Ordering::SeqCst);
        for reader in self.readers.drain(..) {
            reader.await.expect("every answer was exact");
        }
        History { sent: self.sent, answers: self.answers }
    }
}

/// Sends a batch until it is acknowledged, and now and then once more.
async fn write_one(sent: &Sent, clients: &[Client]) {
    let batch = sent.next();
    let (body, start) = (batch.body(), Instant::now());
    loop {
        match batch.send(&clients[fastrand::usize(..clients.len())], &body).await {
            Some(answer) if answer.status == 200 => break,
            Some(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            None => {}
        }
        sent.failed_tries.fetch_add(1, Ordering::SeqCst);
        assert!(start.elapsed() < RETRY_FOR, "a batch was not taken for {RETRY_FOR:?}");
        load::pass(Duration::from_millis(fastrand::u64(10..50))).await;
    }
    sent.of(batch.source).acknowledged.insert(signed(batch.at_ms));
    // A repeat is known as one and another body under the key is refused, wherever the batch is kept by now.
    if batch.number.is_multiple_of(10) {
        let client = &clients[fastrand::usize(..clients.len())];
        if let Some(answer) = batch.send(client, &body).await {
            let is_repeat = answer.header("idempotency-replayed").is_some();
            assert!(answer.status == 503 || answer.status == 200 && is_repeat, "{answer:?}");
        }
        if let Some(answer) = batch.send(client, &json!([{"id": "c", "type": "counter", "delta": 1}])).await {
            assert!(matches!(answer.status, 422 | 503), "{answer:?}");
        }
    }
}

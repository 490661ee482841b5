//! Clients that write history and ask for it while something goes wrong.
//!
//! Batches are sampled in half hours that are over, so that they are sealed, folded and rolled up in the next round of the server that does so. Until
//! then, and afterwards, each answer has to be an error or exact: all samples that were acknowledged before the question, none that was not sent before
//! the answer, each of them once and with its value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use golectra_tests::{Answer, Client, encode, key_at, runtime, unix_millis, until};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::load::LIMIT;
use crate::{amount, load};

const SOURCES: [&str; 3] = ["history-a", "history-b", "history-c"];
/// So many that the series of a source stand in two blocks.
const GAUGES: u64 = 66;
/// The series whose samples are asked for while the load runs, from both blocks.
const ASKED: [&str; 3] = ["g0", "g65", "c"];
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
        Self { start_ms: window - 80 * HALF_HOUR_MS, next: AtomicU64::new(0), failed_tries: AtomicU64::new(0), sources: <[Mutex<OfSource>; 3]>::default() }
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
    if batch.number % 10 == 0 {
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

/// Asks something about a source; false where the answer is an error. Panics where it is wrong.
async fn ask(sent: &Sent, client: &Client, number: usize) -> bool {
    let (source, at_seconds) = (number / 5 % SOURCES.len(), unix_millis() / 1000);
    let instance = SOURCES[source];
    let before = sent.of(source).acknowledged.clone();
    let query = |text: &str| format!("/api/v1/query?time={at_seconds}&query={}", encode(text));
    let start_ms = signed(sent.start_ms);
    let path = match number % 5 {
        0 => query(&format!("{{instance=\"{instance}\",__name__=~\"{}\"}}[{RANGE}]", ASKED.join("|"))),
        1 => format!(
            "/api/v1/export?match[]={}&start={}&end={}",
            encode(&format!("g7{{instance=\"{instance}\"}}")),
            start_ms / 1000,
            (start_ms + 3 * HOUR_MS) / 1000
        ),
        2 => query(&format!("count_over_time(g3{{instance=\"{instance}\"}}[{RANGE}])")),
        3 => query(&format!("last_over_time(c{{instance=\"{instance}\"}}[{RANGE}])")),
        _ => format!(
            "/api/v1/query_range?query={}&start={}&end={}&step=3600",
            encode(&format!("count_over_time(g65{{instance=\"{instance}\"}}[1h])")),
            start_ms / 1000 + 3600,
            start_ms / 1000 + 40 * 3600
        ),
    };
    let Some(answer) = client.try_get(&path).await else { return false };
    if answer.status != 200 {
        assert!(matches!(answer.status, 503 | 504), "{path}: {answer:?}");
        return false;
    }
    let after = sent.of(source).sent.clone();
    let known = Known { before: &before, after: &after, what: &path };
    match number % 5 {
        0 => known.check_snapshot(&answer.json()),
        1 => known.check_export(&answer.text(), start_ms..start_ms + 3 * HOUR_MS),
        2 => known.check_between(
            before.len() as f64..=after.len() as f64,
            answer.json()["data"]["result"][0]["value"][1].as_str(),
        ),
        3 => {
            let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.map(delta).sum::<i64>() as f64;
            let acknowledged = sum(&mut before.iter().map(|at_ms| after[at_ms]));
            known.check_between(
                acknowledged..=sum(&mut after.values().copied()),
                answer.json()["data"]["result"][0]["value"][1].as_str(),
            );
        }
        _ => known.check_hours(&answer.json()),
    }
    true
}

/// What there is to compare an answer with.
struct Known<'a> {
    /// The times of batches that were acknowledged before the question.
    before: &'a BTreeSet<i64>,
    /// All batches that were sent before the answer.
    after: &'a BTreeMap<i64, u64>,
    /// What was asked.
    what: &'a str,
}

impl Known<'_> {
    /// All series of a query see the same batches, and the counter's totals are the sums of them.
    fn check_snapshot(&self, json: &Value) {
        let found = json["data"]["result"].as_array().expect("a list");
        if found.is_empty() {
            assert!(self.before.is_empty(), "nothing is found: {}", self.what);
            return;
        }
        assert_eq!(found.len(), ASKED.len(), "{}", self.what);
        let mut times: Option<Vec<i64>> = None;
        for series in found {
            let name = series["metric"]["__name__"].as_str().expect("a name");
            let samples: Vec<(i64, f64)> = series["values"].as_array().expect("samples").iter().map(sample).collect();
            let mut total = 0;
            self.check_times(name, samples.iter().map(|(at_ms, _)| *at_ms), i64::MIN..i64::MAX);
            for (at_ms, found) in &samples {
                let number = self.after[at_ms];
                let expected = match name.strip_prefix('g') {
                    Some(gauge) => value(number, gauge.parse().expect("a number")),
                    None => {
                        total += delta(number);
                        total as f64
                    }
                };
                assert_eq!(found.to_bits(), expected.to_bits(), "{name} at {at_ms} is {found}, not {expected}: {}", self.what);
            }
            let of_series: Vec<i64> = samples.into_iter().map(|(at_ms, _)| at_ms).collect();
            assert!(times.get_or_insert_with(|| of_series.clone()) == &of_series, "{name} has other batches: {}", self.what);
        }
    }

    /// Times of a series within a range: what was acknowledged before, nothing that was not sent, each once.
    fn check_times(&self, name: &str, times: impl Iterator<Item = i64>, range: std::ops::Range<i64>) {
        let mut last = None;
        let mut found = BTreeSet::new();
        for at_ms in times {
            assert!(last < Some(at_ms), "{name} has {at_ms} behind {last:?}: {}", self.what);
            assert!(self.after.contains_key(&at_ms), "{name} has a sample at {at_ms}, which nobody sent: {}", self.what);
            last = Some(at_ms);
            found.insert(at_ms);
        }
        let missing: Vec<&i64> = self.before.range(range).filter(|at_ms| !found.contains(at_ms)).collect();
        assert!(missing.is_empty(), "{name} lacks {} acknowledged samples, {:?}…: {}", missing.len(), &missing[..1], self.what);
    }

    fn check_export(&self, text: &str, range: std::ops::Range<i64>) {
        let found = exported(text);
        assert!(found.len() < 2, "{}", self.what);
        let samples = found.into_values().next().unwrap_or_default();
        self.check_times("g7", samples.iter().map(|(at_ms, _)| *at_ms), range);
        for (at_ms, found) in samples {
            assert_eq!(found, value(self.after[&at_ms], 7).to_bits(), "{at_ms}: {}", self.what);
        }
    }

    #[track_caller]
    fn check_between(&self, expected: std::ops::RangeInclusive<f64>, found: Option<&str>) {
        let found = found.map_or(0.0, |text| text.parse().expect("a number"));
        assert!(expected.contains(&found), "{found} is not in {expected:?}: {}", self.what);
    }

    fn check_hours(&self, json: &Value) {
        let found = json["data"]["result"].as_array().expect("a list");
        assert!(found.len() < 2, "{}", self.what);
        let samples: BTreeMap<i64, f64> =
            found.iter().flat_map(|series| series["values"].as_array().expect("samples")).map(sample).collect();
        let hours: BTreeSet<i64> = self.after.keys().map(|at_ms| at_ms / HOUR_MS * HOUR_MS + HOUR_MS).chain(samples.keys().copied()).collect();
        for hour in hours {
            let of_hour = hour - HOUR_MS..hour;
            let (least, most) = (self.before.range(of_hour.clone()).count(), self.after.range(of_hour).count());
            let found = samples.get(&hour).copied().unwrap_or_default();
            assert!((least as f64..=most as f64).contains(&found), "{found} samples up to {hour}, not {least} to {most}: {}", self.what);
        }
    }
}

/// A sample of an answer: unix milliseconds and a value.
fn sample(sample: &Value) -> (i64, f64) {
    #[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds")]
    let at_ms = (sample[0].as_f64().expect("a time") * 1000.0).round() as i64;
    (at_ms, sample[1].as_str().expect("a value").parse().expect("a number"))
}

/// Samples of an export by source and name. A gauge's value as its bits, a counter's total as it is.
type Exported = BTreeMap<(String, String), Vec<(i64, u64)>>;

fn exported(text: &str) -> Exported {
    let mut found = Exported::new();
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).expect("a line is an object");
        let label = |name: &str| json["metric"][name].as_str().expect("a label").to_owned();
        let samples = found.entry((label("instance"), label("__name__"))).or_default();
        let (times, values) = (json["timestamps_ms"].as_array().expect("times"), json["values"].as_array().expect("values"));
        assert_eq!(times.len(), values.len());
        let is_counter = json["type"] == "counter";
        samples.extend(times.iter().zip(values).map(|(at_ms, value)| {
            let bits = if is_counter { value.as_u64().expect("a total") } else { value.as_f64().expect("a number").to_bits() };
            (at_ms.as_i64().expect("a time"), bits)
        }));
    }
    found
}

/// What was sent, all of it acknowledged, and how it was answered meanwhile.
pub struct History {
    sent: Arc<Sent>,
    answers: Arc<Answers>,
}

/// Samples that are not as they were sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    lost: usize,
    doubled: usize,
    changed: usize,
}

impl History {
    /// The samples that were sent, by source and name.
    fn expected(&self) -> Exported {
        let mut expected = Exported::new();
        for (source, name) in SOURCES.iter().enumerate() {
            let of_source = self.sent.of(source);
            assert_eq!(of_source.sent.len(), of_source.acknowledged.len());
            for gauge in 0..GAUGES {
                let samples = of_source.sent.iter().map(|(at_ms, number)| (*at_ms, value(*number, gauge).to_bits())).collect();
                expected.insert(((*name).to_owned(), format!("g{gauge}")), samples);
            }
            let mut total = 0_i64;
            let totals = of_source.sent.iter().map(|(at_ms, number)| {
                total += delta(*number);
                (*at_ms, total.cast_unsigned())
            });
            expected.insert(((*name).to_owned(), "c".to_owned()), totals.collect());
        }
        expected
    }

    /// Reads all samples from each of these servers, and says how they differ from those that were acknowledged. Panics where they do.
    pub async fn judge(&self, clients: &[Client], scenario: &str, faults: &str, start: Instant) {
        let expected = self.expected();
        let samples: usize = expected.values().map(Vec::len).sum();
        for client in clients {
            let mut found = exported(&client.get("/api/v1/export").send().await.expect(200).text());
            let difference = difference(&expected, &found);
            let (exact, errors) = (self.answers.exact.load(Ordering::SeqCst), self.answers.errors.load(Ordering::SeqCst));
            crate::results::say(
                scenario,
                &format!(
                    "{faults}; {} batches, {samples} samples acked; lost {}, doubled {}, changed {}; {exact} answers meanwhile were exact, \
                     {errors} errors, 0 wrong; {:.1} s",
                    self.sent.next.load(Ordering::SeqCst),
                    difference.lost,
                    difference.doubled,
                    difference.changed,
                    start.elapsed().as_secs_f64(),
                ),
            );
            assert_eq!(difference, Difference::default());
            let of_gauges = samples / (usize::try_from(GAUGES).expect("few") + 1) * usize::try_from(GAUGES).expect("few");
            let query = encode(&format!("sum(count_over_time({{__name__=~\"g.+\"}}[{RANGE}]))"));
            let counted = client.get(&format!("/api/v1/query?query={query}")).send().await.expect(200).json();
            assert_eq!(counted["data"]["result"][0]["value"][1].as_str(), Some(&*of_gauges.to_string()), "{counted}");
            // The comparison sees what it has to see.
            let series = found.get_mut(&(SOURCES[0].to_owned(), "g0".to_owned())).expect("it has samples");
            let (first, second) = (series[0], series[1]);
            series.splice(..2, [second, second]);
            assert_eq!(self::difference(&expected, &found), Difference { lost: 1, doubled: 1, changed: 0 }, "{first:?}");
        }
    }
}

fn difference(expected: &Exported, found: &Exported) -> Difference {
    let mut difference = Difference::default();
    for (series, found) in found {
        let expected: BTreeMap<i64, u64> = expected.get(series).into_iter().flatten().copied().collect();
        let mut seen = BTreeSet::new();
        for (at_ms, bits) in found {
            match expected.get(at_ms) {
                Some(expected) if seen.insert(*at_ms) => difference.changed += usize::from(expected != bits),
                _ => difference.doubled += 1,
            }
        }
        difference.lost += expected.len() - seen.len();
    }
    difference.lost += expected.iter().filter(|(series, _)| !found.contains_key(series)).map(|(_, samples)| samples.len()).sum::<usize>();
    difference
}

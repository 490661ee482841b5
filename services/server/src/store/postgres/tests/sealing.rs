//! Sealed history holds what was acknowledged, whatever happens while it is sealed.
//!
//! `reading` decodes all that the tables hold; the model here recomputes it from the batches that were answered `Ok`.

mod answers;
mod failing;
mod passes;
pub(super) mod queried;
mod reading;
mod rolled_up;
mod size;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use golectra_protocol::{IdempotencyKey, Metrics};
use proptest::prelude::*;

use self::reading::{History, SeriesName};
use super::super::partitions::FRAMES;
use super::super::sealer::{Round, Sealer, SealerLimits};
use super::*;
use crate::store::conformance::{batch, counter, gauge, is_full};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The tests' clocks begin here, which is a quarter of an hour before a window.
const START: u64 = 20_000 * DAY + 8 * HOUR - 15 * MINUTE;

/// What the history is to hold.
#[derive(Debug, Default)]
struct Model {
    history: History,
    digests: HashMap<(String, IdempotencyKey), [u8; 32]>,
}

impl Model {
    /// Expects what the store is to answer.
    fn apply(&mut self, batch: &Batch) -> Result<Applied, &'static str> {
        let key = (batch.source.to_string(), batch.key);
        match self.digests.get(&key) {
            Some(digest) if *digest == batch.digest => return Ok(Applied::Repeat),
            Some(_) => return Err("reused"),
            None => drop(self.digests.insert(key, batch.digest)),
        }
        for (index, metric) in batch.metrics.iter().enumerate() {
            let at = batch.metrics.at_millis(index).unwrap_or_else(|| i64::try_from(batch.key.unix_millis()).unwrap());
            let name = SeriesName {
                source: batch.source.to_string(),
                metric: metric.id.to_owned(),
                is_counter: metric.kind() == golectra_protocol::Kind::Counter,
            };
            let sample = self.history.entry(name).or_default().entry(at).or_default();
            match metric.value {
                Value::Gauge(value) => *sample = value.to_bits(),
                Value::Counter(delta) => *sample = sample.wrapping_add(delta.cast_unsigned()),
            }
        }
        Ok(Applied::New)
    }
}

/// A server that keeps history and keys for as long as any test goes.
async fn open(database: &TestDatabase, clock: &Clock) -> Arc<PostgresStore> {
    let month = Duration::from_hours(30 * 24);
    let lifetimes = Lifetimes { dedup_window: month, retention_raw: month, ..Lifetimes::default() };
    let store = PostgresStore::open(PostgresConfig { lifetimes, ..config(database.dsn()) }, clock.clone()).unwrap();
    assert!(ready(&store).await);
    store
}

/// A store at [`START`], its clock, and a connection.
struct Lab {
    store: Arc<PostgresStore>,
    clock: Clock,
    conn: PgConnection,
    model: Model,
    /// How much its sealers do at once.
    limits: SealerLimits,
    database: TestDatabase,
}

impl Lab {
    async fn new() -> Option<Self> {
        Self::new_at(START).await
    }

    async fn new_at(start: u64) -> Option<Self> {
        let database = TestDatabase::create().await?;
        let clock = Clock::at(start);
        let store = open(&database, &clock).await;
        Some(Self { store, clock, conn: database.connect().await, model: Model::default(), limits: SealerLimits::default(), database })
    }

    fn now(&self) -> u64 {
        self.clock.unix_millis()
    }

    fn sealer(&self) -> Sealer {
        Sealer { limits: self.limits, ..sealer(&self.store) }
    }

    /// Applies a batch and compares the answer.
    async fn put(&mut self, one: Batch) {
        let answer = match self.store.apply(one.clone()).await {
            Ok(applied) => Ok(applied),
            Err(StoreError::KeyReused) => Err("reused"),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(answer, self.model.apply(&one));
    }

    /// Seals until nothing is due.
    async fn seal_all(&self) -> Round {
        let mut all = Round::default();
        // A round may not have the time for all.
        for _ in 0..200 {
            all = all.and(self.sealer().round().await.unwrap());
            let due = |slot: &i32| FRAMES.end_of(*slot) + 5 * MINUTE <= self.now();
            let there = FRAMES.existing(&mut self.database.connect().await).await.unwrap();
            if !there.iter().any(due) {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("partitions that are due were not dropped");
    }

    /// Asserts that the tables hold what was acknowledged, and that queries see it.
    async fn check(&mut self) {
        let read = reading::all(&mut self.conn).await;
        for (name, expected) in &self.model.history {
            assert_eq!(read.get(name), Some(expected), "{name:?}");
        }
        assert_eq!(read.len(), self.model.history.len());
        queried::check_all(&self.store, &self.model.history).await;
        for end in [i64::try_from(self.now()).unwrap() - 7 * 60_000, i64::try_from(self.now() + HOUR).unwrap()] {
            rolled_up::check_queries(&self.store, &self.model.history, end).await;
        }
    }

    async fn count(&mut self, of: &str) -> i64 {
        sqlx::query_scalar(&format!("SELECT count(*) FROM {of}")).fetch_one(&mut self.conn).await.unwrap()
    }
}

#[tokio::test]
async fn frames_become_chunks_and_chunks_become_one() {
    let Some(mut lab) = Lab::new().await else { return };
    for minute in 0..150 {
        lab.clock.set(START + minute * MINUTE);
        let value = f64::from(u32::try_from(minute).unwrap());
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", value), counter("c", 2)])).await;
        if minute % 10 == 0 {
            sealer(&lab.store).round().await.unwrap();
            lab.check().await;
        }
    }
    // Two half hours of the first window, and three of the second that are over for five minutes.
    assert_eq!(lab.count("frames").await, 15);
    let parts: Vec<(i16, Option<Vec<i64>>)> =
        sqlx::query_as("SELECT part, bases FROM chunks ORDER BY window_start, part").fetch_all(&mut lab.conn).await.unwrap();
    assert_eq!(parts, [(0, Some(vec![])), (1, Some(vec![30])), (2, Some(vec![30])), (3, Some(vec![30])), (4, Some(vec![30]))]);
    lab.clock.set(START + 8 * HOUR);
    assert_eq!(lab.seal_all().await.frames, 15);
    lab.check().await;
    let parts: Vec<i16> = sqlx::query_scalar("SELECT part FROM chunks ORDER BY window_start").fetch_all(&mut lab.conn).await.unwrap();
    assert_eq!(parts, [0, 0, 0]);
    assert_eq!(lab.count("frames").await, 0);
    // A late one makes another part, and raises what counters had at the start of the windows behind it.
    lab.put(batch("a", IdempotencyKey::at(START + MINUTE), vec![gauge("g", -1.0), counter("c", 5)])).await;
    lab.check().await;
    assert_eq!(lab.seal_all().await.frames, 1);
    lab.check().await;
    let rows: Vec<(i16, Option<Vec<i64>>)> =
        sqlx::query_as("SELECT part, bases FROM chunks ORDER BY window_start, part").fetch_all(&mut lab.conn).await.unwrap();
    assert_eq!(rows, [(0, Some(vec![])), (0, Some(vec![35])), (0, Some(vec![275]))], "the late part was folded");
}

#[tokio::test]
async fn a_repeat_is_one_also_where_the_clock_went_back_behind_its_sealed_half_hour() {
    let Some(mut lab) = Lab::new().await else { return };
    let one = batch("a", IdempotencyKey::at(START), vec![gauge("g", 1.0), counter("c", 5)]);
    lab.put(one.clone()).await;
    lab.clock.set(START + HOUR);
    assert_eq!(lab.seal_all().await.frames, 1);
    lab.clock.set(START);
    // By a server whose clock was there, and by one that began after it had gone back.
    lab.put(one.clone()).await;
    lab.store = open(&lab.database, &lab.clock).await;
    lab.put(one).await;
    let total: i64 = sqlx::query_scalar("SELECT total FROM latest WHERE metric = 'c'").fetch_one(&mut lab.conn).await.unwrap();
    assert_eq!((total, lab.count("frames").await), (5, 0));
    lab.clock.set(START + HOUR);
    lab.check().await;
}

#[tokio::test]
async fn the_oldest_days_go_where_the_database_is_too_large() {
    let Some(mut lab) = Lab::new().await else { return };
    let mut sent = Vec::new();
    for day in 0..3 {
        lab.clock.set(START + day * DAY);
        sent.push(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 1)]));
        lab.put(sent[sent.len() - 1].clone()).await;
    }
    lab.clock.set(lab.now() + HOUR);
    let mut sealer = sealer(&lab.store);
    sealer.max_bytes = Some(u64::MAX);
    assert_eq!(sealer.round().await.unwrap().days, Vec::<i32>::new());
    // Audit events that wait do not count.
    let bytes = sealer.metrics.bytes.get();
    let waiting = "INSERT INTO outbox (event_id, ts, ip_address, metrics, bytes)
        SELECT gen_random_uuid(), 1, '192.0.2.1', repeat('m', 1000), 1000 FROM generate_series(1, 4000)";
    sqlx::query(waiting).execute(&mut lab.conn).await.unwrap();
    let size: i64 = sqlx::query_scalar("SELECT pg_total_relation_size('outbox')").fetch_one(&mut lab.conn).await.unwrap();
    assert!(size > 4_000_000, "{size}");
    sealer.max_bytes = Some(u64::try_from(bytes).unwrap() + 2_000_000);
    assert_eq!(sealer.round().await.unwrap().days, Vec::<i32>::new());
    assert!(sealer.metrics.bytes.get() < bytes + 2_000_000, "{} of {bytes}", sealer.metrics.bytes.get());
    sealer.max_bytes = Some(1);
    assert_eq!(sealer.round().await.unwrap().days, [20_000, 20_001], "the newest stays");
    assert_eq!((sealer.metrics.dropped_partitions.with_label_values(&["chunks"]).get(), sealer.metrics.max_bytes.get()), (2, 1));
    assert!(sealer.metrics.bytes.get() > 100_000);
    assert_eq!(lab.count("chunks").await, 1);
    for one in sent {
        lab.put(one).await;
    }
}

/// Values that are easily changed on the way.
fn odd(n: u8) -> f64 {
    // A stale marker, another NaN, the least number, minus zero, infinity.
    let bits = [0x7ff0_0000_0000_0002, 0x7ff8_0000_0000_0001, 1, 1 << 63, 0x7ff0_0000_0000_0000];
    bits.get(usize::from(n)).map_or(f64::from(n) * 0.1, |bits| f64::from_bits(*bits))
}

/// A report, late by so much; or with samples of their own times.
#[derive(Debug, Clone)]
struct Report {
    source: usize,
    age_millis: u64,
    values: Vec<(usize, u8)>,
    own_times: Option<Vec<u64>>,
}

#[derive(Debug, Clone)]
enum Step {
    Write(Report),
    /// The report so many back again.
    Repeat(usize),
    /// Its key with another body.
    Reuse(usize),
    Pass(u64),
    /// One server seals, and ends after so many steps.
    Seal(Option<u16>),
    /// Several do.
    SealTogether,
    Maintain,
}

fn reports() -> impl Strategy<Value = Report> {
    let age = prop_oneof![
        5 => Just(0),
        2 => 0..40 * MINUTE,
        // Few different ones, so that times meet.
        2 => prop::sample::select(vec![MINUTE, HOUR, 3 * HOUR, 26 * HOUR]),
    ];
    let own = prop::option::weighted(0.2, prop::collection::vec(prop::sample::select(vec![0, 1, HOUR, 5 * HOUR, 30 * HOUR]), 8));
    (0..3_usize, age, prop::collection::vec((0..8_usize, any::<u8>()), 1..6), own)
        .prop_map(|(source, age_millis, values, own_times)| Report { source, age_millis, values, own_times })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => reports().prop_map(Step::Write),
        2 => (0..20_usize).prop_map(Step::Repeat),
        1 => (0..20_usize).prop_map(Step::Reuse),
        4 => prop::sample::select(vec![1, MINUTE, 7 * MINUTE, 20 * MINUTE, 50 * MINUTE, 3 * HOUR]).prop_map(Step::Pass),
        2 => prop::option::of(0..40_u16).prop_map(Step::Seal),
        1 => Just(Step::SealTogether),
        1 => Just(Step::Maintain),
    ]
}

/// So much that all is done at once, or so little that nearly nothing is.
fn limits() -> impl Strategy<Value = SealerLimits> {
    prop::sample::select(vec![SealerLimits::default(), passes::SMALL])
}

/// A batch of a report; those with times of their own are as remote-write makes them, of series of their own.
fn batch_of(report: &Report, number: usize, now: u64) -> Batch {
    let source = ["", "a", "b"][report.source];
    let mut metrics = Metrics::default();
    let mut seen = std::collections::BTreeSet::new();
    for (place, (series, value)) in report.values.iter().enumerate() {
        // Half of them counters, whose deltas a double does not always hold.
        let number = if *series < 4 {
            Value::Gauge(odd(*value))
        } else {
            Value::Counter(if *value == 0 { (1 << 53) + 1 } else { i64::from(*value) - 1 })
        };
        match &report.own_times {
            Some(ages) => {
                let at = i64::try_from(now - ages[place]).unwrap();
                metrics.push_parsed_at(&format!("timed{series}"), number, at).unwrap();
            }
            None if seen.insert(series) => metrics.push_parsed(&format!("m{series}"), number).unwrap(),
            None => {}
        }
    }
    let at = if report.own_times.is_some() { now } else { now - report.age_millis };
    let plain = batch(source, IdempotencyKey::at(at), vec![gauge("unused", 0.0)]);
    Batch { metrics, digest: [u8::try_from(number % 251).unwrap(); 32], ..plain }
}

async fn run(all: Vec<Step>, limits: SealerLimits) {
    let Some(mut lab) = Lab::new().await else { return };
    lab.limits = limits;
    // Another server on the same database.
    let other = open(&lab.database, &lab.clock).await;
    // The series of the source that is made first stand in two blocks.
    lab.put(batch("a", IdempotencyKey::at(START - 30 * HOUR), (0..58).map(|n| gauge(&format!("other{n}"), 1.0)).collect())).await;
    let mut sent: Vec<Batch> = Vec::new();
    for (number, step) in all.iter().enumerate() {
        match step {
            Step::Write(report) => {
                let one = batch_of(report, number, lab.now());
                sent.push(one.clone());
                lab.put(one).await;
            }
            Step::Repeat(back) | Step::Reuse(back) => {
                let Some(one) = sent.len().checked_sub(back + 1).map(|place| sent[place].clone()) else { continue };
                let digest = if matches!(step, Step::Reuse(_)) { [255; 32] } else { one.digest };
                lab.put(Batch { digest, ..one }).await;
            }
            Step::Pass(millis) => lab.clock.set(lab.now() + millis),
            Step::Seal(None) => drop(lab.sealer().round().await.unwrap()),
            Step::Seal(Some(steps)) => {
                let mut sealer = lab.sealer();
                sealer.steps.left = Some(AtomicI64::new(i64::from(*steps)));
                let ended = sealer.round().await;
                assert!(ended.is_ok() || matches!(ended, Err(sqlx::Error::Protocol(_))), "{ended:?}");
                lab.check().await;
            }
            Step::SealTogether => {
                let (one, two, three) = (sealer(&lab.store), sealer(&other), sealer(&other));
                let (one, two, three) = tokio::join!(one.round_once(), two.round_once(), three.round_once());
                drop((one.unwrap(), two.unwrap(), three.unwrap()));
            }
            Step::Maintain => drop(maintenance(&other).round().await.unwrap()),
        }
    }
    lab.check().await;
    lab.clock.set(lab.now() + 3 * HOUR);
    lab.seal_all().await;
    lab.check().await;
    assert_eq!(lab.count("frames").await, 0);
    for one in sent.into_iter().rev().take(20) {
        lab.put(one).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if is_full() { 200 } else { 6 }, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn chunks_and_frames_hold_what_was_acknowledged(all in prop::collection::vec(steps(), 20..60), limits in limits()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(all, limits));
    }
}

#[tokio::test]
async fn sealing_that_is_cut_off_at_any_step_is_done_again() {
    let Some(mut lab) = Lab::new().await else { return };
    let mut cut_off = 0;
    for steps in 0.. {
        // Two windows, two sources, two blocks, counters, and a batch that is late for them.
        for (source, age) in [("a", 135), ("a", 10), ("b", 10)] {
            let metrics = (0..65).map(|n| gauge(&format!("g{n}"), f64::from(n))).chain([counter("c", 3)]).collect();
            lab.put(batch(source, IdempotencyKey::at(lab.now() - age * MINUTE), metrics)).await;
        }
        lab.put(batch("a", IdempotencyKey::at(lab.now() - 12 * HOUR), vec![counter("c", 100), gauge("g1", 7.0)])).await;
        lab.clock.set(lab.now() + 3 * HOUR);
        let mut sealer = sealer(&lab.store);
        sealer.steps.left = Some(AtomicI64::new(steps));
        let ended = sealer.round().await;
        lab.check().await;
        if lab.seal_all().await == Round::default() && ended.is_ok() {
            break;
        }
        lab.check().await;
        cut_off += 1;
    }
    assert!(cut_off > 20, "{cut_off} steps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_are_told_while_their_frames_are_being_sealed() {
    let Some(mut lab) = Lab::new().await else { return };
    let other = open(&lab.database, &lab.clock).await;
    let metrics = || vec![gauge("g", 1.0), counter("c", 1)];
    let mut first = Vec::new();
    for minute in 0..180 {
        let one = batch("a", IdempotencyKey::at(START + minute * MINUTE), metrics());
        lab.clock.set(START + minute * MINUTE);
        lab.put(one.clone()).await;
        first.push(one);
    }
    lab.clock.set(START + 6 * HOUR);
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [(0_u64, Arc::clone(&lab.store)), (1, Arc::clone(&other))]
        .into_iter()
        .map(|(number, store)| {
            let (first, done) = (first.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut late, mut rounds) = (Vec::new(), 0_u64);
                while !done.load(Ordering::SeqCst) || rounds < 2 {
                    for (place, one) in first.iter().enumerate() {
                        if place % 7 == 3 {
                            let reused = store.apply(Batch { digest: [9; 32], ..one.clone() }).await;
                            assert!(matches!(reused, Err(StoreError::KeyReused)), "{reused:?}");
                        } else if place % 11 == 5 {
                            let at = one.key.unix_millis() + 1 + number + 2 * rounds;
                            let new = batch("a", IdempotencyKey::at(at), vec![gauge("g", 2.0), counter("c", 1), counter("late", 1)]);
                            assert_eq!(store.apply(new.clone()).await.unwrap(), Applied::New);
                            late.push(new);
                        } else {
                            assert_eq!(store.apply(one.clone()).await.unwrap(), Applied::Repeat);
                        }
                        if place % 13 == 1
                            && let Some(last) = late.last()
                        {
                            assert_eq!(store.apply(last.clone()).await.unwrap(), Applied::Repeat);
                        }
                    }
                    rounds += 1;
                }
                late
            })
        })
        .collect();
    let mut dropped = 0;
    for round in 0..30 {
        // What arrived at most some moments ago is left alone, as when it runs by itself.
        let mut conn = connect::open_for_schema(&lab.store.writers.context.options).await.unwrap();
        let noted: i64 = sqlx::query_scalar("SELECT last_value FROM arrivals").fetch_one(&mut conn).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut sealer = sealer(if round % 2 == 0 { &lab.store } else { &other });
        sealer.steps.left = (round % 3 == 0).then(|| AtomicI64::new(round * 2));
        if let Ok(round) = sealer.round_on(&mut conn, noted << 16 | 0xffff).await {
            dropped += round.half_hours.len();
        }
        drop(conn);
        let read = reading::all(&mut lab.conn).await;
        for (name, expected) in &lab.model.history {
            assert!(expected.iter().all(|(at, _)| read[name].contains_key(at)), "what was acknowledged before is there all the time");
        }
    }
    done.store(true, Ordering::SeqCst);
    for writer in writers {
        for late in writer.await.unwrap() {
            assert_eq!(lab.model.apply(&late), Ok(Applied::New));
        }
    }
    assert!(dropped > 0);
    lab.seal_all().await;
    lab.check().await;
    assert_eq!(lab.count("frames").await, 0);
}

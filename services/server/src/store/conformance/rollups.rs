//! Rollups: queries that are answered from them say what the samples say, and what they can't answer is refused.

use std::time::Duration;

use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, MemoryBudget, NoInterrupt, Query, Severity, Steps, Value as Answer};
use golectra_protocol::{IdempotencyKey, Metrics, Value};
use prometheus::Registry;

use super::{Lab, Made, Setup, batch, gauge, patiently};
use crate::clock::Clock;
use crate::history::labels;
use crate::history::query::{Queries, QueryError, QueryLimits, Question, When};
use crate::store::history::{ListedSource, SeriesFilter, TimeRange};
use crate::store::{Batch, Lifetimes, WriterLoad};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// The first sample, a quarter of an hour before a window.
const START: u64 = 20_000 * DAY + 8 * HOUR - HOUR / 4;
const DAYS: u64 = 10;
const NAMES: [&str; 3] = ["g", "sent_total", "c"];

/// Every 100 seconds, but never at the start of a bucket: there samples belong to the range that ends, and to the bucket that begins.
pub(crate) fn samples() -> Vec<(u64, [Value; 3])> {
    let mut random = fastrand::Rng::with_seed(5);
    let mut total = 0_u32;
    let mut sample = |number: u64| {
        let at = START + number * 100_000 + random.u64(0..20_000);
        total = if random.u32(0..500) == 0 { 3 } else { total + random.u32(0..50) };
        let wave = f64::from(random.u32(0..1_000)) / 10.0;
        let values = [Value::Gauge(wave), Value::Gauge(f64::from(total)), Value::Counter(i64::from(random.u32(0..9)))];
        (at + u64::from(at.is_multiple_of(300_000)), values)
    };
    (0..DAYS * 864).map(&mut sample).collect()
}

struct Asking {
    queries: Queries,
    samples: MemoryStore,
    steps: Steps,
    /// So much later than these steps the store is asked: a value is that of the last time before at which a bucket begins.
    late_ms: i64,
}

impl Asking {
    fn of(lab: &Lab, samples: MemoryStore, steps: Steps) -> Self {
        let limits = QueryLimits {
            concurrency: 2,
            timeout: Duration::from_secs(30),
            max_series: 100,
            max_bytes: 64 << 20,
            log_after: Duration::from_mins(1),
            subquery_step: Duration::from_mins(1),
        };
        let queries = Queries::start(lab.store.clone(), limits, WriterLoad::default(), &Registry::new()).unwrap();
        Self { queries, samples, steps, late_ms: 0 }
    }

    async fn ask(&self, text: &str, when: When) -> Result<(Answer, Vec<String>), QueryError> {
        let question = Question { text: text.to_owned(), when, lookback_ms: None, timeout: None };
        let evaluated = self.queries.evaluate(question).await?;
        let infos = evaluated.outcome.annotations.texts(Severity::Info, text);
        Ok((evaluated.outcome.value, infos))
    }

    /// Asserts that the answer comes from rollups and is what the samples say.
    async fn check(&self, text: &str, resolution: &str) {
        let Self { steps, late_ms, .. } = self;
        let asked = Steps::range(steps.start_ms() + late_ms, steps.end_ms() + late_ms, steps.step_ms()).unwrap();
        let (found, infos) = self.ask(text, When::Over(asked)).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(infos.iter().any(|info| info.contains(&format!("answered from {resolution} rollups"))), "{text}: {infos:?}");
        let query = Query::parse(text, &Engine::default().parse_limits).unwrap();
        let budget = MemoryBudget::new(1 << 30);
        let expected = Engine::default().range(&query, self.steps, &self.samples, &NoInterrupt, &budget).unwrap().value;
        let (Answer::Matrix(found), Answer::Matrix(expected)) = (found, expected) else { panic!("{text}: no matrix") };
        assert!(!expected.series.is_empty(), "{text}");
        assert_eq!(found.series.len(), expected.series.len(), "{text}");
        for (found, expected) in found.series.iter().zip(&expected.series) {
            assert_eq!(found.labels, expected.labels);
            let (found, expected): (Vec<_>, Vec<_>) = (found.samples(&self.steps).collect(), expected.samples(&self.steps).collect());
            assert_eq!(found.len(), expected.len(), "{text}");
            for ((at, found), (expected_at, expected)) in found.into_iter().zip(expected) {
                let same = found.to_bits() == expected.to_bits() || (found - expected).abs() <= 1e-9 * expected.abs().max(1e-3);
                assert!(at == expected_at && same, "{text}: {found} at {at} instead of {expected} at {expected_at}");
            }
        }
    }

    async fn refused(&self, text: &str, when: When) -> String {
        match self.ask(text, when).await {
            Err(QueryError::Execution(problem)) => problem,
            other => panic!("{text}: {:?}", other.map(|(_, infos)| infos)),
        }
    }
}

/// A batch of all samples, and a store of the reference's that has them.
pub(crate) fn filled(at: u64) -> (Batch, MemoryStore) {
    let (mut metrics, mut model, mut added) = (Metrics::default(), MemoryStore::default(), 0.0);
    for (at, values) in samples() {
        let at = i64::try_from(at).unwrap();
        for (name, value) in NAMES.into_iter().zip(values) {
            metrics.push_parsed_at(name, value, at).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let value = match value {
                Value::Gauge(value) => value,
                Value::Counter(delta) => {
                    added += delta as f64;
                    added
                }
            };
            model.add(&labels::of_series("a", name, false), at, value);
        }
    }
    let plain = batch("a", IdempotencyKey::at(at), vec![gauge("unused", 0.0)]);
    (Batch { metrics, ..plain }, model)
}

fn millis(at: u64) -> i64 {
    i64::try_from(at).unwrap()
}

fn hours(from: u64, to: u64) -> Steps {
    Steps::range(millis(from), millis(to), millis(2 * HOUR)).unwrap()
}

pub(crate) async fn rollups_answer_as_the_samples_do_and_refuse_what_needs_samples(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let lifetimes = Lifetimes { dedup_window: Duration::from_hours(30 * 24), ..Lifetimes::default() };
    let setup = Setup { clock: Clock::at(START), lifetimes, ..Setup::default() };
    let Some(lab) = Lab::with(make, setup).await else { return };
    lab.at(DAYS * DAY);
    let (one, model) = filled(START + DAYS * DAY);
    patiently(&*lab.store, &one).await;
    lab.at(DAYS * DAY + 5 * HOUR);
    lab.maintain().await;

    let first = 20_001 * DAY;
    let mut asking = Asking::of(&lab, model, hours(first, first + 8 * DAY));

    // A short time is answered from samples, whatever is asked.
    let when = When::Over(hours(first, first + DAY));
    assert_eq!(asking.ask("quantile_over_time(0.5, g[4h])", when).await.unwrap().1, Vec::<String>::new());

    let functions = ["avg", "sum", "count", "min", "max", "first", "last", "present"];
    let ranges = functions.map(|function| format!("{function}_over_time(NAME[4h])"));
    let others = [
        "rate(NAME[4h])",
        "increase(NAME[6h])",
        "delta(NAME[4h])",
        "sum by (instance) (rate(NAME[4h] offset 2h))",
        "NAME",
        "timestamp(NAME)",
    ];
    let cases: Vec<String> = ranges.into_iter().chain(others.map(str::to_owned)).collect();
    for samples_are_gone in [false, true] {
        if samples_are_gone {
            lab.at(DAYS * DAY + 5 * HOUR + 32 * DAY);
            for round in 0.. {
                assert!(round < 100, "the samples are kept");
                lab.maintain().await;
                let newest = When::Over(hours(first + 8 * DAY, first + 9 * DAY));
                if asking.ask("irate(g[4h])", newest).await.is_err() {
                    break;
                }
            }
        }
        for (resolution, days_before) in [("5-minute", 0), ("1-hour", 65)] {
            asking.steps = hours(first - days_before * DAY, first + 8 * DAY);
            for name in NAMES {
                for case in &cases {
                    asking.check(&case.replace("NAME", name), resolution).await;
                }
            }
        }
        // Steps within buckets have what those before the buckets have, the first one too.
        for (resolution, days, late) in [("5-minute", 8, HOUR / 30), ("1-hour", 61, HOUR / 2)] {
            asking.steps = hours(first, first + days * DAY);
            asking.late_ms = millis(late);
            for name in NAMES {
                for case in ["NAME", "timestamp(NAME)", "NAME offset 2h", "max_over_time(NAME[4h])", "rate(NAME[4h])"] {
                    asking.check(&case.replace("NAME", name), resolution).await;
                }
            }
        }
        asking.late_ms = 0;
        asking.steps = hours(first - 65 * DAY, first + 8 * DAY);
        // Whose range is less than two buckets of an hour.
        asking.check("max_over_time(rate(c[1h])[8h:2h])", "5-minute").await;
        // An alternative that is there twice selects a series once.
        asking.check(r#"count_over_time({__name__=~"g|g"}[4h])"#, "1-hour").await;
    }
    asking.steps = hours(first, first + DAY);
    asking.check("rate(sent_total[4h])", "5-minute").await;
    let when = When::Over(asking.steps);
    for function in ["irate", "stddev_over_time", "deriv", "changes", "resets", "idelta"] {
        let problem = asking.refused(&format!("{function}(g[4h])"), when).await;
        assert!(problem.starts_with(&format!("{function}() needs samples that are not kept any more")), "{problem}");
    }
    assert!(asking.refused("quantile_over_time(0.9, g[4h])", when).await.starts_with("quantile_over_time()"));
    assert!(asking.refused("rate(g[5m])", when).await.starts_with("rate()"), "a bucket and no more");
    assert!(asking.refused("g", When::At { time_ms: millis(first + DAY) }).await.starts_with("a selector"));
    assert!(asking.refused("g[4h]", When::At { time_ms: millis(first + DAY) }).await.starts_with("a selector"));
    // The series are still listed for that time, and there are no samples to export.
    let range = TimeRange { start_ms: millis(first), end_ms: millis(first + DAY) };
    let filter = SeriesFilter { any: vec![], range, limit: 10 };
    let mut reservation = MemoryBudget::new(1 << 20).reserve(1 << 20);
    assert_eq!(lab.store.label_values("__name__", &filter, &mut reservation).await.unwrap().items, ["c", "g", "sent_total"]);
    for ListedSource { source, series, range } in lab.store.list(&filter, &mut reservation).await.unwrap() {
        assert!(lab.store.read_listed(&source, &series, range, &mut reservation).await.unwrap().is_empty());
    }
    // What comes for a time whose samples are gone changes nothing.
    let mut late = Metrics::default();
    late.push_parsed_at("g", Value::Gauge(1e9), millis(first)).unwrap();
    late.push_parsed_at("c", Value::Counter(9), millis(first)).unwrap();
    let plain = batch("a", IdempotencyKey::at(lab.clock.unix_millis()), vec![gauge("unused", 0.0)]);
    patiently(&*lab.store, &Batch { metrics: late, ..plain }).await;
    lab.at(DAYS * DAY + 10 * HOUR + 32 * DAY);
    lab.maintain().await;
    for name in ["g", "c"] {
        asking.check(&format!("max_over_time({name}[4h])"), "5-minute").await;
    }
}

/// A pair of Prometheus servers reads one counter, each at its own times; another counter moves from one source to the other.
pub(crate) async fn rollups_of_two_sources_answer_as_their_merged_samples_do(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let lifetimes = Lifetimes { dedup_window: Duration::from_hours(30 * 24), ..Lifetimes::default() };
    let setup = Setup { clock: Clock::at(START), lifetimes, ..Setup::default() };
    let Some(lab) = Lab::with(make, setup).await else { return };
    lab.at(DAYS * DAY);
    let (read, moved) = (r#"read_total{instance="i"}"#, r#"moved_total{instance="i"}"#);
    let mut random = fastrand::Rng::with_seed(7);
    let mut model = MemoryStore::default();
    let (mut one, mut other) = (Metrics::default(), Metrics::default());
    let (mut total, mut moved_total) = (0_u32, 0_u32);
    // Within a bucket.
    let handover = DAYS * 432 + 1;
    for number in 0..DAYS * 864 {
        let at = millis(START + number * 100_000);
        // Both see the same values, so what a reset takes is the same of each.
        total = if random.u32(0..500) == 0 { 3 } else { total + random.u32(0..50) };
        moved_total = if number == handover { 1 } else { moved_total + random.u32(0..50) };
        let value = f64::from(total);
        for (metrics, source, at) in [(&mut one, "a", at + 20_000), (&mut other, "b", at + 70_000)] {
            metrics.push_parsed_at(read, Value::Gauge(value), at).unwrap();
            model.add(&labels::of_series(source, read, false), at, value);
        }
        let (metrics, source) = if number < handover { (&mut one, "a") } else { (&mut other, "b") };
        metrics.push_parsed_at(moved, Value::Gauge(f64::from(moved_total)), at + 20_000).unwrap();
        model.add(&labels::of_series(source, moved, false), at + 20_000, f64::from(moved_total));
    }
    for (source, metrics) in [("a", one), ("b", other)] {
        let plain = batch(source, IdempotencyKey::at(START + DAYS * DAY), vec![gauge("unused", 0.0)]);
        patiently(&*lab.store, &Batch { metrics, ..plain }).await;
    }
    lab.at(DAYS * DAY + 5 * HOUR);
    lab.maintain().await;

    let first = 20_001 * DAY;
    let mut asking = Asking::of(&lab, model, Steps::range(millis(first), millis(first + 4 * DAY), millis(HOUR)).unwrap());
    for name in ["read_total", "moved_total"] {
        asking.check(&format!("increase({name}[1h])"), "5-minute").await;
    }
    let functions = ["avg", "sum", "count", "min", "max", "first", "last"];
    let ranges = functions.map(|function| format!("{function}_over_time(NAME[4h])"));
    let others = ["rate(NAME[4h])", "increase(NAME[6h])", "delta(NAME[4h])", "NAME", "timestamp(NAME)"];
    let cases: Vec<String> = ranges.into_iter().chain(others.map(str::to_owned)).collect();
    for (resolution, days_before) in [("5-minute", 0), ("1-hour", 65)] {
        asking.steps = hours(first - days_before * DAY, first + 8 * DAY);
        for name in ["read_total", "moved_total"] {
            for case in &cases {
                asking.check(&case.replace("NAME", name), resolution).await;
            }
        }
    }
}

/// Each sample begins a bucket. So a step at the bucket's end has it as the newest one of the five minutes before, and none later.
pub(crate) async fn rollups_show_series_whose_samples_begin_buckets(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let lifetimes = Lifetimes { dedup_window: Duration::from_hours(30 * 24), ..Lifetimes::default() };
    let setup = Setup { clock: Clock::at(START), lifetimes, ..Setup::default() };
    let Some(lab) = Lab::with(make, setup).await else { return };
    lab.at(6 * DAY);
    let mut metrics = Metrics::default();
    for number in 0..6 * 288_u32 {
        metrics.push_parsed_at("g", Value::Gauge(f64::from(number)), millis(START + u64::from(number) * 300_000)).unwrap();
    }
    let plain = batch("a", IdempotencyKey::at(START + 6 * DAY), vec![gauge("unused", 0.0)]);
    patiently(&*lab.store, &Batch { metrics, ..plain }).await;
    lab.at(6 * DAY + 5 * HOUR);
    lab.maintain().await;

    let first = 20_001 * DAY;
    let steps = Steps::range(millis(first), millis(first + 4 * DAY), 600_000).unwrap();
    let asking = Asking::of(&lab, MemoryStore::default(), steps);
    let number = u32::try_from((first - START) / 300_000 - 1).unwrap();
    let seconds = u32::try_from(first / 1_000 - 300).unwrap();
    for (text, first, each) in [("g", number, 2), ("last_over_time(g[10m])", number, 2), ("timestamp(g)", seconds, 600)] {
        let (found, infos) = asking.ask(text, When::Over(steps)).await.unwrap();
        assert!(infos.iter().any(|info| info.contains("answered from 5-minute rollups")), "{text}: {infos:?}");
        let Answer::Matrix(found) = found else { panic!("{text}: no matrix") };
        assert_eq!(found.series.len(), 1, "{text}");
        let expected = steps.times_ms().zip(0_u32..).map(|(at_ms, step)| (at_ms, f64::from(first + each * step)));
        assert_eq!(found.series[0].samples(&steps).collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{text}");
    }
}

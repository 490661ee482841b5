//! Queries that are answered from rollups say what the samples say.

use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, MemoryBudget, NoInterrupt, Query, Severity, Steps, Value as Answer};
use prometheus::Registry;

use super::*;
use crate::history::labels;
use crate::history::query::{Queries, QueryError, QueryLimits, Question, When};
use crate::store::conformance::samples as timed;

const DAYS: u64 = 10;

/// Every 100 seconds, but never at the start of a bucket: there samples belong to the range that ends, and to the bucket that begins.
fn samples() -> Vec<(u64, [Value; 3])> {
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
}

impl Asking {
    async fn ask(&self, text: &str, when: When) -> Result<(Answer, Vec<String>), QueryError> {
        let question = Question { text: text.to_owned(), when, lookback_ms: None, timeout: None };
        let evaluated = self.queries.evaluate(question).await?;
        let infos = evaluated.outcome.annotations.texts(Severity::Info, text);
        Ok((evaluated.outcome.value, infos))
    }

    /// Asserts that the answer comes from rollups and is what the samples say.
    async fn check(&self, text: &str, resolution: &str) {
        let (found, infos) = self.ask(text, When::Over(self.steps)).await.unwrap_or_else(|error| panic!("{text}: {error}"));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollups_answer_as_the_samples_do_and_refuse_what_needs_samples() {
    let Some(mut lab) = Lab::new().await else { return };
    let names = ["g", "sent_total", "c"];
    let mut metrics = Metrics::default();
    let mut model = MemoryStore::default();
    let mut added = 0.0;
    for (at, values) in samples() {
        let at = i64::try_from(at).unwrap();
        for (name, value) in names.into_iter().zip(values) {
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
    lab.clock.set(START + DAYS * DAY);
    let plain = batch("a", IdempotencyKey::at(lab.now()), vec![gauge("unused", 0.0)]);
    lab.put(Batch { metrics, ..plain }).await;
    lab.clock.set(lab.now() + 5 * HOUR);
    lab.seal_all().await;

    let limits = QueryLimits {
        concurrency: 2,
        timeout: Duration::from_secs(30),
        max_series: 100,
        max_bytes: 64 << 20,
        log_after: Duration::from_mins(1),
    };
    let queries = Queries::start(Arc::<PostgresStore>::clone(&lab.store), limits, &Registry::new()).unwrap();
    let millis = |at: u64| i64::try_from(at).unwrap();
    let hours = |from: u64, to: u64| Steps::range(millis(from), millis(to), millis(2 * HOUR)).unwrap();
    let first = 20_001 * DAY;
    let mut asking = Asking { queries, samples: model, steps: hours(first, first + 8 * DAY) };

    // A short time is answered from samples, whatever is asked.
    let when = When::Over(hours(first, first + DAY));
    assert_eq!(asking.ask("quantile_over_time(0.5, g[4h])", when).await.unwrap().1, Vec::<String>::new());
    let hourly: (i64, f64, f64) =
        sqlx::query_as("SELECT sum(count)::bigint, sum(sum), max(max) FROM samples_hourly WHERE name = 'g' AND source = 'a'")
            .fetch_one(&mut lab.conn)
            .await
            .unwrap();
    let sent = samples();
    let gauges = || sent.iter().map(|sample| if let Value::Gauge(value) = sample.1[0] { value } else { 0.0 });
    assert_eq!(hourly.0, i64::try_from(sent.len()).unwrap());
    assert!((hourly.1 - gauges().sum::<f64>()).abs() < 1e-3 && (hourly.2 - gauges().fold(0.0, f64::max)).abs() < 1e-9, "{hourly:?}");

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
    for round in ["samples are there", "samples are gone"] {
        for (resolution, days_before) in [("5-minute", 0), ("1-hour", 65)] {
            asking.steps = hours(first - days_before * DAY, first + 8 * DAY);
            for name in names {
                for case in &cases {
                    asking.check(&case.replace("NAME", name), resolution).await;
                }
            }
        }
        // Whose range is less than two buckets of an hour.
        asking.check("max_over_time(rate(c[1h])[8h:2h])", "5-minute").await;
        if round == "samples are there" {
            lab.clock.set(lab.now() + 32 * DAY);
            assert_eq!(sealer(&lab.store).round().await.unwrap().days.len(), usize::try_from(DAYS).unwrap() + 1);
        }
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
    // What comes for a time whose samples are gone changes nothing.
    let mut late = Metrics::default();
    late.push_parsed_at("g", Value::Gauge(1e9), millis(first)).unwrap();
    let plain = batch("a", IdempotencyKey::at(lab.now()), vec![gauge("unused", 0.0)]);
    lab.store.apply(Batch { metrics: late, ..plain }).await.unwrap();
    lab.clock.set(lab.now() + 5 * HOUR);
    lab.seal_all().await;
    asking.check("max_over_time(g[4h])", "5-minute").await;
}

#[tokio::test]
async fn samples_go_before_rollups_and_those_of_minutes_before_those_of_hours() {
    let Some(mut lab) = Lab::new().await else { return };
    for day in [0, 40, 45, 80, 81] {
        lab.clock.set(START + day * DAY);
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 1)])).await;
        lab.clock.set(lab.now() + 5 * HOUR);
        lab.seal_all().await;
    }
    let mut sealer = sealer(&lab.store);
    let months = Duration::from_hours(24 * 365);
    sealer.lifetimes = Lifetimes { retention_raw: months, ..sealer.lifetimes };
    sealer.max_bytes = Some(1);
    let mut dropped = Round::default();
    for _ in 0..20 {
        let round = sealer.round().await.unwrap();
        dropped.days.extend(round.days);
        dropped.rollups.extend(round.rollups);
    }
    assert_eq!(dropped.days.last(), Some(&20_080), "{dropped:?}");
    let five_minutes = dropped.rollups.iter().take_while(|partition| partition.starts_with("rollups_5m")).count();
    assert!(five_minutes >= 2 && dropped.rollups.len() > five_minutes, "{dropped:?}");
    assert!(dropped.rollups[five_minutes..].iter().all(|partition| partition.starts_with("rollups_1h")), "{dropped:?}");
    let left: (i64, i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM rollups_5m), (SELECT count(*) FROM rollups_1h)")
            .fetch_one(&mut lab.conn)
            .await
            .unwrap();
    assert!(left.0 == 1 && left.1 >= 1 && left.2 >= 1, "the newest of each stay: {left:?}");
}

#[tokio::test]
async fn a_day_that_a_query_may_still_read_is_not_dropped() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.put(batch("a", IdempotencyKey::at(START), vec![gauge("g", 1.0)])).await;
    lab.clock.set(START + 5 * HOUR);
    lab.seal_all().await;
    lab.clock.set(START + 40 * DAY);
    // It has read nothing yet.
    let reading = lab.store.history.begin().await.unwrap();
    assert_eq!(lab.sealer().round().await.unwrap().days, Vec::<i32>::new());
    assert_eq!(lab.count("chunks").await, 1);
    reading.end();
    let dropped = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let days = lab.sealer().round().await.unwrap().days;
            if !days.is_empty() {
                return days;
            }
        }
    });
    assert_eq!(dropped.await.unwrap(), [20_000]);
}

#[tokio::test]
async fn what_is_late_for_a_dropped_day_hides_no_rollups() {
    let Some(mut lab) = Lab::new().await else { return };
    for day in 0..3 {
        lab.clock.set(START + day * DAY);
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 3)])).await;
        lab.clock.set(lab.now() + 5 * HOUR);
        lab.seal_all().await;
    }
    // It is acknowledged before the day is dropped, and is still in a frame when that happens.
    let mut metrics = Metrics::default();
    let at = i64::try_from(START).unwrap() + 1;
    metrics.push_parsed_at("g", Value::Gauge(7.0), at).unwrap();
    metrics.push_parsed_at("c", Value::Counter(7), at).unwrap();
    let plain = batch("a", IdempotencyKey::at(lab.now()), vec![gauge("unused", 0.0)]);
    assert_eq!(lab.store.apply(Batch { metrics, ..plain }).await.unwrap(), Applied::New);
    let mut sealer = lab.sealer();
    sealer.max_bytes = Some(1);
    assert_eq!(sealer.round().await.unwrap().days, [20_000, 20_001]);
    assert_eq!(lab.count("frames").await, 1);
    // Nor is one acknowledged afterwards, and no series is made for it.
    let late = timed::samples("b", &[("g", 1.0, START + 2), ("g", 1.0, 20_002 * DAY - 1)]);
    assert_eq!(timed::refused(&lab.store.apply(late).await.unwrap()), [0, 2, 0, 0]);
    assert_eq!(lab.count("series").await, 2);
    let end = i64::try_from(lab.now() + HOUR).unwrap();
    rolled_up::check_queries(&lab.store, &lab.model.history, end).await;
    lab.clock.set(lab.now() + HOUR);
    lab.seal_all().await;
    rolled_up::check_queries(&lab.store, &lab.model.history, end).await;
}

#[tokio::test]
async fn a_day_that_is_dropped_is_folded_before() {
    let Some(mut lab) = Lab::new().await else { return };
    // Nothing else folds.
    lab.limits.folding = Duration::ZERO;
    for day in 0..3 {
        lab.clock.set(START + day * DAY);
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 3)])).await;
        lab.clock.set(lab.now() + 5 * HOUR);
        lab.seal_all().await;
    }
    assert_eq!((lab.count("chunks").await, lab.count("rollups_5m").await), (3, 0));
    let mut sealer = lab.sealer();
    sealer.max_bytes = Some(1);
    assert_eq!(sealer.round().await.unwrap().days, [20_000, 20_001]);
    rolled_up::check_queries(&lab.store, &lab.model.history, i64::try_from(lab.now()).unwrap()).await;
    lab.clock.set(START + 40 * DAY);
    assert_eq!(lab.sealer().round().await.unwrap().days, [20_002]);
    rolled_up::check_queries(&lab.store, &lab.model.history, i64::try_from(lab.now()).unwrap()).await;
}

//! Queries on a store that does what a test wants.

#![expect(clippy::float_cmp, reason = "metrics are compared with what they are exactly")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Reservation, Steps, Value, all_match};
use golectra_protocol::remote_write::Metadata;
use prometheus::Registry;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::listing::Truncated;
use super::{Evaluated, Listing, Queries, QueryError, QueryLimits, Question, When};
use crate::store::history::{
    CorruptHistory, ExportedSeries, History, HistoryError, HistorySeries, Limited, ListedSeries, ListedSource, ReadSamples, SeriesFilter,
    TimeRange,
};
use crate::store::{StoreError, WriterLoad};

/// Longer than any of these tests should wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Series `x{n="…"}` with a sample every second from 0 to 999 s.
struct TestHistory {
    series: usize,
    /// What a call waits for.
    gate: Semaphore,
    reads: AtomicUsize,
    /// Selections of a longer time are not answered.
    longest_ms: AtomicI64,
    /// How many calls were dropped before they ended.
    dropped: Arc<Semaphore>,
    fails: Mutex<Option<HistoryError>>,
    samples: fn() -> Result<(), CorruptHistory>,
}

struct TestSamples(fn() -> Result<(), CorruptHistory>);

impl ReadSamples for TestSamples {
    fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        (self.0)()?;
        for second in 0..1_000_u16 {
            timestamps_ms.push(i64::from(second) * 1_000);
            values.push(f64::from(second));
        }
        Ok(())
    }

    fn max_samples(&self) -> usize {
        1_000
    }
}

/// Says that a call was dropped.
struct Dropped(Arc<Semaphore>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl TestHistory {
    fn labels(&self) -> Vec<Labels> {
        (0..self.series).map(|number| Labels::new([("__name__", "x".to_owned()), ("n", format!("{number:06}"))])).collect()
    }

    async fn pass_the_gate(&self) -> Result<(), HistoryError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let dropped = Dropped(Arc::clone(&self.dropped));
        let _pass = self.gate.acquire().await.unwrap();
        std::mem::forget(dropped);
        match self.fails.lock().unwrap().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl History for TestHistory {
    async fn select(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        self.pass_the_gate().await?;
        if selection.end_ms - selection.start_ms > self.longest_ms.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut found = Vec::new();
        for labels in self.labels().into_iter().filter(|labels| all_match(&selection.matchers, labels)) {
            if found.len() == max_series {
                return Err(HistoryError::TooManySeries { limit: max_series });
            }
            reservation.grow(1_000)?;
            found.push(HistorySeries { labels, samples: Box::new(TestSamples(self.samples)) });
        }
        Ok(found)
    }

    async fn list(&self, _: &SeriesFilter, _: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError> {
        self.pass_the_gate().await?;
        Ok(Vec::new())
    }

    async fn read_listed(
        &self,
        _: &str,
        _: &[ListedSeries],
        _: TimeRange,
        _: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        Ok(Vec::new())
    }

    async fn series(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<Labels>, HistoryError> {
        self.pass_the_gate().await?;
        let wanted = |labels: &Labels| filter.any.is_empty() || filter.any.iter().any(|matchers| all_match(matchers, labels));
        let mut items: Vec<_> = self.labels().into_iter().filter(wanted).collect();
        let truncated = items.len() > filter.limit;
        items.truncate(filter.limit);
        reservation.grow(items.iter().map(Labels::memory_bytes).sum())?;
        Ok(Limited { items, truncated })
    }

    async fn label_names(&self, _filter: &SeriesFilter, _: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        self.pass_the_gate().await?;
        Ok(Limited { items: vec!["__name__".to_owned(), "n".to_owned()], truncated: false })
    }

    async fn metadata(&self, _: Option<&str>, _: usize, _: usize) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError> {
        Ok(BTreeMap::new())
    }

    async fn label_values(&self, label: &str, _filter: &SeriesFilter, _: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        self.pass_the_gate().await?;
        Ok(Limited { items: self.labels().iter().map(|labels| labels.value(label).to_owned()).collect(), truncated: false })
    }
}

struct Bench {
    queries: Queries,
    history: Arc<TestHistory>,
    registry: Registry,
}

impl Bench {
    fn new(limits: QueryLimits) -> Self {
        Self::reading(limits, || Ok(()))
    }

    fn reading(limits: QueryLimits, samples: fn() -> Result<(), CorruptHistory>) -> Self {
        let history = Arc::new(TestHistory {
            series: 3,
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            reads: AtomicUsize::new(0),
            longest_ms: AtomicI64::new(i64::MAX),
            dropped: Arc::new(Semaphore::new(0)),
            fails: Mutex::new(None),
            samples,
        });
        let registry = Registry::new();
        let queries = Queries::start(Arc::<TestHistory>::clone(&history), limits, WriterLoad::default(), &registry).unwrap();
        Self { queries, history, registry }
    }

    /// Lets no call of the store end.
    fn shut(&self) {
        self.history.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn open(&self) {
        self.history.gate.add_permits(Semaphore::MAX_PERMITS - self.history.gate.available_permits());
    }

    fn metric(&self, name: &str, label: Option<&str>) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let has_label = |metric: &&prometheus::proto::Metric| label.is_none_or(|label| metric.get_label()[0].value() == label);
        let metric = family.get_metric().iter().find(has_label).unwrap();
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    fn in_flight(&self) -> f64 {
        self.metric("golectra_query_in_flight", None)
    }

    fn rejected(&self, reason: &str) -> f64 {
        self.metric("golectra_query_rejected_total", Some(reason))
    }

    async fn at(&self, text: &str) -> Result<Evaluated, QueryError> {
        self.queries.evaluate(question(text)).await
    }
}

fn limits() -> QueryLimits {
    let subquery_step = Duration::from_mins(1);
    QueryLimits { concurrency: 2, timeout: PATIENCE, max_series: 100, max_bytes: 4 << 20, log_after: PATIENCE * 2, subquery_step }
}

fn question(text: &str) -> Question {
    Question { text: text.to_owned(), when: When::At { time_ms: 500_000 }, lookback_ms: None, timeout: None }
}

fn listing(selectors: &[&str], limit: Option<usize>) -> Listing {
    let selectors = selectors.iter().map(|selector| (*selector).to_owned()).collect();
    Listing { selectors, range: TimeRange { start_ms: 0, end_ms: 1 }, limit }
}

fn numbers(evaluated: &Evaluated) -> Vec<f64> {
    match &evaluated.outcome.value {
        Value::Vector { samples, .. } => samples.iter().map(|sample| sample.value).collect(),
        Value::Scalar { value, .. } => vec![*value],
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn queries_are_evaluated_on_what_the_store_has() {
    let bench = Bench::new(limits());
    let evaluated = bench.at("sum(x) + max(x) + sum(x{n=\"000000\"})").await.unwrap();
    assert_eq!(numbers(&evaluated), [2_500.0]);
    assert_eq!(bench.history.reads.load(Ordering::SeqCst), 2, "the same selector is read once");
    assert_eq!((evaluated.costs.series, evaluated.costs.samples), (7, 7_000));
    let range = Question { when: When::Over(Steps::range(0, 20_000, 10_000).unwrap()), ..question("max(x)") };
    let Value::Matrix(matrix) = bench.queries.evaluate(range).await.unwrap().outcome.value else { panic!("a matrix") };
    assert_eq!(matrix.series[0].samples(&matrix.steps).collect::<Vec<_>>(), [(0, 0.0), (10_000, 10.0), (20_000, 20.0)]);
    let short = Question { lookback_ms: Some(1_000), when: When::At { time_ms: 1_001_000 }, ..question("x") };
    assert_eq!(numbers(&bench.queries.evaluate(short).await.unwrap()), [0.0; 0]);
    assert_eq!(bench.metric("golectra_query_samples_total", None), 7_000.0 + 3_000.0 + 3_000.0);
    drop(evaluated);
    assert_eq!((bench.in_flight(), bench.metric("golectra_query_memory_bytes", None)), (0.0, 0.0));
    let held = bench.at("x").await.unwrap();
    assert!(bench.metric("golectra_query_memory_bytes", None) > 0.0, "a result counts until it is dropped");
    drop(held);
    assert_eq!(bench.metric("golectra_query_memory_bytes", None), 0.0);
}

#[tokio::test]
async fn a_subquery_that_gives_no_step_takes_the_servers() {
    for (seconds, count) in [(15, 20.0), (60, 5.0)] {
        let bench = Bench::new(QueryLimits { subquery_step: Duration::from_secs(seconds), ..limits() });
        assert_eq!(numbers(&bench.at("count_over_time(vector(1)[5m:])").await.unwrap()), [count]);
        assert_eq!(numbers(&bench.at("count_over_time(vector(1)[5m:10s])").await.unwrap()), [30.0]);
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_given_up_in_time() {
    let bench = Bench::new(QueryLimits { timeout: Duration::from_millis(50), ..limits() });
    bench.shut();
    for _ in 0..3 {
        let error = timeout(PATIENCE, bench.at("x")).await.unwrap().err().unwrap();
        assert!(matches!(error, QueryError::Timeout { limit } if limit == Duration::from_millis(50)), "{error}");
    }
    timeout(PATIENCE, bench.history.dropped.acquire_many(3)).await.unwrap().unwrap().forget();
    bench.open();
    assert_eq!((bench.rejected("timeout"), bench.in_flight()), (3.0, 0.0));
    assert!(bench.at("1").await.is_ok(), "its threads are free again");
}

#[tokio::test]
async fn waiting_counts_and_a_request_may_ask_for_less_time() {
    let bench = Bench::new(QueryLimits { concurrency: 1, ..limits() });
    bench.shut();
    let (first, error) = tokio::join!(bench.at("x"), async {
        let second = Question { timeout: Some(Duration::from_millis(30)), ..question("1") };
        let error = bench.queries.evaluate(second).await.err();
        bench.open();
        error
    });
    assert!(matches!(error, Some(QueryError::Timeout { limit }) if limit == Duration::from_millis(30)), "{error:?}");
    assert_eq!(numbers(&first.unwrap()), [500.0; 3]);
    let none = Question { timeout: Some(Duration::ZERO), ..question("1") };
    assert!(matches!(bench.queries.evaluate(none).await, Err(QueryError::Timeout { .. })));
}

#[tokio::test]
async fn too_many_that_wait_are_refused() {
    let bench = Bench::new(QueryLimits { concurrency: 1, ..limits() });
    bench.shut();
    let mut waiting: Vec<_> = (0..33).map(|_| Box::pin(bench.at("x"))).collect();
    for one in &mut waiting {
        assert!(futures_util::poll!(one).is_pending());
    }
    assert!(matches!(bench.at("1").await, Err(QueryError::QueueFull)));
    assert_eq!((bench.in_flight(), bench.rejected("queue_full")), (33.0, 1.0));
    bench.open();
    for one in waiting {
        assert!(one.await.is_ok());
    }
}

#[tokio::test]
async fn a_rule_is_evaluated_while_queries_take_all_turns() {
    let bench = Bench::new(QueryLimits { concurrency: 1, ..limits() });
    bench.shut();
    let mut queries: Vec<_> = (0..2).map(|_| Box::pin(bench.at("x"))).collect();
    for one in &mut queries {
        assert!(futures_util::poll!(one).is_pending());
    }
    let rule = timeout(PATIENCE, bench.queries.evaluate_rule(question("vector(1)"), None)).await.unwrap();
    assert_eq!(numbers(&rule.unwrap()), [1.0]);
    bench.open();
    for one in queries {
        assert!(one.await.is_ok());
    }
}

/// Evaluates rules that share reads. Answers how often the store was read.
async fn evaluate_sharing(bench: &Bench, rules: &[&str], written: &[&str]) -> usize {
    let questions = rules.iter().map(|text| question(text)).collect();
    let reads = bench.queries.share_reads(questions, written.iter().map(|name| (*name).to_owned()).collect()).await.unwrap();
    let told = |evaluated: Result<Evaluated, QueryError>| match evaluated {
        Ok(evaluated) => format!("{:?}", evaluated.outcome.value),
        Err(error) => error.to_string(),
    };
    let mut alone = Vec::new();
    for text in rules {
        alone.push(told(bench.at(text).await));
    }
    let before = bench.history.reads.load(Ordering::SeqCst);
    for (text, alone) in rules.iter().zip(alone) {
        let shared = bench.queries.evaluate_rule(question(text), Some(Arc::clone(&reads))).await;
        assert_eq!(told(shared), alone, "{text}");
    }
    let count = bench.history.reads.load(Ordering::SeqCst) - before;
    assert_eq!(reads.held_bytes(), 0, "nothing is held after the last use");
    drop(reads);
    assert_eq!(bench.metric("golectra_query_memory_bytes", None), 0.0);
    count
}

#[tokio::test]
async fn rules_share_reads_and_get_what_they_get_alone() {
    let bench = Bench::new(limits());
    let rules = [
        "x",
        "sum(rate(x[5m]))",
        "x{n=\"000001\"} > 1",
        "count by (n) (x) and on (n) rate(x{n=~\"00000[12]\"}[1m])",
        "max_over_time(x[2m] offset 1m)",
        "x{n=\"none\"}",
        "quantile_over_time(0.5, x[30s:1s])",
        "x @ 100",
        "{n=\"000000\"}",
    ];
    let all = evaluate_sharing(&bench, &rules, &[]).await;
    assert_eq!(all, 3, "one for what ends now, one for a time long ago, one whose metric is not named");
    assert!(evaluate_sharing(&bench, &rules, &["x"]).await > 9, "what is written meanwhile is read each time");
    assert_eq!(evaluate_sharing(&bench, &["x + x", "1", "sum(", "y"], &[]).await, 2, "what only one rule asks for is read by it");
}

#[tokio::test]
async fn rules_that_share_too_much_read_alone() {
    // Three series of a thousand samples take 48,000 bytes, more than the fourth part that reads may share.
    let bench = Bench::new(QueryLimits { max_bytes: 180_000, ..limits() });
    assert_eq!(evaluate_sharing(&bench, &["x{n=\"000000\"}", "x{n=\"000001\"}", "x"], &[]).await, 4);
    let bench = Bench::new(QueryLimits { max_series: 2, ..limits() });
    assert_eq!(evaluate_sharing(&bench, &["x{n=\"000000\"}", "x{n=\"000001\"}", "x"], &[]).await, 4);
}

#[tokio::test]
async fn a_shared_read_that_takes_too_long_ends_no_rule_that_needs_less() {
    let bench = Bench::new(QueryLimits { timeout: Duration::from_secs(2), ..limits() });
    bench.history.longest_ms.store(24 * 60 * 60 * 1_000, Ordering::SeqCst);
    let (wide, narrow) = ("max_over_time(x[2d])", ["x{n=\"000001\"}", "sum(x)"]);
    for rules in [[narrow[0], wide, narrow[1]], [wide, narrow[0], narrow[1]]] {
        let reads = bench.queries.share_reads(rules.map(question).into(), BTreeSet::new()).await.unwrap();
        for text in rules {
            match bench.queries.evaluate_rule(question(text), Some(Arc::clone(&reads))).await {
                Ok(evaluated) => assert!(text != wide && !numbers(&evaluated).is_empty(), "{text}"),
                Err(error) => assert!(text == wide && matches!(error, QueryError::Timeout { .. }), "{text}: {error}"),
            }
        }
    }
    assert_eq!(bench.metric("golectra_query_memory_bytes", None), 0.0);
}

#[tokio::test]
async fn a_shared_read_that_fails_fails_no_rule_whose_own_part_can_be_read() {
    static DECODED: AtomicUsize = AtomicUsize::new(0);
    let all_decode: fn() -> Result<(), CorruptHistory> = || Ok(());
    let second_does_not: fn() -> Result<(), CorruptHistory> = || match DECODED.fetch_add(1, Ordering::SeqCst) {
        1 => Err(CorruptHistory("a block".into())),
        _ => Ok(()),
    };
    for (error, samples) in [
        (Some(HistoryError::Store(StoreError::Unavailable("gone".into()))), all_decode),
        (Some(HistoryError::Corrupt(CorruptHistory("a block".into()))), all_decode),
        (None, second_does_not),
    ] {
        let bench = Bench::reading(limits(), samples);
        let rules = ["x{n=\"000001\"}", "sum(x)"];
        let reads = bench.queries.share_reads(rules.map(question).into(), BTreeSet::new()).await.unwrap();
        *bench.history.fails.lock().unwrap() = error;
        for text in rules {
            let evaluated = bench.queries.evaluate_rule(question(text), Some(Arc::clone(&reads))).await;
            assert!(evaluated.is_ok(), "{text}: {:?}", evaluated.err());
        }
        assert_eq!(bench.history.reads.load(Ordering::SeqCst), 3, "the whole, and each its own part");
        assert_eq!(reads.held_bytes(), 0);
    }
}

#[tokio::test]
async fn a_query_ends_when_its_client_leaves() {
    let bench = Bench::new(QueryLimits { concurrency: 1, ..limits() });
    bench.shut();
    // One waits for the store, the other for its turn.
    let mut clients = [Box::pin(bench.at("x")), Box::pin(bench.at("x"))];
    for client in &mut clients {
        assert!(futures_util::poll!(client).is_pending());
    }
    drop(clients);
    timeout(PATIENCE, async {
        while bench.in_flight() > 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(bench.rejected("canceled"), 2.0);
    assert!(timeout(PATIENCE, bench.at("1")).await.unwrap().is_ok());
}

#[tokio::test]
async fn an_evaluation_that_takes_too_long_is_ended() {
    let bench = Bench::new(QueryLimits { timeout: Duration::from_millis(200), max_bytes: 1 << 30, ..limits() });
    let heavy = "max_over_time(quantile_over_time(0.5, x[400s:1ms])[400s:10ms])";
    let start = Instant::now();
    let error = bench.at(heavy).await.err().unwrap();
    assert!(matches!(error, QueryError::Timeout { .. }), "{error}");
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test]
async fn memory_and_series_are_bounded() {
    let bench = Bench::new(QueryLimits { max_series: 2, ..limits() });
    assert!(matches!(bench.at("x").await, Err(QueryError::TooManySeries { limit: 2 })));
    assert!(matches!(bench.at("x{n=~\"00000[01]\"} or x{n=\"000002\"}").await, Err(QueryError::TooManySeries { limit: 2 })));

    let bench = Bench::new(QueryLimits { max_bytes: 512 << 10, ..limits() });
    let over_time = |text: &str| Question { when: When::Over(Steps::range(0, 11_000_000, 1_000).unwrap()), ..question(text) };
    let error = bench.queries.evaluate(over_time("x + on (n) (x * 2)")).await.err().unwrap();
    assert!(matches!(error, QueryError::TooMuchMemory { limit_bytes } if limit_bytes == 512 << 10), "{error}");
    let mut held = Vec::new();
    let error = loop {
        assert!(held.len() < 10);
        match bench.queries.evaluate(over_time("x{n=\"000000\"}")).await {
            Ok(evaluated) => held.push(evaluated),
            Err(error) => break error,
        }
    };
    assert!(!held.is_empty() && matches!(error, QueryError::MemoryTaken { .. }), "answers that are held take what others need: {error}");
    drop(held);
    assert_eq!(bench.metric("golectra_query_memory_bytes", None), 0.0);
    let long = question(&format!("1{}", " ".repeat(600 << 10)));
    assert!(matches!(bench.queries.evaluate(long).await, Err(QueryError::TooMuchMemory { .. })), "so does the text of a query");
}

#[tokio::test]
async fn errors_are_told_apart() {
    let bench = Bench::new(limits());
    for (error, reason) in [
        (HistoryError::Store(StoreError::Unavailable("gone".into())), "unavailable"),
        (HistoryError::Store(StoreError::Overloaded), "unavailable"),
        (HistoryError::Corrupt(CorruptHistory("a block".into())), "internal"),
    ] {
        *bench.history.fails.lock().unwrap() = Some(error);
        assert_eq!(bench.at("x").await.err().unwrap().reason(), reason);
    }
    for (text, reason) in [("x(", "bad_data"), ("x + on() x", "execution"), ("sum_over_time(x[1y:1ms])", "execution")] {
        assert_eq!(bench.at(text).await.err().unwrap().reason(), reason, "{text}");
        assert!(bench.rejected(reason) > 0.0);
    }
    let range = Question { when: When::Over(Steps::range(0, 1, 1).unwrap()), ..question("x[5m]") };
    let error = bench.queries.evaluate(range).await.err().unwrap();
    assert_eq!(error.reason(), "bad_data");
    let many: Vec<_> = (0..257).map(|number| format!("x{{n=\"{number}\"}}")).collect();
    let deep = many.chunks(4).map(|four| format!("({})", four.join(" or "))).collect::<Vec<_>>();
    let error = bench.at(&deep.join(" or ")).await.err().unwrap();
    assert!(error.to_string().contains("more than 256 different selectors"), "{error}");
}

#[tokio::test]
async fn what_can_not_be_read_is_an_internal_error_and_harms_no_other_query() {
    for samples in [|| Err(CorruptHistory("a block".into())), || panic!("on purpose")] as [fn() -> _; 2] {
        let bench = Bench::reading(QueryLimits { concurrency: 1, ..limits() }, samples);
        let error = bench.at("x").await.err().unwrap();
        assert_eq!(error.reason(), "internal");
        assert_eq!(error.to_string(), "internal error", "the cause is for the log");
        assert_eq!(numbers(&bench.at("1").await.unwrap()), [1.0]);
    }
}

#[tokio::test]
async fn lists_are_bounded_and_say_so() {
    let bench = Bench::new(QueryLimits { max_series: 2, ..limits() });
    let listed = bench.queries.series(listing(&["x{n=\"000001\"}", "y"], None)).await.unwrap();
    assert_eq!((listed.items.len(), listed.truncated), (1, None));
    assert!(bench.metric("golectra_query_memory_bytes", None) > 0.0);
    drop(listed);
    assert_eq!(bench.metric("golectra_query_memory_bytes", None), 0.0);
    for (limit, length, truncated) in
        [(None, 2, Truncated::MaxSeries(2)), (Some(1), 1, Truncated::Asked), (Some(5), 2, Truncated::MaxSeries(2))]
    {
        let listed = bench.queries.series(listing(&[], limit)).await.unwrap();
        assert_eq!((listed.items.len(), listed.truncated), (length, Some(truncated)));
    }
    let told = bench.queries.tell_series(listing(&[], None), <[Labels]>::len).await.unwrap();
    assert_eq!((told.told, told.truncated), (2, Some(Truncated::MaxSeries(2))));
    assert_eq!(bench.queries.label_names(listing(&[], None)).await.unwrap().items, ["__name__", "n"]);
    assert_eq!(bench.queries.label_values("n".into(), listing(&[], None)).await.unwrap().items.len(), 3);
    let backwards = Listing { range: TimeRange { start_ms: 2, end_ms: 1 }, ..listing(&[], None) };
    assert!(bench.queries.series(backwards).await.unwrap().items.is_empty());
    for selectors in [vec!["x{"], vec!["x"; 1_001], vec!["x{n=~\"0.*\",n=~\"1.*\",n=~\"2.*\"}"; 100]] {
        assert!(matches!(bench.queries.series(listing(&selectors, None)).await, Err(QueryError::Parameter { parameter: "match[]", .. })));
    }
}

#[tokio::test]
async fn a_list_may_have_a_selector_for_each_metric_of_a_dashboard() {
    let bench = Bench::new(limits());
    let each: Vec<String> = (0..250).map(|number| format!("m{number}{{job=~\"a.*\"}}")).collect();
    let each: Vec<&str> = each.iter().map(String::as_str).collect();
    assert!(bench.queries.series(listing(&each, None)).await.unwrap().items.is_empty());
    // What one selector does not take is there for another.
    let mut uneven = vec!["x"; 49];
    uneven.push("y{a=~\"a.*\",b=~\"b.*\",c=~\"c.*\"}");
    assert!(!bench.queries.series(listing(&uneven, None)).await.unwrap().items.is_empty());
    assert!(bench.queries.series(listing(&["x"; 1_000], None)).await.is_ok());
}

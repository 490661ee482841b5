//! Series that are evaluated one after the other do not change each other's results, and rollups are looked at as samples are.

use proptest::prelude::*;

use crate::store::{Bucket, MemoryStore, Rollup, Selection, SeriesSet, StoreError, StoredSamples, StoredSeries};
use crate::{Engine, Labels, MemoryBudget, NoInterrupt, Query, Steps, Store, Value};

const EXPRESSIONS: [&str; 6] =
    ["rate(x{}[90ms])", "delta(x{}[90ms])", "max_over_time(x{}[60ms])", "x{}", "timestamp(x{})", "sum_over_time(x{}[50ms:10ms])"];

/// The bits of the values at each step, for each series of the result.
fn evaluate(expression: &str, store: &MemoryStore) -> Vec<(String, Vec<(i64, u64)>)> {
    let engine = Engine::default();
    let query = Query::parse(expression, &engine.parse_limits).unwrap();
    let steps = Steps::range(0, 300, 20).unwrap();
    let outcome = engine.range(&query, steps, store, &NoInterrupt, &MemoryBudget::new(1 << 20)).unwrap();
    let Value::Matrix(matrix) = outcome.value else { panic!("a matrix") };
    let bits = |series: &crate::value::MatrixSeries| series.samples(&steps).map(|(time_ms, value)| (time_ms, value.to_bits())).collect();
    matrix.series.iter().map(|series| (series.labels.get("n").unwrap_or_default().to_owned(), bits(series))).collect()
}

proptest! {
    #[test]
    fn series_with_the_times_of_the_one_before_are_what_they_are_alone(
        sets in prop::collection::vec(prop::collection::btree_set(0..300_i64, 0..30), 1..3),
        series in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(0..50_i32, 30), any::<bool>()), 1..8),
    ) {
        let mut store = MemoryStore::default();
        for (number, (set, values, is_shifted)) in series.iter().enumerate() {
            let labels = Labels::new([("__name__", "x".to_owned()), ("n", number.to_string())]);
            // Others in the middle with the same ends.
            let middle = i64::from(*is_shifted);
            let times: Vec<i64> = set.get(&sets).iter().copied().collect();
            let last = times.len().saturating_sub(1);
            for (index, (time_ms, value)) in times.iter().zip(values).enumerate() {
                let by = if index > 0 && index < last && times[index + 1] > time_ms + 1 { middle } else { 0 };
                store.add(&labels, time_ms + by, f64::from(*value));
            }
        }
        for expression in EXPRESSIONS {
            let together = evaluate(expression, &store);
            let mut alone = Vec::new();
            for number in 0..series.len() {
                alone.extend(evaluate(&expression.replace("{}", &format!("{{n=\"{number}\"}}")), &store));
            }
            prop_assert_eq!(together, alone, "{}", expression);
        }
    }
}

/// One series, rolled up.
struct RolledUp {
    labels: Labels,
    bucket_ms: i64,
    buckets: Vec<Bucket>,
}

struct One<'a>(Option<StoredSeries<'a>>);

impl Store for RolledUp {
    fn select<'a>(&'a self, _: &Selection) -> Result<Box<dyn SeriesSet + 'a>, StoreError> {
        let samples = StoredSamples::Rollup(Rollup { bucket_ms: self.bucket_ms, buckets: &self.buckets });
        Ok(Box::new(One(Some(StoredSeries { labels: &self.labels, samples }))))
    }
}

impl SeriesSet for One<'_> {
    fn next(&mut self) -> Result<Option<StoredSeries<'_>>, StoreError> {
        Ok(self.0.take())
    }
}

#[test]
fn a_sample_at_the_start_of_a_bucket_is_in_the_range_that_begins_there() {
    for bucket_ms in [300_000, 3_600_000] {
        let bucket = |number: i32| {
            let (at_ms, value) = (i64::from(number) * bucket_ms, f64::from(number));
            Bucket { first_ms: at_ms, last_ms: at_ms, count: 1, sum: value, min: value, max: value, first: value, last: value, lost: 0.0 }
        };
        let labels = Labels::new([("__name__", "x")]);
        let store = RolledUp { labels, bucket_ms, buckets: (0..8).map(bucket).collect() };
        let engine = Engine { lookback_ms: bucket_ms, ..Engine::default() };
        let steps = Steps::range(2 * bucket_ms, 10 * bucket_ms, 2 * bucket_ms).unwrap();
        for (expression, unit) in
            [("x", 1.0), (&*format!("last_over_time(x[{bucket_ms}ms])"), 1.0), ("timestamp(x)", bucket_ms as f64 / 1000.0)]
        {
            let query = Query::parse(expression, &engine.parse_limits).unwrap();
            let outcome = engine.range(&query, steps, &store, &NoInterrupt, &MemoryBudget::new(1 << 20)).unwrap();
            let Value::Matrix(matrix) = outcome.value else { panic!("a matrix") };
            let found: Vec<(i64, f64)> = matrix.series[0].samples(&steps).map(|(at_ms, value)| (at_ms / bucket_ms, value / unit)).collect();
            assert_eq!(found, [(2, 1.0), (4, 3.0), (6, 5.0), (8, 7.0)], "{expression}");
        }
    }
}

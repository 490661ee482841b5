//! Series that are evaluated one after the other do not change each other's results.

use proptest::prelude::*;

use crate::store::MemoryStore;
use crate::{Engine, Labels, MemoryBudget, NoInterrupt, Query, Steps, Value};

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

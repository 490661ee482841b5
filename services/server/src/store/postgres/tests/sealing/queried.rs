//! What queries see of the history.

use std::collections::BTreeMap;

use golectra_promql::store::{Hints, Selection};
use golectra_promql::{MatchOp, Matcher, MemoryBudget};

use super::reading::History as Expected;
use super::*;
use crate::history::labels;
use crate::store::History;

/// A series' values, as bits, by time.
pub(in super::super) type Read = BTreeMap<String, Vec<(i64, u64)>>;

/// What a query of this time sees of all series.
pub(in super::super) async fn read(store: &PostgresStore, start_ms: i64, end_ms: i64) -> Read {
    select(store, Selection { matchers: [].into(), start_ms, end_ms, hints: Hints::default() }).await
}

/// What a query of all times sees of one metric.
pub(in super::super) async fn read_metric(store: &PostgresStore, name: &str) -> Read {
    let matcher = Matcher::new(MatchOp::Equal, "__name__", name).unwrap();
    select(store, Selection { matchers: [matcher].into(), start_ms: 0, end_ms: i64::MAX, hints: Hints::default() }).await
}

async fn select(store: &PostgresStore, selection: Selection) -> Read {
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    let mut read = Read::new();
    for series in store.select(&selection, 1_000, &mut reservation).await.unwrap() {
        let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
        series.samples.read(&mut timestamps_ms, &mut values).unwrap();
        let samples: Vec<_> = timestamps_ms.into_iter().zip(values.into_iter().map(f64::to_bits)).collect();
        if !samples.is_empty() {
            read.insert(series.labels.to_string(), samples);
        }
    }
    read
}

/// Asserts that a query of this time sees what is expected. No source has a gauge and a counter of one id.
pub(super) async fn check(store: &PostgresStore, expected: &Expected, start_ms: i64, end_ms: i64) {
    let read = read(store, start_ms, end_ms).await;
    let mut wanted = Read::new();
    for (name, samples) in expected {
        let mut total = 0_i64;
        let as_read = samples.iter().map(|(at, bits)| {
            total = total.wrapping_add(bits.cast_signed());
            #[expect(clippy::cast_precision_loss, reason = "as PromQL sees it")]
            (*at, if name.is_counter { (total as f64).to_bits() } else { *bits })
        });
        let in_time: Vec<_> = as_read.filter(|(at, _)| (start_ms..=end_ms).contains(at)).collect();
        if !in_time.is_empty() {
            wanted.insert(labels::of_series(&name.source, &name.metric, false).to_string(), in_time);
        }
    }
    assert_eq!(read, wanted, "from {start_ms} to {end_ms}");
}

/// Asserts it of all times, and of a part of them.
pub(super) async fn check_all(store: &PostgresStore, expected: &Expected) {
    let mut times: Vec<i64> = expected.values().flat_map(|samples| samples.keys().copied()).collect();
    times.sort_unstable();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return };
    check(store, expected, *first, *last).await;
    check(store, expected, times[times.len() / 3], times[times.len() * 2 / 3]).await;
    check(store, expected, times[times.len() * 9 / 10], i64::MAX).await;
}

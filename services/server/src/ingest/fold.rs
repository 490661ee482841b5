//! Folding: one id several times in a batch becomes one change of its series.

use std::collections::HashMap;

use golectra_protocol::{Metric, Value};

/// Two deltas of one counter in a batch add up to more than an `i64`.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Where the delta that no longer fits stands in the batch, from 0.
    pub index: usize,
}

/// Folds a batch to one metric a series, in the order of their first appearance: deltas add up, the last gauge wins.
pub fn fold(items: Vec<Metric>) -> Result<Vec<Metric>, Overflow> {
    let mut folded: Vec<Metric> = Vec::with_capacity(items.len());
    let mut places = HashMap::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        // The id is cloned for its map; agents send each id once, so a second look at the vector would save nothing.
        let place = *places.entry((item.id.clone(), item.kind())).or_insert(folded.len());
        match folded.get_mut(place).map(|seen| &mut seen.value) {
            None => folded.push(item),
            Some(Value::Counter(total)) => {
                let Value::Counter(delta) = item.value else { unreachable!("the kind is part of the place") };
                *total = total.checked_add(delta).ok_or(Overflow { index })?;
            }
            Some(gauge) => *gauge = item.value,
        }
    }
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use golectra_protocol::MetricId;
    use proptest::prelude::*;

    use super::*;

    fn metric(id: &str, value: Value) -> Metric {
        Metric { id: MetricId::parse(id).unwrap(), value }
    }

    #[test]
    fn deltas_add_up_and_the_last_gauge_wins() {
        let batch = vec![
            metric("a", Value::Gauge(1.0)),
            metric("a", Value::Counter(2)),
            metric("b", Value::Counter(5)),
            metric("a", Value::Gauge(3.0)),
            metric("a", Value::Counter(4)),
        ];
        let folded = vec![metric("a", Value::Gauge(3.0)), metric("a", Value::Counter(6)), metric("b", Value::Counter(5))];
        assert_eq!(fold(batch), Ok(folded));
    }

    #[test]
    fn an_overflow_within_the_batch_is_named() {
        let batch = vec![metric("a", Value::Counter(i64::MAX)), metric("b", Value::Counter(1)), metric("a", Value::Counter(1))];
        assert_eq!(fold(batch), Err(Overflow { index: 2 }));
    }

    proptest! {
        #[test]
        fn sums_are_kept_whatever_the_order(deltas in proptest::collection::vec((0..4_u8, 0..1_000_i64), 1..50)) {
            let batch = deltas.iter().map(|(id, delta)| metric(&id.to_string(), Value::Counter(*delta))).collect();
            for folded in fold(batch).unwrap() {
                let sum = deltas.iter().filter(|(id, _)| id.to_string() == folded.id.as_str()).map(|(_, delta)| delta).sum();
                prop_assert_eq!(folded.value, Value::Counter(sum));
            }
        }
    }
}

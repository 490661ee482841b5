//! Folding: an id that occurs several times in a batch becomes one change of its series.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use golectra_protocol::{Metrics, Value};

/// Two deltas of one counter in a batch add up to more than an `i64`.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow {
    /// The index in the batch of the delta that no longer fits, from 0.
    pub index: usize,
}

/// Folds a batch to one metric for each series, in the order of their first appearance: deltas are added up, the last gauge
/// wins.
///
/// Agents send each id once, so the cost is that of looking for duplicates: metrics are moved only if there are some.
pub fn fold(mut metrics: Metrics) -> Result<Metrics, Overflow> {
    if metrics.len() < 2 {
        return Ok(metrics);
    }
    let mut places = Places::with_room_for(metrics.len());
    let mut repeats = Vec::new();
    for index in 0..metrics.len() {
        let Some(first) = places.first_of(&metrics, index) else { continue };
        let value = match (metrics.get(first).value, metrics.get(index).value) {
            (Value::Counter(total), Value::Counter(delta)) => Value::Counter(total.checked_add(delta).ok_or(Overflow { index })?),
            (_, last) => last,
        };
        metrics.set(first, value);
        repeats.push(index);
    }
    if !repeats.is_empty() {
        let mut next = repeats.into_iter().peekable();
        metrics.retain(|index| next.next_if_eq(&index).is_none());
    }
    Ok(metrics)
}

/// The position of each series in a batch: an open hash table of half of each id's hash and its position. It does not borrow
/// from the batch, so that the batch can be changed meanwhile. Each batch has a new random hash key.
struct Places {
    hasher: RandomState,
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// The position in the batch, from 1; 0 if the slot is free.
    place: u32,
}

impl Places {
    fn with_room_for(metrics: usize) -> Self {
        Self { hasher: RandomState::default(), slots: vec![Slot::default(); (metrics * 2).next_power_of_two()].into() }
    }

    /// The earlier position of the series of the metric at `index`; if there is none, stores this one.
    fn first_of(&mut self, metrics: &Metrics, index: usize) -> Option<usize> {
        let metric = metrics.get(index);
        let full = self.hasher.hash_one(metric.id);
        #[expect(clippy::cast_possible_truncation, reason = "one half of the hash selects the slot, the other is compared")]
        let (mut at, hash) = (full as usize, (full >> 32) as u32);
        let mask = self.slots.len() - 1;
        loop {
            let slot = &mut self.slots[at & mask];
            if slot.place == 0 {
                let place = u32::try_from(index + 1).expect("a batch is smaller than its text, which has less than 4 GiB");
                *slot = Slot { hash, place };
                return None;
            }
            if slot.hash == hash {
                let first = slot.place as usize - 1;
                let seen = metrics.get(first);
                if seen.id == metric.id && seen.kind() == metric.kind() {
                    return Some(first);
                }
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use golectra_protocol::{Kind, Metric, MetricId};
    use proptest::prelude::*;

    use super::*;

    fn metric(id: &str, value: Value) -> Metric {
        Metric { id: MetricId::parse(id).unwrap(), value }
    }

    #[test]
    fn deltas_add_up_and_the_last_gauge_wins() {
        let batch = [
            metric("a", Value::Gauge(1.0)),
            metric("a", Value::Counter(2)),
            metric("b", Value::Counter(5)),
            metric("a", Value::Gauge(3.0)),
            metric("a", Value::Counter(4)),
        ];
        let folded = [metric("a", Value::Gauge(3.0)), metric("a", Value::Counter(6)), metric("b", Value::Counter(5))];
        assert_eq!(fold(batch.into_iter().collect()), Ok(folded.into_iter().collect()));
    }

    #[test]
    fn an_overflow_within_the_batch_is_named() {
        let batch = [metric("a", Value::Counter(i64::MAX)), metric("b", Value::Counter(1)), metric("a", Value::Counter(1))];
        assert_eq!(fold(batch.into_iter().collect()), Err(Overflow { index: 2 }));
    }

    proptest! {
        #[test]
        fn a_fold_gives_the_same_result_as_a_map(
            sent in proptest::collection::vec((0..40_u8, proptest::option::of(0..1_000_i32)), 1..120),
        ) {
            let batch = sent.iter().enumerate().map(|(index, (id, delta))| match delta {
                Some(delta) => metric(&id.to_string(), Value::Counter((*delta).into())),
                None => metric(&id.to_string(), Value::Gauge(f64::from(u32::try_from(index).unwrap()))),
            });
            let batch: Vec<Metric> = batch.collect();
            let mut order: Vec<(MetricId, Kind)> = Vec::new();
            let mut values: HashMap<(MetricId, Kind), Value> = HashMap::new();
            for one in &batch {
                let series = (one.id.clone(), one.kind());
                match (values.get_mut(&series), one.value) {
                    (None, value) => {
                        values.insert(series.clone(), value);
                        order.push(series);
                    }
                    (Some(Value::Counter(total)), Value::Counter(delta)) => *total += delta,
                    (Some(seen), value) => *seen = value,
                }
            }
            let expected: Metrics = order.into_iter().map(|series| Metric { value: values[&series], id: series.0 }).collect();
            prop_assert_eq!(fold(batch.into()), Ok(expected));
        }
    }
}

//! Folds a group into one change a series. However often a series comes in a group, its newest state is changed once.

use std::sync::Arc;

use golectra_protocol::Value;

use super::layouts::Layout;
use super::queue::QueuedBatch;
use crate::store::postgres::timestamp::Timestamp;

/// What a group does to a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change<T> {
    /// The series.
    pub(super) series: i32,
    /// Of a gauge the time of the value, of a counter the latest time of a delta.
    pub(super) time: Timestamp,
    /// The place of the batch that the value is from.
    pub(super) place: usize,
    /// The place of the last batch that names the series.
    pub(super) last: usize,
    /// A gauge's value or what is added to a counter.
    pub(super) value: T,
}

/// A batch by its place in the group, with its layout.
pub(super) type Placed<'a> = (usize, &'a QueuedBatch, &'a Arc<Layout>);

/// One change a series, sorted by series.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fold {
    pub(super) gauges: Vec<Change<f64>>,
    pub(super) counters: Vec<Change<i64>>,
}

impl Fold {
    /// The series that are changed.
    pub(super) fn series(&self) -> impl Iterator<Item = i32> {
        self.gauges.iter().map(|gauge| gauge.series).chain(self.counters.iter().map(|counter| counter.series))
    }

    /// Of batches in their order of arrival. Deltas that add up to more than an `i64` are an error that names the series.
    pub(super) fn of(batches: &[Placed<'_>]) -> Result<Self, i32> {
        let mut fold = Self::default();
        let (timed, plain): (Vec<&Placed<'_>>, Vec<_>) = batches.iter().partition(|(_, queued, _)| queued.batch.metrics.has_times());
        for (place, queued, layout) in timed {
            fold.add_each(*place, queued, layout);
        }
        // Batches of one layout stand in the same series: the newest one's gauges count, and deltas add up place by place.
        let mut order = plain;
        order.sort_by_key(|(.., layout)| Arc::as_ptr(layout));
        for alike in order.chunk_by(|one, other| Arc::ptr_eq(one.2, other.2)) {
            fold.add_alike(alike)?;
        }
        merge(&mut fold.gauges, |kept, next| {
            let last = kept.last.max(next.last);
            if (next.time, next.place) > (kept.time, kept.place) {
                *kept = *next;
            }
            kept.last = last;
            Ok(())
        })?;
        merge(&mut fold.counters, |kept, next| {
            kept.value = kept.value.checked_add(next.value).ok_or(kept.series)?;
            kept.time = kept.time.max(next.time);
            kept.last = kept.last.max(next.last);
            Ok(())
        })?;
        Ok(fold)
    }

    /// A batch whose samples have times of their own; a series may come more than once.
    fn add_each(&mut self, place: usize, queued: &QueuedBatch, layout: &Layout) {
        for (index, (metric, series)) in queued.batch.metrics.iter().zip(&layout.series_ids).enumerate() {
            let time = queued.effective_time(index);
            match metric.value {
                Value::Gauge(value) => self.gauges.push(Change { series: *series, time, place, last: place, value }),
                Value::Counter(value) => self.counters.push(Change { series: *series, time, place, last: place, value }),
            }
        }
    }

    /// Batches of one layout, each with one time for all.
    fn add_alike(&mut self, alike: &[&Placed<'_>]) -> Result<(), i32> {
        // The last of the newest: of one time, the later arrival counts.
        let newest = alike.iter().max_by_key(|(place, queued, _)| (queued.effective_time(0), *place));
        let Some((newest, queued, layout)) = newest else { return Ok(()) };
        let last = alike.iter().map(|(place, ..)| *place).max().unwrap_or(*newest);
        let mut sums = Vec::new();
        for (.., other, _) in alike.iter().filter(|(place, ..)| place != newest) {
            sums.resize(layout.series_ids.len(), 0_i64);
            for (index, metric) in other.batch.metrics.iter().enumerate() {
                if let Value::Counter(delta) = metric.value {
                    sums[index] = sums[index].checked_add(delta).ok_or(layout.series_ids[index])?;
                }
            }
        }
        let time = queued.effective_time(0);
        for (index, (metric, series)) in queued.batch.metrics.iter().zip(&layout.series_ids).enumerate() {
            let (series, place) = (*series, *newest);
            match metric.value {
                Value::Gauge(value) => self.gauges.push(Change { series, time, place, last, value }),
                Value::Counter(delta) => {
                    let value = sums.get(index).map_or(Some(delta), |sum| sum.checked_add(delta)).ok_or(series)?;
                    self.counters.push(Change { series, time, place, last, value });
                }
            }
        }
        Ok(())
    }
}

/// Sorts by series and makes one change of several.
fn merge<T: Copy>(changes: &mut Vec<Change<T>>, mut into: impl FnMut(&mut Change<T>, &Change<T>) -> Result<(), i32>) -> Result<(), i32> {
    // Layouts are mostly in order within themselves, which a stable sort makes use of.
    changes.sort_by_key(|change| change.series);
    let mut failed = Ok(());
    changes.dedup_by(|next, kept| {
        let same = next.series == kept.series;
        if same && let Err(series) = into(kept, next) {
            failed = Err(series);
        }
        same
    });
    failed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use golectra_protocol::{IdempotencyKey, Metrics};
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::postgres::WriterMetrics;
    use crate::store::Batch;
    use crate::store::conformance::{batch, counter, gauge};
    use crate::store::postgres::writer::queue::{QueueLoad, WriteLimits};

    fn queued(batch: Batch, arrived: u64) -> QueuedBatch {
        let room = QueueLoad::new(WriteLimits::default(), WriterMetrics::unregistered()).reserve(1).unwrap();
        QueuedBatch::new(batch, None, (0, 0), arrived, room, tokio::sync::oneshot::channel().0)
    }

    fn layout(series_ids: Box<[i32]>) -> Arc<Layout> {
        Arc::new(Layout { id: None, source_id: 1, last_day: 0, series_ids })
    }

    /// A batch of these series, gauges below 5 and counters from 5 on.
    fn placed(at: u64, series: &BTreeMap<i32, i64>) -> (QueuedBatch, Vec<i32>) {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let metric = |(id, value): (&i32, &i64)| match id {
            ..5 => gauge(&format!("g{id}"), *value as f64),
            _ => counter(&format!("c{id}"), *value),
        };
        let one = batch("a", IdempotencyKey::at(at), series.iter().map(metric).collect());
        (queued(one, 1_000), series.keys().copied().collect())
    }

    fn fold(batches: &[(QueuedBatch, Vec<i32>)]) -> Result<Fold, i32> {
        // Batches of the same series have the same layout.
        let mut layouts: BTreeMap<&[i32], Arc<Layout>> = BTreeMap::new();
        for (_, series) in batches {
            layouts.entry(series).or_insert_with(|| layout(series.clone().into()));
        }
        let placed: Vec<_> = batches.iter().enumerate().map(|(place, (queued, series))| (place, queued, &layouts[&**series])).collect();
        Fold::of(&placed)
    }

    #[test]
    fn deltas_that_do_not_fit_together_name_their_series() {
        let alike = [placed(1, &[(7, i64::MAX)].into()), placed(1, &[(7, 1)].into())];
        assert_eq!(fold(&alike), Err(7));
        let unlike = [placed(1, &[(7, i64::MAX)].into()), placed(1, &[(6, 1), (7, 1)].into())];
        assert_eq!(fold(&unlike), Err(7));
    }

    #[test]
    fn a_time_after_the_arrival_counts_as_the_arrival() {
        let ahead = placed(5_000, &[(1, 10)].into());
        let right = placed(1_000, &[(1, 20)].into());
        let folded = fold(&[ahead, right]).unwrap();
        assert_eq!(folded.gauges, [Change { series: 1, time: Timestamp(1_000), place: 1, last: 1, value: 20.0 }]);
    }

    #[test]
    fn samples_with_times_of_their_own_are_folded_by_them() {
        let mut metrics = Metrics::default();
        for (id, value, at) in [("g", 1.0, 30), ("g", 2.0, 40), ("g", 3.0, 20), ("h", 4.0, 2_000)] {
            metrics.push_parsed_at(id, Value::Gauge(value), at).unwrap();
        }
        let one = queued(Batch { metrics, ..batch("a", IdempotencyKey::at(50), vec![gauge("unused", 0.0)]) }, 1_000);
        let late = placed(35, &[(1, 9)].into());
        let (own, other) = (layout([1, 1, 1, 2].into()), layout([1].into()));
        let folded = Fold::of(&[(0, &one, &own), (1, &late.0, &other)]).unwrap();
        assert_eq!(
            folded.gauges,
            [
                Change { series: 1, time: Timestamp(40), place: 0, last: 1, value: 2.0 },
                Change { series: 2, time: Timestamp(1_000), place: 0, last: 0, value: 4.0 }
            ]
        );
    }

    proptest! {
        #[test]
        fn a_fold_is_what_one_after_the_other_would_have_left(
            batches in prop::collection::vec((0..4_u64, prop::collection::btree_map(0..10_i32, 0..1_000_i64, 1..6)), 1..12)
        ) {
            let mut gauges: BTreeMap<i32, Change<f64>> = BTreeMap::new();
            let mut counters: BTreeMap<i32, (u64, usize, i64)> = BTreeMap::new();
            for (place, (at, series)) in batches.iter().enumerate() {
                for (id, value) in series {
                    if *id < 5 {
                        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                        let change = Change { series: *id, time: Timestamp(*at), place, last: place, value: *value as f64 };
                        let newest = gauges.entry(*id).or_insert(change);
                        if change.time >= newest.time {
                            *newest = change;
                        }
                        newest.last = place;
                    } else {
                        let sum = counters.entry(*id).or_insert((*at, place, 0));
                        *sum = (sum.0.max(*at), place, sum.2 + value);
                    }
                }
            }
            let placed: Vec<_> = batches.iter().map(|(at, series)| placed(*at, series)).collect();
            let fold = fold(&placed).unwrap();
            prop_assert_eq!(fold.gauges, gauges.into_values().collect::<Vec<_>>());
            let found: Vec<_> = fold.counters.iter().map(|one| (one.series, (one.time.0, one.last, one.value))).collect();
            prop_assert_eq!(found, counters.into_iter().collect::<Vec<_>>());
        }
    }
}

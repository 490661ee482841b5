//! Folds a group into one change a series. However often a series comes in a group, its newest state is changed once.

use golectra_protocol::Value;

use super::known::Layout;
use super::queue::Pending;
use super::stamp::Stamp;

/// A series, the place of the batch whose time counts, and the value.
pub(super) type Change<T> = (i32, usize, T);

/// A batch by its place in the group, with its layout.
type Placed<'a> = (usize, &'a Pending, &'a Layout);

/// One change a series, sorted by series.
#[derive(Debug, PartialEq)]
pub(super) struct Fold {
    /// The batches' times by place.
    pub(super) times: Vec<Stamp>,
    pub(super) gauges: Vec<Change<f64>>,
    pub(super) counters: Vec<Change<i64>>,
}

impl Fold {
    /// Of batches in their order of arrival. Deltas that add up to more than an `i64` are an error that names the series.
    pub(super) fn of(batches: &[Placed<'_>]) -> Result<Self, i32> {
        let mut times = vec![Stamp(0); batches.iter().map(|(place, ..)| place + 1).max().unwrap_or(0)];
        for (place, pending, _) in batches {
            times[*place] = pending.at;
        }
        // Batches of one layout stand in the same series: the newest one's gauges count, and deltas add up place by place.
        let mut order: Vec<&Placed<'_>> = batches.iter().collect();
        order.sort_by_key(|(.., layout)| layout.id);
        let (mut gauges, mut counters) = (Vec::new(), Vec::new());
        let mut sums = Vec::new();
        for alike in order.chunk_by(|one, other| one.2.id == other.2.id) {
            // The last of the newest: of one time, the later arrival counts.
            let Some((newest, pending, layout)) = alike.iter().max_by_key(|(place, pending, _)| (pending.at, *place)) else { continue };
            sums.clear();
            for (.., other, _) in alike.iter().filter(|(place, ..)| place != newest) {
                sums.resize(layout.series_ids.len(), 0_i64);
                for (at, metric) in other.batch.metrics.iter().enumerate() {
                    if let Value::Counter(delta) = metric.value {
                        sums[at] = sums[at].checked_add(delta).ok_or(layout.series_ids[at])?;
                    }
                }
            }
            for (at, (metric, id)) in pending.batch.metrics.iter().zip(&layout.series_ids).enumerate() {
                match metric.value {
                    Value::Gauge(value) => gauges.push((*id, *newest, value)),
                    Value::Counter(delta) => {
                        let sum = sums.get(at).map_or(Some(delta), |sum| sum.checked_add(delta)).ok_or(*id)?;
                        counters.push((*id, *newest, sum));
                    }
                }
            }
        }
        let newer = |one: usize, other: usize| (times[one], one) > (times[other], other);
        merge(&mut gauges, |kept, next| {
            if newer(next.1, kept.1) {
                *kept = *next;
            }
            Ok(())
        })?;
        merge(&mut counters, |kept, next| {
            kept.2 = kept.2.checked_add(next.2).ok_or(kept.0)?;
            if newer(next.1, kept.1) {
                kept.1 = next.1;
            }
            Ok(())
        })?;
        Ok(Self { times, gauges, counters })
    }
}

/// Sorts by series and makes one change of several.
fn merge<T: Copy>(changes: &mut Vec<Change<T>>, mut into: impl FnMut(&mut Change<T>, &Change<T>) -> Result<(), i32>) -> Result<(), i32> {
    // Layouts are mostly in order within themselves, which a stable sort makes use of.
    changes.sort_by_key(|(id, ..)| *id);
    let mut failed = Ok(());
    changes.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same && let Err(id) = into(kept, next) {
            failed = Err(id);
        }
        same
    });
    failed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use golectra_protocol::IdempotencyKey;
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::postgres::WriterFigures;
    use crate::store::conformance::{batch, counter, gauge};
    use crate::store::postgres::writer::queue::Load;

    /// A batch of these series, gauges below 5 and counters from 5 on, and its layout.
    fn placed(at: u64, series: &BTreeMap<i32, i64>) -> (Pending, Layout) {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let metric = |(id, value): (&i32, &i64)| match id {
            ..5 => gauge(&format!("g{id}"), *value as f64),
            _ => counter(&format!("c{id}"), *value),
        };
        let one = batch("a", IdempotencyKey::at(at), series.iter().map(metric).collect());
        let room = Load::new(WriterFigures::unregistered()).reserve(1).unwrap();
        let pending = Pending::new(one, (0, 0), (at, at, 0), room, tokio::sync::oneshot::channel().0);
        // Layouts of the same series are the same.
        let id = series.keys().fold(0, |id, series| id | 1 << series);
        (pending, Layout { id, source_id: 1, last_day: 0, series_ids: series.keys().copied().collect() })
    }

    fn fold(batches: &[(Pending, Layout)]) -> Result<Fold, i32> {
        let placed: Vec<_> = batches.iter().enumerate().map(|(place, (pending, layout))| (place, pending, layout)).collect();
        Fold::of(&placed)
    }

    #[test]
    fn deltas_that_do_not_fit_together_name_their_series() {
        let alike = [placed(1, &[(7, i64::MAX)].into()), placed(1, &[(7, 1)].into())];
        assert_eq!(fold(&alike), Err(7));
        let unlike = [placed(1, &[(7, i64::MAX)].into()), placed(1, &[(6, 1), (7, 1)].into())];
        assert_eq!(fold(&unlike), Err(7));
    }

    proptest! {
        #[test]
        fn a_fold_is_what_one_after_the_other_would_have_left(
            batches in prop::collection::vec((0..4_u64, prop::collection::btree_map(0..10_i32, 0..1_000_i64, 1..6)), 1..12)
        ) {
            let mut gauges: BTreeMap<i32, (u64, usize, i64)> = BTreeMap::new();
            let mut counters: BTreeMap<i32, (u64, i64)> = BTreeMap::new();
            for (place, (at, series)) in batches.iter().enumerate() {
                for (id, value) in series {
                    if *id < 5 {
                        let newest = gauges.entry(*id).or_insert((*at, place, *value));
                        if *at >= newest.0 {
                            *newest = (*at, place, *value);
                        }
                    } else {
                        let sum = counters.entry(*id).or_insert((*at, 0));
                        *sum = (sum.0.max(*at), sum.1 + value);
                    }
                }
            }
            let placed: Vec<_> = batches.iter().map(|(at, series)| placed(*at, series)).collect();
            let fold = fold(&placed).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let expected: Vec<_> = gauges.into_iter().map(|(id, (_, place, value))| (id, place, value as f64)).collect();
            prop_assert_eq!(fold.gauges, expected);
            let found: Vec<_> = fold.counters.iter().map(|(id, place, sum)| (*id, (fold.times[*place].0, *sum))).collect();
            prop_assert_eq!(found, counters.into_iter().collect::<Vec<_>>());
        }
    }
}

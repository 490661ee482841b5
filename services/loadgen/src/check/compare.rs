//! The comparison for one source, without any I/O.

use std::collections::HashMap;

use golectra_protocol::Kind;

use super::{CheckResult, Stored, example};
use crate::ledger::Record;
use crate::workload::Workload;

/// One source's batches and what the server has of it.
pub(super) struct Comparison<'a> {
    workload: &'a Workload,
    agent: u32,
    stored: &'a HashMap<u32, Stored>,
    /// The batches of each layout: they hold the same series.
    by_layout: HashMap<u32, Vec<&'a Record>>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(workload: &'a Workload, agent: u32, records: &[&'a Record], stored: &'a HashMap<u32, Stored>) -> Self {
        let mut by_layout: HashMap<u32, Vec<&Record>> = HashMap::new();
        for record in records {
            by_layout.entry(workload.layout(record.body)).or_default().push(record);
        }
        Self { workload, agent, stored, by_layout }
    }

    /// Adds what it finds to the result.
    pub(super) fn compare(&self, result: &mut CheckResult) {
        let mut layouts: Vec<_> = self.by_layout.iter().collect();
        layouts.sort_by_key(|(layout, _)| **layout);
        for (layout, records) in layouts {
            for series in self.workload.series_of(*layout) {
                match self.workload.kind(series) {
                    Kind::Counter => self.counter(series, records, result),
                    Kind::Gauge => self.gauge(series, records, result),
                }
                result.series += 1;
            }
        }
    }

    fn counter(&self, series: u32, records: &[&Record], result: &mut CheckResult) {
        let stored = match self.stored.get(&series) {
            Some(Stored::Counter(total)) => *total,
            _ => 0,
        };
        let (mut acknowledged, mut issued) = (0, 0);
        for record in records {
            let delta = self.workload.delta(record.body, series);
            issued += delta;
            acknowledged += if record.acknowledged { delta } else { 0 };
        }
        let (lost, doubled) = ((acknowledged - stored).max(0), (stored - issued).max(0));
        if lost > 0 || doubled > 0 {
            example(result, || {
                let (source, id) = (self.workload.source(self.agent), self.workload.id(series));
                format!("{source} {id}: acknowledged {acknowledged}, stored {stored}, issued {issued}")
            });
        }
        let first = series.is_multiple_of(self.workload.metrics);
        let totals = [Some(&mut result.counters), first.then_some(&mut result.batches)];
        for totals in totals.into_iter().flatten() {
            totals.acknowledged += acknowledged;
            totals.stored += stored;
            totals.issued += issued;
            totals.lost += lost;
            totals.doubled += doubled;
        }
    }

    /// The newest acknowledged batch was applied, so what is stored is its value, or that of one issued at the same time or
    /// later. Where nothing was acknowledged, the gauge may be any of those issued, or not be there.
    fn gauge(&self, series: u32, records: &[&Record], result: &mut CheckResult) {
        let newest = records.iter().filter(|record| record.acknowledged).map(|record| record.at).max();
        let stored = match self.stored.get(&series) {
            Some(Stored::Gauge(value)) => Some(*value),
            _ => None,
        };
        let fits = match stored {
            None => newest.is_none(),
            Some(value) => records
                .iter()
                .filter(|record| newest.is_none_or(|newest| record.at >= newest))
                .any(|record| self.workload.value(record.body, series).to_bits() == value.to_bits()),
        };
        if !fits {
            result.stale_gauges += 1;
            example(result, || {
                let (source, id) = (self.workload.source(self.agent), self.workload.id(series));
                let held = stored.map_or_else(|| "is not there".to_owned(), |value| format!("is {value}"));
                format!("{source} {id}: {held}, which is none of the values issued since the newest acknowledged one")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload { seed: 7, source: "load".to_owned(), agents: 3, metrics: 4, counters: 2, series: 8, prepared: 0 }
    }

    fn record(body: u64, at: u64, acknowledged: bool) -> Record {
        Record { agent: 0, acknowledged, body, at }
    }

    /// What a server has that applied these bodies, in their order, this many times each.
    fn applied(workload: &Workload, bodies: &[(u64, i64)]) -> HashMap<u32, Stored> {
        let mut stored = HashMap::new();
        for (body, times) in bodies {
            for series in workload.series_of(workload.layout(*body)) {
                let value = match (workload.kind(series), stored.get(&series)) {
                    (Kind::Counter, Some(Stored::Counter(total))) => Stored::Counter(total + times * workload.delta(*body, series)),
                    (Kind::Counter, _) => Stored::Counter(times * workload.delta(*body, series)),
                    (Kind::Gauge, _) => Stored::Gauge(workload.value(*body, series)),
                };
                stored.insert(series, value);
            }
        }
        stored
    }

    fn check(workload: &Workload, records: &[Record], stored: &HashMap<u32, Stored>) -> CheckResult {
        let mut result = CheckResult::default();
        Comparison::new(workload, 0, &records.iter().collect::<Vec<_>>(), stored).compare(&mut result);
        result
    }

    // Bodies 0, 6, 12 of agent 0 hold the first layout, 3 and 9 the second.

    #[test]
    fn what_was_acknowledged_and_stored_once_passes() {
        let workload = workload();
        let records = [record(0, 1, true), record(3, 2, true), record(6, 3, true)];
        let found = check(&workload, &records, &applied(&workload, &[(0, 1), (3, 1), (6, 1)]));
        assert!(found.passed(), "{found}");
        assert_eq!((found.series, found.batches.acknowledged, found.batches.stored, found.batches.issued), (8, 3, 3, 3));
    }

    #[test]
    fn an_open_batch_may_be_there_or_not() {
        let workload = workload();
        let records = [record(0, 1, true), record(6, 2, false), record(3, 3, false)];
        for bodies in [&[(0, 1)][..], &[(0, 1), (6, 1)], &[(0, 1), (3, 1)]] {
            let found = check(&workload, &records, &applied(&workload, bodies));
            assert!(found.passed(), "{bodies:?} {found}");
        }
    }

    #[test]
    fn a_lost_batch_is_seen_in_counters_and_gauges() {
        let workload = workload();
        let records = [record(0, 1, true), record(6, 2, true)];
        let found = check(&workload, &records, &applied(&workload, &[(0, 1)]));
        assert_eq!((found.batches.lost, found.stale_gauges, found.doubled_nothing()), (1, 2, true), "{found}");
        assert_eq!(found.counters.lost, 1 + workload.delta(6, 1));
        let found = check(&workload, &records[..1], &HashMap::new());
        assert_eq!((found.batches.lost, found.stale_gauges), (1, 2), "{found}");
    }

    #[test]
    fn a_doubled_batch_is_seen_whether_or_not_it_was_acknowledged() {
        let workload = workload();
        for acknowledged in [true, false] {
            let found = check(&workload, &[record(0, 1, acknowledged)], &applied(&workload, &[(0, 2)]));
            assert_eq!((found.batches.doubled, found.lost_nothing()), (1, true), "{found}");
        }
    }

    #[test]
    fn what_one_series_lacks_is_not_made_up_by_another() {
        let workload = workload();
        let records = [record(0, 1, true), record(3, 2, true)];
        let found = check(&workload, &records, &applied(&workload, &[(0, 2)]));
        assert_eq!((found.batches.stored, found.batches.lost, found.batches.doubled), (2, 1, 1));
        assert!(found.to_string().ends_with("LOST and DOUBLED\n"), "{found}");
    }

    #[test]
    fn an_older_gauge_over_a_newer_one_is_stale() {
        let workload = workload();
        let records = [record(0, 5, true), record(6, 4, true)];
        assert_eq!(check(&workload, &records, &applied(&workload, &[(0, 1), (6, 1)])).stale_gauges, 2);
        assert!(check(&workload, &records, &applied(&workload, &[(6, 1), (0, 1)])).passed());
    }
}

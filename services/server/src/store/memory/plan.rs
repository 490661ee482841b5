//! What a batch means for its source, found out before anything is changed.

use std::collections::{HashMap, HashSet};

use golectra_protocol::{IdempotencyKey, Kind, MetricRef, Metrics, Value};

use super::source::{NewSeries, SourceSeries};
use super::table::{IdHasher, NEW, SCATTERED_AT_ONCE, Version, Walk};

/// A row whose time is so much later than now was written before the clock went back: no time is later than its arrival.
const WENT_BACK_MILLIS: u64 = 60 * 1000;

/// The slots of a batch's series, and what stands against it. Its memory is used again for the next batch.
#[derive(Debug, Default)]
pub(super) struct BatchPlan {
    /// Each metric's slot, or [`NEW`].
    slots: Vec<u32>,
    pub(super) new: NewSeries,
    /// The first counter whose total would no longer fit.
    pub(super) overflow: Option<usize>,
}

impl BatchPlan {
    /// Plans a batch; without a source everything is new.
    pub(super) fn make(&mut self, source: Option<&SourceSeries>, hasher: &IdHasher, metrics: &Metrics) {
        self.slots.clear();
        self.slots.reserve(metrics.len());
        (self.new, self.overflow) = (NewSeries::default(), None);
        let Some(source) = source else {
            self.new.series = metrics.len();
            self.new.id_bytes = metrics.iter().map(|metric| metric.id.len()).sum();
            self.slots.resize(metrics.len(), NEW);
            return self.count_samples_once(None, metrics);
        };
        let (mut walk, mut left) = (Walk::at(source.next()), metrics.iter());
        while !walk.is_lost()
            && let Some(metric) = left.next()
        {
            let slot = source.table.walk(&mut walk, hasher, metric.id, metric.kind()).unwrap_or(NEW);
            self.take(source, metric, slot);
        }
        let mut some = [MetricRef { id: "", value: Value::Counter(0) }; SCATTERED_AT_ONCE];
        while left.len() > 0 {
            let many = left.len().min(SCATTERED_AT_ONCE);
            some.iter_mut().zip(left.by_ref()).for_each(|(place, metric)| *place = metric);
            source.table.find_scattered(hasher, &some[..many], |metric, slot| self.take(source, metric, slot));
        }
        self.count_samples_once(Some(source), metrics);
    }

    /// Notes the next metric's slot and what follows from it.
    #[inline]
    fn take(&mut self, source: &SourceSeries, metric: MetricRef<'_>, slot: u32) {
        if slot == NEW {
            self.new.series += 1;
            self.new.id_bytes += metric.id.len();
        } else if metric.kind() == Kind::Counter && self.overflow.is_none() && source.table.rows().row(slot).overflows(metric.value) {
            self.overflow = Some(self.slots.len());
        }
        self.slots.push(slot);
    }

    /// Samples with times of their own may name a series more than once: it is new once, and its deltas must fit together.
    fn count_samples_once(&mut self, source: Option<&SourceSeries>, metrics: &Metrics) {
        if !metrics.has_times() {
            return;
        }
        let (mut seen, mut totals) = (HashSet::new(), HashMap::new());
        (self.new, self.overflow) = (NewSeries::default(), None);
        for (index, (slot, metric)) in self.slots.iter().zip(metrics).enumerate() {
            if *slot == NEW && seen.insert((metric.id, metric.kind())) {
                self.new.series += 1;
                self.new.id_bytes += metric.id.len();
            }
            let Value::Counter(delta) = metric.value else { continue };
            let kept = || match source.filter(|_| *slot != NEW).map(|source| source.table.rows().row(*slot).value()) {
                Some(Value::Counter(total)) => total,
                _ => 0,
            };
            let total: &mut i64 = totals.entry(metric.id).or_insert_with(kept);
            match total.checked_add(delta) {
                Some(sum) => *total = sum,
                None => self.overflow = self.overflow.or(Some(index)),
            }
        }
    }

    /// The slots of the batch's series, [`NEW`] where they are not there yet.
    pub(super) fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Writes the planned batch.
    pub(super) fn carry_out(&self, source: &mut SourceSeries, hasher: &IdHasher, metrics: &Metrics, times: BatchTimes) {
        source.write(&self.slots, self.new, hasher, metrics, times);
    }
}

/// When a batch's values were measured and when they arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchTimes {
    at_millis: u64,
    now_millis: u64,
    arrival: u64,
    /// Whether the client sent the key.
    keyed: bool,
}

impl BatchTimes {
    /// The times of a batch with this key that arrived now, as the store's write of this number.
    pub(super) fn new(key: IdempotencyKey, keyed: bool, now_millis: u64, arrival: u64) -> Self {
        Self { at_millis: key.unix_millis(), now_millis, arrival, keyed }
    }

    /// The version of values without times of their own. A clock that is ahead does not make them newer than their arrival.
    pub(super) fn of_batch(self) -> Version {
        Version::new(self.at_millis.min(self.now_millis), self.arrival)
    }

    /// The time of values without times of their own, in unix milliseconds, as history has it.
    pub(super) fn of_history(self) -> i64 {
        i64::try_from(self.at_millis.min(self.now_millis)).unwrap_or(i64::MAX)
    }

    /// The latest time that a row has unless the clock went back since, for values without times of their own. Those without a key have this server's time
    /// and are sent once: any row later than now gives way to them, however little the clock went back.
    pub(super) fn latest_millis(self) -> u64 {
        if self.keyed { self.latest_sample_millis() } else { self.now_millis }
    }

    /// The same for samples with times of their own.
    pub(super) fn latest_sample_millis(self) -> u64 {
        self.now_millis.saturating_add(WENT_BACK_MILLIS)
    }

    /// When the batch arrived.
    pub(super) fn now_millis(self) -> u64 {
        self.now_millis
    }

    /// The version of a sample with this time in unix milliseconds.
    pub(super) fn of_sample(self, at_millis: i64) -> Version {
        Version::new(u64::try_from(at_millis).unwrap_or(0).min(self.now_millis), self.arrival)
    }
}

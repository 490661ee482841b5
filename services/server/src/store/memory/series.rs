//! One source: its series and when it was seen.

use golectra_protocol::{Kind, MetricRef, Metrics, Source, Value};

use super::table::{IdHasher, MOST_SERIES, NEW, SCATTERED_AT_ONCE, Stamp, Table, Walk};

#[derive(Debug)]
pub(super) struct SourceSeries {
    pub(super) name: Source,
    pub(super) first_seen_millis: u64,
    pub(super) last_seen_millis: u64,
    pub(super) table: Table,
    /// Behind the last batch's last series, where the next part of an agent's many may go on.
    next: u32,
}

/// What a batch means for its source, found out before anything is changed.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Each metric's slot, or [`NEW`].
    slots: Vec<u32>,
    /// How many series are new, and their ids' bytes.
    pub(super) new: usize,
    new_id_bytes: usize,
    /// The first counter whose total would no longer fit.
    pub(super) overflow: Option<usize>,
}

impl SourceSeries {
    pub(super) fn new(name: Source, seen_millis: u64) -> Self {
        Self { name, first_seen_millis: seen_millis, last_seen_millis: seen_millis, table: Table::default(), next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Writes one metric, after a look whether it fits. Tells whether the series is new.
    pub(super) fn restore(&mut self, hasher: &IdHasher, metric: MetricRef<'_>, stamp: Stamp) -> Result<bool, String> {
        let mut walk = Walk::default();
        let value = metric.value;
        match self.table.walk(&mut walk, hasher, metric.id, value.kind()) {
            Some(slot) if self.table.rows().row(slot).overflows(value) => {
                Err("the counter stands twice and its sum exceeds 9223372036854775807".into())
            }
            Some(slot) => {
                self.table.write([(slot, value)].into_iter(), stamp);
                Ok(false)
            }
            None if self.len() >= MOST_SERIES => Err(format!("a source holds at most {MOST_SERIES} series")),
            None => {
                self.table.push(hasher, metric, stamp);
                Ok(true)
            }
        }
    }

    pub(super) fn seen(&mut self, seen_millis: u64) {
        self.first_seen_millis = self.first_seen_millis.min(seen_millis);
        self.last_seen_millis = self.last_seen_millis.max(seen_millis);
    }
}

impl Plan {
    /// Plans a batch of one metric a series; without a source everything is new. The plan's room is used again.
    pub(super) fn make(&mut self, source: Option<&SourceSeries>, hasher: &IdHasher, metrics: &Metrics) {
        self.slots.clear();
        self.slots.reserve(metrics.len());
        (self.new, self.new_id_bytes, self.overflow) = (0, 0, None);
        let Some(source) = source else {
            self.new = metrics.len();
            self.new_id_bytes = metrics.iter().map(|metric| metric.id.len()).sum();
            return self.slots.resize(metrics.len(), NEW);
        };
        let (mut walk, mut left) = (Walk::at(source.next), metrics.iter());
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
    }

    /// Notes the next metric's slot and what follows from it.
    fn take(&mut self, source: &SourceSeries, metric: MetricRef<'_>, slot: u32) {
        if slot == NEW {
            self.new += 1;
            self.new_id_bytes += metric.id.len();
        } else if metric.kind() == Kind::Counter && self.overflow.is_none() && source.table.rows().row(slot).overflows(metric.value) {
            self.overflow = Some(self.slots.len());
        }
        self.slots.push(slot);
    }

    /// Writes the planned batch.
    pub(super) fn carry_out(&self, source: &mut SourceSeries, hasher: &IdHasher, metrics: &Metrics, stamp: Stamp) {
        source.table.write(self.slots.iter().copied().zip(metrics.iter().map(|metric| metric.value)), stamp);
        if self.new > 0 {
            source.table.reserve(self.new, self.new_id_bytes, hasher);
            for (_, metric) in self.slots.iter().zip(metrics).filter(|(slot, _)| **slot == NEW) {
                source.table.push(hasher, metric, stamp);
            }
        }
        source.next = self.slots.last().copied().filter(|slot| *slot != NEW).map_or(0, |slot| slot + 1);
    }
}

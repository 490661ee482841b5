//! One source: its series and when it was seen.
//!
//! Gauges and counters have a map each, which spares every series the room for its kind and a counter the room for an arrival.

use std::collections::HashMap;

use golectra_protocol::{Kind, MetricId, MetricRef, Metrics, Source, Value};

/// A gauge's newest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gauge {
    pub(super) value: f64,
    pub(super) at_millis: u64,
    /// When it arrived among all writes of the store, which decides between sources at the same time.
    pub(super) arrival: u64,
}

/// A counter's total.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Counter {
    pub(super) total: i64,
    pub(super) at_millis: u64,
}

#[derive(Debug)]
pub(super) struct SourceSeries {
    pub(super) name: Source,
    pub(super) first_seen_millis: u64,
    pub(super) last_seen_millis: u64,
    pub(super) gauges: HashMap<MetricId, Gauge>,
    pub(super) counters: HashMap<MetricId, Counter>,
}

impl SourceSeries {
    pub(super) fn new(name: Source, seen_millis: u64) -> Self {
        Self { name, first_seen_millis: seen_millis, last_seen_millis: seen_millis, gauges: HashMap::new(), counters: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.gauges.len() + self.counters.len()
    }

    pub(super) fn has(&self, metric: MetricRef<'_>) -> bool {
        match metric.kind() {
            Kind::Gauge => self.gauges.contains_key(metric.id),
            Kind::Counter => self.counters.contains_key(metric.id),
        }
    }

    /// The first counter whose total would no longer fit.
    pub(super) fn overflow(&self, metrics: &Metrics) -> Option<MetricId> {
        let overflows = |metric: &MetricRef<'_>| match metric.value {
            Value::Gauge(_) => false,
            Value::Counter(delta) => self.counters.get(metric.id).is_some_and(|counter| counter.total.checked_add(delta).is_none()),
        };
        metrics.iter().find(overflows).map(|metric| metric.to_id())
    }

    /// Writes one metric; whether it fits was checked before. An older gauge changes nothing. Tells whether the series is new.
    pub(super) fn write(&mut self, metric: MetricRef<'_>, at_millis: u64, arrival: u64) -> bool {
        match metric.value {
            Value::Gauge(value) => {
                let newest = Gauge { value, at_millis, arrival };
                let Some(gauge) = self.gauges.get_mut(metric.id) else { return self.gauges.insert(metric.to_id(), newest).is_none() };
                if at_millis >= gauge.at_millis {
                    *gauge = newest;
                }
            }
            Value::Counter(delta) => {
                let Some(counter) = self.counters.get_mut(metric.id) else {
                    return self.counters.insert(metric.to_id(), Counter { total: delta, at_millis }).is_none();
                };
                counter.total = counter.total.saturating_add(delta);
                counter.at_millis = counter.at_millis.max(at_millis);
            }
        }
        false
    }

    pub(super) fn seen(&mut self, seen_millis: u64) {
        self.first_seen_millis = self.first_seen_millis.min(seen_millis);
        self.last_seen_millis = self.last_seen_millis.max(seen_millis);
    }
}

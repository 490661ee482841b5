//! What queries take.

use std::sync::Arc;
use std::time::Duration;

use golectra_promql::MemoryBudget;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::{counters, int, seconds};

/// What a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKind {
    /// A value at one time.
    Instant,
    /// Values over time.
    Range,
    /// Label sets.
    Series,
    /// Names of labels.
    LabelNames,
    /// Values of a label.
    LabelValues,
    /// Whether it can be read, and what it says.
    Parse,
    /// All samples of series.
    Export,
}

impl QueryKind {
    const ALL: [Self; 7] = [Self::Instant, Self::Range, Self::Series, Self::LabelNames, Self::LabelValues, Self::Parse, Self::Export];

    /// Its name in metrics and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Range => "range",
            Self::Series => "series",
            Self::LabelNames => "label_names",
            Self::LabelValues => "label_values",
            Self::Parse => "parse",
            Self::Export => "export",
        }
    }
}

/// The metrics of queries. Cheap to clone.
#[derive(Clone)]
pub struct QueryMetrics(Arc<Inner>);

struct Inner {
    durations: [Histogram; QueryKind::ALL.len()],
    series: IntCounter,
    samples: IntCounter,
    rejected: IntCounterVec,
    in_flight: IntGauge,
}

impl QueryMetrics {
    /// Registers every metric. `reasons` are all for which a query may have no answer.
    pub fn register(registry: &Registry, reasons: &[&str], memory: Arc<MemoryBudget>) -> prometheus::Result<Self> {
        let durations = seconds("query_duration_seconds", "How long queries took, their waiting time included.", "kind")?;
        let inner = Inner {
            durations: QueryKind::ALL.map(|kind| durations.with_label_values(&[kind.as_str()])),
            series: IntCounter::new("golectra_query_series_total", "Series selected by queries.")?,
            samples: IntCounter::new("golectra_query_samples_total", "Samples read by queries.")?,
            rejected: counters("query_rejected_total", "Queries without an answer.", &["reason"])?,
            in_flight: IntGauge::new("golectra_query_in_flight", "Queries that run or wait.")?,
        };
        for collector in [
            Box::new(durations) as Box<dyn Collector>,
            Box::new(inner.series.clone()),
            Box::new(inner.samples.clone()),
            Box::new(inner.rejected.clone()),
            Box::new(inner.in_flight.clone()),
            Box::new(MemoryInUse {
                memory,
                used: IntGauge::new("golectra_query_memory_bytes", "Memory that queries and their answers hold.")?,
            }),
        ] {
            registry.register(collector)?;
        }
        for reason in reasons {
            inner.rejected.with_label_values(&[reason]);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// A query begins.
    pub fn begins(&self) {
        self.0.in_flight.inc();
    }

    /// A query ended.
    pub fn ends(&self, kind: QueryKind, duration: Duration, series: usize, samples: u64) {
        self.0.durations[kind as usize].observe(duration.as_secs_f64());
        self.0.series.inc_by(series as u64);
        self.0.samples.inc_by(samples);
        // Whoever sees that it is no longer under way finds it in the others.
        self.0.in_flight.dec();
    }

    /// It ended without an answer.
    pub fn rejected(&self, reason: &str) {
        self.0.rejected.with_label_values(&[reason]).inc();
    }
}

/// The budget, read when Prometheus asks.
struct MemoryInUse {
    memory: Arc<MemoryBudget>,
    used: IntGauge,
}

impl Collector for MemoryInUse {
    fn desc(&self) -> Vec<&Desc> {
        self.used.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.used.set(int(self.memory.used_bytes() as u64));
        self.used.collect()
    }
}

//! What the PostgreSQL store's writers count, as /metrics shows it.

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use super::SECONDS;

/// Batches that share a transaction, from one to as many as there may be.
const BATCHES: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// The writers' metrics. Cheap to clone.
#[derive(Clone)]
pub struct WriterMetrics {
    /// Batches by transaction.
    pub batches: Histogram,
    /// How long transactions took, in seconds; also those that failed.
    pub seconds: Histogram,
    /// Transactions that failed, and their batches with them.
    pub failures: IntCounter,
    /// What waits or is under way, in bytes.
    pub queue_bytes: IntGauge,
    /// Batches that were refused because too much waited.
    pub shed: IntCounter,
    /// How far the database's clock is ahead of this server's, in seconds.
    pub clock_offset_seconds: Gauge,
    /// Series that left the newest state because their source no longer reports them or is itself gone.
    pub expired_series: IntCounter,
}

impl WriterMetrics {
    /// Registers every metric.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let histogram = |name, help: &str, buckets: &[f64]| {
            Histogram::with_opts(HistogramOpts::new(format!("golectra_postgres_{name}"), help).buckets(buckets.to_vec()))
        };
        let metrics = Self {
            batches: histogram("transaction_batches", "Batches that shared a transaction.", &BATCHES)?,
            seconds: histogram("transaction_duration_seconds", "How long transactions of writers took.", &SECONDS)?,
            failures: IntCounter::new("golectra_postgres_transaction_failures_total", "Transactions of writers that failed.")?,
            queue_bytes: IntGauge::new("golectra_postgres_queue_bytes", "Memory of writes that wait for the database or are under way.")?,
            shed: IntCounter::new("golectra_postgres_shed_total", "Writes refused because too many waited for the database.")?,
            clock_offset_seconds: Gauge::new(
                "golectra_database_clock_offset_seconds",
                "How far the database's clock is ahead of this server's; negative where it is behind.",
            )?,
            expired_series: IntCounter::new(
                "golectra_store_series_expired_total",
                "Series that this server took out of the newest state because their source stopped reporting them or is gone.",
            )?,
        };
        for collector in [
            Box::new(metrics.batches.clone()) as Box<dyn Collector>,
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.failures.clone()),
            Box::new(metrics.queue_bytes.clone()),
            Box::new(metrics.shed.clone()),
            Box::new(metrics.clock_offset_seconds.clone()),
            Box::new(metrics.expired_series.clone()),
        ] {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Metrics that nobody reads.
    #[cfg(test)]
    pub fn unregistered() -> Self {
        Self::register(&Registry::new()).expect("the names are valid and each is there once")
    }
}

//! What the PostgreSQL store's writers count, as /metrics shows it.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use super::SECONDS;

/// Batches that share a transaction, from one to as many as there may be.
const BATCHES: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// The writers' figures. Cheap to clone.
#[derive(Clone)]
pub struct WriterFigures {
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
}

impl WriterFigures {
    /// Registers every figure.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let histogram = |name, help: &str, buckets: &[f64]| {
            Histogram::with_opts(HistogramOpts::new(format!("golectra_postgres_{name}"), help).buckets(buckets.to_vec()))
        };
        let figures = Self {
            batches: histogram("transaction_batches", "Batches that shared a transaction.", &BATCHES)?,
            seconds: histogram("transaction_duration_seconds", "How long transactions of writers took.", &SECONDS)?,
            failures: IntCounter::new("golectra_postgres_transaction_failures_total", "Transactions of writers that failed.")?,
            queue_bytes: IntGauge::new("golectra_postgres_queue_bytes", "Memory of writes that wait for the database or are under way.")?,
            shed: IntCounter::new("golectra_postgres_shed_total", "Writes refused because too many waited for the database.")?,
        };
        for collector in [
            Box::new(figures.batches.clone()) as Box<dyn Collector>,
            Box::new(figures.seconds.clone()),
            Box::new(figures.failures.clone()),
            Box::new(figures.queue_bytes.clone()),
            Box::new(figures.shed.clone()),
        ] {
            registry.register(collector)?;
        }
        Ok(figures)
    }

    /// Figures that nobody reads.
    #[cfg(test)]
    pub fn unregistered() -> Self {
        Self::register(&Registry::new()).expect("the names are valid and each is there once")
    }
}

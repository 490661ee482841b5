//! The metrics of the PostgreSQL store's writers.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use super::{SECONDS, catch_up, int};
use crate::store::postgres::CacheMetrics;

/// Buckets for the number of batches in a transaction, up to the maximum.
const BATCHES: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// The writers' metrics. Cheap to clone.
#[derive(Clone)]
pub struct WriterMetrics {
    /// Batches in a transaction.
    pub batches: Histogram,
    /// Duration of transactions in seconds, including those that failed.
    pub seconds: Histogram,
    /// Transactions that failed, together with their batches.
    pub failures: IntCounter,
    /// The size of the writes that wait or are being applied, in bytes.
    pub queue_bytes: IntGauge,
    /// Batches that were refused because too many waited.
    pub shed: IntCounter,
    /// How far the database's clock is ahead of this server's, in seconds.
    pub clock_offset_seconds: Gauge,
    /// Series removed from the newest state because their source no longer reports them or is gone.
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

    /// Metrics that are not exported.
    #[cfg(test)]
    pub fn unregistered() -> Self {
        Self::register(&Registry::new()).expect("the names are valid and each is there once")
    }
}

/// Shows what a cache does.
pub struct CacheCollector {
    metrics: CacheMetrics,
    hits: IntCounter,
    misses: IntCounter,
    bytes: IntGauge,
}

impl CacheCollector {
    /// Registers every metric of the cache of that name, which is yet to be made, and says what it is asked for.
    pub fn register(registry: &Registry, cache: &str, what: &str) -> prometheus::Result<CacheMetrics> {
        let metrics = CacheMetrics::default();
        let counter =
            |event: &str, end: &str| IntCounter::new(format!("golectra_{cache}_{event}_total"), format!("How many {what} {end}."));
        registry.register(Box::new(Self {
            metrics: metrics.clone(),
            hits: counter("hits", "the cache answered")?,
            misses: counter("misses", "were read from the database")?,
            bytes: IntGauge::new(format!("golectra_{cache}_bytes"), format!("Memory of the cache of {what}."))?,
        }))?;
        Ok(metrics)
    }
}

impl Collector for CacheCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.hits.desc(), self.misses.desc(), self.bytes.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        catch_up(&self.hits, self.metrics.hits());
        catch_up(&self.misses, self.metrics.misses());
        self.bytes.set(int(self.metrics.bytes() as u64));
        [self.hits.collect(), self.misses.collect(), self.bytes.collect()].concat()
    }
}

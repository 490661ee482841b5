//! What sealing history counts, as /metrics shows it.

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::SECONDS;

/// What `golectra_history_too_old_samples_total` counts, in both stores.
pub(super) const TOO_OLD_SAMPLES: &str = "Samples of accepted reports that are not kept, since they were older than RETENTION_RAW when they came or their time had been dropped.";

/// The metrics of sealed history. Cheap to clone.
#[derive(Clone)]
pub struct HistoryMetrics {
    /// Samples that were sealed into chunks.
    pub sealed_samples: IntCounter,
    /// Bytes of coded samples that were sealed.
    pub sealed_bytes: IntCounter,
    /// How long it took to seal a source's half hour, in seconds.
    pub seal_seconds: Histogram,
    /// Rows of chunks that were made for batches that came after their half hour was sealed.
    pub late_parts: IntCounter,
    /// Samples that were older than what is kept when they came, or when their report was to be sealed.
    pub too_old_samples: IntCounter,
    /// Days of chunks, and weeks and months of rollups, that were dropped, by table.
    pub dropped_partitions: IntCounterVec,
    /// Rounds that failed.
    pub failures: IntCounter,
    /// The age of the oldest report that is not sealed, in seconds.
    pub unsealed_age_seconds: Gauge,
    /// How long after the end of their half hour reports are sealed, in seconds.
    pub seal_after_seconds: IntGauge,
    /// What the database's tables and indexes take.
    pub bytes: IntGauge,
    /// What they may take; 0 without a limit.
    pub max_bytes: IntGauge,
    /// The share of the numbers of series that were given out.
    pub series_ids_used_ratio: Gauge,
}

impl HistoryMetrics {
    /// Registers every metric.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help: &str| IntCounter::new(format!("golectra_history_{name}"), help);
        let gauge = |name, help: &str| IntGauge::new(format!("golectra_history_{name}"), help);
        let metrics = Self {
            sealed_samples: counter("sealed_samples_total", "Samples that this server sealed into chunks.")?,
            sealed_bytes: counter("sealed_bytes_total", "Bytes of coded samples that this server sealed.")?,
            seal_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "golectra_history_seal_duration_seconds",
                    "How long sealing half an hour of a source took, or a part of it.",
                )
                .buckets(SECONDS.to_vec()),
            )?,
            late_parts: counter("late_parts_total", "Rows of chunks for reports that came after their half hour was sealed.")?,
            too_old_samples: counter("too_old_samples_total", TOO_OLD_SAMPLES)?,
            dropped_partitions: IntCounterVec::new(
                Opts::new(
                    "golectra_history_dropped_partitions_total",
                    "Partitions of history that this server dropped, by age or for HISTORY_MAX_BYTES: days of chunks, 7 days of rollups_5m, 28 days of rollups_1h.",
                ),
                &["table"],
            )?,
            failures: counter("failures_total", "Rounds of sealing that failed; the next one does the work.")?,
            unsealed_age_seconds: Gauge::new("golectra_history_unsealed_age_seconds", "Since when reports are not sealed yet.")?,
            seal_after_seconds: gauge("seal_after_seconds", "SEAL_AFTER: how long after the end of their half hour reports are sealed.")?,
            bytes: gauge("bytes", "Bytes of golectra's tables and indexes in the database, but for those of audit events.")?,
            max_bytes: gauge("max_bytes", "HISTORY_MAX_BYTES: beyond it the oldest history is dropped; 0 without a limit.")?,
            series_ids_used_ratio: Gauge::new(
                "golectra_postgres_series_ids_used_ratio",
                "Share of the numbers for series that the database has given out, from 0 to 1; at 1 no new series can be stored.",
            )?,
        };
        for table in ["chunks", "rollups_5m", "rollups_1h"] {
            metrics.dropped_partitions.with_label_values(&[table]);
        }
        for collector in [
            Box::new(metrics.sealed_samples.clone()) as Box<dyn Collector>,
            Box::new(metrics.sealed_bytes.clone()),
            Box::new(metrics.seal_seconds.clone()),
            Box::new(metrics.late_parts.clone()),
            Box::new(metrics.too_old_samples.clone()),
            Box::new(metrics.dropped_partitions.clone()),
            Box::new(metrics.failures.clone()),
            Box::new(metrics.unsealed_age_seconds.clone()),
            Box::new(metrics.seal_after_seconds.clone()),
            Box::new(metrics.bytes.clone()),
            Box::new(metrics.max_bytes.clone()),
            Box::new(metrics.series_ids_used_ratio.clone()),
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

//! The metrics of audit events.

use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::outbox::Backlog;

/// Buckets for the time from a write to its delivery: milliseconds normally, hours after an outage.
const LATENCY_SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0, 3600.0, 86400.0];

/// The metrics of one sink.
#[derive(Debug, Clone)]
pub struct SinkMetrics {
    /// Delivered events.
    pub delivered: IntCounter,
    /// Events that were lost because the queue was full, or because they were left when the process ended.
    pub dropped: IntCounter,
    /// Events that were given up.
    pub dead: IntCounter,
    /// Dead letters that were removed early because of their size.
    pub dead_letters_dropped: IntCounter,
    attempts: IntCounterVec,
    sink: &'static str,
    backlog: IntGauge,
    oldest: Gauge,
    latency: Histogram,
}

/// The metrics of all sinks.
#[derive(Debug, Clone)]
pub struct AuditMetrics {
    events: IntCounterVec,
    attempts: IntCounterVec,
    backlog: IntGaugeVec,
    oldest: GaugeVec,
    latency: HistogramVec,
    dead_letters_dropped: IntCounterVec,
    database_bytes: IntGaugeVec,
}

impl AuditMetrics {
    /// Registers the metrics. Fails if a name is already registered.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let opts = Opts::new;
        let metrics = Self {
            events: IntCounterVec::new(
                opts(
                    "golectra_audit_events_total",
                    "Audit events by sink and outcome: delivered, dead (given up) or dropped (too many waited).",
                ),
                &["sink", "outcome"],
            )?,
            attempts: IntCounterVec::new(
                opts("golectra_audit_delivery_attempts_total", "Tries to deliver audit events, by sink and result."),
                &["sink", "result"],
            )?,
            backlog: IntGaugeVec::new(
                opts("golectra_audit_backlog", "Audit events that wait for the sink; counted up to 100000 in a database."),
                &["sink"],
            )?,
            oldest: GaugeVec::new(
                opts("golectra_audit_oldest_age_seconds", "Age of the oldest audit event that waits for the sink, in seconds."),
                &["sink"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new("golectra_audit_delivery_seconds", "From a write to the delivery of its audit event, in seconds.")
                    .buckets(LATENCY_SECONDS.to_vec()),
                &["sink"],
            )?,
            dead_letters_dropped: IntCounterVec::new(
                opts(
                    "golectra_audit_dead_letters_dropped_total",
                    "Dead letters removed before their time to stay within AUDIT_DATABASE_MAX_BYTES, by sink.",
                ),
                &["sink"],
            )?,
            database_bytes: IntGaugeVec::new(
                opts(
                    "golectra_audit_database_bytes",
                    "Size of the audit tables in the database with their indexes, in bytes: waiting (events for the sinks, name lists) or dead_letters.",
                ),
                &["kind"],
            )?,
        };
        registry.register(Box::new(metrics.events.clone()))?;
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.backlog.clone()))?;
        registry.register(Box::new(metrics.oldest.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        registry.register(Box::new(metrics.dead_letters_dropped.clone()))?;
        registry.register(Box::new(metrics.database_bytes.clone()))?;
        Ok(metrics)
    }

    /// The metrics of one sink; from now on they are exported, starting at 0.
    pub fn of(&self, sink: &'static str) -> SinkMetrics {
        for result in ["delivered", "down", "failed", "refused"] {
            self.attempts.with_label_values(&[sink, result]);
        }
        SinkMetrics {
            delivered: self.events.with_label_values(&[sink, "delivered"]),
            dropped: self.events.with_label_values(&[sink, "dropped"]),
            dead: self.events.with_label_values(&[sink, "dead"]),
            dead_letters_dropped: self.dead_letters_dropped.with_label_values(&[sink]),
            attempts: self.attempts.clone(),
            sink,
            backlog: self.backlog.with_label_values(&[sink]),
            oldest: self.oldest.with_label_values(&[sink]),
            latency: self.latency.with_label_values(&[sink]),
        }
    }

    /// Sets the sizes of the audit tables.
    pub fn show_database_bytes(&self, waiting: u64, dead_letters: u64) {
        for (kind, bytes) in [("waiting", waiting), ("dead_letters", dead_letters)] {
            self.database_bytes.with_label_values(&[kind]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

impl SinkMetrics {
    /// The sink's name.
    pub const fn sink(&self) -> &'static str {
        self.sink
    }

    /// Counts a try of this many events.
    pub fn attempt(&self, result: &str, events: usize) {
        self.attempts.with_label_values(&[self.sink, result]).inc_by(events as u64);
    }

    /// Counts a delivered event.
    pub fn delivered(&self, since_the_write: Duration) {
        self.delivered.inc();
        self.latency.observe(since_the_write.as_secs_f64());
    }

    /// Sets the number and age of the events that wait.
    pub fn show(&self, backlog: Backlog) {
        self.backlog.set(i64::try_from(backlog.events).unwrap_or(i64::MAX));
        self.oldest.set(backlog.oldest_seconds);
    }
}

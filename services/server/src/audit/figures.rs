//! What /metrics says of the audit trail.

use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::outbox::Backlog;

/// From a write to its delivery: milliseconds when all is well, hours after an outage.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0, 3600.0, 86400.0];

/// The figures of one sink.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Events that the sink has.
    pub delivered: IntCounter,
    /// Events that found the queue full, or were left when the process ended.
    pub dropped: IntCounter,
    /// Events that were given up.
    pub dead: IntCounter,
    attempts: IntCounterVec,
    sink: &'static str,
    backlog: IntGauge,
    oldest: Gauge,
    latency: Histogram,
}

/// The metrics of all sinks.
#[derive(Debug, Clone)]
pub struct Families {
    events: IntCounterVec,
    attempts: IntCounterVec,
    backlog: prometheus::IntGaugeVec,
    oldest: prometheus::GaugeVec,
    latency: HistogramVec,
}

impl Families {
    /// Registers the metrics. The error is prometheus' own, for a name that is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let opts = Opts::new;
        let families = Self {
            events: IntCounterVec::new(
                opts("golectra_audit_events_total", "Audit events by sink and by what became of them."),
                &["sink", "outcome"],
            )?,
            attempts: IntCounterVec::new(
                opts("golectra_audit_delivery_attempts_total", "Tries to deliver audit events, by sink and result."),
                &["sink", "result"],
            )?,
            backlog: prometheus::IntGaugeVec::new(
                opts("golectra_audit_backlog", "Audit events that wait for the sink; counted up to 100000 in a database."),
                &["sink"],
            )?,
            oldest: prometheus::GaugeVec::new(
                opts("golectra_audit_oldest_age_seconds", "Age of the oldest audit event that waits for the sink, in seconds."),
                &["sink"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new("golectra_audit_delivery_seconds", "From a write to the delivery of its audit event, in seconds.")
                    .buckets(SECONDS.to_vec()),
                &["sink"],
            )?,
        };
        registry.register(Box::new(families.events.clone()))?;
        registry.register(Box::new(families.attempts.clone()))?;
        registry.register(Box::new(families.backlog.clone()))?;
        registry.register(Box::new(families.oldest.clone()))?;
        registry.register(Box::new(families.latency.clone()))?;
        Ok(families)
    }

    /// The figures of one sink, which stand at 0 from now on.
    pub fn of(&self, sink: &'static str) -> Figures {
        for result in ["delivered", "down", "failed", "refused"] {
            self.attempts.with_label_values(&[sink, result]);
        }
        Figures {
            delivered: self.events.with_label_values(&[sink, "delivered"]),
            dropped: self.events.with_label_values(&[sink, "dropped"]),
            dead: self.events.with_label_values(&[sink, "dead"]),
            attempts: self.attempts.clone(),
            sink,
            backlog: self.backlog.with_label_values(&[sink]),
            oldest: self.oldest.with_label_values(&[sink]),
            latency: self.latency.with_label_values(&[sink]),
        }
    }
}

impl Figures {
    /// Counts a try of so many events.
    pub fn attempt(&self, result: &str, events: usize) {
        self.attempts.with_label_values(&[self.sink, result]).inc_by(events as u64);
    }

    /// Counts a delivered event.
    pub fn delivered(&self, since_the_write: Duration) {
        self.delivered.inc();
        self.latency.observe(since_the_write.as_secs_f64());
    }

    /// Shows what waits.
    pub fn show(&self, backlog: Backlog) {
        self.backlog.set(i64::try_from(backlog.events).unwrap_or(i64::MAX));
        self.oldest.set(backlog.oldest_seconds);
    }
}

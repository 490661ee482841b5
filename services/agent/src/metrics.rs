//! The agent's own metrics for /metrics.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use tokio::time::Instant;

/// How long polling may pause before it counts as stuck, in addition to three poll intervals: time for slow collectors.
const POLL_GRACE: Duration = Duration::from_secs(5);

/// Why a report was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// It made room for newer ones in memory.
    QueueFull,
    /// It made room for newer ones on disk.
    SpoolFull,
    /// It waited longer than `SPOOL_MAX_AGE`.
    Expired,
    /// The server said that it is larger than the limit.
    TooLarge,
    /// The server said that it no longer knows whether the report was applied.
    TooOld,
    /// The server said that its key was used with another body.
    KeyReused,
    /// The server said that it breaks a rule.
    Invalid,
    /// The agent ended first.
    Shutdown,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 8] =
        [Self::QueueFull, Self::SpoolFull, Self::Expired, Self::TooLarge, Self::TooOld, Self::KeyReused, Self::Invalid, Self::Shutdown];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::SpoolFull => "spool_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::TooOld => "too_old",
            Self::KeyReused => "key_reused",
            Self::Invalid => "invalid",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why a reading of a collector was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// Its name does not make a valid metric id.
    InvalidId,
    /// Its value is not a number that a gauge can have.
    InvalidValue,
    /// What it measures could not be read, for example because the device is gone.
    Unreadable,
    /// The collector reports no more than a fixed number of devices.
    Limit,
    /// The same series was there already.
    Duplicate,
}

impl SkipReason {
    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidId => "invalid_id",
            Self::InvalidValue => "invalid_value",
            Self::Unreadable => "unreadable",
            Self::Limit => "limit",
            Self::Duplicate => "duplicate",
        }
    }
}

/// Metrics of polling and sending.
#[derive(Debug)]
pub struct AgentMetrics {
    polls: IntCounter,
    sealed: IntCounter,
    sealed_again: IntCounter,
    acknowledged: IntCounter,
    replayed: IntCounter,
    dropped: IntCounterVec,
    retries: IntCounterVec,
    send_duration: Histogram,
    last_success: Gauge,
    collector_duration: GaugeVec,
    collector_success: GaugeVec,
    readings_skipped: IntCounterVec,
    kubelet_failures: IntCounterVec,
    kubelet_certificate_verified: Gauge,
    spool_corrupt: IntCounter,
    spool_write_errors: IntCounter,
    spool_sync_errors: IntCounter,
    stopping: Gauge,
    last_poll: Mutex<Instant>,
    poll_interval: Duration,
}

impl AgentMetrics {
    /// Registers every metric. Fails when a name is already registered.
    pub fn new(registry: &Registry, poll_interval: Duration) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let by = |name: &str, help: &str, labels: &[&str]| registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let by_collector = |name: &str, help: &str| registered(registry, GaugeVec::new(Opts::new(name, help), &["collector"])?);
        let duration = HistogramOpts::new(
            "golectra_agent_send_duration_seconds",
            "Time from sending a report to its whole answer or failure, in seconds.",
        )
        .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let dropped = by("golectra_agent_reports_dropped_total", "Reports dropped, by reason.", &["reason"])?;
        // Present from the start, because an alert on a rate needs a value before the first drop.
        for reason in DropReason::ALL {
            dropped.with_label_values(&[reason.as_str()]);
        }
        Ok(Self {
            polls: counter("golectra_agent_polls_total", "Polls made.")?,
            sealed: counter("golectra_agent_reports_sealed_total", "Reports made ready for sending.")?,
            sealed_again: counter(
                "golectra_agent_reports_resealed_total",
                "Reports that were ahead of the server's clock and got a new key with the right time.",
            )?,
            acknowledged: counter("golectra_agent_reports_acknowledged_total", "Reports that the server has taken.")?,
            replayed: counter(
                "golectra_agent_reports_replayed_total",
                "Of the reports that the server has taken, those that an earlier try had delivered.",
            )?,
            dropped,
            retries: by("golectra_agent_send_retries_total", "Tries after which a report is kept and sent again, by reason.", &["reason"])?,
            send_duration: registered(registry, Histogram::with_opts(duration)?)?,
            last_success: registered(
                registry,
                Gauge::new(
                    "golectra_agent_last_success_timestamp_seconds",
                    "When the server last took a report, in seconds since 1970; 0 before the first.",
                )?,
            )?,
            collector_duration: by_collector(
                "golectra_agent_collector_duration_seconds",
                "How long the collector took in the last poll, in seconds.",
            )?,
            collector_success: by_collector("golectra_agent_collector_success", "Whether the collector succeeded in the last poll.")?,
            readings_skipped: by(
                "golectra_agent_readings_skipped_total",
                "Readings that could not be reported and were skipped, by collector and reason.",
                &["collector", "reason"],
            )?,
            kubelet_failures: by(
                "golectra_agent_kubelet_failures_total",
                "Questions that the kubelet did not answer as expected, by reason.",
                &["reason"],
            )?,
            kubelet_certificate_verified: registered(
                registry,
                Gauge::new(
                    "golectra_agent_kubelet_certificate_verified",
                    "Whether the kubelet's certificate is signed by a known authority; 0 also before the first connection and without a kubelet.",
                )?,
            )?,
            spool_corrupt: counter(
                "golectra_agent_spool_corrupt_records_total",
                "Damaged stretches of the spool's files that were skipped, each of one record or several adjacent ones, and reports that could not be read and are left to the next start.",
            )?,
            spool_write_errors: counter(
                "golectra_agent_spool_write_errors_total",
                "Writes to the spool that failed; the report stays in memory.",
            )?,
            spool_sync_errors: counter("golectra_agent_spool_sync_errors_total", "Failed syncs of the spool to the disk.")?,
            stopping: registered(
                registry,
                Gauge::new("golectra_agent_stopping", "Whether the agent was told to end; 1 in its last report.")?,
            )?,
            last_poll: Mutex::new(Instant::now()),
            poll_interval,
        })
    }

    /// A poll was made.
    pub fn polled(&self) {
        self.polls.inc();
        *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Polls made since the start.
    pub fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// Whether polls are being made.
    pub fn polls_are_recent(&self) -> bool {
        let last = *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed() < self.poll_interval * 3 + POLL_GRACE
    }

    /// A batch was sealed.
    pub fn sealed(&self) {
        self.sealed.inc();
    }

    /// A batch got a new key.
    pub fn sealed_again(&self) {
        self.sealed_again.inc();
    }

    /// Batches that got a new key so far.
    pub fn sealed_again_so_far(&self) -> u64 {
        self.sealed_again.get()
    }

    /// The server took a batch; `replayed` when an earlier try had delivered it.
    pub fn acknowledged(&self, replayed: bool) {
        self.acknowledged.inc();
        if replayed {
            self.replayed.inc();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_success.set(now.as_secs_f64());
    }

    /// Batches were dropped.
    pub fn dropped(&self, reason: DropReason, batches: u64) {
        self.dropped.with_label_values(&[reason.as_str()]).inc_by(batches);
    }

    /// Batches dropped so far for this reason.
    pub fn dropped_so_far(&self, reason: DropReason) -> u64 {
        self.dropped.with_label_values(&[reason.as_str()]).get()
    }

    /// A try failed and the batch was kept.
    pub fn retried(&self, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// Tries so far that failed for this reason.
    pub fn retried_so_far(&self, reason: &str) -> u64 {
        self.retries.with_label_values(&[reason]).get()
    }

    /// A try took this long.
    pub fn tried(&self, took: Duration) {
        self.send_duration.observe(took.as_secs_f64());
    }

    /// Damaged stretches of the spool's files were skipped.
    pub fn spool_corrupt(&self, stretches: u64) {
        self.spool_corrupt.inc_by(stretches);
    }

    /// Damaged stretches so far.
    pub fn spool_corrupt_so_far(&self) -> u64 {
        self.spool_corrupt.get()
    }

    /// A write to the spool failed.
    pub fn spool_write_failed(&self) {
        self.spool_write_errors.inc();
    }

    /// Failed writes so far.
    pub fn spool_write_errors_so_far(&self) -> u64 {
        self.spool_write_errors.get()
    }

    /// A sync of the spool failed.
    pub fn spool_sync_failed(&self) {
        self.spool_sync_errors.inc();
    }

    /// Failed syncs so far.
    pub fn spool_sync_errors_so_far(&self) -> u64 {
        self.spool_sync_errors.get()
    }

    /// The agent was told to end: the next report is its last one.
    pub fn stops(&self) {
        self.stopping.set(1.0);
    }

    /// 1 from [`Self::stops`] on, else 0.
    pub fn stopping(&self) -> f64 {
        self.stopping.get()
    }

    /// A collector was asked.
    pub fn collected(&self, collector: &str, seconds: f64, success: bool) {
        self.collector_duration.with_label_values(&[collector]).set(seconds);
        self.collector_success.with_label_values(&[collector]).set(f64::from(u8::from(success)));
    }

    /// The kubelet did not answer as expected.
    pub fn kubelet_failed(&self, reason: &str) {
        self.kubelet_failures.with_label_values(&[reason]).inc();
    }

    /// Failures of this kind so far.
    pub fn kubelet_failures_so_far(&self, reason: &str) -> u64 {
        self.kubelet_failures.with_label_values(&[reason]).get()
    }

    /// Whether the kubelet's certificate is verified, 1 or 0.
    pub fn kubelet_certificate_verified(&self, verified: f64) {
        self.kubelet_certificate_verified.set(verified);
    }

    /// Readings of a collector were skipped.
    pub fn readings_skipped(&self, collector: &str, reason: SkipReason, readings: u64) {
        self.readings_skipped.with_label_values(&[collector, reason.as_str()]).inc_by(readings);
    }

    /// Readings of a collector skipped so far for this reason.
    pub fn readings_skipped_so_far(&self, collector: &str, reason: SkipReason) -> u64 {
        self.readings_skipped.with_label_values(&[collector, reason.as_str()]).get()
    }
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

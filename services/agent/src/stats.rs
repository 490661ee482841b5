//! What the agent says about itself on /metrics.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use tokio::time::Instant;

/// Why a report was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// It had to make room for newer ones in memory.
    QueueFull,
    /// It had to make room for newer ones on disk.
    SpoolFull,
    /// It waited on disk for longer than `SPOOL_MAX_AGE`.
    Expired,
    /// 413: the server takes no body of this size.
    TooLarge,
    /// 409: the server no longer remembers whether it was applied.
    TooOld,
    /// 422: its key was used with another body.
    KeyReused,
    /// 400: the server finds something wrong with it.
    Invalid,
    /// The agent ended first.
    Shutdown,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 8] =
        [Self::QueueFull, Self::SpoolFull, Self::Expired, Self::TooLarge, Self::TooOld, Self::KeyReused, Self::Invalid, Self::Shutdown];

    /// As the label `reason` has it.
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

/// Figures of polling and sending.
#[derive(Debug)]
pub struct Stats {
    polls: IntCounter,
    sealed: IntCounter,
    acknowledged: IntCounter,
    replayed: IntCounter,
    dropped: IntCounterVec,
    retries: IntCounterVec,
    send_duration: Histogram,
    last_success: Gauge,
    collector_duration: GaugeVec,
    collector_success: GaugeVec,
    spool_corrupt: IntCounter,
    spool_write_errors: IntCounter,
    spool_sync_errors: IntCounter,
    last_poll: Mutex<Instant>,
    poll_interval: Duration,
}

impl Stats {
    /// Registers every figure. The error is prometheus' own, for a name that is there already.
    pub fn new(registry: &Registry, poll_interval: Duration) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let by_reason = |name: &str, help: &str| registered(registry, IntCounterVec::new(Opts::new(name, help), &["reason"])?);
        let by_collector = |name: &str, help: &str| registered(registry, GaugeVec::new(Opts::new(name, help), &["collector"])?);
        let duration = HistogramOpts::new(
            "golectra_agent_send_duration_seconds",
            "Time from sending a report to its whole answer or failure, in seconds.",
        )
        .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let dropped = by_reason("golectra_agent_reports_dropped_total", "Reports given up, by reason.")?;
        // Shown as 0 from the start: an alert on a rate needs a value before the first drop.
        for reason in DropReason::ALL {
            dropped.with_label_values(&[reason.as_str()]);
        }
        Ok(Self {
            polls: counter("golectra_agent_polls_total", "Polls made.")?,
            sealed: counter("golectra_agent_reports_sealed_total", "Reports made ready for sending.")?,
            acknowledged: counter("golectra_agent_reports_acknowledged_total", "Reports the server has taken.")?,
            replayed: counter(
                "golectra_agent_reports_replayed_total",
                "Of the reports taken, those that an earlier try had already delivered.",
            )?,
            dropped,
            retries: by_reason(
                "golectra_agent_send_retries_total",
                "Tries that did not settle a report and are followed by another one, by reason.",
            )?,
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
            spool_corrupt: counter(
                "golectra_agent_spool_corrupt_records_total",
                "Damaged stretches of the spool's files that were skipped; each is a record, or several that lie together.",
            )?,
            spool_write_errors: counter(
                "golectra_agent_spool_write_errors_total",
                "Writes to the spool that the disk refused; the report stays in memory.",
            )?,
            spool_sync_errors: counter(
                "golectra_agent_spool_sync_errors_total",
                "Times the disk did not confirm that it holds what was written.",
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

    /// Whether polling goes on: three intervals, and some seconds for slow collectors, are the limit.
    pub fn polls_are_recent(&self) -> bool {
        let last = *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed() < self.poll_interval * 3 + Duration::from_secs(5)
    }

    /// A batch was sealed.
    pub fn sealed(&self) {
        self.sealed.inc();
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

    /// Batches were given up.
    pub fn dropped(&self, reason: DropReason, batches: u64) {
        self.dropped.with_label_values(&[reason.as_str()]).inc_by(batches);
    }

    /// Batches given up so far for this reason.
    pub fn dropped_so_far(&self, reason: DropReason) -> u64 {
        self.dropped.with_label_values(&[reason.as_str()]).get()
    }

    /// A try is to be repeated.
    pub fn retried(&self, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// A try took so long.
    pub fn tried(&self, took: Duration) {
        self.send_duration.observe(took.as_secs_f64());
    }

    /// Damaged stretches of the spool's files were skipped.
    pub fn spool_corrupt(&self, stretches: u64) {
        self.spool_corrupt.inc_by(stretches);
    }

    /// How many there were.
    pub fn spool_corrupt_so_far(&self) -> u64 {
        self.spool_corrupt.get()
    }

    /// The disk refused a write.
    pub fn spool_write_failed(&self) {
        self.spool_write_errors.inc();
    }

    /// How many it refused.
    pub fn spool_write_errors_so_far(&self) -> u64 {
        self.spool_write_errors.get()
    }

    /// The disk did not confirm what was written.
    pub fn spool_sync_failed(&self) {
        self.spool_sync_errors.inc();
    }

    /// How many times it did not.
    pub fn spool_sync_errors_so_far(&self) -> u64 {
        self.spool_sync_errors.get()
    }

    /// A collector was asked.
    pub fn collected(&self, collector: &str, seconds: f64, success: bool) {
        self.collector_duration.with_label_values(&[collector]).set(seconds);
        self.collector_success.with_label_values(&[collector]).set(f64::from(u8::from(success)));
    }
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

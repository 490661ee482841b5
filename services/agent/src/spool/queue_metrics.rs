//! Length, size and age of the queue for /metrics.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge};

use super::Usage;

/// Asks how full the queue is.
type ReadUsage = Box<dyn Fn() -> Usage + Send + Sync>;

/// Gauges that are set at each scrape.
pub(super) struct QueueMetrics {
    read: ReadUsage,
    batches: IntGauge,
    bytes: IntGauge,
    oldest_age: Gauge,
    disk_batches: IntGauge,
    disk_polls: IntGauge,
    disk_bytes: IntGauge,
    disk_oldest_age: Gauge,
}

impl QueueMetrics {
    pub(super) fn new(read: ReadUsage) -> prometheus::Result<Self> {
        let whole = |name: &str, help: &str| IntGauge::new(name, help);
        Ok(Self {
            read,
            batches: whole("golectra_agent_queue_batches", "Reports that the server has not taken yet, in memory and on disk.")?,
            bytes: whole("golectra_agent_queue_bytes", "Memory that the waiting reports in memory take, in bytes.")?,
            oldest_age: Gauge::new(
                "golectra_agent_queue_oldest_age_seconds",
                "Age of the oldest waiting report, in seconds; 0 when there is none.",
            )?,
            disk_batches: whole("golectra_agent_spool_batches", "Reports on disk that the server has not taken yet.")?,
            disk_polls: whole("golectra_agent_spool_polls", "Polls that the reports on disk count.")?,
            disk_bytes: whole("golectra_agent_spool_bytes", "Disk space that the spool's files take, in bytes.")?,
            disk_oldest_age: Gauge::new(
                "golectra_agent_spool_oldest_age_seconds",
                "Age of the oldest report on disk, in seconds; 0 when there is none.",
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [&self.batches, &self.bytes, &self.oldest_age, &self.disk_batches, &self.disk_polls, &self.disk_bytes, &self.disk_oldest_age]
    }
}

impl Collector for QueueMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Usage { batches, bytes, oldest_age_seconds, disk } = (self.read)();
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.batches.set(whole(batches as u64));
        self.bytes.set(whole(bytes as u64));
        self.oldest_age.set(oldest_age_seconds.unwrap_or_default());
        self.disk_batches.set(whole(disk.batches as u64));
        self.disk_polls.set(whole(disk.polls));
        self.disk_bytes.set(whole(disk.bytes));
        self.disk_oldest_age.set(disk.oldest_age_seconds.unwrap_or_default());
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

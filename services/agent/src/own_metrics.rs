//! What a report says about the agent itself: which build it is, whether it ends, what waits and what was dropped.
//!
//! The values are those of /metrics, so that a server shows them and watches them also where nothing scrapes the agents.

use std::sync::Arc;

use golectra_process::banner::BUILD;
use golectra_protocol::{Metric, MetricId, Value};

use crate::metrics::{AgentMetrics, DropReason};
use crate::spool::Queue;

/// The agent's own metrics in reports.
pub struct OwnMetrics {
    queue: Queue,
    metrics: Arc<AgentMetrics>,
    /// There is a spool on disk.
    has_spool: bool,
    /// A report of this process had them.
    reported: bool,
}

impl OwnMetrics {
    /// The metrics of this queue. Those of the spool on disk are reported only if there is one.
    pub const fn new(queue: Queue, metrics: Arc<AgentMetrics>, has_spool: bool) -> Self {
        Self { queue, metrics, has_spool, reported: false }
    }

    /// The metrics of a report that is made now.
    ///
    /// Every reason for which a report may be dropped is in each report, and in the first one all of them are 0 as before the process started:
    /// `increase()` sees nothing of a counter whose first sample has a value already, such as reports that expired on disk before the agent was started.
    pub fn of_report(&mut self) -> Vec<Metric> {
        let is_first = !std::mem::replace(&mut self.reported, true);
        let usage = self.queue.usage();
        let build = [("service", "agent"), ("version", BUILD.version), ("commit", BUILD.commit)];
        let mut metrics = vec![gauge("golectra_build_info", &build, 1.0)];
        let mut add = |name: &str, value: f64| metrics.push(gauge(name, &[], value));
        add("golectra_agent_stopping", self.metrics.stopping());
        add("golectra_agent_queue_oldest_age_seconds", usage.oldest_age_seconds.unwrap_or_default());
        if self.has_spool {
            add("golectra_agent_spool_bytes", number(usage.disk.bytes));
            add("golectra_agent_spool_oldest_age_seconds", usage.disk.oldest_age_seconds.unwrap_or_default());
        }
        for reason in DropReason::ALL.into_iter().filter(|reason| self.may_be_reported(*reason)) {
            let dropped = if is_first { 0 } else { self.metrics.dropped_so_far(reason) };
            metrics.push(gauge("golectra_agent_reports_dropped_total", &[("reason", reason.as_str())], number(dropped)));
        }
        metrics
    }

    /// Nothing is reported after what the end of the process drops.
    fn may_be_reported(&self, reason: DropReason) -> bool {
        match reason {
            DropReason::Shutdown => false,
            DropReason::SpoolFull => self.has_spool,
            _ => true,
        }
    }
}

fn gauge(name: &str, labels: &[(&str, &str)], value: f64) -> Metric {
    // A build's commit and version are short texts without control characters; if they were not, the name alone would be reported.
    let id = MetricId::from_parts(name, labels.iter().copied()).or_else(|_| MetricId::parse(name));
    Metric { id: id.expect("the name is a valid id"), value: Value::Gauge(value) }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a double; whole numbers up to 8 PiB are exact")]
const fn number(whole: u64) -> f64 {
    whole as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use golectra_process::metrics::Metrics;
    use golectra_protocol::catalog;
    use prometheus::TextEncoder;

    use super::*;
    use crate::batch::Batch;
    use crate::clock::Clock;
    use crate::spool::disk::DiskLimits;
    use crate::spool::{Disk, Limits, Memory};

    const AGE: Duration = Duration::from_hours(1);

    /// A report as lines of the text format.
    fn lines(own: &mut OwnMetrics) -> BTreeSet<String> {
        let line = |metric: Metric| {
            let Value::Gauge(value) = metric.value else { panic!("a gauge") };
            format!("{} {value}", metric.id)
        };
        own.of_report().into_iter().map(line).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_has_the_values_of_the_agents_own_page() {
        let process = Metrics::new("agent").unwrap();
        let metrics = Arc::new(AgentMetrics::new(&process.registry, Duration::from_secs(1)).unwrap());
        let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let memory = Memory::new(Limits { batches: 2, bytes: 1 << 20, age: AGE }, Arc::clone(&metrics));
        let limits = DiskLimits { bytes: 1 << 20, age: AGE };
        let disk = Disk::open(&folder.path().join("spool"), limits, memory, None, &clock, Arc::clone(&metrics)).unwrap();
        let queue = Queue::new(Box::new(disk), clock);
        process.registry.register(Box::new(queue.metrics().unwrap())).unwrap();
        queue.seal_with(|unix_millis, returned| Batch::seal(unix_millis, b"[]", 0, returned, None));
        tokio::time::advance(Duration::from_secs(7)).await;
        metrics.dropped(DropReason::Expired, 3);
        metrics.dropped(DropReason::TooOld, 1);

        let mut own = OwnMetrics::new(queue.clone(), Arc::clone(&metrics), true);
        let first = lines(&mut own);
        assert!(first.contains(r#"golectra_agent_reports_dropped_total{reason="expired"} 0"#), "increase() needs a start: {first:?}");
        let second = lines(&mut own);
        let page = TextEncoder::new().encode_to_string(&process.registry.gather()).unwrap();
        for line in &second {
            assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
        }
        assert!(second.contains(r#"golectra_agent_reports_dropped_total{reason="expired"} 3"#), "{second:?}");
        assert!(second.contains("golectra_agent_spool_oldest_age_seconds 7"), "{second:?}");
        assert!(second.contains("golectra_agent_queue_oldest_age_seconds 7"), "{second:?}");
        assert!(second.contains("golectra_agent_stopping 0"), "{second:?}");
        assert_eq!(second.len(), 5 + DropReason::ALL.len() - 1);
        metrics.stops();
        let last = lines(&mut own);
        assert!(last.contains("golectra_agent_stopping 1") && last.len() == second.len(), "{last:?}");
    }

    #[test]
    fn an_agent_without_a_spool_says_nothing_of_it_and_the_catalog_has_the_rest() {
        let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
        let memory = Memory::new(Limits { batches: 2, bytes: 1 << 20, age: AGE }, Arc::clone(&metrics));
        let mut own = OwnMetrics::new(Queue::new(Box::new(memory), Clock::system()), metrics, false);
        let report = own.of_report();
        assert!(report.iter().all(|metric| !metric.id.as_str().contains("spool")), "{report:?}");
        assert_eq!(report.len(), 3 + DropReason::ALL.len() - 2);
        for parts in report.iter().map(|metric| metric.id.parts()) {
            let (group, row) = catalog::find(&parts.name).unwrap_or_else(|| panic!("{} is not in the catalog", parts.name));
            assert_eq!((group.job, parts.labels.len()), (None, row.labels.len()), "{}", parts.name);
            assert!(parts.labels.iter().all(|(label, _)| row.labels.contains(&label.as_ref())), "{}", parts.name);
        }
    }

    #[test]
    fn a_text_that_no_label_can_have_leaves_the_name() {
        assert_eq!(gauge("a", &[("b", "\0")], 1.0).id.as_str(), "a");
    }
}

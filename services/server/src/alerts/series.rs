//! Writes the series of rules, and what the server knows of sources and of itself, as samples of one source.
//!
//! A server to which no node reports, and which has no receivers and no rules but those built in, writes none: its listings and its snapshot file then have
//! what was sent to it and nothing else, as the original's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use golectra_process::LogLimiter;
use golectra_promql::staleness::STALE;
use golectra_promql::{Labels, METRIC_NAME};
use golectra_protocol::{IdempotencyKey, MetricId, Metrics, Source, Value};
use prometheus::Registry;
use prometheus::proto::MetricType;
use tokio::sync::Mutex;

use super::advance::RuleSample;
use crate::history::labels::{RULES_SOURCE, is_node};
use crate::store::{Applied, Batch, Store};

/// When each source reported last.
pub const LAST_SEEN: &str = "golectra_source_last_seen_timestamp_seconds";
/// The job of the server's own series.
const JOB: &str = "golectra-server";
/// What of the server's own metrics is written, since rules watch it.
pub(super) const OWN_METRICS: [&str; 11] = [
    "golectra_audit_backlog",
    "golectra_audit_oldest_age_seconds",
    "golectra_history_bytes",
    "golectra_history_max_bytes",
    "golectra_ingest_rejected_total",
    "golectra_rule_evaluation_failures_total",
    "golectra_rule_files_refused",
    "golectra_alerts_notifications_failed_total",
    "golectra_alerts_oldest_notification_age_seconds",
    "golectra_alerts_receivers_file_refused",
    "golectra_store_up",
];
/// The most samples of one write.
const MAX_BATCH: usize = 10_000;

/// Log lines about what could not be written.
static LOG: LogLimiter<&'static str> = LogLimiter::new();

/// See the module's documentation.
pub struct SeriesWriter {
    /// Where to.
    pub store: Arc<dyn Store>,
    /// What the server tells of itself.
    pub registry: Registry,
    /// What this server is called.
    pub instance: String,
    /// Whether series are written although no node reports.
    pub always: bool,
    /// Whether they are written now.
    pub enabled: AtomicBool,
    /// The server's own series that were written last.
    pub own: Mutex<BTreeSet<Labels>>,
}

impl SeriesWriter {
    /// Writes when each source was last seen, and what rules watch of this server.
    pub async fn write_own(&self, at_ms: i64) {
        let mut samples = self.own_metrics();
        let mut before = self.own.lock().await;
        match self.store.sources().await {
            Ok(sources) => {
                let nodes = || sources.iter().filter(|source| is_node(source.name.as_str()));
                if !(self.always || nodes().next().is_some() || !before.is_empty()) {
                    self.enabled.store(false, Ordering::Relaxed);
                    return;
                }
                self.enabled.store(true, Ordering::Relaxed);
                samples.extend(nodes().map(|source| {
                    #[expect(clippy::cast_precision_loss, reason = "unix milliseconds are below 2^53")]
                    let value = source.last_seen_millis as f64 / 1000.0;
                    RuleSample { labels: Labels::new([(METRIC_NAME, LAST_SEEN), ("instance", source.name.as_str()), ("job", JOB)]), value }
                }));
            }
            Err(error) => {
                LOG.log("sources", move |count| tracing::warn!(count, %error, "rules do not see when sources reported last"));
                return;
            }
        }
        // A source that was deleted is not silent.
        let now: BTreeSet<Labels> = samples.iter().map(|sample| sample.labels.clone()).collect();
        samples.extend(before.difference(&now).map(|labels| RuleSample { labels: labels.clone(), value: STALE }));
        *before = now;
        self.write(samples, at_ms).await;
    }

    fn own_metrics(&self) -> Vec<RuleSample> {
        let mut samples = Vec::new();
        for family in self.registry.gather() {
            if !OWN_METRICS.contains(&family.name()) {
                continue;
            }
            for metric in family.get_metric() {
                let value = match family.get_field_type() {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    MetricType::GAUGE => metric.get_gauge().get_value(),
                    _ => continue,
                };
                let labels = metric.get_label().iter().map(|pair| (pair.name(), pair.value()));
                let own = [(METRIC_NAME, family.name()), ("instance", self.instance.as_str()), ("job", JOB)];
                samples.push(RuleSample { labels: Labels::new(labels.chain(own)), value });
            }
        }
        samples
    }

    /// Writes samples of this time. What can't be written is logged and missing: the next evaluation writes again.
    pub async fn write(&self, samples: Vec<RuleSample>, at_ms: i64) {
        if !self.enabled.load(Ordering::Relaxed) {
            return;
        }
        for part in samples.chunks(MAX_BATCH) {
            let mut metrics = Metrics::with_capacity(part.len(), part.len() * 64);
            for RuleSample { labels, value } in part {
                let pairs = labels.iter().filter(|(name, _)| *name != METRIC_NAME);
                let id = MetricId::from_parts(labels.metric_name(), pairs);
                let pushed = id.and_then(|id| metrics.push_parsed_at(id.as_str(), Value::Gauge(*value), at_ms));
                if let Err(error) = pushed {
                    LOG.log("id", move |count| tracing::warn!(count, %error, "a series of a rule can't be written"));
                }
            }
            if metrics.is_empty() {
                continue;
            }
            let source = Source::parse(RULES_SOURCE).expect("a valid name");
            let key = IdempotencyKey::with_random(at_ms.max(0).unsigned_abs(), fastrand::u128(..));
            let batch = Batch { source, key, keyed: false, digest: [0; 32], metrics, audit: None };
            match self.store.apply(batch).await {
                Ok(Applied::Partly(refused)) => {
                    let samples = refused.total();
                    LOG.log("refused", move |count| {
                        tracing::warn!(
                            count,
                            samples,
                            "samples of rules were refused: the store holds its maximum of series, or another value is stored"
                        );
                    });
                }
                Ok(_) => {}
                Err(error) => LOG.log("write", move |count| tracing::warn!(count, %error, "the series of rules could not be written")),
            }
        }
    }
}

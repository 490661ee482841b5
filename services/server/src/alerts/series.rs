//! Writes the series of rules, and what the server knows of sources and of itself, as samples of one source.
//!
//! A server to which no node reports, and which has no receivers and no rules but those built in, writes none: its listings and its snapshot file then have
//! what was sent to it and nothing else, as the original's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use golectra_process::LogLimiter;
use golectra_promql::staleness::{STALE, is_stale};
use golectra_promql::{Labels, METRIC_NAME, Matcher};
use golectra_protocol::{IdempotencyKey, MetricId, Metrics, Source, Value};
use prometheus::Registry;
use prometheus::proto::MetricType;
use tokio::sync::Mutex;

use super::advance::RuleSample;
use crate::history::labels::{self, RULES_SOURCE, is_node};
use crate::store::{Applied, Batch, LatestFilter, SourceInfo, Store, StoreError};

/// When each source reported last.
pub const LAST_SEEN: &str = "golectra_source_last_seen_timestamp_seconds";
/// 1 for each source that does not report and whose agent said in its last report that it ends.
pub const STOPPED: &str = "golectra_source_stopped";
/// What agents report about that.
const STOPPING: &str = "golectra_agent_stopping";
/// A source whose last report is older than this may have stopped. It is less than what the built-in rules and the pages take for silence, and more than the
/// time between two reports, so that nothing is read while all nodes report.
const STOPPED_AFTER_MS: u64 = 30_000;
/// What a source reports this long after its agent said that it ends comes from another agent, of a version that does not say it.
const LAST_REPORT_MS: u64 = 60_000;
/// The job of the server's own series.
const JOB: &str = "golectra-server";
/// What of the server's own metrics is written, since rules watch it.
pub(super) const OWN_METRICS: [&str; 16] = [
    "golectra_audit_backlog",
    "golectra_audit_oldest_age_seconds",
    "golectra_history_bytes",
    "golectra_history_max_bytes",
    "golectra_memory_history_dropped_samples_total",
    "golectra_memory_history_dropped_rollups_total",
    "golectra_memory_store_interval_seconds",
    "golectra_memory_unsaved_seconds",
    "golectra_ingest_rejected_total",
    "golectra_rule_evaluation_failures_total",
    "golectra_rule_files_refused",
    "golectra_alerts_notifications_dropped_total",
    "golectra_alerts_notifications_failed_total",
    "golectra_alerts_oldest_notification_age_seconds",
    "golectra_alerts_receivers_file_refused",
    "golectra_store_up",
];
/// For how long rules see the newest sample of a series.
const LOOKBACK_MS: i64 = 300_000;
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
    /// The server's own series that were written last; None if another server, or an earlier process of this one, may have written since.
    pub own: Mutex<Option<BTreeSet<Labels>>>,
}

impl SeriesWriter {
    /// Writes when each source was last seen, which sources have stopped, and what rules watch of this server.
    pub async fn write_own(&self, at_ms: i64) {
        let mut samples = self.own_metrics();
        let mut own = self.own.lock().await;
        match self.store.sources().await {
            Ok(sources) => {
                let nodes = || sources.iter().filter(|source| is_node(source.name.as_str()));
                let has_written = own.as_ref().is_some_and(|own| !own.is_empty());
                if !(self.always || nodes().next().is_some() || has_written) {
                    self.enabled.store(false, Ordering::Relaxed);
                    return;
                }
                self.enabled.store(true, Ordering::Relaxed);
                samples.extend(nodes().map(|source| {
                    #[expect(clippy::cast_precision_loss, reason = "unix milliseconds are below 2^53")]
                    let value = source.last_seen_millis as f64 / 1000.0;
                    RuleSample { labels: of_source(LAST_SEEN, source.name.as_str()), value }
                }));
                let stopped = self.stopped(&sources, own.as_ref(), at_ms).await;
                samples.extend(stopped.into_iter().map(|labels| RuleSample { labels, value: 1.0 }));
            }
            Err(error) => {
                LOG.log("sources", move |count| tracing::warn!(count, %error, "rules do not see when sources reported last"));
                return;
            }
        }
        let now: BTreeSet<Labels> = samples.iter().map(|sample| sample.labels.clone()).collect();
        let before = match own.take() {
            Some(before) => Ok(before),
            None => self.left_by_others(at_ms).await,
        };
        match before {
            Ok(before) => {
                // A source that was deleted is not silent, and one that reports again has not stopped.
                samples.extend(before.difference(&now).map(|labels| RuleSample { labels: labels.clone(), value: STALE }));
                *own = Some(now);
            }
            Err(error) => {
                LOG.log("left", move |count| tracing::warn!(count, %error, "rules may see what an earlier server wrote of itself"));
            }
        }
        self.write(samples, at_ms).await;
    }

    /// The series of the nodes that have stopped. If that can't be read, those that were written last and whose nodes still do not report.
    async fn stopped(&self, sources: &[SourceInfo], before: Option<&BTreeSet<Labels>>, at_ms: i64) -> BTreeSet<Labels> {
        let now_ms = at_ms.max(0).unsigned_abs();
        let is_silent = |source: &&SourceInfo| now_ms.saturating_sub(source.last_seen_millis) > STOPPED_AFTER_MS;
        let silent = sources.iter().filter(|source| is_node(source.name.as_str())).filter(is_silent);
        let silent: BTreeMap<&str, u64> = silent.map(|source| (source.name.as_str(), source.last_seen_millis)).collect();
        if silent.is_empty() {
            return BTreeSet::new();
        }
        match self.read_stopped(&silent).await {
            Ok(stopped) => stopped,
            Err(error) => {
                LOG.log("stopped", move |count| tracing::warn!(count, %error, "rules do not see which agents have ended"));
                let still = |labels: &&Labels| labels.metric_name() == STOPPED && silent.contains_key(labels.value("instance"));
                before.into_iter().flatten().filter(still).cloned().collect()
            }
        }
    }

    /// The series of those sources whose last report says that the agent ends. `silent` has when each source reported last.
    async fn read_stopped(&self, silent: &BTreeMap<&str, u64>) -> Result<BTreeSet<Labels>, StoreError> {
        let filter = LatestFilter { source: None, name: Some(STOPPING.to_owned()), matchers: Vec::new() };
        let mut pages = self.store.latest(filter).await?;
        let mut stopped = BTreeSet::new();
        loop {
            let page = pages.next_page().await?;
            if page.is_empty() {
                return Ok(stopped);
            }
            // One with labels was scraped from an agent's /metrics.
            for series in page.iter().filter(|series| series.id.as_str() == STOPPING) {
                let name = series.source.as_str();
                let is_last = silent.get(name).is_some_and(|last_seen_ms| *last_seen_ms <= series.at_millis + LAST_REPORT_MS);
                if is_last && matches!(series.value, Value::Gauge(value) if value >= 1.0) {
                    stopped.insert(of_source(STOPPED, name));
                }
            }
        }
    }

    /// Takes note that another server may write its own series from now on.
    pub async fn leave(&self) {
        *self.own.lock().await = None;
    }

    /// The series that another server, or an earlier process of this one, wrote about itself and that rules still see.
    async fn left_by_others(&self, at_ms: i64) -> Result<BTreeSet<Labels>, StoreError> {
        let source = Source::parse(RULES_SOURCE).expect("a valid name");
        let filter = LatestFilter { source: Some(source), name: None, matchers: vec![Matcher::equal("job", JOB)] };
        let mut pages = self.store.latest(filter).await?;
        let since_ms = (at_ms - LOOKBACK_MS).max(0).unsigned_abs();
        let mut left = BTreeSet::new();
        loop {
            let page = pages.next_page().await?;
            if page.is_empty() {
                return Ok(left);
            }
            let has_ended = |value: Value| matches!(value, Value::Gauge(value) if is_stale(value));
            let seen = page.iter().filter(|series| series.at_millis > since_ms && !has_ended(series.value));
            let seen = seen.map(|series| labels::of_series(RULES_SOURCE, series.id.as_str(), false));
            // Rules may give their series the same job.
            let is_own = |name: &str| [LAST_SEEN, STOPPED].contains(&name) || OWN_METRICS.contains(&name);
            left.extend(seen.filter(|labels| is_own(labels.metric_name())));
        }
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

/// The labels of one of the server's own series about a source.
fn of_source(metric: &str, source: &str) -> Labels {
    Labels::new([(METRIC_NAME, metric), ("instance", source), ("job", JOB)])
}

//! /api/v1/status/… and /-/…: what the server tells about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use golectra_process::banner::BUILD;
use golectra_promql::parse::DisplayDuration;
use golectra_promql::{Engine, Labels, METRIC_NAME};
use serde::Serialize;

use super::answer::Answer;
use super::error::ApiFailure;
use super::parameters::Parameters;
use crate::clock::{Clock, rfc3339};
use crate::config::Settings;
use crate::history::query::Listing;
use crate::http::{AppState, ping};
use crate::store::history::TimeRange;

/// The version of Prometheus whose API this is. Clients such as Grafana decide by it what they may ask for.
const PROMETHEUS_VERSION: &str = "3.0.0";

/// How many lines each list of /api/v1/status/tsdb has, if the request says nothing else.
const TOP: usize = 10;

/// Series that had samples within this time are told by /api/v1/status/tsdb.
const RECENT_MS: i64 = 2 * 3600 * 1000;

/// What does not change while the server runs.
pub struct ProcessInfo {
    clock: Clock,
    started_millis: u64,
    retention: String,
    rollup_retentions: [String; 2],
    flags: BTreeMap<&'static str, String>,
    evaluation_interval: Duration,
    host: String,
}

impl ProcessInfo {
    /// Of a process that starts now.
    pub fn new(settings: &Settings, host: String, clock: Clock) -> Self {
        let retention = settings.retention_raw.to_string();
        let rollup_retentions = [settings.retention_5m.to_string(), settings.retention_1h.to_string()];
        let (flags, evaluation_interval) = (flags_of(settings), settings.evaluation_interval.duration());
        Self { started_millis: clock.unix_millis(), retention, rollup_retentions, flags, evaluation_interval, host, clock }
    }

    /// When it started, in unix milliseconds.
    pub fn started_millis(&self) -> u64 {
        self.started_millis
    }

    /// How long samples are kept.
    pub fn retention(&self) -> &str {
        &self.retention
    }

    /// How long rollups of 5 minutes are kept, and those of an hour.
    pub fn rollup_retentions(&self) -> &[String; 2] {
        &self.rollup_retentions
    }

    /// The name of its host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Now, in unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        i64::try_from(self.clock.unix_millis()).unwrap_or(i64::MAX)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildInfo {
    application: &'static str,
    version: &'static str,
    application_version: &'static str,
    revision: &'static str,
    build_date: &'static str,
}

/// /api/v1/status/buildinfo: the version of the API, and which build of golectra answers.
pub async fn build_info() -> Answer {
    Answer::json(&BuildInfo {
        application: "golectra",
        version: PROMETHEUS_VERSION,
        application_version: BUILD.version,
        revision: BUILD.commit,
        build_date: BUILD.date,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeInfo<'a> {
    start_time: String,
    server_time: String,
    hostname: &'a str,
    storage_retention: &'a str,
}

/// /api/v1/status/runtimeinfo: since when it runs and how long it keeps samples.
pub async fn runtime_info(State(state): State<AppState>) -> Answer {
    let process = &state.process;
    Answer::json(&RuntimeInfo {
        start_time: rfc3339(process.started_millis),
        server_time: rfc3339(process.clock.unix_millis()),
        hostname: &process.host,
        storage_retention: &process.retention,
    })
}

/// Those of Prometheus's flags that something here corresponds to, as it writes their values.
fn flags_of(settings: &Settings) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("query.lookback-delta", DisplayDuration(Engine::default().lookback_ms).to_string()),
        ("query.max-concurrency", settings.query_concurrency.get().to_string()),
        ("query.timeout", written(settings.query_timeout.duration())),
        ("storage.tsdb.retention.time", settings.retention_raw.to_string()),
        ("web.enable-remote-write-receiver", true.to_string()),
    ])
}

/// A duration as Prometheus writes it.
fn written(duration: Duration) -> String {
    DisplayDuration(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)).to_string()
}

/// /api/v1/status/flags: the settings that Prometheus has as flags.
pub async fn flags(State(state): State<AppState>) -> Answer {
    Answer::json(&state.process.flags)
}

#[derive(Debug, PartialEq, Serialize)]
struct Config {
    yaml: String,
}

/// /api/v1/status/config: the part of Prometheus's file of settings that something here corresponds to.
pub async fn config(State(state): State<AppState>) -> Answer {
    Answer::json(&config_of(state.process.evaluation_interval))
}

fn config_of(evaluation_interval: Duration) -> Config {
    Config { yaml: format!("global:\n  evaluation_interval: {}\n", written(evaluation_interval)) }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TsdbStatus {
    head_stats: HeadStats,
    series_count_by_metric_name: Vec<Count>,
    label_value_count_by_label_name: Vec<Count>,
    memory_in_bytes_by_label_name: Vec<Count>,
    series_count_by_label_value_pair: Vec<Count>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeadStats {
    num_series: usize,
    num_label_pairs: usize,
}

#[derive(Debug, PartialEq, Serialize)]
struct Count {
    name: String,
    value: usize,
}

/// /api/v1/status/tsdb: which metrics and labels the series of the last two hours have most of.
pub async fn tsdb(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let top = parameters.limit("limit")?.unwrap_or(TOP);
    let now_ms = state.process.now_ms();
    let range = TimeRange { start_ms: now_ms - RECENT_MS, end_ms: now_ms };
    let listing = Listing { selectors: Vec::new(), range, limit: None };
    let told = state.queries.tell_series(listing, move |series| tsdb_status(series, top)).await?;
    Ok(Answer::json(&told.told).warn(told.truncated))
}

fn tsdb_status(series: &[Labels], top: usize) -> TsdbStatus {
    let mut by_metric = BTreeMap::<&str, usize>::new();
    let mut by_pair = BTreeMap::<(&str, &str), usize>::new();
    for labels in series {
        *by_metric.entry(labels.metric_name()).or_default() += 1;
        for pair in labels.iter() {
            *by_pair.entry(pair).or_default() += 1;
        }
    }
    let (mut values, mut bytes) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    for ((name, value), count) in &by_pair {
        *values.entry(name).or_default() += 1;
        *bytes.entry(name).or_default() += count * value.len();
    }
    let num_label_pairs = by_pair.len();
    // Metrics have a list of their own.
    let pairs = by_pair.into_iter().filter(|((name, _), _)| *name != METRIC_NAME);
    TsdbStatus {
        head_stats: HeadStats { num_series: series.len(), num_label_pairs },
        series_count_by_metric_name: largest(by_metric.into_iter().map(|(name, value)| (name.to_owned(), value)), top),
        label_value_count_by_label_name: largest(values.into_iter().map(|(name, value)| (name.to_owned(), value)), top),
        memory_in_bytes_by_label_name: largest(bytes.into_iter().map(|(name, value)| (name.to_owned(), value)), top),
        series_count_by_label_value_pair: largest(pairs.map(|((name, value), count)| (format!("{name}={value}"), count)), top),
    }
}

/// The largest counts; of equal ones the first by name.
fn largest(counts: impl Iterator<Item = (String, usize)>, top: usize) -> Vec<Count> {
    let mut counts: Vec<_> = counts.map(|(name, value)| Count { name, value }).collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.value));
    counts.truncate(top);
    counts
}

/// /-/healthy: the process answers.
pub async fn healthy() -> &'static str {
    "golectra-server is healthy.\n"
}

/// /-/ready: the store answers.
pub async fn ready(State(state): State<AppState>) -> (StatusCode, &'static str) {
    if ping::answers(&state).await {
        (StatusCode::OK, "golectra-server is ready.\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the store is unavailable\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_as_prometheus_does() {
        let yaml = |text: &str| Config { yaml: text.to_owned() };
        assert_eq!(config_of(Duration::from_secs(15)), yaml("global:\n  evaluation_interval: 15s\n"));
        assert_eq!(config_of(Duration::from_secs(90)), yaml("global:\n  evaluation_interval: 1m30s\n"));
        assert_eq!(config_of(Duration::ZERO), yaml("global:\n  evaluation_interval: 0s\n"));
    }

    #[test]
    fn the_largest_come_first() {
        let series = [
            Labels::new([("__name__", "up"), ("job", "node")]),
            Labels::new([("__name__", "load"), ("job", "node"), ("cpu", "0")]),
            Labels::new([("__name__", "load"), ("job", "node"), ("cpu", "1")]),
        ];
        let status = tsdb_status(&series, 2);
        let count = |name: &str, value| Count { name: name.to_owned(), value };
        assert_eq!((status.head_stats.num_series, status.head_stats.num_label_pairs), (3, 5));
        assert_eq!(status.series_count_by_metric_name, [count("load", 2), count("up", 1)]);
        assert_eq!(status.label_value_count_by_label_name, [count("__name__", 2), count("cpu", 2)]);
        assert_eq!(status.memory_in_bytes_by_label_name, [count("job", 12), count("__name__", 10)]);
        assert_eq!(status.series_count_by_label_value_pair, [count("job=node", 3), count("cpu=0", 1)]);
    }
}

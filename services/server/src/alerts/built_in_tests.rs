//! The rules that are built in, on the data of built-in.test.yaml: the file is one of `promtool test rules`, and here PromQL and the steps of alerts are
//! golectra's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use golectra_promql::parse::{ParseLimits, parse_duration, parse_selector};
use golectra_promql::staleness::STALE;
use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, Labels, METRIC_NAME, Matcher, MemoryBudget, NoInterrupt, Query, Value, VectorSample};
use golectra_protocol::catalog;
use serde::Deserialize;

use super::advance::{self, Step};
use super::rules::{Rule, parse};
use super::series::{LAST_SEEN, OWN_METRICS, STOPPED};
use super::state::{AlertState, Phase, Texts};

const RULES: &str = include_str!("built-in.yaml");
const TESTS: &str = include_str!("built-in.test.yaml");

#[derive(Deserialize)]
struct File {
    evaluation_interval: String,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    name: String,
    interval: String,
    input_series: Vec<Series>,
    #[serde(rename = "alert_rule_test")]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Series {
    series: String,
    values: String,
}

#[derive(Deserialize)]
struct Check {
    eval_time: String,
    alertname: String,
    exp_alerts: Vec<Expected>,
}

#[derive(Deserialize, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Expected {
    exp_labels: Texts,
    exp_annotations: Texts,
}

fn ms(text: &str) -> i64 {
    if text == "0m" { 0 } else { parse_duration(text).unwrap() }
}

/// promtool's notation of values: `1`, `_`, `1x5` (six times), `0+10x5`, `3-1x5`, `_x5` and `stale`.
fn values(text: &str) -> Vec<Option<f64>> {
    let mut values = Vec::new();
    for word in text.split(' ') {
        if word == "stale" {
            values.push(Some(STALE));
            continue;
        }
        let (expression, times) =
            word.split_once('x').map_or((word, None), |(expression, times)| (expression, Some(times.parse().unwrap())));
        if expression == "_" {
            values.extend(std::iter::repeat_n(None, times.unwrap_or(1)));
            continue;
        }
        let operator = expression.char_indices().skip(1).find(|(_, c)| matches!(c, '+' | '-')).map_or(expression.len(), |(index, _)| index);
        let (start, step) = expression.split_at(operator);
        let start: f64 = start.parse().unwrap();
        let step: f64 = if step.is_empty() { 0.0 } else { step.parse().unwrap() };
        let last: u32 = u32::try_from(times.unwrap_or(0)).unwrap();
        values.extend((0..=last).map(|index| Some(start + step * f64::from(index))));
    }
    values
}

fn store(test: &Test) -> MemoryStore {
    let mut store = MemoryStore::default();
    for series in &test.input_series {
        let matchers = parse_selector(&series.series, &ParseLimits::default()).unwrap();
        let labels = Labels::new(matchers.iter().map(|matcher| (matcher.name(), matcher.value())));
        for (index, value) in values(&series.values).into_iter().enumerate() {
            if let Some(value) = value {
                store.add(&labels, i64::try_from(index).unwrap() * ms(&test.interval), value);
            }
        }
    }
    store
}

fn found(rule: &Rule, store: &MemoryStore, now_ms: i64, budget: &Arc<MemoryBudget>) -> Vec<VectorSample> {
    let query = Query::parse(&rule.expr, &ParseLimits::default()).unwrap();
    let outcome = Engine::default().instant(&query, now_ms, store, &NoInterrupt, budget).unwrap();
    match outcome.value {
        Value::Vector { samples, .. } => samples,
        other => panic!("{}: {other:?}", rule.name),
    }
}

fn firing(alerts: &[AlertState]) -> Vec<Expected> {
    let firing = alerts.iter().filter(|alert| alert.phase == Phase::Firing);
    let mut firing: Vec<_> = firing
        .map(|alert| {
            let mut exp_labels = alert.labels.clone();
            exp_labels.remove(advance::ALERT_NAME);
            Expected { exp_labels, exp_annotations: alert.annotations.clone() }
        })
        .collect();
    firing.sort();
    firing
}

#[test]
fn each_rule_fires_on_its_data_and_not_before() {
    let file: File = serde_saphyr::from_str(TESTS).unwrap();
    let budget = MemoryBudget::new(64 << 20);
    let mut rules: BTreeMap<String, Rule> =
        parse("built-in.yaml", RULES).unwrap().into_iter().flat_map(|group| group.rules).map(|rule| (rule.name.clone(), rule)).collect();
    for test in file.tests {
        let rule = rules.remove(&test.name).unwrap_or_else(|| panic!("{} is a rule and has one test", test.name));
        let store = store(&test);
        let (mut alerts, mut now_ms) = (Vec::new(), 0);
        for check in test.checks {
            assert_eq!(check.alertname, test.name);
            while now_ms <= ms(&check.eval_time) {
                alerts = advance::alerts(&rule, 0, &alerts, &found(&rule, &store, now_ms, &budget), &Step::at(now_ms)).unwrap();
                now_ms += ms(&file.evaluation_interval);
            }
            let mut expected = check.exp_alerts;
            expected.sort();
            assert_eq!(firing(&alerts), expected, "{} at {}", test.name, check.eval_time);
        }
    }
    assert!(rules.is_empty(), "without a test: {:?}", rules.keys());
}

/// Prometheus has an order of its own for what is alike, so the data for promtool has no such mounts.
#[test]
fn of_equal_mounts_of_a_device_the_first_has_the_alert() {
    let mut store = MemoryStore::default();
    for minute in 0..=420_i32 {
        for mount in ["/srv/b", "/srv/a"] {
            let mut add = |name: &str, value: f64| {
                let labels = [("__name__", name), ("instance", "n1"), ("device", "/dev/vda1"), ("fstype", "ext4"), ("mountpoint", mount)];
                store.add(&Labels::new(labels), i64::from(minute) * 60_000, value);
            };
            add("node_filesystem_size_bytes", 100.0);
            add("node_filesystem_avail_bytes", 4.9 - 0.01 * f64::from(minute));
            add("node_filesystem_readonly", 0.0);
            add("node_filesystem_files", 100.0);
            add("node_filesystem_files_free", 2.0);
        }
    }
    let (budget, mut names) = (MemoryBudget::new(64 << 20), Vec::new());
    for rule in parse("built-in.yaml", RULES).unwrap().into_iter().flat_map(|group| group.rules) {
        if rule.name.starts_with("NodeFilesystem") {
            for minute in [390, 405, 420] {
                let found = found(&rule, &store, minute * 60_000, &budget);
                let mounts: Vec<_> = found.iter().map(|sample| sample.labels.value("mountpoint")).collect();
                assert_eq!(mounts, ["/srv/a"], "{} after {minute} minutes", rule.name);
            }
            names.push(rule.name);
        }
    }
    assert_eq!(names, ["NodeFilesystemFull", "NodeFilesystemFillingUp", "NodeFilesystemInodesLow"]);
}

#[test]
fn each_rule_says_how_bad_it_is_and_where_it_is_said_what_to_do() {
    for rule in parse("built-in.yaml", RULES).unwrap().into_iter().flat_map(|group| group.rules) {
        assert!(["critical", "warning", "info", "none"].contains(&rule.labels["severity"].source()), "{}", rule.name);
        let super::rules::RuleKind::Alerting { annotations, .. } = &rule.kind else { panic!("{} is an alert", rule.name) };
        for name in ["summary", "description"] {
            assert!(annotations[name].source().ends_with('.'), "{}", rule.name);
        }
        assert!(annotations["runbook_url"].source().ends_with(&format!("/docs/runbooks/{}.md", rule.name)), "{}", rule.name);
        let runbook = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runbooks/");
        let text = std::fs::read_to_string(format!("{runbook}{}.md", rule.name)).unwrap_or_else(|error| panic!("{}: {error}", rule.name));
        assert!(text.starts_with(&format!("# {}\n", rule.name)), "{}", rule.name);
    }
}

/// What a series of kube-state-metrics has beside its own labels where that was scraped with the labels of its pod. Rules leave such series out.
const EXPORTED: [&str; 2] = ["exported_namespace", "exported_pod"];

/// What exporters besides the agents bring, which rules watch where they are there.
const OF_OTHERS: [&str; 1] = ["up"];

#[test]
fn each_metric_of_a_rule_is_reported_by_agents_or_written_by_the_server() {
    let file: File = serde_saphyr::from_str(TESTS).unwrap();
    let is_known = |name: &str| {
        catalog::find(name).is_some() || OWN_METRICS.contains(&name) || [LAST_SEEN, STOPPED].contains(&name) || OF_OTHERS.contains(&name)
    };
    for rule in parse("built-in.yaml", RULES).unwrap().into_iter().flat_map(|group| group.rules) {
        let query = Query::parse(&rule.expr, &ParseLimits::default()).unwrap();
        for selector in query.expr().selectors() {
            let name = selector.name.as_deref().unwrap_or_else(|| panic!("{}: a selector without a metric's name", rule.name));
            assert!(is_known(name), "{}: nobody reports {name}", rule.name);
            let row = catalog::find(name).map(|(_, row)| row);
            for matcher in selector.matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
                let of_all = |name: &str| ["instance", "job"].contains(&name) || EXPORTED.contains(&name);
                let has = |row: &catalog::MetricInfo| row.labels.contains(&matcher.name()) || of_all(matcher.name());
                assert!(row.is_none_or(has), "{}: {name} has no label {}", rule.name, matcher.name());
            }
        }
    }
    // The data of the tests is that of series which exist.
    for series in file.tests.iter().flat_map(|test| &test.input_series) {
        let matchers = parse_selector(&series.series, &ParseLimits::default()).unwrap();
        let name = matchers.iter().find(|matcher| matcher.name() == METRIC_NAME).unwrap().value();
        assert!(is_known(name), "{}", series.series);
        if let Some((_, row)) = catalog::find(name) {
            let unknown = matchers.iter().map(Matcher::name).find(|label| {
                !row.labels.contains(label) && !["instance", "job", METRIC_NAME].contains(label) && !EXPORTED.contains(label)
            });
            assert_eq!(unknown, None, "{}", series.series);
        }
    }
}

/// Two nodes that are used more by day than by night, with a pod and a volume each, for a day and the hours before that rules look at.
#[expect(clippy::cast_precision_loss, reason = "a number of minutes")]
fn healthy() -> MemoryStore {
    let mut store = MemoryStore::default();
    for minute in 0..=31 * 60_i64 {
        let seconds = minute as f64 * 60.0;
        // From 0 to 1 and back, once a day.
        let day = (1.0 - (seconds / 86_400.0 * std::f64::consts::TAU).cos()) / 2.0;
        for instance in ["n1", "n2"] {
            let mut add = |name: &str, labels: &[(&str, &str)], value: f64| {
                let all = [("__name__", name), ("instance", instance)].into_iter().chain(labels.iter().copied());
                store.add(&Labels::new(all), minute * 60_000, value);
            };
            let filesystem = [("device", "/dev/vda1"), ("fstype", "ext4"), ("mountpoint", "/")];
            let pod = [("namespace", "shop"), ("pod", instance), ("container", "app"), ("node", instance)];
            let volume = [("namespace", "shop"), ("persistentvolumeclaim", instance)];
            add("golectra_source_last_seen_timestamp_seconds", &[], seconds);
            add("node_filesystem_size_bytes", &filesystem, 100e9);
            add("node_filesystem_avail_bytes", &filesystem, 40e9 - day * 5e9);
            add("node_filesystem_readonly", &filesystem, 0.0);
            add("node_filesystem_files", &filesystem, 6e6);
            add("node_filesystem_files_free", &filesystem, 5e6 - day * 1e5);
            add("node_memory_MemTotal_bytes", &[], 16e9);
            add("node_memory_MemAvailable_bytes", &[], 9e9 - day * 5e9);
            for pressure in ["cpu_waiting", "memory_stalled", "io_stalled"] {
                add(&format!("node_pressure_{pressure}_seconds_total"), &[], seconds * 0.04);
            }
            for (mode, share) in [("idle", 0.7), ("user", 0.25), ("iowait", 0.05)] {
                add("node_cpu_seconds_total", &[("cpu", "0"), ("mode", mode)], seconds * share);
            }
            add("node_timex_sync_status", &[], 1.0);
            add("node_timex_maxerror_seconds", &[], 0.02);
            add("node_timex_offset_seconds", &[], 0.001);
            add("node_vmstat_oom_kill", &[], 3.0);
            add("container_oom_events_total", &pod, 1.0);
            add("kube_pod_container_status_restarts_total", &pod, 2.0);
            let sidecar = [("namespace", "shop"), ("pod", instance), ("container", "proxy"), ("node", instance)];
            add("kube_pod_init_container_status_restarts_total", &sidecar, 1.0);
            add("kube_pod_status_ready", &[&pod[..], &[("condition", "true")]].concat(), 1.0);
            add("kube_pod_status_phase", &[&pod[..], &[("phase", "Running")]].concat(), 1.0);
            add("kube_pod_info", &pod, 1.0);
            add("kube_pod_owner", &[&pod[..], &[("owner_is_controller", "true"), ("owner_kind", "ReplicaSet")]].concat(), 1.0);
            add("kubelet_volume_stats_capacity_bytes", &volume, 10e9);
            add("kubelet_volume_stats_available_bytes", &volume, 4e9 - day * 1e9);
            add("golectra_agent_spool_oldest_age_seconds", &[], 0.0);
            add("golectra_agent_queue_oldest_age_seconds", &[], 2.0);
            add("golectra_agent_reports_dropped_total", &[("reason", "expired")], 0.0);
            add("golectra_audit_oldest_age_seconds", &[("sink", "webhook")], 1.0);
            add("golectra_history_bytes", &[], 5e9 + day * 1e9);
            add("golectra_history_max_bytes", &[], 10e9);
            add("golectra_memory_history_dropped_samples_total", &[], 0.0);
            add("golectra_memory_history_dropped_rollups_total", &[], 0.0);
            add("golectra_memory_unsaved_seconds", &[], seconds % 300.0);
            add("golectra_memory_store_interval_seconds", &[], 300.0);
            add("golectra_rule_evaluation_failures_total", &[("rule_group", "g")], 0.0);
            add("golectra_alerts_oldest_notification_age_seconds", &[("receiver", "r")], 0.0);
            add("golectra_alerts_notifications_dropped_total", &[("receiver", "r")], 1.0);
            add("golectra_rule_files_refused", &[], 0.0);
            add("golectra_alerts_receivers_file_refused", &[], 0.0);
        }
    }
    store
}

#[test]
fn a_healthy_cluster_has_no_alert_for_a_day() {
    let (store, budget) = (healthy(), MemoryBudget::new(64 << 20));
    for rule in parse("built-in.yaml", RULES).unwrap().into_iter().flat_map(|group| group.rules) {
        let is_only_of_trouble = |name: &str| name.ends_with("_reason") || ["kube_pod_deletion_timestamp", STOPPED].contains(&name);
        let expression = Query::parse(&rule.expr, &ParseLimits::default()).unwrap();
        for selector in expression.expr().selectors().into_iter().filter(|selector| !is_only_of_trouble(selector.name.as_deref().unwrap()))
        {
            let query = Query::parse(selector.name.as_deref().unwrap(), &ParseLimits::default()).unwrap();
            let outcome = Engine::default().instant(&query, 7 * 3_600_000, &store, &NoInterrupt, &budget).unwrap();
            assert!(matches!(outcome.value, Value::Vector { samples, .. } if !samples.is_empty()), "{}: {:?}", rule.name, selector.name);
        }
        let mut alerts = Vec::new();
        // Every five minutes, since each look takes its time; what lasts for less is no alert of any rule that waits.
        for minute in (7 * 60..=31 * 60_i64).step_by(5) {
            let now_ms = minute * 60_000;
            alerts = advance::alerts(&rule, 0, &alerts, &found(&rule, &store, now_ms, &budget), &Step::at(now_ms)).unwrap();
            let is_watchdog = rule.name == "Watchdog";
            assert_eq!(!alerts.is_empty(), is_watchdog, "{} after {minute} minutes: {alerts:?}", rule.name);
        }
    }
}

//! The rules that are built in, on the data of built-in.test.yaml: the file is one of `promtool test rules`, and here PromQL and the steps of alerts are
//! golectra's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use golectra_promql::parse::{ParseLimits, parse_duration, parse_selector};
use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, Labels, METRIC_NAME, Matcher, MemoryBudget, NoInterrupt, Query, Value, VectorSample};
use golectra_protocol::catalog;
use serde::Deserialize;

use super::advance;
use super::rules::{Rule, parse};
use super::series::{LAST_SEEN, OWN_METRICS};
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

/// promtool's notation of values: `1`, `_`, `1x5` (six times), `0+10x5`, `3-1x5` and `_x5`.
fn values(text: &str) -> Vec<Option<f64>> {
    let mut values = Vec::new();
    for word in text.split(' ') {
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
                alerts = advance::alerts(&rule, 0, &alerts, &found(&rule, &store, now_ms, &budget), now_ms, "").unwrap();
                now_ms += ms(&file.evaluation_interval);
            }
            let mut expected = check.exp_alerts;
            expected.sort();
            assert_eq!(firing(&alerts), expected, "{} at {}", test.name, check.eval_time);
        }
    }
    assert!(rules.is_empty(), "without a test: {:?}", rules.keys());
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

/// What exporters besides the agents bring, which rules watch where they are there.
const OF_OTHERS: [&str; 1] = ["up"];

#[test]
fn each_metric_of_a_rule_is_reported_by_agents_or_written_by_the_server() {
    let file: File = serde_saphyr::from_str(TESTS).unwrap();
    let is_known =
        |name: &str| catalog::find(name).is_some() || OWN_METRICS.contains(&name) || name == LAST_SEEN || OF_OTHERS.contains(&name);
    for rule in parse("built-in.yaml", RULES).unwrap().into_iter().flat_map(|group| group.rules) {
        let query = Query::parse(&rule.expr, &ParseLimits::default()).unwrap();
        for selector in query.expr().selectors() {
            let name = selector.name.as_deref().unwrap_or_else(|| panic!("{}: a selector without a metric's name", rule.name));
            assert!(is_known(name), "{}: nobody reports {name}", rule.name);
            let row = catalog::find(name).map(|(_, row)| row);
            for matcher in selector.matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
                let has = |row: &catalog::MetricInfo| row.labels.contains(&matcher.name()) || ["instance", "job"].contains(&matcher.name());
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
            let unknown = matchers
                .iter()
                .map(Matcher::name)
                .find(|label| !row.labels.contains(label) && !["instance", "job", METRIC_NAME].contains(label));
            assert_eq!(unknown, None, "{}", series.series);
        }
    }
}

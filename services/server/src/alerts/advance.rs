//! One step of a rule: from its state and what its expression gives to its next state and the series that this makes.
//!
//! Pure, and as Prometheus does it.

use std::collections::{BTreeMap, BTreeSet};

use golectra_promql::{Labels, LabelsBuilder, METRIC_NAME, VectorSample};

use super::rules::{Rule, RuleKind};
use super::state::{AlertState, Phase, Texts};

/// The label with the alert's name.
pub const ALERT_NAME: &str = "alertname";
/// The label of [`ALERTS`] with the alert's state.
const ALERT_STATE: &str = "alertstate";
/// The series of alerts that are pending or firing.
pub const ALERTS: &str = "ALERTS";
/// The series of when they became active.
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";

/// How long an alert that ended is remembered, so that receivers are told.
pub const RESOLVED_RETENTION_MS: i64 = 15 * 60 * 1000;
/// The same for one of whose end quiet hours keep a receiver from being told: longer than a weekend.
const OWED_RETENTION_MS: i64 = 4 * 24 * 3600 * 1000;
/// The most alerts or series of one rule.
const MAX_RESULTS: usize = 10_000;

/// What the steps of all rules of an evaluation have in common.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The time of the evaluation, in unix milliseconds.
    pub now_ms: i64,
    /// The address where people reach the server, which templates may name.
    pub external_url: &'a str,
    /// When rules were evaluated again, shortly after a pause. Until everything can have reported again, no alert ends for want of a result, and none begins to
    /// fire: its result may only be there because something has not reported.
    pub resumed_ms: Option<i64>,
    /// The alerts of rules that are gone, by their labels. They go on under the rules that have them now: rules are moved between groups and files.
    pub gone: &'a BTreeMap<Texts, AlertState>,
}

#[cfg(test)]
impl Step<'static> {
    /// A step long after any pause, in which no rule is gone.
    pub fn at(now_ms: i64) -> Self {
        static NONE: BTreeMap<Texts, AlertState> = BTreeMap::new();
        Self { now_ms, external_url: "", resumed_ms: None, gone: &NONE }
    }
}

/// A sample that a rule makes.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleSample {
    /// The series.
    pub labels: Labels,
    /// The value.
    pub value: f64,
}

/// The samples of a recording rule.
pub fn record(rule: &Rule, limit: usize, found: &[VectorSample]) -> Result<Vec<RuleSample>, String> {
    check_limit(limit, found.len())?;
    let mut seen = BTreeSet::new();
    let mut samples = Vec::with_capacity(found.len());
    for sample in found {
        let mut labels = LabelsBuilder::from(&sample.labels);
        labels.set(METRIC_NAME, &rule.name);
        for (name, value) in &rule.labels {
            labels.set(name, value.source());
        }
        let labels = labels.build();
        if !seen.insert(labels.clone()) {
            return Err("vector contains metrics with the same labelset after applying rule labels".to_owned());
        }
        samples.push(RuleSample { labels, value: sample.value });
    }
    Ok(samples)
}

/// The next state of an alerting rule's alerts, by their labels.
pub fn alerts(
    rule: &Rule,
    limit: usize,
    before: &[AlertState],
    found: &[VectorSample],
    step: &Step<'_>,
) -> Result<Vec<AlertState>, String> {
    let RuleKind::Alerting { hold_ms, keep_firing_ms, annotations } = &rule.kind else { return Ok(Vec::new()) };
    let Step { now_ms, external_url, .. } = *step;
    let mut known: BTreeMap<&Texts, &AlertState> = before.iter().map(|alert| (&alert.labels, alert)).collect();
    let mut next = BTreeMap::new();
    for sample in found {
        let given = || sample.labels.iter();
        let mut labels: Texts =
            given().filter(|(name, _)| *name != METRIC_NAME).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for (name, template) in &rule.labels {
            labels.insert(name.clone(), template.expand(given(), sample.value, external_url));
        }
        labels.insert(ALERT_NAME.to_owned(), rule.name.clone());
        labels.retain(|_, value| !value.is_empty());
        let annotations =
            annotations.iter().map(|(name, template)| (name.clone(), template.expand(given(), sample.value, external_url))).collect();
        let alert = match earlier(known.remove(&labels), step.gone.get(&labels)) {
            Some(alert) if alert.phase != Phase::Inactive => {
                AlertState { annotations, value: sample.value, keep_firing_since_ms: None, ..alert }
            }
            earlier => AlertState {
                labels: labels.clone(),
                annotations,
                phase: Phase::Pending,
                active_ms: now_ms,
                fired_ms: None,
                resolved_ms: None,
                keep_firing_since_ms: None,
                value: sample.value,
                // A receiver that was not told of the end need not be told of the new beginning.
                told: earlier.map(|alert| alert.told).unwrap_or_default(),
            },
        };
        if next.insert(labels, fired(alert, *hold_ms, step)).is_some() {
            return Err("vector contains metrics with the same labelset after applying alert labels".to_owned());
        }
    }
    for (labels, alert) in known {
        let stays = step.resumed_ms.is_some() && alert.phase != Phase::Inactive;
        let alert = if stays { Some(alert.clone()) } else { without_result(alert, *keep_firing_ms, now_ms) };
        if let Some(alert) = alert {
            next.insert(labels.clone(), alert);
        }
    }
    check_limit(limit, next.values().filter(|alert| alert.phase != Phase::Inactive).count())?;
    Ok(next.into_values().collect())
}

/// Ends an alert of a rule that is no longer there.
pub fn ended(alert: &AlertState, now_ms: i64) -> Option<AlertState> {
    without_result(alert, 0, now_ms)
}

fn fired(mut alert: AlertState, hold_ms: i64, step: &Step<'_>) -> AlertState {
    if alert.phase == Phase::Pending && step.resumed_ms.is_none() && step.now_ms - alert.active_ms >= hold_ms {
        alert.phase = Phase::Firing;
        alert.fired_ms = Some(step.now_ms);
    }
    alert
}

/// What is known of an alert from before: of its rule, and of one that is gone. Receivers were told of it by either.
fn earlier(own: Option<&AlertState>, gone: Option<&AlertState>) -> Option<AlertState> {
    let (Some(own), Some(gone)) = (own, gone) else { return own.or(gone).cloned() };
    let (first, other) = if gone.phase > own.phase { (gone, own) } else { (own, gone) };
    let mut alert = first.clone();
    for (receiver, told) in &other.told {
        alert.told.entry(receiver.clone()).or_insert(*told);
    }
    Some(alert)
}

/// What becomes of an alert whose expression gives no result for it any more.
fn without_result(alert: &AlertState, keep_firing_ms: i64, now_ms: i64) -> Option<AlertState> {
    match alert.phase {
        // It had ended before, and that is still to be told.
        Phase::Pending => alert.is_owed().then(|| AlertState { phase: Phase::Inactive, resolved_ms: Some(now_ms), ..alert.clone() }),
        Phase::Inactive => {
            let ended_ms = alert.resolved_ms.unwrap_or(now_ms);
            let retention_ms = if alert.is_owed() { OWED_RETENTION_MS } else { RESOLVED_RETENTION_MS };
            (now_ms - ended_ms <= retention_ms).then(|| alert.clone())
        }
        Phase::Firing => {
            let mut alert = alert.clone();
            let since_ms = alert.keep_firing_since_ms.unwrap_or(now_ms);
            if keep_firing_ms > 0 && now_ms - since_ms < keep_firing_ms {
                alert.keep_firing_since_ms = Some(since_ms);
            } else {
                alert.phase = Phase::Inactive;
                alert.resolved_ms = Some(now_ms);
                alert.keep_firing_since_ms = None;
            }
            Some(alert)
        }
    }
}

/// The series of an alert that is pending or firing.
pub fn series_of(alert: &AlertState) -> Vec<RuleSample> {
    if alert.phase == Phase::Inactive {
        return Vec::new();
    }
    let mut labels = LabelsBuilder::default();
    for (name, value) in &alert.labels {
        labels.set(name, value);
    }
    labels.set(METRIC_NAME, ALERTS_FOR_STATE);
    #[expect(clippy::cast_precision_loss, reason = "unix seconds are far below 2^53")]
    let since = RuleSample { labels: labels.build(), value: (alert.active_ms / 1000) as f64 };
    labels.set(METRIC_NAME, ALERTS);
    labels.set(ALERT_STATE, alert.phase.as_str());
    vec![RuleSample { labels: labels.build(), value: 1.0 }, since]
}

fn check_limit(limit: usize, results: usize) -> Result<(), String> {
    if limit > 0 && results > limit {
        return Err(format!("exceeded limit of {limit} with {results} results"));
    }
    if results > MAX_RESULTS {
        return Err(format!("a rule may have {MAX_RESULTS} results, this one has {results}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::rules::parse;
    use crate::alerts::state::Told;

    fn rule(more: &str) -> Rule {
        let text = format!("groups:\n- name: g\n  rules:\n  - alert: A\n    expr: up == 0\n{more}");
        parse("f", &text).unwrap().remove(0).rules.remove(0)
    }

    fn found(instances: &[&str]) -> Vec<VectorSample> {
        instances.iter().map(|name| VectorSample { labels: Labels::new([("__name__", "up"), ("instance", name)]), value: 0.0 }).collect()
    }

    fn phases(alerts: &[AlertState]) -> Vec<(&str, &str)> {
        alerts.iter().map(|alert| (alert.label("instance"), alert.phase.as_str())).collect()
    }

    #[test]
    fn an_alert_is_pending_then_fires_then_ends() {
        let rule =
            rule("    for: 30s\n    labels: {severity: page, empty: ''}\n    annotations: {summary: '{{ $labels.instance }} is down'}\n");
        let step = |before: &[AlertState], instances: &[&str], now| alerts(&rule, 0, before, &found(instances), &Step::at(now)).unwrap();
        let first = step(&[], &["a", "b"], 1_000);
        assert_eq!(phases(&first), [("a", "pending"), ("b", "pending")]);
        assert_eq!(first[0].annotations["summary"], "a is down");
        assert_eq!(first[0].labels.keys().collect::<Vec<_>>(), ["alertname", "instance", "severity"]);
        let second = step(&first, &["a"], 16_000);
        assert_eq!(phases(&second), [("a", "pending")], "a pending alert without a result is gone");
        let third = step(&second, &["a", "b"], 31_000);
        assert_eq!(phases(&third), [("a", "firing"), ("b", "pending")]);
        assert_eq!((third[0].active_ms, third[0].fired_ms), (1_000, Some(31_000)));
        let fourth = step(&third, &[], 46_000);
        assert_eq!(phases(&fourth), [("a", "inactive")]);
        assert_eq!(fourth[0].resolved_ms, Some(46_000));
        assert_eq!(phases(&step(&fourth, &[], 46_000 + RESOLVED_RETENTION_MS)), [("a", "inactive")]);
        assert_eq!(phases(&step(&fourth, &[], 46_001 + RESOLVED_RETENTION_MS)), []);
        let again = step(&fourth, &["a"], 61_000);
        assert_eq!((phases(&again), again[0].active_ms), (vec![("a", "pending")], 61_000));
    }

    #[test]
    fn an_alert_goes_on_firing_for_as_long_as_it_should() {
        let rule = rule("    keep_firing_for: 30s\n");
        let step = |before: &[AlertState], instances: &[&str], now| alerts(&rule, 0, before, &found(instances), &Step::at(now)).unwrap();
        let fires = step(&[], &["a"], 0);
        assert_eq!(phases(&fires), [("a", "firing")]);
        let kept = step(&step(&fires, &[], 15_000), &[], 30_000);
        assert_eq!((phases(&kept), kept[0].keep_firing_since_ms), (vec![("a", "firing")], Some(15_000)));
        let back = step(&kept, &["a"], 40_000);
        assert_eq!((phases(&back), back[0].keep_firing_since_ms), (vec![("a", "firing")], None));
        assert_eq!(phases(&step(&kept, &[], 45_000)), [("a", "inactive")]);
    }

    #[test]
    fn an_alert_of_a_rule_that_is_gone_goes_on_with_what_receivers_were_told() {
        let told = |receiver: &str, at_ms: i64| (receiver.to_owned(), Told { firing: true, at_ms, owed: false });
        let mut fires = alerts(&rule(""), 0, &[], &found(&["a", "b"]), &Step::at(0)).unwrap();
        fires[0].told = BTreeMap::from([told("x", 0), told("y", 0)]);
        let gone: BTreeMap<Texts, AlertState> = fires.into_iter().map(|alert| (alert.labels.clone(), alert)).collect();
        let slow = rule("    for: 1m\n");
        let mut pending = alerts(&slow, 0, &[], &found(&["a", "c"]), &Step::at(10_000)).unwrap();
        pending[0].told = BTreeMap::from([told("x", 5_000)]);
        let next = alerts(&slow, 0, &pending, &found(&["a", "c"]), &Step { gone: &gone, ..Step::at(15_000) }).unwrap();
        assert_eq!(phases(&next), [("a", "firing"), ("c", "pending")], "b has no result under this rule");
        assert_eq!((next[0].active_ms, next[0].fired_ms), (0, Some(0)));
        assert_eq!(next[0].told, BTreeMap::from([told("x", 0), told("y", 0)]));
    }

    #[test]
    fn results_that_are_the_same_alert_and_too_many_are_errors() {
        let rule = rule("    labels: {instance: same}\n");
        assert!(alerts(&rule, 0, &[], &found(&["a", "b"]), &Step::at(0)).unwrap_err().contains("same labelset"));
        let plain = super::tests::rule("");
        assert_eq!(alerts(&plain, 1, &[], &found(&["a", "b"]), &Step::at(0)).unwrap_err(), "exceeded limit of 1 with 2 results");
        let many: Vec<String> = (0..=MAX_RESULTS).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(alerts(&plain, 0, &[], &found(&many), &Step::at(0)).is_err());
    }

    #[test]
    fn series_tell_state_and_time() {
        let mut alert = alerts(&rule("    for: 1m\n"), 0, &[], &found(&["a"]), &Step::at(5_500)).unwrap().remove(0);
        let texts = |alert: &AlertState| {
            series_of(alert).into_iter().map(|sample| format!("{} {}", sample.labels, sample.value)).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(&alert),
            [r#"ALERTS{alertname="A", alertstate="pending", instance="a"} 1"#, r#"ALERTS_FOR_STATE{alertname="A", instance="a"} 5"#]
        );
        alert.phase = Phase::Inactive;
        assert!(texts(&alert).is_empty());
    }

    #[test]
    fn a_recording_rule_names_and_labels_its_series() {
        let text = "groups:\n- name: g\n  rules:\n  - record: job:up\n    expr: up\n    labels: {job: x, instance: ''}\n";
        let rule = parse("f", text).unwrap().remove(0).rules.remove(0);
        let samples = record(&rule, 0, &found(&["a"])).unwrap();
        assert_eq!(samples[0].labels.to_string(), r#"job:up{job="x"}"#);
        assert!(record(&rule, 0, &found(&["a", "b"])).unwrap_err().contains("same labelset"));
    }
}

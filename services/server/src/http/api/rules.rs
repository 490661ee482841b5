//! /api/v1/rules and /api/v1/alerts: rules and their alerts as Prometheus tells them, from any server.

use std::collections::BTreeSet;

use axum::extract::State;
use golectra_promql::{Labels, Matcher, all_match};
use serde::Serialize;

use super::answer::Answer;
use super::error::ApiFailure;
use super::parameters::Parameters;
use crate::alerts::{AlertState, GroupState, Phase, Rule, RuleGroup, RuleKind, RuleState, Texts};
use crate::clock::rfc3339;
use crate::history::number::write_exponent;
use crate::history::query::matchers;
use crate::http::AppState;

/// What Prometheus shows where there is no time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupView {
    name: String,
    file: String,
    rules: Vec<RuleView>,
    interval: f64,
    limit: usize,
    evaluation_time: f64,
    last_evaluation: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleView {
    #[serde(flatten)]
    alerting: Option<AlertingView>,
    name: String,
    query: String,
    labels: Texts,
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    evaluation_time: f64,
    last_evaluation: String,
    r#type: &'static str,
}

/// What alerting rules have beside the others.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AlertingView {
    state: &'static str,
    duration: f64,
    keep_firing_for: f64,
    annotations: Texts,
    alerts: Vec<AlertView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AlertView {
    labels: Texts,
    annotations: Texts,
    state: &'static str,
    active_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_since: Option<String>,
    value: String,
}

/// What a request asks for.
struct Filter {
    rules: BTreeSet<String>,
    groups: BTreeSet<String>,
    files: BTreeSet<String>,
    alerting: bool,
    recording: bool,
    matchers: Vec<Vec<Matcher>>,
    exclude_alerts: bool,
}

impl Filter {
    fn of(parameters: &Parameters) -> Result<Self, ApiFailure> {
        let set = |name: &str| parameters.all(name).into_iter().collect();
        let (alerting, recording) = match parameters.text("type").to_ascii_lowercase().as_str() {
            "" => (true, true),
            "alert" => (true, false),
            "record" => (false, true),
            _ => return Err(ApiFailure::parameter("type", format!("not supported value {:?}", parameters.text("type")))),
        };
        let exclude_alerts = match parameters.text("exclude_alerts").to_ascii_lowercase().as_str() {
            "" | "0" | "f" | "false" => false,
            "1" | "t" | "true" => true,
            other => {
                return Err(ApiFailure::parameter("exclude_alerts", format!("error converting exclude_alerts: {other:?} is no boolean")));
            }
        };
        Ok(Self {
            rules: set("rule_name[]"),
            groups: set("rule_group[]"),
            files: set("file[]"),
            alerting,
            recording,
            matchers: matchers(&parameters.all("match[]"))?,
            exclude_alerts,
        })
    }

    fn has_group(&self, group: &RuleGroup) -> bool {
        let is_in = |set: &BTreeSet<String>, name: &String| set.is_empty() || set.contains(name);
        // A group without any rule that is asked for is not in the answer, so it has no place in the pages either.
        is_in(&self.groups, &group.name) && is_in(&self.files, &group.file) && group.rules.iter().any(|rule| self.has_rule(rule))
    }

    fn has_rule(&self, rule: &Rule) -> bool {
        let of_type = if rule.is_alerting() { self.alerting } else { self.recording };
        let labels = || Labels::new(rule.labels.iter().map(|(name, value)| (name.as_str(), value.source())));
        of_type
            && (self.rules.is_empty() || self.rules.contains(&rule.name))
            && (self.matchers.is_empty() || self.matchers.iter().any(|matchers| all_match(matchers, &labels())))
    }
}

/// /api/v1/rules: the rules by their groups, and of each what it found last.
pub async fn rules(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Groups {
        groups: Vec<GroupView>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group_next_token: Option<String>,
    }
    let filter = Filter::of(&parameters)?;
    let limit = parameters.limit("group_limit")?;
    let after = parameters.given("group_next_token");
    if after.is_some() && limit.is_none() {
        return Err(ApiFailure::parameter("group_limit", "group_limit needs to be set in order to paginate over the groups"));
    }
    let stored = state.alerts.stored().await.map_err(|error| ApiFailure::Refused(error.into()))?;
    let every = state.alerts.interval().as_secs_f64();
    let rules = state.alerts.rules();
    let token = |group: &RuleGroup| format!("{};{}", group.file, group.name);
    let mut groups: Vec<&RuleGroup> = rules.groups.iter().map(|group| &**group).filter(|group| filter.has_group(group)).collect();
    if limit.is_some() {
        groups.sort_by_key(|group| token(group));
    }
    if let Some(after) = after {
        if !rules.groups.iter().any(|group| token(group) == after) {
            return Err(ApiFailure::parameter(
                "group_next_token",
                format!("invalid group_next_token {after:?}. were rule groups changed?"),
            ));
        }
        groups.retain(|group| token(group).as_str() >= after);
    }
    let mut next = None;
    if let Some(limit) = limit.filter(|limit| *limit < groups.len()) {
        next = Some(token(groups[limit]));
        groups.truncate(limit);
    }
    let views = groups.into_iter().filter_map(|group| group_view(group, stored.group(&group.file, &group.name), &filter, every));
    Ok(Answer::json(&Groups { groups: views.collect(), group_next_token: next }))
}

/// /api/v1/alerts: the alerts that are pending or firing.
pub async fn alerts(State(state): State<AppState>) -> Result<Answer, ApiFailure> {
    let stored = state.alerts.stored().await.map_err(|error| ApiFailure::Refused(error.into()))?;
    let alerts = stored.groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts);
    let alerts: Vec<AlertView> = alerts.filter_map(alert_view).collect();
    Ok(Answer::json(&serde_json::json!({ "alerts": alerts })))
}

/// A group; none where the request asks for none of its rules.
fn group_view(group: &RuleGroup, state: Option<&GroupState>, filter: &Filter, every_seconds: f64) -> Option<GroupView> {
    let state_of = |rule: &Rule| state.and_then(|state| state.rules.iter().find(|state| state.key == rule.key));
    let rules: Vec<RuleView> = group
        .rules
        .iter()
        .filter(|rule| filter.has_rule(rule))
        .map(|rule| rule_view(rule, state_of(rule), filter.exclude_alerts))
        .collect();
    (!rules.is_empty()).then(|| GroupView {
        name: group.name.clone(),
        file: group.file.clone(),
        rules,
        interval: group.interval.map_or(every_seconds, |interval| interval.as_secs_f64()),
        limit: group.limit,
        evaluation_time: state.map_or(0.0, |state| state.seconds),
        last_evaluation: time(state.map(|state| state.evaluated_ms)),
    })
}

fn rule_view(rule: &Rule, state: Option<&RuleState>, exclude_alerts: bool) -> RuleView {
    let sources = |templates: &std::collections::BTreeMap<String, _>| -> Texts {
        templates.iter().map(|(name, template): (&String, &crate::alerts::Template)| (name.clone(), template.source().to_owned())).collect()
    };
    let alerting = match &rule.kind {
        RuleKind::Recording => None,
        RuleKind::Alerting { hold_ms, keep_firing_ms, annotations } => {
            let alerts = state.map_or(&[][..], |state| &state.alerts);
            let worst = alerts.iter().map(|alert| alert.phase).max().unwrap_or(Phase::Inactive);
            #[expect(clippy::cast_precision_loss, reason = "durations are far below 2^53 ms")]
            let seconds = |ms: i64| ms as f64 / 1000.0;
            Some(AlertingView {
                state: worst.as_str(),
                duration: seconds(*hold_ms),
                keep_firing_for: seconds(*keep_firing_ms),
                annotations: sources(annotations),
                alerts: if exclude_alerts { Vec::new() } else { alerts.iter().filter_map(alert_view).collect() },
            })
        }
    };
    let error = state.and_then(|state| state.error.clone());
    RuleView {
        name: rule.name.clone(),
        query: rule.expr.clone(),
        labels: sources(&rule.labels),
        health: match (state, &error) {
            (None, _) => "unknown",
            (Some(_), None) => "ok",
            (Some(_), Some(_)) => "err",
        },
        last_error: error,
        evaluation_time: state.map_or(0.0, |state| state.seconds),
        last_evaluation: time(state.map(|state| state.evaluated_ms)),
        r#type: if alerting.is_some() { "alerting" } else { "recording" },
        alerting,
    }
}

fn alert_view(alert: &AlertState) -> Option<AlertView> {
    (alert.phase != Phase::Inactive).then(|| AlertView {
        labels: alert.labels.clone(),
        annotations: alert.annotations.clone(),
        state: alert.phase.as_str(),
        active_at: time(Some(alert.active_ms)),
        keep_firing_since: alert.keep_firing_since_ms.map(|since| time(Some(since))),
        value: write_exponent(alert.value),
    })
}

fn time(unix_ms: Option<i64>) -> String {
    match unix_ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0) {
        Some(ms) => rfc3339(ms),
        None => NO_TIME.to_owned(),
    }
}

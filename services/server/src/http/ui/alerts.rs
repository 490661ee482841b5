//! GET /alerts: what fires and what may, the silences, the rules and the receivers.

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::problems::{Problem, rule_id};
use super::shell::{Listed, Parameters, Shell, encode, page, parameters};
use crate::alerts::{ActiveAlert, AlertState, Alerts, Phase, Receiver, Severity, Silence, held_up_to};
use crate::clock::rfc3339;
use crate::http::AppState;
use crate::http::error::{ApiError, TextError};

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsPage {
    shell: Shell,
    /// The worst first, then those that are there for longest.
    firing: Listed<Active>,
    pending: Listed<Active>,
    find: String,
    silences: Vec<SilenceRow>,
    receivers: Vec<ReceiverRow>,
    /// What of the files of rules and receivers is refused.
    refused: Vec<String>,
    groups: Vec<Group>,
    rules: usize,
    evaluates: bool,
    /// Whether the rules have been evaluated: only then is it known that nothing fires.
    is_known: bool,
    evaluated: String,
    now: String,
}

/// An alert.
struct Active {
    name: String,
    /// What the filter looks through.
    text: String,
    problem: Problem,
    silenced: bool,
    labels: Vec<(String, String)>,
    /// What a silence of this alert must match, as the API takes it.
    matchers: String,
}

struct SilenceRow {
    id: String,
    matchers: String,
    until: String,
    by: String,
    comment: String,
    active: bool,
}

struct ReceiverRow {
    name: String,
    kind: &'static str,
    min_severity: &'static str,
    quiet_hours: Vec<QuietRow>,
    /// The worst severity that is held back now; empty where nothing is.
    held_up_to: &'static str,
    /// The alerts that it would be told of if it were not quiet.
    held: Vec<String>,
}

struct QuietRow {
    text: String,
    is_on: bool,
}

struct Group {
    name: String,
    file: String,
    rules: Vec<RuleRow>,
}

struct RuleRow {
    /// What links to it name.
    id: String,
    name: String,
    expr: String,
    explore: String,
    state: &'static str,
    class: &'static str,
    error: String,
}

/// GET /alerts?find=.
pub async fn alerts(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let find = parameters(query)?.remove("find").unwrap_or_default();
    let now = u64::try_from(state.process.now_ms()).unwrap_or_default();
    let stored = state.alerts.stored().await.map_err(ApiError::from)?;
    let active = state.alerts.active();
    let looked_for = find.to_lowercase();
    let of_phase = |phase: Phase| {
        let all: Vec<_> = active.iter().filter(|alert| alert.phase == phase).collect();
        let found: Vec<_> = all.iter().filter(|alert| text(alert).to_lowercase().contains(&looked_for)).collect();
        Listed::first(found.iter().map(|alert| Active::new(alert, now)), all.len())
    };
    let set = state.alerts.rules();
    let groups: Vec<_> = set
        .groups
        .iter()
        .map(|group| {
            let known = stored.group(&group.file, &group.name);
            let rules = group.rules.iter().map(|rule| {
                // By its key: a group may have several rules of one name.
                let kept = known.and_then(|known| known.rules.iter().find(|one| one.key == rule.key));
                let error = kept.and_then(|kept| kept.error.clone()).unwrap_or_default();
                let phase = kept.and_then(|kept| kept.alerts.iter().map(|alert| alert.phase).max());
                let (state, class) = match (rule.is_alerting(), phase) {
                    _ if !error.is_empty() => ("failing", "crit"),
                    (false, _) => ("recording", ""),
                    (true, Some(Phase::Firing)) if rule.name != "Watchdog" => ("firing", "crit"),
                    (true, Some(Phase::Firing)) => ("firing", ""),
                    (true, Some(Phase::Pending)) => ("pending", "warn"),
                    (true, _) => ("inactive", ""),
                };
                let explore = format!("/explore?query={}", encode(&rule.expr));
                RuleRow { id: rule_id(&rule.name), name: rule.name.clone(), expr: rule.expr.clone(), explore, state, class, error }
            });
            Group { name: group.name.clone(), file: group.file.clone(), rules: rules.collect() }
        })
        .collect();
    let evaluates = !state.alerts.interval().is_zero();
    let now_ms = state.alerts.now_ms();
    let mut silences: Vec<_> = stored.silences.iter().filter(|silence| silence.ends_ms > now_ms).collect();
    silences.sort_by_key(|silence| silence.ends_ms);
    page(&AlertsPage {
        shell: Shell::new(&state, "Alerts", "alerts"),
        firing: of_phase(Phase::Firing),
        pending: of_phase(Phase::Pending),
        find,
        silences: silences.into_iter().map(|silence| SilenceRow::new(silence, now_ms)).collect(),
        receivers: state.alerts.receivers().iter().map(|receiver| ReceiverRow::new(receiver, &state.alerts, now_ms)).collect(),
        refused: state.alerts.refused_files(),
        rules: groups.iter().map(|group| group.rules.len()).sum(),
        groups,
        evaluates,
        is_known: evaluates && stored.evaluated_ms > 0,
        evaluated: if stored.evaluated_ms > 0 { rfc3339(stored.evaluated_ms.unsigned_abs()) } else { "never".to_owned() },
        now: rfc3339(now),
    })
}

/// The name of an alert, what it says in one sentence, and its labels.
fn text(alert: &ActiveAlert) -> String {
    let labels = alert.labels.iter().fold(String::new(), |labels, (name, value)| labels + " " + name + "=" + value);
    format!("{} {}{labels}", alert.name, alert.summary)
}

/// An alert that is held back, in a list of them. Not every one is about an instance.
fn held(alert: &AlertState) -> String {
    let ended = if alert.phase == Phase::Inactive { "(ended)" } else { "" };
    let parts = [alert.label("alertname"), alert.label("instance"), ended];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

impl Active {
    fn new(alert: &ActiveAlert, now: u64) -> Self {
        let matchers: Vec<_> = alert.labels.iter().map(|(name, value)| serde_json::json!({ "name": name, "value": value })).collect();
        Self {
            name: alert.name.clone(),
            text: text(alert),
            problem: Problem::of_alert(alert, now),
            silenced: alert.silenced,
            labels: alert
                .labels
                .iter()
                .filter(|(name, _)| *name != "alertname" && *name != "severity")
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            matchers: serde_json::Value::from(matchers).to_string(),
        }
    }
}

impl ReceiverRow {
    fn new(receiver: &Receiver, alerts: &Alerts, now_ms: i64) -> Self {
        let quiet = receiver.quiet_hours.iter().map(|hours| QuietRow { text: hours.to_string(), is_on: hours.is_on(now_ms) });
        Self {
            name: receiver.name.clone(),
            kind: receiver.target.kind(),
            min_severity: receiver.min_severity.as_str(),
            quiet_hours: quiet.collect(),
            held_up_to: held_up_to(&receiver.quiet_hours, now_ms).map_or("", Severity::as_str),
            held: alerts.held(receiver).iter().map(held).collect(),
        }
    }
}

impl SilenceRow {
    fn new(silence: &Silence, now_ms: i64) -> Self {
        let matchers = silence.matchers.iter().map(|matcher| {
            let sign = match (matcher.is_equal, matcher.is_regex) {
                (true, false) => "=",
                (false, false) => "!=",
                (true, true) => "=~",
                (false, true) => "!~",
            };
            format!("{}{sign}{:?}", matcher.name, matcher.value)
        });
        Self {
            id: silence.id.to_string(),
            matchers: matchers.collect::<Vec<_>>().join(", "),
            until: rfc3339(silence.ends_ms.max(0).unsigned_abs()),
            by: silence.created_by.clone(),
            comment: silence.comment.clone(),
            active: silence.starts_ms <= now_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::alerts::Texts;

    #[test]
    fn an_alert_that_is_held_back_is_named_by_what_it_has() {
        let of = |labels: &[(&str, &str)], phase: Phase| {
            held(&AlertState {
                labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                annotations: Texts::new(),
                phase,
                active_ms: 0,
                fired_ms: None,
                resolved_ms: None,
                keep_firing_since_ms: None,
                value: 1.0,
                told: BTreeMap::new(),
            })
        };
        assert_eq!(of(&[("alertname", "A"), ("instance", "n1")], Phase::Firing), "A n1");
        assert_eq!(of(&[("alertname", "A")], Phase::Firing), "A");
        assert_eq!(of(&[("alertname", "A")], Phase::Inactive), "A (ended)");
    }
}

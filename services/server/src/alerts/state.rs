//! The state of rules between evaluations: what outlives a server.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rules::Rule;

/// Labels or annotations.
pub type Texts = BTreeMap<String, String>;

/// Everything that the store of alerts holds, apart from what waits for receivers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// The time of the last evaluation, in unix milliseconds.
    pub evaluated_ms: i64,
    /// By file and name.
    pub groups: Vec<GroupState>,
    /// Those that are not over, and those that ended lately.
    pub silences: Vec<Silence>,
}

impl Stored {
    /// The state of a group.
    pub fn group(&self, file: &str, name: &str) -> Option<&GroupState> {
        self.groups.iter().find(|group| group.file == file && group.name == name)
    }

    /// Makes no time of an alert later than this. A clock that has gone back would otherwise hold up what depends on them until it is there again.
    pub fn limit_times(&mut self, latest_ms: i64) {
        for alert in self.groups.iter_mut().flat_map(|group| &mut group.rules).flat_map(|rule| &mut rule.alerts) {
            alert.active_ms = alert.active_ms.min(latest_ms);
            for time_ms in [&mut alert.fired_ms, &mut alert.resolved_ms, &mut alert.keep_firing_since_ms].into_iter().flatten() {
                *time_ms = latest_ms.min(*time_ms);
            }
            for told in alert.told.values_mut() {
                told.at_ms = told.at_ms.min(latest_ms);
            }
        }
    }
}

/// The state of a group of rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupState {
    /// The file that has the group.
    pub file: String,
    /// Its name.
    pub name: String,
    /// When it was evaluated last, in unix milliseconds.
    pub evaluated_ms: i64,
    /// How long that took.
    pub seconds: f64,
    /// When rules were evaluated again after a pause, in unix milliseconds, if that was shortly before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_ms: Option<i64>,
    /// Of its rules, in their order; then of rules that are gone while their alerts are remembered.
    pub rules: Vec<RuleState>,
}

/// The state of a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleState {
    /// See [`super::rules::Rule::key`].
    pub key: String,
    /// See [`super::rules::Rule::identity`]; empty where an earlier version wrote the state, which knew rules by their keys.
    pub identity: String,
    /// Why the last evaluation failed; nothing where it did not.
    pub error: Option<String>,
    /// When it was evaluated last, in unix milliseconds; 0 is never.
    pub evaluated_ms: i64,
    /// How long that took.
    pub seconds: f64,
    /// Its alerts by their labels: pending, firing and lately resolved ones.
    pub alerts: Vec<AlertState>,
}

impl RuleState {
    /// Whether it is the state of this rule at an earlier evaluation.
    pub fn is_of(&self, rule: &Rule) -> bool {
        if self.identity.is_empty() { self.key == rule.key } else { self.identity == rule.identity }
    }
}

/// In which state an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is over. It is remembered for a while, so that receivers learn of it.
    Inactive,
    /// Its expression gives a result, not yet for long enough.
    Pending,
    /// It fires.
    Firing,
}

impl Phase {
    /// As Prometheus's API names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Firing => "firing",
        }
    }
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertState {
    /// Its labels, `alertname` among them.
    pub labels: Texts,
    /// What is said about it.
    pub annotations: Texts,
    /// In which state it is.
    pub phase: Phase,
    /// Since when its expression gives a result, in unix milliseconds.
    pub active_ms: i64,
    /// Since when it fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_ms: Option<i64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_ms: Option<i64>,
    /// Since when it fires without a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_firing_since_ms: Option<i64>,
    /// The last value of its expression.
    #[serde(with = "double")]
    pub value: f64,
    /// What each receiver was told last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<String, Told>,
}

impl AlertState {
    /// One of its labels, or an empty text.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Whether a receiver is still to be told that it ended.
    pub fn is_owed(&self) -> bool {
        self.told.values().any(|told| told.owed)
    }
}

/// What a receiver was told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Whether it was told that the alert fires; else that it ended.
    pub firing: bool,
    /// When, in unix milliseconds.
    pub at_ms: i64,
    /// Whether the alert has ended since, and quiet hours keep the receiver from being told.
    #[serde(default, skip_serializing_if = "is_false")]
    pub owed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// A silence: alerts that it matches are told to no receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its id.
    pub id: Uuid,
    /// All of them must match.
    pub matchers: Vec<SilenceMatcher>,
    /// From when, in unix milliseconds.
    pub starts_ms: i64,
    /// Until when, in unix milliseconds.
    pub ends_ms: i64,
    /// Who made it.
    pub created_by: String,
    /// Why.
    pub comment: String,
}

/// What a silence asks of a label, as Alertmanager's API has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SilenceMatcher {
    /// The label.
    pub name: String,
    /// The value, or a regular expression for all of it.
    pub value: String,
    /// Whether it is a regular expression.
    #[serde(default)]
    pub is_regex: bool,
    /// Whether the label must be so, or must not.
    #[serde(default = "yes")]
    pub is_equal: bool,
}

const fn yes() -> bool {
    true
}

/// JSON has no infinities and no NaN, so values are texts.
mod double {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_the_same_after_json() {
        for value in [1.5, f64::INFINITY, f64::NEG_INFINITY, 1e-300] {
            let alert = AlertState {
                labels: Texts::from([("alertname".into(), "A".into())]),
                annotations: Texts::new(),
                phase: Phase::Firing,
                active_ms: 1,
                fired_ms: Some(2),
                resolved_ms: None,
                keep_firing_since_ms: None,
                value,
                told: BTreeMap::from([("r".into(), Told { firing: true, at_ms: 3, owed: false })]),
            };
            let text = serde_json::to_string(&alert).unwrap();
            assert_eq!(serde_json::from_str::<AlertState>(&text).unwrap(), alert, "{text}");
        }
    }
}

//! What a receiver is told: some alerts that belong together.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::state::{AlertState, Texts};

/// A message for one receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// The same on every try.
    pub id: Uuid,
    /// The receiver's name.
    pub receiver: String,
    /// When it was made, in unix milliseconds.
    pub created_ms: i64,
    /// After this time it is of no use any more.
    pub expires_ms: i64,
    /// The labels that all of its alerts have in common because they are grouped by them.
    pub group: Texts,
    /// At least one.
    pub alerts: Vec<NotifiedAlert>,
    /// How many further alerts of the group fire; only counted for webhooks.
    #[serde(default)]
    pub others_firing: usize,
    /// Where this server's pages are; empty where that is not known.
    #[serde(default)]
    pub external_url: String,
}

/// An alert as a receiver is told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotifiedAlert {
    /// Its labels.
    pub labels: Texts,
    /// What is said about it.
    pub annotations: Texts,
    /// Whether it fires; else it has ended.
    pub firing: bool,
    /// Since when it fires, in unix milliseconds.
    pub starts_ms: i64,
    /// When it ended; of one that fires until when that is to be believed.
    pub ends_ms: i64,
    /// The value of its expression.
    pub value: String,
    /// The page that shows its expression; empty where that is not known.
    #[serde(default)]
    pub generator_url: String,
}

impl NotifiedAlert {
    /// An alert that fires or has fired.
    pub fn of(alert: &AlertState, valid_until_ms: i64, generator_url: String) -> Self {
        Self {
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            firing: alert.resolved_ms.is_none(),
            starts_ms: alert.fired_ms.unwrap_or(alert.active_ms),
            ends_ms: alert.resolved_ms.unwrap_or(valid_until_ms),
            value: alert.value.to_string(),
            generator_url,
        }
    }
}

impl Notification {
    /// Whether one of its alerts fires, or another one of the group.
    pub fn is_firing(&self) -> bool {
        self.others_firing > 0 || self.alerts.iter().any(|alert| alert.firing)
    }

    /// The labels, or annotations, that all of its alerts have alike.
    pub fn common(&self, texts: impl Fn(&NotifiedAlert) -> &Texts) -> Texts {
        let Some((first, others)) = self.alerts.split_first() else { return Texts::new() };
        let mut common = texts(first).clone();
        for alert in others {
            common.retain(|name, value| texts(alert).get(name) == Some(value));
        }
        common
    }
}

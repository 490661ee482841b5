//! Rules in Prometheus's format: what they say, and where they come from.

mod book;
mod format;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::book::{RuleBook, RuleSet};
#[cfg(test)]
pub use self::format::parse;

use super::template::Template;

/// Rules that are evaluated together, one after the other.
#[derive(Debug)]
pub struct RuleGroup {
    /// The file that has it.
    pub file: String,
    /// Its name, unique in its file.
    pub name: String,
    /// How often it is evaluated, if not as often as the server evaluates.
    pub interval: Option<Duration>,
    /// How far before the time of an evaluation its expressions are evaluated.
    pub query_offset_ms: i64,
    /// How many alerts or series one rule may have; 0 is any number up to the server's own limit.
    pub limit: usize,
    /// In their order.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// What its state is found by: its name and, where a group has several of one name, the number of it.
    pub key: String,
    /// The alert's name, or the name of the series that it writes.
    pub name: String,
    /// What is evaluated.
    pub expr: String,
    /// Labels that results get, those of the group included.
    pub labels: BTreeMap<String, Template>,
    /// What becomes of the result.
    pub kind: RuleKind,
}

/// What becomes of a rule's result.
#[derive(Debug)]
pub enum RuleKind {
    /// It is written as series.
    Recording,
    /// Each of its series is an alert.
    Alerting {
        /// How long an alert is pending before it fires.
        hold_ms: i64,
        /// How long an alert goes on firing after its expression gave a result last.
        keep_firing_ms: i64,
        /// What is said about it.
        annotations: BTreeMap<String, Template>,
    },
}

impl Rule {
    /// Whether it makes alerts.
    pub fn is_alerting(&self) -> bool {
        matches!(self.kind, RuleKind::Alerting { .. })
    }
}

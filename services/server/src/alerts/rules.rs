//! Rules in Prometheus's format: what they say, and where they come from.

mod book;
mod format;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::book::{RULES_DIR, RuleBook, RuleSet};
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
    /// What pages find its state by: its name and, where a group has several of one name, the number of it.
    pub key: String,
    /// What its state is found by at the next evaluation: its name and labels and, where a group has several with these, the number of it. So it
    /// stays the same when other rules of the group come and go, as in Prometheus.
    pub identity: String,
    /// The alert's name, or the name of the series that it writes.
    pub name: String,
    /// What is evaluated.
    pub expr: String,
    /// Whether that reads series: one such as `vector(1)` does not, and succeeds although nothing can be read.
    pub reads: bool,
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

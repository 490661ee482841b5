//! What is compared.

use super::super::shell::encode;
use super::kinds::{Kind, Subject};
use crate::history::labels::SOURCE_LABEL;

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All nodes, pods and volumes.
    Cluster,
    /// One node, its pods and each of its metrics.
    Node(String),
    /// One pod and each of its metrics, by namespace and name.
    Pod(String, String),
    /// The series of an expression.
    Query(String),
}

impl Scope {
    /// The matchers of its series.
    pub fn matchers(&self) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        match self {
            Self::Cluster | Self::Query(_) => String::new(),
            Self::Node(name) => format!("{SOURCE_LABEL}={}", quoted(name)),
            Self::Pod(namespace, name) => format!("namespace={},pod={}", quoted(namespace), quoted(name)),
        }
    }

    /// Whether its series are among those of a kind.
    pub fn has(&self, kind: &Kind) -> bool {
        match self {
            Self::Cluster | Self::Node(_) => true,
            Self::Pod(..) => kind.subject == Subject::Pod,
            Self::Query(_) => false,
        }
    }

    /// The page that shows it, but for its time range.
    pub fn address(&self) -> String {
        match self {
            Self::Cluster => "/changes".to_owned(),
            Self::Node(name) => format!("/changes?node={}", encode(name)),
            Self::Pod(namespace, name) => format!("/changes?namespace={}&pod={}", encode(namespace), encode(name)),
            Self::Query(expr) => format!("/changes?query={}", encode(expr)),
        }
    }
}

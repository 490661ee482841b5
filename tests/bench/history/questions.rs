//! What is asked, and about which samples.

use crate::cases::history::HOUR_MS;
use crate::report::Section;

/// An expression and how it is asked.
pub struct Question {
    pub name: &'static str,
    pub expression: &'static str,
    /// How far back from the end of the data, in milliseconds.
    pub back_ms: i64,
    /// None for an instant query.
    pub steps: Option<i64>,
    /// The most that the p95 of golectra on PostgreSQL may be, in milliseconds.
    pub target_ms: Option<f64>,
}

/// Samples that every contestant gets, and what is asked about them.
pub struct Set {
    pub section: Section,
    pub nodes: usize,
    pub series_per_node: usize,
    pub interval_ms: i64,
    /// In one request of one node.
    pub intervals_per_request: i64,
    pub hours: i64,
    pub questions: &'static [Question],
    /// Whether what a sample costs is told: other sets are too unlike what nodes send.
    pub tells_costs: bool,
}

/// What is asked about a month.
pub const LONG_QUESTIONS: [Question; 3] = [
    Question {
        name: "one metric of all nodes, 30 days",
        expression: "node_load1",
        back_ms: 30 * 24 * HOUR_MS,
        steps: Some(300),
        target_ms: Some(100.0),
    },
    Question {
        name: "one series, 30 days",
        expression: r#"node_load1{instance="node-001:9100"}"#,
        back_ms: 30 * 24 * HOUR_MS,
        steps: Some(300),
        target_ms: None,
    },
    Question {
        name: "sum of CPU rates, 30 days",
        expression: "sum(rate(node_cpu_seconds_total[3h]))",
        back_ms: 30 * 24 * HOUR_MS,
        steps: Some(300),
        target_ms: None,
    },
];

/// What is asked about a day.
pub const QUESTIONS: [Question; 8] = [
    Question {
        name: "one series, the whole time",
        expression: r#"node_load1{instance="node-001:9100"}"#,
        back_ms: 24 * HOUR_MS,
        steps: Some(300),
        target_ms: Some(5.0),
    },
    Question {
        name: "one metric of all nodes, the whole time",
        expression: "node_load1",
        back_ms: 24 * HOUR_MS,
        steps: Some(300),
        target_ms: Some(50.0),
    },
    Question {
        name: "one metric of all nodes, the newest 3 h",
        expression: "node_load1",
        back_ms: 3 * HOUR_MS,
        steps: Some(300),
        target_ms: Some(60.0),
    },
    Question {
        name: "sum by (mode) of CPU rates, the whole time",
        expression: "sum by (mode) (rate(node_cpu_seconds_total[5m]))",
        back_ms: 24 * HOUR_MS,
        steps: Some(300),
        target_ms: Some(150.0),
    },
    Question {
        name: "topk(5) of network rates, now",
        expression: "topk(5, rate(node_network_receive_bytes_total[5m]))",
        back_ms: 0,
        steps: None,
        target_ms: None,
    },
    Question {
        name: "a counter's rate, 1 h in steps of 15 s",
        expression: r#"rate(node_network_receive_bytes_total{instance="node-001:9100"}[5m])"#,
        back_ms: HOUR_MS,
        steps: Some(240),
        target_ms: None,
    },
    Question {
        name: "max_over_time of the whole time, now",
        expression: "max_over_time(node_load1[24h])",
        back_ms: 0,
        steps: None,
        target_ms: None,
    },
    Question { name: "all newest series of a node", expression: r#"{instance="node-001:9100"}"#, back_ms: 0, steps: None, target_ms: None },
];

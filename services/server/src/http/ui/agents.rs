//! What agents say about themselves in their reports.

use std::collections::BTreeMap;

use super::ask::Sample;
use super::format::{bytes, grouped, span, whole};
use crate::history::labels::SOURCE_LABEL;

/// One query for all of it: with `version` the builds, whose value is when they were reported last; with `reason` the reports dropped within an hour;
/// and what waits.
pub const QUERY: &str = r#"timestamp(golectra_build_info{service="agent"})
    or sum by (instance, reason) (increase(golectra_agent_reports_dropped_total[1h])) > 0
    or {__name__=~"golectra_agent_queue_oldest_age_seconds|golectra_agent_spool_bytes"}"#;

/// A report that waits for longer than this is worth a word.
const WAITING_SECONDS: f64 = 60.0;

/// What an agent says.
#[derive(Debug, Default, PartialEq)]
pub struct AgentState {
    /// The version of its build.
    pub version: Option<String>,
    /// What is wrong with it.
    pub notes: Vec<String>,
}

#[derive(Default)]
struct Said {
    /// The newest build, and when it was reported.
    version: Option<(f64, String)>,
    waiting_seconds: f64,
    spool_bytes: f64,
    dropped: Vec<String>,
}

/// What each agent says, from the answer to [`QUERY`].
pub fn by_source(answer: Vec<Sample>) -> BTreeMap<String, AgentState> {
    let mut agents = BTreeMap::<String, Said>::new();
    for Sample { labels, value } in answer {
        let said = agents.entry(labels.value(SOURCE_LABEL).to_owned()).or_default();
        match (labels.metric_name(), labels.get("version"), labels.get("reason")) {
            ("golectra_agent_queue_oldest_age_seconds", ..) => said.waiting_seconds = value,
            ("golectra_agent_spool_bytes", ..) => said.spool_bytes = value,
            // For some minutes after an agent was replaced there are two.
            (_, Some(version), _) if said.version.as_ref().is_none_or(|(time, _)| *time < value) => {
                said.version = Some((value, version.to_owned()));
            }
            (_, None, Some(reason)) => {
                let number = whole(value.round().max(1.0));
                let plural = if number == 1 { "" } else { "s" };
                said.dropped.push(format!("{} report{plural} dropped within an hour ({})", grouped(number), reason.replace('_', " ")));
            }
            _ => {}
        }
    }
    agents.into_iter().map(|(source, said)| (source, said.state())).collect()
}

impl Said {
    fn state(self) -> AgentState {
        let mut notes = Vec::new();
        if self.waiting_seconds > WAITING_SECONDS {
            let on_disk = if self.spool_bytes > 0.0 { format!(", {} on disk", bytes(self.spool_bytes)) } else { String::new() };
            notes.push(format!("reports wait for {}{on_disk}", span(whole(self.waiting_seconds))));
        }
        notes.extend(self.dropped);
        AgentState { version: self.version.map(|(_, version)| version), notes }
    }
}

#[cfg(test)]
mod tests {
    use golectra_promql::parse::ParseLimits;
    use golectra_promql::{Labels, METRIC_NAME, Query};
    use golectra_protocol::catalog;

    use super::*;

    fn sample(labels: &[(&str, &str)], value: f64) -> Sample {
        let of_node = [(SOURCE_LABEL, "n1")].into_iter().chain(labels.iter().copied());
        Sample { labels: Labels::new(of_node), value }
    }

    #[test]
    fn the_newest_build_counts_and_only_what_is_wrong_is_said() {
        let build = |version: &str, time| sample(&[("service", "agent"), ("version", version)], time);
        let fine = vec![
            build("v1", 100.0),
            build("v2", 110.0),
            build("v0", 90.0),
            sample(&[(METRIC_NAME, "golectra_agent_queue_oldest_age_seconds")], 3.0),
            sample(&[(METRIC_NAME, "golectra_agent_spool_bytes")], 4096.0),
        ];
        let agents = by_source(fine);
        assert_eq!(agents["n1"], AgentState { version: Some("v2".into()), notes: vec![] });
        let agents = by_source(vec![
            sample(&[(METRIC_NAME, "golectra_agent_queue_oldest_age_seconds")], 300.0),
            sample(&[(METRIC_NAME, "golectra_agent_spool_bytes")], 2048.0),
            sample(&[("reason", "queue_full")], 0.4),
        ]);
        let expected = ["reports wait for 5 min, 2 KiB on disk", "1 report dropped within an hour (queue full)"];
        assert_eq!((agents["n1"].notes.as_slice(), &agents["n1"].version), (expected.map(String::from).as_slice(), &None));
    }

    #[test]
    fn agents_report_what_is_asked_for() {
        let query = Query::parse(QUERY, &ParseLimits::default()).unwrap();
        let names: Vec<_> = query.expr().selectors().iter().flat_map(|selector| selector.matchers.clone()).collect();
        let names: Vec<_> =
            names.iter().filter(|matcher| matcher.name() == METRIC_NAME).flat_map(|matcher| matcher.value().split('|')).collect();
        assert_eq!(names.len(), 4);
        for name in names {
            assert!(catalog::find(name).is_some(), "{name}");
        }
    }
}

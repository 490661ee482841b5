//! The labels of a series as PromQL and Prometheus's API see them.
//!
//! They are its id's labels, `__name__`, and `instance` with the name of its source, unless the id has one of its own or the source is the unnamed
//! one or stands for remote-write or rules, whose labels stay as they were made.

use golectra_promql::{Labels, LabelsBuilder, METRIC_NAME, Matcher};
use golectra_protocol::IdParts;

/// The label that stands for the source.
pub const SOURCE_LABEL: &str = "instance";
/// The label that tells a counter from the gauge of the same id and source.
pub const TYPE_LABEL: &str = "__type__";
/// The source of remote-write's series where the request names none.
pub const REMOTE_WRITE_SOURCE: &str = "remote-write";

/// The source of the series that the server makes itself: those of rules, and what rules watch of it.
pub const RULES_SOURCE: &str = "golectra-rules";
/// The source of the batch with which a running server is checked.
pub const SELFCHECK_SOURCE: &str = "golectra-selfcheck";
/// The sources that stand for no node: their series have the instance that their ids have.
pub const WITHOUT_INSTANCE: [&str; 2] = [REMOTE_WRITE_SOURCE, RULES_SOURCE];

/// Whether a source of this name is a node: not the unnamed one, not what stands for others, not golectra's own.
pub fn is_node(source: &str) -> bool {
    !source.is_empty() && ![REMOTE_WRITE_SOURCE, RULES_SOURCE, SELFCHECK_SOURCE].contains(&source)
}

/// A series' labels. `beside_gauge` says that it is a counter whose source has a gauge of the same id.
pub fn of_series(source: &str, id: &str, beside_gauge: bool) -> Labels {
    let parts = IdParts::of(id);
    let mut labels = LabelsBuilder::default();
    labels.set(SOURCE_LABEL, instance_of(source));
    if beside_gauge {
        labels.set(TYPE_LABEL, "counter");
    }
    for (name, value) in &parts.labels {
        labels.set(name, value);
    }
    labels.set(METRIC_NAME, &parts.name);
    labels.build()
}

/// The instance of a source's series that name none; empty where they have none.
pub fn instance_of(source: &str) -> &str {
    if WITHOUT_INSTANCE.contains(&source) { "" } else { source }
}

/// Whether a series has what all matchers ask for, apart from its type.
pub fn all_match(matchers: &[Matcher], source: &str, parts: &IdParts<'_>) -> bool {
    matchers.iter().all(|matcher| {
        let value = match matcher.name() {
            METRIC_NAME => &parts.name,
            SOURCE_LABEL => parts.label(SOURCE_LABEL).unwrap_or(instance_of(source)),
            label => parts.label(label).unwrap_or_default(),
        };
        matcher.matches(value)
    })
}

#[cfg(test)]
mod tests {
    use golectra_promql::MatchOp;

    use super::*;

    #[test]
    fn only_what_stands_for_no_node_is_none() {
        for name in ["n1", "golectra-worker-1", "golectra"] {
            assert!(is_node(name), "{name}");
        }
        for name in ["", "remote-write", "golectra-rules", "golectra-selfcheck"] {
            assert!(!is_node(name), "{name}");
        }
    }

    #[test]
    fn matchers_see_names_labels_and_sources() {
        let id = IdParts::of("http{code=\"200\",path=\"/a\\nb\"}");
        for (label, op, value, expected) in [
            ("__name__", MatchOp::Equal, "http", true),
            ("code", MatchOp::Equal, "200", true),
            ("code", MatchOp::NotEqual, "200", false),
            ("code", MatchOp::Match, "2..", true),
            ("code", MatchOp::Match, "2", false),
            ("code", MatchOp::NotMatch, "4..|5..", true),
            ("path", MatchOp::Match, "/a.b", true),
            ("zone", MatchOp::Equal, "", true),
            ("zone", MatchOp::NotEqual, "", false),
            ("zone", MatchOp::Match, ".*", true),
            ("zone", MatchOp::Match, ".+", false),
            ("instance", MatchOp::Equal, "node-1", true),
        ] {
            let matcher = Matcher::new(op, label, value).unwrap();
            assert_eq!(all_match(std::slice::from_ref(&matcher), "node-1", &id), expected, "{matcher:?}");
        }
        let is_node = [Matcher::equal("instance", "node-1")];
        assert!(!all_match(&is_node, "node-1", &IdParts::of("http{instance=\"other\"}")));
        assert!(all_match(&[Matcher::equal("instance", "")], REMOTE_WRITE_SOURCE, &IdParts::of("http")));
    }

    #[test]
    fn labels_are_the_ids_and_the_source() {
        for (source, id, beside_gauge, expected) in [
            ("n1", "up", false, r#"up{instance="n1"}"#),
            ("", "up", false, "up"),
            ("remote-write", r#"up{instance="a:1",job="b"}"#, false, r#"up{instance="a:1", job="b"}"#),
            ("n1", r#"up{instance="own"}"#, false, r#"up{instance="own"}"#),
            ("n1", "polls", true, r#"polls{__type__="counter", instance="n1"}"#),
            ("n1", "no{labels", false, r#"{__name__="no{labels", instance="n1"}"#),
        ] {
            assert_eq!(of_series(source, id, beside_gauge).to_string(), expected);
        }
    }
}

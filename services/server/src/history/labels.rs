//! The labels of a series as PromQL and Prometheus's API see them.
//!
//! They are its id's labels, `__name__`, and `instance` with the name of its source, unless the id has one of its own or the source is the unnamed
//! one or stands for remote-write, whose labels stay as they were sent.

use golectra_promql::{Labels, LabelsBuilder, METRIC_NAME};
use golectra_protocol::IdParts;

/// The label that stands for the source.
pub const SOURCE_LABEL: &str = "instance";
/// The label that tells a counter from the gauge of the same id and source.
pub const TYPE_LABEL: &str = "__type__";
/// The source of remote-write's series where the request names none.
pub const REMOTE_WRITE_SOURCE: &str = "remote-write";

/// A series' labels. `beside_gauge` says that it is a counter whose source has a gauge of the same id.
pub fn of_series(source: &str, id: &str, beside_gauge: bool) -> Labels {
    let parts = IdParts::of(id);
    let mut labels = LabelsBuilder::default();
    if !source.is_empty() && source != REMOTE_WRITE_SOURCE {
        labels.set(SOURCE_LABEL, source);
    }
    if beside_gauge {
        labels.set(TYPE_LABEL, "counter");
    }
    for (name, value) in &parts.labels {
        labels.set(name, value);
    }
    labels.set(METRIC_NAME, &parts.name);
    labels.build()
}

#[cfg(test)]
mod tests {
    use super::*;

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

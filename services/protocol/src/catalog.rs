//! Every metric that golectra's agents send: name, type, unit, labels, and where its value is from.
//!
//! One table for all that must agree on it: /api/v1/metadata, docs/metrics.md, the agent's tests, and the `job` of an id. A group is a file with a
//! `GROUP` that stands in [`GROUPS`].
//!
//! What node_exporter, cAdvisor or kube-state-metrics know under a name has that name, type, unit and those labels here.

mod agent;
mod kubelet;
mod node;
mod original;
mod pods;
mod scrape;

use std::fmt::Write as _;

use crate::remote_write::{Metadata, MetadataKind};

/// The `job` of the host's metrics, which dashboards and alerts for node_exporter look for.
pub const NODE_JOB: &str = "node-exporter";

/// The groups in the order of docs/metrics.md.
pub static GROUPS: &[&MetricGroup] = &[&original::GROUP, &agent::GROUP, &node::GROUP, &kubelet::GROUP, &pods::GROUP, &scrape::GROUP];

/// Metrics with a common origin.
#[derive(Debug)]
pub struct MetricGroup {
    /// Its heading in docs/metrics.md.
    pub title: &'static str,
    /// What docs/metrics.md says about all of them, in Markdown.
    pub about: &'static str,
    /// The label `job` of their ids, if they have one.
    pub job: Option<&'static str>,
    /// Its metrics.
    pub metrics: &'static [MetricInfo],
}

/// A metric, or a family of metrics whose names have a part that the system gives.
#[derive(Debug, Clone, Copy)]
pub struct MetricInfo {
    /// Its name; a `*` in it stands for the part that the system gives.
    pub name: &'static str,
    /// The parts that are known to stand for the `*`. Others may.
    pub fields: &'static [&'static str],
    /// Its type for those who query. On the wire cumulative counters are gauges.
    pub kind: MetadataKind,
    /// Its unit in the plural, as Prometheus names units; empty for numbers.
    pub unit: &'static str,
    /// Its labels, sorted, besides `instance` and `job`.
    pub labels: &'static [&'static str],
    /// The collector that measures it.
    pub collector: &'static str,
    /// A sentence about it; a `*` in it stands for the part of the name.
    pub help: &'static str,
}

impl MetricInfo {
    /// A sum that only grows.
    const fn counter(
        collector: &'static str,
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, fields: &[], kind: MetadataKind::Counter, unit, labels, collector, help }
    }

    /// A value that goes up and down.
    const fn gauge(
        collector: &'static str,
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, fields: &[], kind: MetadataKind::Gauge, unit, labels, collector, help }
    }

    /// A value whose type its exporter does not say.
    const fn untyped(
        collector: &'static str,
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, fields: &[], kind: MetadataKind::Unknown, unit, labels, collector, help }
    }

    /// The same, with these parts known to stand for the `*`.
    const fn with_fields(self, fields: &'static [&'static str]) -> Self {
        Self { fields, ..self }
    }

    /// The part of `name` that stands for the `*`, empty where there is none. None when it is the name of another metric.
    fn field_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        match self.name.split_once('*') {
            None => (self.name == name).then_some(""),
            Some((before, after)) => name.strip_prefix(before)?.strip_suffix(after).filter(|field| !field.is_empty()),
        }
    }

    fn metadata(&self, field: &str) -> Metadata {
        Metadata { name: self.name.replace('*', field), kind: self.kind, help: self.help.replace('*', field), unit: self.unit.into() }
    }
}

/// What is known of a name: its group and its row. A row that has the name itself goes before a family.
pub fn find(name: &str) -> Option<(&'static MetricGroup, &'static MetricInfo)> {
    let rows = || GROUPS.iter().flat_map(|group| group.metrics.iter().map(move |row| (*group, row)));
    rows().find(|(_, row)| row.name == name).or_else(|| rows().find(|(_, row)| row.field_of(name).is_some()))
}

/// Type, help and unit of one metric.
pub fn metadata_of(name: &str) -> Option<Metadata> {
    let (_, row) = find(name)?;
    Some(row.metadata(row.field_of(name)?))
}

/// Type, help and unit of every metric whose whole name is known.
pub fn metadata() -> impl Iterator<Item = Metadata> {
    GROUPS.iter().flat_map(|group| group.metrics).flat_map(|row| {
        let fields = if row.name.contains('*') { row.fields } else { &[""] };
        fields.iter().map(|field| row.metadata(field))
    })
}

/// The tables of docs/metrics.md.
pub fn markdown() -> String {
    let mut out = String::new();
    for group in GROUPS {
        let _ = write!(out, "## {}\n\n{}\n\n", group.title, group.about);
        out.push_str("| metric | type | unit | labels | collector | what it is |\n|---|---|---|---|---|---|\n");
        for row in group.metrics {
            let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, unit, labels, help) = (row.name, row.kind.as_str(), row.unit, labels.join(" "), row.help.replace('|', "\\|"));
            let _ = writeln!(out, "| `{name}` | {kind} | {unit} | {labels} | {} | {help} |", row.collector);
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::MetricId;

    #[test]
    fn the_documentation_has_the_tables() {
        let tables = markdown();
        let document = include_str!("../../../docs/metrics.md");
        assert!(document.contains(tables.trim()), "the tables of docs/metrics.md should be:\n{tables}");
    }

    #[test]
    fn rows_are_consistent() {
        let mut names = BTreeSet::new();
        for (group, row) in GROUPS.iter().flat_map(|group| group.metrics.iter().map(move |row| (group, row))) {
            assert!(names.insert(row.name), "{} is there twice", row.name);
            assert_eq!(row.name.contains('*'), !row.fields.is_empty(), "{}: a family has fields that are known", row.name);
            assert!(row.name.matches('*').count() <= 1, "{}", row.name);
            assert!(row.labels.is_sorted() && !row.labels.contains(&"job"), "{}", row.name);
            assert!(!row.collector.is_empty() && row.help.ends_with('.'), "{} in {}", row.name, group.title);
            let id = MetricId::from_parts(&row.name.replace('*', "x"), row.labels.iter().map(|label| (*label, "x"))).unwrap();
            assert_eq!(id.parts().labels.len(), row.labels.len());
            assert!(!row.name.starts_with("node_") || group.job == Some("node-exporter"), "{}", row.name);
        }
    }

    /// What the Grafana dashboard 1860 asks for is reported, or docs/metrics.md says why it is not.
    #[test]
    fn what_node_exporter_full_asks_for_is_reported_or_explained() {
        let known: BTreeSet<String> = metadata().map(|one| one.name).collect();
        let document = include_str!("../../../docs/metrics.md").split_once("## Node Exporter Full").unwrap().1;
        let explained: BTreeSet<&str> = document.split_once("Everywhere:").unwrap().1.split('`').skip(1).step_by(2).collect();
        for name in include_str!("catalog/testdata/node-exporter-full.txt").lines() {
            assert!(known.contains(name) || explained.contains(name), "{name} is neither in the catalog nor explained in docs/metrics.md");
        }
    }

    #[test]
    fn names_and_families_are_found() {
        let (group, row) = find("node_memory_MemTotal_bytes").unwrap();
        assert_eq!((group.job, row.name), (Some("node-exporter"), "node_memory_*_bytes"));
        assert_eq!(metadata_of("node_memory_Later_bytes").unwrap().name, "node_memory_Later_bytes", "a field that no row names");
        assert_eq!(metadata_of("node_load1").unwrap().kind, MetadataKind::Gauge);
        assert_eq!(metadata_of("CPUutilization12").unwrap().kind, MetadataKind::Gauge);
        assert!(find("node_memory__bytes").is_none() && find("node_load").is_none() && find("x").is_none());
        let all: Vec<String> = metadata().map(|one| one.name).collect();
        assert!(all.iter().any(|name| name == "node_memory_MemTotal_bytes") && all.iter().all(|name| !name.contains('*')));
        for name in all {
            assert_eq!(metadata_of(&name).unwrap().name, name);
        }
    }
}

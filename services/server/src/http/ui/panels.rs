//! The graphs of a page are data: panels/*.yaml has their titles, units and expressions.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::shell::encode;
use super::window::Window;

/// The graphs of a node's page.
pub static NODE: LazyLock<Vec<Group>> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("../../../panels/node.yaml")).expect("a test reads this file"));

/// The graphs of a pod's page.
pub static POD: LazyLock<Vec<Group>> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("../../../panels/pod.yaml")).expect("a test reads this file"));

/// A heading and its panels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The heading.
    pub title: String,
    /// What stands below it.
    pub panels: Vec<Panel>,
}

/// A graph.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// The unit of its values.
    pub unit: Unit,
    /// Whether its lines are drawn on top of each other.
    #[serde(default)]
    pub stacked: bool,
    /// The upper end of its scale, if it does not follow the values.
    pub top: Option<f64>,
    /// Lists of lines. The first list is drawn whose metrics there are.
    pub alternatives: Vec<Vec<Line>>,
}

/// The unit of a graph's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Shares from 0 to 1.
    Percent,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// Anything a second.
    PerSecond,
    /// Processors.
    Cores,
    /// Anything else.
    Number,
}

impl Unit {
    /// What the scripts call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Percent => "percent",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes_per_second",
            Self::Seconds => "seconds",
            Self::PerSecond => "per_second",
            Self::Cores => "cores",
            Self::Number => "number",
        }
    }
}

/// One expression of a graph, which may give several lines.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The expression.
    pub expr: String,
    /// What its lines are called.
    pub name: String,
    /// A metric that has to be there, where the expression does not name one.
    #[serde(default, skip_serializing)]
    metric: Option<String>,
}

/// A heading with its graphs, as a page shows them.
pub struct Graphs {
    /// The heading.
    pub title: String,
    /// The graphs.
    pub graphs: Vec<Graph>,
}

/// A graph as the script finds it in the page.
pub struct Graph {
    /// Its title.
    pub title: String,
    /// The unit of its values.
    pub unit: &'static str,
    /// Whether its lines are stacked.
    pub stacked: bool,
    /// The upper end of its scale, or nothing.
    pub top: String,
    /// Its expressions as JSON.
    pub lines: String,
    /// The same in Explore, which works without scripts.
    pub explore: String,
    /// What changed in the time that is shown, but for that time.
    pub changes: String,
}

/// The graphs of these groups that there are metrics for. Variables are what expressions call $NAME, and are put there quoted; `changes` is where it is
/// shown what changed.
pub fn graphs(groups: &[Group], variables: &[(&str, &str)], metrics: &BTreeSet<String>, window: &Window, changes: &str) -> Vec<Graphs> {
    let shown = groups.iter().filter_map(|group| {
        let graphs: Vec<_> = group.panels.iter().filter_map(|panel| panel.graph(variables, metrics, window, changes)).collect();
        (!graphs.is_empty()).then(|| Graphs { title: group.title.clone(), graphs })
    });
    shown.collect()
}

impl Panel {
    /// The lines to draw where there are these metrics; none where there are none of them.
    fn lines(&self, variables: &[(&str, &str)], metrics: &BTreeSet<String>) -> Vec<Line> {
        let there = |line: &&Line| match &line.metric {
            Some(metric) => metrics.contains(metric),
            None => words(&line.expr).any(|word| metrics.contains(word)),
        };
        let drawn = self.alternatives.iter().map(|lines| lines.iter().filter(there).collect::<Vec<_>>()).find(|lines| !lines.is_empty());
        let filled = |line: &Line| {
            let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
            let expr = variables.iter().fold(line.expr.clone(), |expr, (name, value)| expr.replace(&format!("${name}"), &quoted(value)));
            Line { expr, ..line.clone() }
        };
        drawn.unwrap_or_default().into_iter().map(filled).collect()
    }

    fn graph(&self, variables: &[(&str, &str)], metrics: &BTreeSet<String>, window: &Window, changes: &str) -> Option<Graph> {
        let lines = self.lines(variables, metrics);
        let first = lines.first()?;
        let explore = format!("/explore?query={}&{}", encode(&first.expr.replace("$window", "5m")), window.parameters());
        Some(Graph {
            title: self.title.clone(),
            unit: self.unit.as_str(),
            stacked: self.stacked,
            top: self.top.map(|top| top.to_string()).unwrap_or_default(),
            lines: serde_json::to_string(&lines).unwrap_or_default(),
            explore,
            changes: format!("{changes}&{}", window.parameters()),
        })
    }
}

/// What may be a metric's name in an expression: the words outside of braces.
fn words(expr: &str) -> impl Iterator<Item = &str> {
    let outside = expr.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after));
    outside.flat_map(|part| part.split(|part: char| !part.is_ascii_alphanumeric() && part != '_' && part != ':'))
}

#[cfg(test)]
mod tests {
    use golectra_promql::Query;
    use golectra_promql::parse::ParseLimits;

    use super::*;

    #[test]
    fn every_expression_of_the_panels_is_valid_and_about_its_page() {
        let node: &[(&str, &str)] = &[("node", "a")];
        let pod: &[(&str, &str)] = &[("namespace", "n"), ("pod", "p")];
        for (groups, variables, matcher) in [(&*NODE, node, "instance=$node"), (&*POD, pod, "pod=$pod")] {
            let lines: Vec<_> =
                groups.iter().flat_map(|group| &group.panels).flat_map(|panel| panel.alternatives.iter().flatten()).collect();
            assert!(lines.len() > 5);
            for line in lines {
                let query = variables
                    .iter()
                    .fold(line.expr.clone(), |expr, (name, value)| expr.replace(&format!("${name}"), &format!("{value:?}")));
                let query = query.replace("$window", "2m");
                Query::parse(&query, &ParseLimits::default()).unwrap_or_else(|error| panic!("{query}: {error}"));
                assert!(line.expr.contains(matcher) && !query.contains('$'), "{query}");
            }
        }
    }

    #[test]
    fn the_first_alternative_is_drawn_whose_metrics_there_are() {
        let panel = NODE.iter().flat_map(|group| &group.panels).find(|panel| panel.title == "Memory").unwrap();
        let lines = |metrics: &[&str]| {
            let metrics = metrics.iter().map(|name| (*name).to_owned()).collect();
            panel.lines(&[("node", "a\"b")], &metrics).into_iter().map(|line| line.expr).collect::<Vec<_>>()
        };
        assert!(lines(&["node_memory_MemTotal_bytes", "TotalMemory"])[0].starts_with("node_memory_MemTotal_bytes{instance=\"a\\\"b\"}"));
        assert!(lines(&["TotalMemory"])[0].starts_with("TotalMemory"));
        assert!(lines(&["TotalMemoryOfOthers", "instance"]).is_empty());
    }
}

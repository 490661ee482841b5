//! Graphs are data: files have their titles, units and expressions. Those of panels/*.yaml are built in, those of PANELS_DIR are added to them.

mod book;
mod format;

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::book::{PanelBook, PanelSet};

use super::changes::Scope;
use super::shell::encode;
use super::window::Window;

/// A page of its own.
#[derive(Debug, Clone)]
pub struct Page {
    /// What its address calls it.
    pub name: String,
    /// What people read.
    pub title: String,
    /// What can be chosen on it.
    pub variables: Vec<Variable>,
    /// Its graphs.
    pub groups: Vec<Group>,
    /// The file that has it.
    pub file: String,
    /// And the line there.
    line: u64,
}

/// Something that is chosen on a page: a value of a label.
#[derive(Debug, Clone)]
pub struct Variable {
    /// What expressions call $NAME, and the address NAME.
    pub name: String,
    /// What people read.
    pub title: String,
    /// The label that has the values.
    pub label: String,
    /// A selector of the series that have the label; it may use the variables before it.
    pub series: Option<String>,
    /// Whether all values can be chosen together. The variable is a regular expression then.
    pub all: bool,
}

/// A heading and its panels.
#[derive(Debug, Clone)]
pub struct Group {
    /// The heading.
    pub title: String,
    /// What stands below it.
    pub panels: Vec<Panel>,
}

/// A graph.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// The unit of its values.
    pub unit: Unit,
    /// Whether its lines are drawn on top of each other.
    pub stacked: bool,
    /// The upper end of its scale, if it does not follow the values.
    pub top: Option<f64>,
    /// Lists of lines. The first list is drawn whose metrics there are.
    pub alternatives: Vec<Vec<Line>>,
}

/// The unit of a graph's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
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
    #[default]
    Number,
}

impl Unit {
    /// What files and the scripts call it.
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
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The expression.
    pub expr: String,
    /// What its lines are called; where it is empty, their labels.
    pub name: String,
    /// A metric that has to be there, where the expression does not name one.
    #[serde(skip)]
    pub metric: Option<String>,
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

/// How a page draws its panels.
pub struct Drawing<'a> {
    /// What expressions call $NAME, with what is put there: a text in quotes.
    pub variables: &'a [(&'a str, String)],
    /// The metrics that there are.
    pub metrics: &'a BTreeSet<String>,
    /// Whether panels are drawn of which there are no metrics.
    pub always: bool,
    /// The time that is shown.
    pub window: &'a Window,
    /// Where it is shown what changed; for each graph its own expression where it is not given.
    pub changes: Option<&'a str>,
}

impl Drawing<'_> {
    /// The graphs of these groups.
    pub fn graphs(&self, groups: &[Group]) -> Vec<Graphs> {
        let shown = groups.iter().filter_map(|group| {
            let graphs: Vec<_> = group.panels.iter().filter_map(|panel| self.graph(panel)).collect();
            (!graphs.is_empty()).then(|| Graphs { title: group.title.clone(), graphs })
        });
        shown.collect()
    }

    /// The lines to draw; none where there are none of their metrics.
    fn lines(&self, panel: &Panel) -> Vec<Line> {
        let there = |line: &&Line| line.metrics().any(|metric| self.metrics.contains(metric));
        let drawn = panel.alternatives.iter().map(|lines| lines.iter().filter(there).collect::<Vec<_>>()).find(|lines| !lines.is_empty());
        let drawn = match drawn {
            Some(lines) if !self.always || panel.alternatives.len() > 1 => lines,
            _ if self.always => panel.alternatives.first().into_iter().flatten().collect(),
            _ => Vec::new(),
        };
        drawn.into_iter().map(|line| Line { expr: self.filled(&line.expr), ..line.clone() }).collect()
    }

    /// The text with the values of its variables.
    pub fn filled(&self, text: &str) -> String {
        fill(text, |name| self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str().into()))
    }

    fn graph(&self, panel: &Panel) -> Option<Graph> {
        let lines = self.lines(panel);
        let first = lines.first()?;
        let explore = format!("/explore?query={}&{}", encode(&first.expr.replace("$window", "5m")), self.window.parameters());
        let changes = self.changes.map_or_else(|| Scope::Query(first.expr.clone()).address(), str::to_owned);
        Some(Graph {
            title: panel.title.clone(),
            unit: panel.unit.as_str(),
            stacked: panel.stacked,
            top: panel.top.map(|top| top.to_string()).unwrap_or_default(),
            lines: serde_json::to_string(&lines).unwrap_or_default(),
            explore,
            changes: format!("{changes}&{}", self.window.parameters()),
        })
    }
}

impl Line {
    /// What may be the names of its metrics.
    fn metrics(&self) -> impl Iterator<Item = &str> {
        let named = self.metric.as_deref();
        named.into_iter().chain(words(if named.is_some() { "" } else { &self.expr }))
    }
}

/// What may be the names of metrics of panels for which it matters which there are.
pub fn choosing(groups: &[Group]) -> BTreeSet<&str> {
    let panels = groups.iter().flat_map(|group| &group.panels).filter(|panel| panel.alternatives.len() > 1);
    let lines = panels.flat_map(|panel| panel.alternatives.iter().flatten());
    lines.flat_map(Line::metrics).filter(|word| word.starts_with(|first: char| !first.is_ascii_digit())).collect()
}

/// A text in quotes, as PromQL reads it.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// A regular expression in quotes that matches this text alone.
pub fn quoted_pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    quoted(&pattern)
}

/// The text with what stands for its variables, each $ and a name. What is not known stays.
fn fill<'v>(text: &str, mut value: impl FnMut(&str) -> Option<Cow<'v, str>>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        filled.push_str(before);
        let end = after.find(|part: char| !part.is_ascii_alphanumeric() && part != '_').unwrap_or(after.len());
        let (name, more) = after.split_at(end);
        if let Some(value) = value(name) {
            filled.push_str(&value);
        } else {
            filled.push('$');
            filled.push_str(name);
        }
        rest = more;
    }
    filled.push_str(rest);
    filled
}

/// What may be a metric's name in an expression: the words outside of braces.
fn words(expr: &str) -> impl Iterator<Item = &str> {
    let outside = expr.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after));
    outside
        .flat_map(|part| part.split(|part: char| !part.is_ascii_alphanumeric() && part != '_' && part != ':'))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::fixture::{Fixture, NOW};
    use super::*;

    /// Names of a node's metrics, and the labels of their series: two of everything that there may be more of than one.
    const OF_NODE: [(&str, &[&str]); 10] = [
        (
            "CPUutilization1 CPUutilization2 TotalMemory FreeMemory Sys Alloc node_load1 node_load5 node_load15 node_memory_MemTotal_bytes \
             node_memory_MemAvailable_bytes node_memory_MemFree_bytes node_memory_SwapTotal_bytes node_memory_SwapFree_bytes \
             node_vmstat_pgmajfault node_vmstat_pswpin node_vmstat_pswpout node_pressure_cpu_waiting_seconds_total \
             node_pressure_memory_waiting_seconds_total node_pressure_io_waiting_seconds_total node_procs_running node_procs_blocked \
             node_netstat_Tcp_CurrEstab",
            &[""],
        ),
        (
            "node_cpu_seconds_total",
            &[r#"cpu="0",mode="idle""#, r#"cpu="0",mode="user""#, r#"cpu="1",mode="idle""#, r#"cpu="1",mode="user""#],
        ),
        (
            "node_filesystem_avail_bytes node_filesystem_size_bytes filesystem_available_bytes filesystem_size_bytes",
            &[r#"device="/dev/sda",fstype="ext4",mountpoint="/""#, r#"device="/dev/sdb",fstype="ext4",mountpoint="/data""#],
        ),
        (
            "node_disk_read_bytes_total node_disk_written_bytes_total node_disk_io_time_seconds_total",
            &[r#"device="sda""#, r#"device="sdb""#],
        ),
        (
            "node_network_receive_bytes_total node_network_transmit_bytes_total node_network_receive_errs_total \
             node_network_transmit_errs_total node_network_receive_drop_total node_network_transmit_drop_total",
            &[r#"device="eth0""#, r#"device="eth1""#],
        ),
        ("network_receive_bytes_total network_transmit_bytes_total", &[r#"interface="eth0""#, r#"interface="eth1""#]),
        ("golectra_agent_collector_duration_seconds", &[r#"collector="cpu""#, r#"collector="memory""#]),
        (
            "container_cpu_usage_seconds_total container_memory_working_set_bytes container_fs_usage_bytes container_oom_events_total \
             container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total",
            &[
                r#"namespace="shop",pod="cart",container="app""#,
                r#"namespace="shop",pod="cart",container="side""#,
                r#"namespace="shop",pod="cart",id="/pod""#,
                r#"namespace="shop",pod="cart",id="/pod/pause""#,
                r#"namespace="shop",pod="kata""#,
            ],
        ),
        (
            "kube_pod_container_status_restarts_total",
            &[r#"namespace="shop",pod="cart",container="app""#, r#"namespace="shop",pod="cart",container="side""#],
        ),
        (
            "container_network_receive_bytes_total container_network_transmit_bytes_total",
            &[r#"namespace="shop",pod="cart",interface="eth0""#, r#"namespace="shop",pod="cart",interface="net1""#],
        ),
    ];

    /// Two nodes that have two of everything. Both tell the same of pods, as a node and another program do.
    fn two_of_everything() -> Fixture {
        let mut fixture = Fixture::default();
        for node in ["n1", "n2"] {
            for (names, series) in OF_NODE {
                for (name, labels) in names.split_whitespace().flat_map(|name| series.iter().map(move |labels| (name, labels))) {
                    fixture.add(&format!(r#"{name}{{instance="{node}",{labels}}}"#), 0..=NOW, |second| 1e3 + second);
                }
            }
            for (name, resource) in ["requests", "limits"].into_iter().flat_map(|name| [(name, "cpu"), (name, "memory")]) {
                for container in ["app", "side"] {
                    let labels = format!(r#"instance="{node}",namespace="shop",pod="cart",container="{container}",resource="{resource}""#);
                    fixture.add(&format!("kube_pod_container_resource_{name}{{{labels}}}"), 0..=NOW, |_| 2.0);
                }
            }
        }
        fixture
    }

    /// What an expression asks on the page of the node n1, or of a pod.
    fn asked(expr: &str, pod: &str) -> String {
        fill(expr, |name| {
            Some(match name {
                "node" => quoted("n1").into(),
                "namespace" => quoted("shop").into(),
                "pod" => quoted(pod).into(),
                "window" => "120s".into(),
                _ => return None,
            })
        })
    }

    #[test]
    fn every_expression_that_is_built_in_is_answered_where_there_are_two_of_everything() {
        let (fixture, set) = (two_of_everything(), PanelBook::open(None).current());
        for panel in set.node.iter().chain(&set.pod).flat_map(|group| &group.panels) {
            for lines in &panel.alternatives {
                let mut names = Vec::new();
                for line in lines {
                    let samples = fixture.now(&asked(&line.expr, "cart"));
                    // What is told of the pod as a whole is drawn where nothing is told of its containers.
                    assert_eq!(samples.is_empty(), line.name == "pod", "{}: {}", panel.title, line.expr);
                    names.extend(samples.iter().map(|sample| {
                        sample.labels.iter().fold(line.name.clone(), |name, (label, value)| name.replace(&format!("{{{label}}}"), value))
                    }));
                }
                assert!(!names.iter().any(|name| name.contains('{')), "{}: {names:?}", panel.title);
                assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{}: two lines of one name: {names:?}", panel.title);
            }
        }
    }

    /// The values of a panel's lines with their names, of one of its alternatives.
    fn drawn(fixture: &Fixture, groups: &[Group], title: &str, alternative: usize, label: &str, pod: &str) -> Vec<String> {
        let panel = groups.iter().flat_map(|group| &group.panels).find(|panel| panel.title == title).unwrap();
        let line = |line: &Line| {
            let values = fixture.values(&asked(&line.expr, pod), &[label]);
            let named = |value: String| if line.name.contains('{') { value } else { format!("{}{value}", line.name) };
            values.into_iter().map(named).collect::<Vec<_>>()
        };
        panel.alternatives[alternative].iter().flat_map(line).collect()
    }

    #[test]
    fn processors_are_told_apart_and_not_busy_because_their_counters_began_a_moment_ago() {
        let mut fixture = Fixture::default();
        for cpu in ["0", "1"] {
            for (mode, share) in [("idle", 0.75), ("user", 0.125), ("iowait", 0.125)] {
                let series = format!(r#"node_cpu_seconds_total{{instance="n1",cpu="{cpu}",mode="{mode}"}}"#);
                fixture.add(&series, NOW - 30..=NOW, |second| 1e6 + second * share);
            }
        }
        fixture.add(r#"CPUutilization1{instance="n1"}"#, 0..=NOW, |_| 40.0);
        fixture.add(r#"CPUutilization2{instance="n1"}"#, 0..=NOW, |_| 60.0);
        let node = PanelBook::open(None).current().node.clone();
        assert_eq!(drawn(&fixture, &node, "CPU by processor", 0, "cpu", ""), ["0 0.125", "1 0.125"]);
        assert_eq!(drawn(&fixture, &node, "CPU by mode", 0, "mode", ""), ["iowait 0.125", "user 0.125"]);
        assert_eq!(drawn(&fixture, &node, "CPU by processor", 1, "cpu", ""), ["1 0.400", "2 0.600"]);
    }

    #[test]
    fn a_pod_counts_once_and_without_containers_as_a_whole() {
        let (fixture, set) = (two_of_everything(), PanelBook::open(None).current());
        let of = |title: &str, pod: &str| drawn(&fixture, &set.pod, title, 0, "container", pod);
        assert_eq!(of("CPU", "cart"), ["app 1.000", "side 1.000", "request 4.000", "limit 4.000"]);
        assert_eq!(of("CPU", "kata"), ["pod 1.000"]);
        assert_eq!(of("Memory", "cart"), ["app 1600.000", "side 1600.000", "request 4.000", "limit 4.000"]);
        assert_eq!(of("Memory", "kata"), ["pod 1600.000"]);
        assert_eq!(of("Restarts", "cart"), ["app 1600.000", "side 1600.000"]);
        assert_eq!(of("Out of memory", "cart"), ["app 1600.000", "side 1600.000"]);
        assert_eq!(of("Out of memory", "kata"), ["pod 1600.000"]);
        assert_eq!(of("Network", "cart"), ["received 2.000", "sent 2.000"]);
        assert_eq!(of("Files of containers", "cart"), ["app 1600.000", "side 1600.000"]);
        let most = |title: &str| drawn(&fixture, &set.node, title, 0, "pod", "");
        assert_eq!(most("Pods that use most CPU"), ["cart 2.000", "kata 1.000"]);
        assert_eq!(most("Pods that use most memory"), ["cart 3200.000", "kata 1600.000"]);
    }

    fn exprs(groups: &[Group], title: &str, metrics: &[&str], always: bool) -> Vec<String> {
        let panel = groups.iter().flat_map(|group| &group.panels).find(|panel| panel.title == title).unwrap();
        let drawing = Drawing {
            variables: &[("node", quoted("a\"$window"))],
            metrics: &metrics.iter().map(|name| (*name).to_owned()).collect(),
            always,
            window: &Window::of(&HashMap::new(), 0),
            changes: None,
        };
        drawing.lines(panel).into_iter().map(|line| line.expr).collect()
    }

    #[test]
    fn the_first_alternative_is_drawn_whose_metrics_there_are() {
        let node = PanelBook::open(None).current().node.clone();
        let lines = |metrics: &[&str]| exprs(&node, "Memory", metrics, false);
        assert!(
            lines(&["node_memory_MemTotal_bytes", "TotalMemory"])[0].starts_with("node_memory_MemTotal_bytes{instance=\"a\\\"$window\"}")
        );
        assert!(lines(&["TotalMemory"])[0].starts_with("TotalMemory"));
        assert!(lines(&["TotalMemoryOfOthers", "instance"]).is_empty());
        assert!(exprs(&node, "Memory", &["TotalMemory"], true)[0].starts_with("TotalMemory"));
        assert_eq!(exprs(&node, "Memory", &[], true).len(), 3, "a page of its own shows what is missing too");
        assert_eq!(exprs(&node, "Load", &["node_load1"], false).len(), 1);
        assert_eq!(exprs(&node, "Load", &["node_load1"], true).len(), 3);
        assert!(choosing(&node).contains("TotalMemory") && !choosing(&node).contains("node_load1"));
    }

    #[test]
    fn variables_are_whole_words_and_values_are_not_looked_into() {
        let values = HashMap::from([("pod", "\"$podium\""), ("podium", "\"x\"")]);
        let filled = |text: &str| fill(text, |name| values.get(name).map(|value| (*value).into()));
        assert_eq!(filled("a{pod=$pod,p=$podium}[$window]"), "a{pod=\"$podium\",p=\"x\"}[$window]");
        assert_eq!((filled("x$"), filled("\"a$\""), filled("$$pod")), ("x$".to_owned(), "\"a$\"".to_owned(), "$\"$podium\"".to_owned()));
        assert_eq!(quoted_pattern("a.b_c-1|ü\"\\"), r#""a\\.b_c-1\\|ü\"\\\\""#);
    }

    #[test]
    fn every_unit_is_documented_and_named_as_it_is_read() {
        let names = ["percent", "bytes", "bytes_per_second", "seconds", "per_second", "cores", "number"];
        let documentation = include_str!("../../../../../docs/panels.md");
        let head = include_str!("../../../panels/node.yaml").split("\nnode:").next().unwrap();
        for name in names {
            let unit: Unit = serde_saphyr::from_str(name).unwrap();
            assert_eq!(unit.as_str(), name);
            assert!(documentation.contains(&format!("| `{name}` |")), "{name} is not in docs/panels.md");
            assert!(
                head.split(|part: char| !part.is_ascii_alphanumeric() && part != '_').any(|word| word == name),
                "{name} is not at the head of node.yaml"
            );
        }
        // What is read names all that there are where one is unknown.
        let error = serde_saphyr::from_str::<Unit>("parsecs").unwrap_err().to_string();
        let known =
            error.lines().next().and_then(|line| line.split_once("expected one of ")).map_or(0, |(_, known)| known.split(", ").count());
        assert_eq!(known, names.len(), "another unit: name it here and in the documentation: {error}");
    }
}

//! What is wrong, worst first: what the overview begins with.

use std::collections::BTreeMap;

use super::cluster::{Cluster, Filesystem, Node};
use super::format::{ago, bytes, grouped, percent, span};
use super::shell::encode;
use crate::alerts::{self, ActiveAlert, Phase, STOPPED_RULE};
use crate::clock::rfc3339;
use crate::http::App;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something does not work.
    Critical,
    /// Something will not work for long.
    Warning,
    /// Something to know.
    Info,
}

impl Severity {
    /// The severity that the label of an alert stands for: the same as for receivers.
    pub fn of_label(label: &str) -> Self {
        match alerts::Severity::of_label(label) {
            alerts::Severity::Critical => Self::Critical,
            alerts::Severity::Warning => Self::Warning,
            alerts::Severity::Info | alerts::Severity::None => Self::Info,
        }
    }

    /// The class of its rows.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Critical => "crit",
            Self::Warning => "warn",
            Self::Info => "info",
        }
    }

    /// The word for it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Critical => "Critical",
            Self::Warning => "Warning",
            Self::Info => "Info",
        }
    }
}

/// Something that is wrong.
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// What it is about.
    pub title: String,
    /// What there is to know and to do.
    pub detail: String,
    /// Where to look at it.
    pub link: String,
    /// Where it is said what to do; empty where that is not said.
    pub runbook: String,
    /// Whether it may pass: its rule waits before it fires.
    pub pending: bool,
    /// Since when, in unix milliseconds.
    pub since: Option<u64>,
    /// That time as a row shows it.
    pub since_text: String,
}

impl Problem {
    /// A problem that a rule found.
    pub fn of_alert(alert: &ActiveAlert, now: u64) -> Self {
        let since = u64::try_from(alert.since_ms).unwrap_or_default();
        Self {
            severity: Severity::of_label(&alert.severity),
            title: if alert.summary.is_empty() { alert.name.clone() } else { alert.summary.clone() },
            detail: alert.description.clone(),
            link: subject(&alert.labels).unwrap_or_else(|| format!("/alerts#{}", rule_id(&alert.name))),
            // Rules of people may name anything; only a page is something to open.
            runbook: if alert.runbook_url.starts_with("https://") || alert.runbook_url.starts_with("http://") {
                alert.runbook_url.clone()
            } else {
                String::new()
            },
            pending: alert.phase == Phase::Pending,
            since: Some(since),
            since_text: span(now.saturating_sub(since) / 1000),
        }
    }

    /// Since when, as RFC 3339 has it.
    pub fn since_time(&self) -> String {
        self.since.map(rfc3339).unwrap_or_default()
    }
}

/// A pod that restarts this often within an hour is a problem.
pub const CRASH_LOOP: f64 = 3.0;

/// The share of CPU time, memory or space from which a meter is amber, and from which it is red.
pub const WARN_FROM: f64 = 0.85;
/// See [`WARN_FROM`].
pub const CRITICAL_FROM: f64 = 0.95;

/// The share of CPU time from which a node is busy.
const BUSY_FROM: f64 = 0.9;

/// The id of a rule's row on the page of alerts. What stands before the name keeps it apart from the page's other ids.
pub fn rule_id(name: &str) -> String {
    format!("rule-{}", encode(name))
}

/// A problem that can be seen without rules.
struct Visible {
    problem: Problem,
    /// The rules that are built in and tell the same.
    rules: &'static [&'static str],
    /// The filesystem that it is about, as alerts name it; empty where it is about none.
    mountpoint: String,
}

impl Visible {
    fn new(problem: Problem, rules: &'static [&'static str]) -> Self {
        Self { problem, rules, mountpoint: String::new() }
    }
}

/// The rules that tell that a node is silent.
const SILENT_RULES: &[&str] = &["NodeSilent"];
/// Those that tell that one of its filesystems is full.
const FILESYSTEM_RULES: &[&str] = &["NodeFilesystemFull", "NodeFilesystemFillingUp"];
/// Those that tell that it has no memory left.
const MEMORY_RULES: &[&str] = &["NodeMemoryLow", "NodeMemoryPressure"];
/// Those that tell that it is busy.
const CPU_RULES: &[&str] = &["NodeCpuHigh", "NodeCpuPressure"];
/// Those that tell that a pod restarts again and again.
const RESTART_RULES: &[&str] = &["PodCrashLooping"];

/// What the rules found, and what can be seen without them where no rule that is built in tells the same: firing first, then worst first.
pub fn all(app: &App, cluster: &Cluster) -> Vec<Problem> {
    joined(&app.alerts.active(), cluster, None)
}

/// Those of one node, and that it was stopped, since its page is where people look for the runbook.
pub fn of_node(app: &App, cluster: &Cluster, name: &str) -> Vec<Problem> {
    joined(&app.alerts.active(), cluster, Some(name))
}

fn joined(active: &[ActiveAlert], cluster: &Cluster, node: Option<&str>) -> Vec<Problem> {
    let mut problems = Vec::new();
    // The worst of what each rule says, by its name and what it is about. Silenced alerts count: what they are about is known.
    let mut known = BTreeMap::<(&str, &str, String), Severity>::new();
    for alert in active {
        let problem = Problem::of_alert(alert, cluster.now);
        let mountpoint = alert.labels.get("mountpoint").map_or("", String::as_str);
        let worst = known.entry((alert.name.as_str(), mountpoint, problem.link.clone())).or_insert(problem.severity);
        *worst = problem.severity.min(*worst);
        let is_shown = alerts::is_problem(&alert.name, &alert.severity) || (node.is_some() && alert.name == STOPPED_RULE);
        if !alert.silenced && is_shown {
            problems.push(problem);
        }
    }
    // What such a rule tells is left out where its alert is at least as severe. Other rules may be about anything: what they find does not hide this.
    let is_told = |Visible { problem, rules, mountpoint }: &Visible| {
        let of_rule = |rule: &&str| known.get(&(*rule, mountpoint.as_str(), problem.link.clone())).copied();
        rules.iter().filter_map(of_rule).any(|severity| severity <= problem.severity)
    };
    problems.extend(visible(cluster).into_iter().filter(|one| !is_told(one)).map(|one| one.problem));
    if let Some(name) = node {
        let link = format!("/node?name={}", encode(name));
        problems.retain(|problem| problem.link == link);
    }
    problems.sort_by_key(|problem| (problem.pending, problem.severity, problem.since.unwrap_or(u64::MAX)));
    problems
}

/// What can be seen without rules, worst first.
fn visible(cluster: &Cluster) -> Vec<Visible> {
    let mut found = Vec::new();
    for node in &cluster.nodes {
        if node.stopped {
            continue;
        }
        if node.silent {
            found.push(Visible::new(silent(node, cluster.now), SILENT_RULES));
            continue;
        }
        for full in node.filesystems.iter().filter(|one| one.used() >= WARN_FROM && !is_mounted_before(one, node)) {
            let severity = if full.used() >= CRITICAL_FROM { Severity::Critical } else { Severity::Warning };
            let title = format!("{}: {} is {} full", node.name, full.mount, percent(full.used()));
            let detail = format!("{} of {} are left. Remove what is not needed, or enlarge it.", bytes(full.available), bytes(full.size));
            let problem = now(severity, title, detail, node);
            found.push(Visible { mountpoint: full.mount.clone(), ..Visible::new(problem, FILESYSTEM_RULES) });
        }
        if let Some((used, total)) = node.memory.filter(|(used, total)| used / total >= WARN_FROM) {
            let severity = if used / total >= CRITICAL_FROM { Severity::Critical } else { Severity::Warning };
            let title = format!("{}: memory {}", node.name, percent(used / total));
            let detail = format!("{} of {} are used. Look for the pod or the process that uses most.", bytes(used), bytes(total));
            found.push(Visible::new(now(severity, title, detail, node), MEMORY_RULES));
        }
        if let Some((cpu, minutes)) = node.cpu.filter(|cpu| *cpu >= BUSY_FROM).and_then(|cpu| Some((cpu, busy_minutes(node)?))) {
            let title = format!("{}: CPU {}", node.name, percent(cpu));
            let detail = format!("It has been above 90 % for {minutes} min. Look for the pod or the process that uses most.");
            let mut problem = now(Severity::Warning, title, detail, node);
            let since = cluster.now.saturating_sub(minutes * 60_000);
            (problem.since, problem.since_text) = (Some(since), span(minutes * 60));
            found.push(Visible::new(problem, CPU_RULES));
        }
    }
    for (namespace, pod, times) in cluster.restarted.iter().filter(|(_, _, times)| *times >= CRASH_LOOP) {
        let problem = Problem {
            severity: Severity::Warning,
            title: format!("{namespace}/{pod} restarts again and again"),
            detail: format!(
                "{} restarts within an hour. Look at why its containers end, and at their logs.",
                grouped(format_args!("{times:.0}"))
            ),
            link: format!("/pod?namespace={}&name={}", encode(namespace), encode(pod)),
            runbook: String::new(),
            pending: false,
            since: None,
            since_text: String::new(),
        };
        found.push(Visible::new(problem, RESTART_RULES));
    }
    found.sort_by_key(|one| (one.problem.severity, one.problem.since.unwrap_or(u64::MAX)));
    found
}

/// Whether the same filesystem is mounted at a shorter path too, as with a bind mount: it is one problem.
fn is_mounted_before(one: &Filesystem, node: &Node) -> bool {
    let is_same = |other: &&Filesystem| !one.device.is_empty() && other.device == one.device && other.size.total_cmp(&one.size).is_eq();
    node.filesystems.iter().filter(is_same).any(|other| (other.mount.len(), &other.mount) < (one.mount.len(), &one.mount))
}

/// The page of the pod or the node that labels are about.
pub fn subject(labels: &BTreeMap<String, String>) -> Option<String> {
    let label = |name: &str| labels.get(name).filter(|value| !value.is_empty());
    match (label("namespace"), label("pod"), label("instance").or_else(|| label("node"))) {
        (Some(namespace), Some(pod), _) => Some(format!("/pod?namespace={}&name={}", encode(namespace), encode(pod))),
        (_, _, Some(node)) => Some(format!("/node?name={}", encode(node))),
        _ => None,
    }
}

fn silent(node: &Node, now: u64) -> Problem {
    let detail = match node.last_seen {
        Some(seen) => format!("Its last report came {}. Look at its power, its network and its agent first.", ago(seen, now)),
        None => "No report from it is known. Look at its power, its network and its agent first.".to_owned(),
    };
    Problem {
        severity: Severity::Critical,
        title: format!("{} is silent", node.name),
        detail,
        link: link(node),
        runbook: String::new(),
        pending: false,
        since: node.last_seen,
        since_text: node.last_seen.map(|seen| span(now.saturating_sub(seen) / 1000)).unwrap_or_default(),
    }
}

/// For how many minutes a node has been busy without a break; none if it is only now and then.
fn busy_minutes(node: &Node) -> Option<u64> {
    let known = node.spark.iter().rev().skip_while(|value| value.is_nan());
    let minutes = known.take_while(|value| **value >= BUSY_FROM).count();
    u64::try_from(minutes).ok().filter(|minutes| *minutes >= 5)
}

fn now(severity: Severity, title: String, detail: String, node: &Node) -> Problem {
    Problem { severity, title, detail, link: link(node), runbook: String::new(), pending: false, since: None, since_text: String::new() }
}

fn link(node: &Node) -> String {
    format!("/node?name={}", encode(&node.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(name: &str, instance: &str, severity: &str, phase: Phase, silenced: bool) -> ActiveAlert {
        let labels = [("alertname", name), ("instance", instance)].into_iter().filter(|(_, value)| !value.is_empty());
        ActiveAlert {
            name: name.into(),
            severity: severity.into(),
            phase,
            since_ms: 3_000_000,
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            summary: String::new(),
            description: String::new(),
            runbook_url: String::new(),
            value: 1.0,
            silenced,
        }
    }

    fn cluster(nodes: Vec<Node>, restarted: Vec<(String, String, f64)>) -> Cluster {
        Cluster { nodes, others: vec![], missing: vec![], pods_not_ready: None, restarts: None, restarted, now: 4_000_000 }
    }

    fn full(mount: &str, available: f64) -> Filesystem {
        Filesystem { mount: mount.into(), device: format!("/dev{mount}"), size: 100.0, available }
    }

    fn titles(active: &[ActiveAlert], cluster: &Cluster) -> Vec<String> {
        joined(active, cluster, None).into_iter().map(|problem| problem.title).collect()
    }

    #[test]
    fn alerts_hide_what_is_as_bad_and_not_what_is_worse() {
        let tight = Node { name: "tight".into(), memory: Some((96.0, 100.0)), last_seen: Some(4_000_000), ..Node::default() };
        let cluster = cluster(vec![tight], vec![]);
        let titles = |active: &[ActiveAlert]| titles(active, &cluster);
        let (seen, low) = ("tight: memory 96 %", "NodeMemoryLow");
        assert_eq!(titles(&[]), [seen]);
        assert_eq!(titles(&[alert(low, "tight", "info", Phase::Pending, false)]), [seen, low]);
        assert_eq!(titles(&[alert(low, "tight", "warning", Phase::Firing, false)]), [seen, low]);
        assert_eq!(titles(&[alert(low, "tight", "critical", Phase::Firing, false)]), [low]);
        assert_eq!(titles(&[alert(low, "tight", "critical", Phase::Pending, false)]), [low], "it is told, and waits to fire");
        let known = alert(low, "tight", "critical", Phase::Firing, true);
        assert_eq!(titles(&[known, alert("Note", "tight", "info", Phase::Firing, false)]), ["Note"], "a silence is for what it is about");
        assert_eq!(titles(&[alert(low, "other", "critical", Phase::Firing, false)]), [low, seen]);
        assert_eq!(titles(&[alert("Watchdog", "", "none", Phase::Firing, false)]), [seen]);
    }

    #[test]
    fn alerts_hide_nothing_that_they_are_not_about() {
        let node = Node {
            name: "n".into(),
            // The first is mounted twice.
            filesystems: vec![Filesystem { mount: "/run/netns".into(), ..full("/", 2.0) }, full("/", 2.0), full("/data", 7.0)],
            cpu: Some(0.97),
            spark: vec![0.97; 6],
            last_seen: Some(4_000_000),
            ..Node::default()
        };
        let cluster = cluster(vec![node], vec![("shop".into(), "cart".into(), 7.0)]);
        let titles = |active: &[ActiveAlert]| titles(active, &cluster);
        let (root, data, cpu, restarts) =
            ("n: / is 98 % full", "n: /data is 93 % full", "n: CPU 97 %", "shop/cart restarts again and again");
        assert_eq!(titles(&[]), [root, cpu, data, restarts]);
        let clock = alert("NodeClockNotSynchronised", "n", "warning", Phase::Pending, false);
        assert_eq!(titles(&[clock]), [root, cpu, data, restarts, "NodeClockNotSynchronised"]);
        let of_mount = |mount: &str| {
            let mut alert = alert("NodeFilesystemFull", "n", "critical", Phase::Firing, true);
            alert.labels.insert("mountpoint".into(), mount.into());
            alert
        };
        assert_eq!(titles(&[of_mount("/")]), [cpu, data, restarts]);
        assert_eq!(titles(&[of_mount("/data")]), [root, cpu, restarts]);
        assert_eq!(titles(&[of_mount("/boot")]), [root, cpu, data, restarts]);
        let mut looping = alert("PodCrashLooping", "", "warning", Phase::Firing, true);
        looping.labels.extend([("namespace".into(), "shop".into()), ("pod".into(), "cart".into())]);
        assert_eq!(titles(&[looping, alert("NodeCpuPressure", "n", "warning", Phase::Firing, true)]), [root, data]);
    }

    #[test]
    fn a_node_that_was_stopped_is_a_problem_only_where_a_rule_says_so() {
        let stopped = Node { name: "n".into(), silent: true, stopped: true, last_seen: Some(3_000_000), ..Node::default() };
        let cluster = cluster(vec![stopped], vec![]);
        let active = |severity: &str| [alert(STOPPED_RULE, "n", severity, Phase::Firing, false)];
        assert_eq!(titles(&active("info"), &cluster), [] as [&str; 0]);
        assert_eq!(titles(&active("warning"), &cluster), [STOPPED_RULE]);
        // The number in the navigation counts the same.
        assert!(!alerts::is_problem(STOPPED_RULE, "info") && alerts::is_problem(STOPPED_RULE, "warning"));
        assert!(alerts::is_problem("Note", "info") && !alerts::is_problem("Watchdog", "none"));
    }

    #[test]
    fn the_page_of_a_node_says_as_an_info_that_it_was_stopped() {
        let node = |name: &str| Node { name: name.into(), memory: Some((96.0, 100.0)), last_seen: Some(4_000_000), ..Node::default() };
        let cluster = cluster(vec![Node { silent: true, stopped: true, ..node("n") }, node("tight")], vec![]);
        let known = alert(STOPPED_RULE, "other", "info", Phase::Firing, true);
        let active = [alert(STOPPED_RULE, "n", "info", Phase::Firing, false), known, alert("Watchdog", "n", "none", Phase::Firing, false)];
        let of = |name: &str| {
            let problems = joined(&active, &cluster, Some(name));
            problems.into_iter().map(|problem| (problem.title, problem.severity.class())).collect::<Vec<_>>()
        };
        assert_eq!(of("n"), [(STOPPED_RULE.to_owned(), "info")]);
        assert_eq!(of("tight"), [("tight: memory 96 %".to_owned(), "crit")]);
        assert!(of("other").is_empty());
    }

    #[test]
    fn rules_that_tell_the_same_are_built_in() {
        let rules = include_str!("../../alerts/built-in.yaml");
        for rule in [SILENT_RULES, &[STOPPED_RULE], FILESYSTEM_RULES, MEMORY_RULES, CPU_RULES, RESTART_RULES].concat() {
            assert!(rules.contains(&format!("- alert: {rule}\n")), "{rule}");
        }
    }

    #[test]
    fn severities_are_those_that_receivers_know() {
        let of = |label| Problem::of_alert(&alert("A", "n", label, Phase::Firing, false), 4_000_000).severity;
        for (label, severity) in [
            ("critical", Severity::Critical),
            ("page", Severity::Critical),
            ("error", Severity::Critical),
            ("warning", Severity::Warning),
            ("", Severity::Warning),
            ("info", Severity::Info),
            ("none", Severity::Info),
        ] {
            assert_eq!(of(label), severity, "{label}");
        }
        let link = Problem::of_alert(&alert("silence", "", "", Phase::Firing, false), 4_000_000).link;
        assert_eq!(link, "/alerts#rule-silence", "the page has another element with the id silence");
    }

    #[test]
    fn the_worst_problem_comes_first_and_a_healthy_node_has_none() {
        let node = |name: &str| Node { name: name.into(), last_seen: Some(4_000_000), ..Node::default() };
        let nodes = vec![
            Node { cpu: Some(0.97), spark: vec![0.1, 0.95, 0.97, 0.97, 0.97, 0.99, f64::NAN], ..node("busy") },
            Node { cpu: Some(0.97), spark: vec![0.95, 0.1, 0.97], ..node("spike") },
            Node { memory: Some((96.0, 100.0)), ..node("tight") },
            Node { filesystems: vec![full("/data", 10.0)], ..node("full") },
            Node { silent: true, memory: Some((96.0, 100.0)), last_seen: Some(3_160_000), ..node("gone") },
            Node { cpu: Some(0.2), memory: Some((50.0, 100.0)), ..node("well") },
        ];
        let cluster = cluster(nodes, vec![("shop".into(), "cart".into(), 7.0), ("shop".into(), "calm".into(), 1.0)]);
        let problems = joined(&[], &cluster, None);
        let titles: Vec<_> = problems.iter().map(|problem| (problem.severity.title(), problem.title.as_str())).collect();
        assert_eq!(
            titles,
            [
                ("Critical", "gone is silent"),
                ("Critical", "tight: memory 96 %"),
                ("Warning", "busy: CPU 97 %"),
                ("Warning", "full: /data is 90 % full"),
                ("Warning", "shop/cart restarts again and again"),
            ]
        );
        assert_eq!((problems[0].since_text.as_str(), problems[2].since_text.as_str()), ("14 min", "5 min"));
    }
}

//! What is wrong, worst first: what the overview begins with.

use std::collections::BTreeMap;

use super::cluster::{Cluster, Node};
use super::format::{ago, bytes, grouped, percent, span};
use super::shell::encode;
use crate::alerts::{self, ActiveAlert, Phase};
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

/// The id of a rule's row on the page of alerts. What stands before the name keeps it apart from the page's other ids.
pub fn rule_id(name: &str) -> String {
    format!("rule-{}", encode(name))
}

/// What the rules found, and what can be seen without them where they say nothing as bad about the same node or pod: firing first, then worst first.
pub fn all(app: &App, cluster: &Cluster) -> Vec<Problem> {
    joined(&app.alerts.active(), cluster)
}

fn joined(active: &[ActiveAlert], cluster: &Cluster) -> Vec<Problem> {
    let mut problems = Vec::new();
    // The worst of what rules say, by what it is about. Silenced alerts count: what they are about is known.
    let mut known = BTreeMap::<String, Severity>::new();
    for alert in active {
        let problem = Problem::of_alert(alert, cluster.now);
        let worst = known.entry(problem.link.clone()).or_insert(problem.severity);
        *worst = problem.severity.min(*worst);
        // The watchdog always fires: it shows that alerts arrive.
        if !alert.silenced && alert.severity != "none" {
            problems.push(problem);
        }
    }
    // Where an alert about the same node or pod is at least as severe, the problem is taken for the same one and left out.
    let is_worse = |problem: &Problem| known.get(&problem.link).is_none_or(|worst| *worst > problem.severity);
    problems.extend(visible(cluster).into_iter().filter(is_worse));
    problems.sort_by_key(|problem| (problem.pending, problem.severity, problem.since.unwrap_or(u64::MAX)));
    problems
}

/// What can be seen without rules, worst first.
pub fn visible(cluster: &Cluster) -> Vec<Problem> {
    let mut problems = Vec::new();
    for node in &cluster.nodes {
        if node.silent {
            problems.push(silent(node, cluster.now));
            continue;
        }
        if let Some(fullest) = node.fullest().filter(|one| one.used() >= WARN_FROM) {
            let severity = if fullest.used() >= CRITICAL_FROM { Severity::Critical } else { Severity::Warning };
            let title = format!("{}: {} is {} full", node.name, fullest.mount, percent(fullest.used()));
            let detail =
                format!("{} of {} are left. Remove what is not needed, or enlarge it.", bytes(fullest.available), bytes(fullest.size));
            problems.push(now(severity, title, detail, node));
        }
        if let Some((used, total)) = node.memory.filter(|(used, total)| used / total >= WARN_FROM) {
            let severity = if used / total >= CRITICAL_FROM { Severity::Critical } else { Severity::Warning };
            let title = format!("{}: memory {}", node.name, percent(used / total));
            let detail = format!("{} of {} are used. Look for the pod or the process that uses most.", bytes(used), bytes(total));
            problems.push(now(severity, title, detail, node));
        }
        if let Some((cpu, minutes)) = node.cpu.filter(|cpu| *cpu >= 0.9).and_then(|cpu| Some((cpu, busy_minutes(node)?))) {
            let title = format!("{}: CPU {}", node.name, percent(cpu));
            let detail = format!("It has been above 90 % for {minutes} min. Look for the pod or the process that uses most.");
            let mut problem = now(Severity::Warning, title, detail, node);
            let since = cluster.now.saturating_sub(minutes * 60_000);
            (problem.since, problem.since_text) = (Some(since), span(minutes * 60));
            problems.push(problem);
        }
    }
    for (namespace, pod, times) in cluster.restarted.iter().filter(|(_, _, times)| *times >= CRASH_LOOP) {
        problems.push(Problem {
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
        });
    }
    problems.sort_by(|a, b| (a.severity, a.since.unwrap_or(u64::MAX)).cmp(&(b.severity, b.since.unwrap_or(u64::MAX))));
    problems
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
    let minutes = known.take_while(|value| **value >= 0.9).count();
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
    use super::super::cluster::Filesystem;
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

    #[test]
    fn alerts_hide_what_is_as_bad_and_not_what_is_worse() {
        let tight = Node { name: "tight".into(), memory: Some((96.0, 100.0)), last_seen: Some(4_000_000), ..Node::default() };
        let cluster = Cluster {
            nodes: vec![tight],
            others: vec![],
            missing: vec![],
            pods_not_ready: None,
            restarts: None,
            restarted: vec![],
            now: 4_000_000,
        };
        let titles = |active: &[ActiveAlert]| joined(active, &cluster).into_iter().map(|problem| problem.title).collect::<Vec<_>>();
        let seen = "tight: memory 96 %";
        assert_eq!(titles(&[]), [seen]);
        assert_eq!(titles(&[alert("Note", "tight", "info", Phase::Pending, false)]), [seen, "Note"]);
        assert_eq!(titles(&[alert("Slow", "tight", "warning", Phase::Firing, false)]), [seen, "Slow"]);
        assert_eq!(titles(&[alert("Memory", "tight", "critical", Phase::Firing, false)]), ["Memory"]);
        let known = alert("Memory", "tight", "critical", Phase::Firing, true);
        assert_eq!(titles(&[known, alert("Note", "tight", "info", Phase::Firing, false)]), ["Note"], "a silence is for what it is about");
        assert_eq!(titles(&[alert("Memory", "other", "critical", Phase::Firing, false)]), ["Memory", seen]);
        assert_eq!(titles(&[alert("Watchdog", "", "none", Phase::Firing, false)]), [seen]);
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
        let full = Filesystem { mount: "/data".into(), device: "/dev/vdb".into(), size: 100.0, available: 10.0 };
        let nodes = vec![
            Node { cpu: Some(0.97), spark: vec![0.1, 0.95, 0.97, 0.97, 0.97, 0.99, f64::NAN], ..node("busy") },
            Node { cpu: Some(0.97), spark: vec![0.95, 0.1, 0.97], ..node("spike") },
            Node { memory: Some((96.0, 100.0)), ..node("tight") },
            Node { filesystems: vec![full], ..node("full") },
            Node { silent: true, memory: Some((96.0, 100.0)), last_seen: Some(3_160_000), ..node("gone") },
            Node { cpu: Some(0.2), memory: Some((50.0, 100.0)), ..node("well") },
        ];
        let cluster = Cluster {
            nodes,
            others: vec![],
            missing: vec![],
            pods_not_ready: None,
            restarts: None,
            restarted: vec![("shop".into(), "cart".into(), 7.0), ("shop".into(), "calm".into(), 1.0)],
            now: 4_000_000,
        };
        let problems = visible(&cluster);
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

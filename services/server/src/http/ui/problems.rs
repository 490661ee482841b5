//! What is wrong, worst first: what the overview begins with.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, Node};
use super::format::{ago, bytes, grouped, percent, span};
use super::shell::encode;
use crate::alerts::{ActiveAlert, Phase};
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
        let severity = match alert.severity.as_str() {
            "critical" => Severity::Critical,
            "info" | "none" => Severity::Info,
            _ => Severity::Warning,
        };
        Self {
            severity,
            title: if alert.summary.is_empty() { alert.name.clone() } else { alert.summary.clone() },
            detail: alert.description.clone(),
            link: subject(&alert.labels).unwrap_or_else(|| format!("/alerts#{}", alert.name)),
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

/// What the rules found, and what can be seen without them where they say nothing about the same node or pod: firing first, then worst first.
pub fn all(app: &App, cluster: &Cluster) -> Vec<Problem> {
    let mut problems: Vec<_> = alerts(app, cluster.now);
    let known: BTreeSet<_> = problems.iter().map(|problem| problem.link.clone()).collect();
    problems.extend(visible(cluster).into_iter().filter(|problem| !known.contains(&problem.link)));
    problems.sort_by_key(|problem| (problem.pending, problem.severity, problem.since.unwrap_or(u64::MAX)));
    problems
}

/// The alerts of the rules that nobody has silenced.
fn alerts(app: &App, now: u64) -> Vec<Problem> {
    let active = app.alerts.active();
    // The watchdog always fires: it shows that alerts arrive.
    let told = active.iter().filter(|alert| !alert.silenced && alert.severity != "none");
    told.map(|alert| Problem::of_alert(alert, now)).collect()
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

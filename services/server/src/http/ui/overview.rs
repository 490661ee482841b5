//! GET /: what is wrong, the cluster in one strip, and its nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::Response;

use super::changes::{self, Change, Scope};
use super::cluster::{self, Cluster, Filesystem, Node};
use super::format::{ago, bytes, grouped, percent, three_digits};
use super::problems::{self, Problem};
use super::rows::{Column, Order, RowGroup};
use super::shell::{Parameters, Shell, page, parameters};
use super::window::Window;
use crate::clock::rfc3339;
use crate::http::AppState;
use crate::http::error::TextError;
use crate::store::SourceInfo;

/// How long the page waits for what changed.
const CHANGES_LIMIT: Duration = Duration::from_millis(250);
/// The number of problems, worst first; the page of alerts has more of them, and a filter.
const MAX_PROBLEMS: usize = 50;
/// The number of changes of each list.
const CHANGES_SHOWN: usize = 3;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    shell: Shell,
    problems: Vec<Problem>,
    strip: Vec<Tile>,
    /// What changed in the last hour, in two lists, where that is known.
    changed: Option<[(&'static str, Vec<Change>); 2]>,
    columns: Vec<Column>,
    groups: Vec<RowGroup>,
    /// How many nodes have no row, and where they have one.
    hidden: usize,
    all_rows: String,
    /// How many problems are not listed.
    more_problems: usize,
    /// What nodes can be grouped by.
    labels: BTreeSet<String>,
    nodes: usize,
    /// How many of them are not silent.
    reporting: usize,
    order: Order,
    sort: String,
    others: Vec<Other>,
    missing: Vec<String>,
    /// How to reach this server, for the command of the first agent.
    address: String,
    now: String,
}

/// A number of the strip.
struct Tile {
    label: &'static str,
    value: String,
    /// Shown behind it in the colour of what is wrong.
    wrong: String,
    note: String,
    class: &'static str,
}

/// A source that is no node.
struct Other {
    title: String,
    link: String,
    series: String,
    seen: String,
    seen_ago: String,
}

/// GET /.
pub async fn overview(State(state): State<AppState>, headers: HeaderMap, query: Parameters) -> Result<Response, TextError> {
    let query = parameters(query)?;
    let cluster = cluster::shared(&state).await?;
    let order = Order::of(&query);
    let changed = changed(&state).await;
    let mut problems = problems::all(&state, &cluster);
    let more_problems = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    let (groups, hidden) = order.groups(&cluster);
    let address = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost:8080").to_owned();
    page(&Overview {
        shell: Shell::new(&state, "Overview", "overview"),
        strip: strip(&cluster),
        changed,
        columns: order.columns(),
        groups,
        hidden,
        all_rows: order.all_rows_link(),
        more_problems,
        labels: order.labels(&cluster),
        nodes: cluster.nodes.len(),
        reporting: cluster.nodes.iter().filter(|node| !node.silent).count(),
        sort: query.get("sort").cloned().unwrap_or_default(),
        order,
        others: cluster.others.iter().map(|source| Other::new(source, cluster.now)).collect(),
        missing: cluster.missing.clone(),
        problems,
        address,
        now: rfc3339(cluster.now),
    })
}

/// What changed in the last hour, if it is found soon: the page does not wait for more.
async fn changed(app: &AppState) -> Option<[(&'static str, Vec<Change>); 2]> {
    let hour = Window::of(&HashMap::new(), app.process.now_ms());
    let found = changes::find_soon(app, &Scope::Cluster, &hour, CHANGES_LIMIT).await?;
    let first = |changes: &[Change]| changes.iter().take(CHANGES_SHOWN).cloned().collect();
    Some([("nodes", first(&found.nodes)), ("pods and volumes", first(&found.pods))])
}

impl Other {
    fn new(source: &SourceInfo, now: u64) -> Self {
        let unnamed = source.name.is_unnamed();
        Self {
            title: if unnamed { "(unnamed)".to_owned() } else { source.name.to_string() },
            // A source's name has no characters that need escaping in a query.
            link: format!("/source?name={}", source.name),
            series: grouped(source.series),
            seen: rfc3339(source.last_seen_millis),
            seen_ago: ago(source.last_seen_millis, now),
        }
    }
}

/// The cluster in one strip. What is not known of any node has no tile.
fn strip(cluster: &Cluster) -> Vec<Tile> {
    let mut tiles = Vec::new();
    // What was stopped is not expected to report.
    let stopped = cluster.nodes.iter().filter(|node| node.stopped).count();
    let all = cluster.nodes.len() - stopped;
    let reporting: Vec<_> = cluster.nodes.iter().filter(|node| !node.silent).collect();
    let silent = all - reporting.len();
    let tile = |label, value: String, note: String| Tile { label, value, wrong: String::new(), note, class: "" };
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let and_stopped = if stopped > 0 { format!(", {} stopped", grouped(stopped)) } else { String::new() };
    if all == 0 && stopped > 0 {
        tiles.push(tile("Nodes", grouped(all), format!("{} stopped", grouped(stopped))));
    } else if all > 0 && silent == 0 {
        tiles.push(tile("Nodes", grouped(all), format!("all reporting{and_stopped}")));
    } else if all > 0 {
        let of_all = tile("Nodes", grouped(reporting.len()), format!("{} silent{and_stopped}", grouped(silent)));
        tiles.push(Tile { wrong: format!(" / {}", grouped(all)), ..of_all });
    }
    let cpu: Vec<_> = reporting.iter().filter_map(|node| Some((node.cpu?, node.cores.unwrap_or(1.0)))).collect();
    if !cpu.is_empty() {
        let cores: f64 = cpu.iter().map(|(_, cores)| cores).sum();
        let used: f64 = cpu.iter().map(|(cpu, cores)| cpu * cores).sum();
        tiles.push(tile("CPU", percent(used / cores), format!("{} of {} cores", three_digits(used), three_digits(cores))));
    }
    let memory: Vec<_> = reporting.iter().filter_map(|node| node.memory).collect();
    if !memory.is_empty() {
        let (used, total) = memory.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        tiles.push(tile("Memory", percent(used / total), format!("{} of {}", bytes(used), bytes(total))));
    }
    let fullest = reporting.iter().copied().filter_map(Node::fullest).max_by(|a, b| a.used().total_cmp(&b.used()));
    if let Some(fullest) = fullest {
        let disks = reporting.iter().copied().flat_map(disks);
        let (size, available) = disks.fold((0.0, 0.0), |sum, one| (sum.0 + one.size, sum.1 + one.available));
        tiles.push(tile("Disk", percent(1.0 - available / size), format!("fullest {}", percent(fullest.used()))));
    }
    let pods: Vec<_> = cluster.nodes.iter().filter_map(|node| node.pods).collect();
    if !pods.is_empty() {
        // Nothing is said of states that nobody reports.
        let note = match cluster.pods_not_ready {
            Some(not_ready) if not_ready > 0.0 => format!("{} not running", grouped(not_ready)),
            Some(_) => "all running".to_owned(),
            None => String::new(),
        };
        tiles.push(tile("Pods", grouped(pods.iter().sum::<f64>()), note));
        if let Some(restarts) = cluster.restarts {
            let class = if restarts >= 1.0 { "warn" } else { "" };
            let of = cluster.restarted.len();
            let note = if of == 0 { "none".to_owned() } else { format!("of {} pod{}", grouped(of), plural(of)) };
            tiles.push(Tile { class, ..tile("Restarts, 1 h", grouped(format_args!("{restarts:.0}")), note) });
        }
    }
    let series: usize = cluster.nodes.iter().filter_map(|node| node.series).chain(cluster.others.iter().map(|one| one.series)).sum();
    let sources = cluster.nodes.iter().filter(|node| node.series.is_some()).count() + cluster.others.len();
    tiles.push(tile("Series", grouped(series), format!("{} source{}", grouped(sources), plural(sources))));
    tiles
}

/// The filesystems of a node that add up to the space of its disks. A smaller one of the same block device is a directory with a quota, whose space is part
/// of the largest one's. What is no block device may stand for several filesystems.
fn disks(node: &Node) -> Vec<&Filesystem> {
    let (of_devices, mut disks): (Vec<&Filesystem>, Vec<&Filesystem>) =
        node.filesystems.iter().partition(|one| one.device.starts_with("/dev/") && one.device != "/dev/fuse");
    let mut largest = BTreeMap::<&str, &Filesystem>::new();
    for one in of_devices {
        let known = largest.entry(&one.device).or_insert(one);
        if one.size > known.size {
            *known = one;
        }
    }
    disks.extend(largest.into_values());
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_of_a_disk_counts_once_however_often_it_is_mounted() {
        let of = |device: &str, mount: &str, size: f64, available: f64| Filesystem {
            mount: mount.into(),
            device: device.into(),
            size,
            available,
        };
        let filesystems = vec![
            // A directory with a quota.
            of("/dev/vda", "/quota", 10.0, 1.0),
            of("/dev/vda", "/", 100.0, 50.0),
            of("/dev/vdb", "/data", 200.0, 140.0),
            // Filesystems whose devices have no name of their own.
            of("none", "/a", 60.0, 20.0),
            of("none", "/b", 40.0, 30.0),
        ];
        let node = |name: &str| Node { name: name.into(), filesystems: filesystems.clone(), ..Node::default() };
        let nodes = vec![node("a"), node("b")];
        let cluster = Cluster { nodes, others: vec![], missing: vec![], pods_not_ready: None, restarts: None, restarted: vec![], now: 0 };
        let tiles = strip(&cluster);
        let disk = tiles.iter().find(|tile| tile.label == "Disk").unwrap();
        // Of 400 on each node 240 are left.
        assert_eq!((disk.value.as_str(), disk.note.as_str()), ("40 %", "fullest 90 %"));
    }
}

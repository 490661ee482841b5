//! Nodes as the rows of a table: texts and shapes, in the order and with the filter that the page's address holds.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::cluster::{Cluster, Node};
use super::format::{ago, bytes, grouped, percent, three_digits, whole};
use super::problems::{CRITICAL_FROM, WARN_FROM};
use super::shell::encode;
use super::spark::Spark;
use crate::clock::rfc3339;

/// The columns that rows can be sorted by, with the titles that stand above them.
pub const COLUMNS: [(&str, &str); 9] = [
    ("name", "Node"),
    ("cpu", "CPU"),
    ("memory", "Memory"),
    ("disk", "Disk"),
    ("load", "Load"),
    ("spark", "CPU, last hour"),
    ("pods", "Pods"),
    ("seen", "Seen"),
    ("version", "Version"),
];

/// The number of rows, unless all are asked for: more than anyone reads, and few enough for a page that is fetched again every few seconds.
const MAX_ROWS: usize = 100;

/// Up to so many nodes may be grouped by what is different for each.
const FEW_NODES: usize = 3;

/// The head of a column.
pub struct Column {
    /// What the address calls it.
    pub name: &'static str,
    /// What the page calls it.
    pub title: &'static str,
    /// Where a click leads.
    pub link: String,
    /// How it is sorted, in ARIA's words.
    pub sorted: &'static str,
}

/// A share that is shown as a bar.
pub struct Meter {
    /// In percent, for the bar.
    pub width: u64,
    /// For people.
    pub text: String,
    /// More for people.
    pub title: String,
    /// Empty, or what makes it amber or red.
    pub class: &'static str,
}

impl Meter {
    /// A bar of this share.
    pub fn new(share: f64, title: String) -> Self {
        let class = match share {
            share if share >= CRITICAL_FROM => "crit",
            share if share >= WARN_FROM => "warn",
            _ => "",
        };
        Self { width: whole((share.clamp(0.0, 1.0) * 100.0).round()), text: percent(share), title, class }
    }
}

/// A node as a row.
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its page.
    pub link: String,
    /// The class of its dot.
    pub state: &'static str,
    /// That state in words.
    pub state_text: &'static str,
    /// Instead of the meters, where it is silent.
    pub silent: bool,
    /// What was last known of a silent node.
    pub last_known: String,
    /// The use of its processors.
    pub cpu: Option<Meter>,
    /// The use of its memory.
    pub memory: Option<Meter>,
    /// The use of its fullest filesystem.
    pub disk: Option<Meter>,
    /// Its load.
    pub load: String,
    /// An hour of CPU.
    pub spark: Option<Spark>,
    /// Its pods.
    pub pods: String,
    /// When it was seen, as a time.
    pub seen: String,
    /// And how long ago that is.
    pub seen_ago: String,
    /// What runs on it.
    pub version: String,
    /// What is wrong with its agent.
    pub agent_notes: String,
}

/// The order and the filter of the table.
pub struct Order {
    /// The column; empty is by state, then by name.
    pub column: &'static str,
    /// The largest first.
    pub descending: bool,
    /// What rows must contain.
    pub find: String,
    /// The label that rows are grouped by; empty where they are not.
    pub group: String,
    /// Whether all rows are shown, however many there are.
    pub all_rows: bool,
}

/// Nodes that have a label alike.
pub struct RowGroup {
    /// The label's value; empty where nodes are not grouped.
    pub title: String,
    /// What they come to together.
    pub sum: String,
    /// The nodes.
    pub rows: Vec<Row>,
}

impl Order {
    /// What the address says.
    pub fn of(query: &HashMap<String, String>) -> Self {
        let given = |name: &str| query.get(name).cloned().unwrap_or_default();
        let asked = given("sort");
        let (name, descending) = asked.strip_prefix('-').map_or((asked.as_str(), false), |name| (name, true));
        let column = COLUMNS.iter().map(|(column, _)| *column).find(|column| *column == name).unwrap_or_default();
        Self { column, descending, find: given("find"), group: given("group"), all_rows: given("rows") == "all" }
    }

    /// The group and the filter as parameters behind others.
    fn kept(&self) -> String {
        let kept = [("group", &self.group), ("find", &self.find)].into_iter().filter(|(_, value)| !value.is_empty());
        kept.fold(String::new(), |kept, (name, value)| kept + "&" + name + "=" + &encode(value))
    }

    /// The address at which all rows are shown.
    pub fn all_rows_link(&self) -> String {
        format!("/?sort={}{}{}&rows=all#nodes", if self.descending { "-" } else { "" }, self.column, self.kept())
    }

    /// The heads of the table, each a link that sorts by it.
    pub fn columns(&self) -> Vec<Column> {
        let kept = self.kept();
        let kept = if self.all_rows { kept + "&rows=all" } else { kept };
        let column = |&(name, title): &(&'static str, &'static str)| {
            let current = self.column == name;
            // Numbers are mostly looked at from the largest on.
            let descending = if current { !self.descending } else { !matches!(name, "name" | "version" | "seen") };
            let sign = if descending { "-" } else { "" };
            let sorted = match (current, self.descending) {
                (true, true) => " aria-sort=\"descending\"",
                (true, false) => " aria-sort=\"ascending\"",
                _ => "",
            };
            let link = if name == "spark" { String::new() } else { format!("/?sort={sign}{name}{kept}#nodes") };
            Column { name, title, link, sorted }
        };
        COLUMNS.iter().map(column).collect()
    }

    /// The nodes that the filter leaves, sorted.
    pub fn apply<'a>(&self, cluster: &'a Cluster) -> Vec<&'a Node> {
        let find = self.find.to_lowercase();
        let matches = |node: &&Node| {
            node.name.to_lowercase().contains(&find) || node.version.as_ref().is_some_and(|version| version.to_lowercase().contains(&find))
        };
        let mut nodes: Vec<_> = cluster.nodes.iter().filter(matches).collect();
        nodes.sort_by(|a, b| {
            let order = self.compare(a, b);
            if self.descending { order.reverse() } else { order }
        });
        nodes
    }

    /// The rows of the nodes that the filter leaves, in groups by the values of a label; those without it come last. The second is how many rows are left
    /// out.
    pub fn groups(&self, cluster: &Cluster) -> (Vec<RowGroup>, usize) {
        let nodes = self.apply(cluster);
        let mut left = if self.all_rows { usize::MAX } else { MAX_ROWS };
        let hidden = nodes.len().saturating_sub(left);
        let mut group = |title: String, nodes: &[&Node]| {
            let shown = nodes.len().min(left);
            left -= shown;
            RowGroup::new(title, nodes, shown, cluster.now)
        };
        if self.group.is_empty() {
            return (vec![group(String::new(), &nodes)], hidden);
        }
        let mut groups = BTreeMap::<(bool, &str), Vec<&Node>>::new();
        for node in nodes {
            let value = label(node, &self.group);
            groups.entry((value.is_none(), value.unwrap_or_default())).or_default().push(node);
        }
        let title = |missing: bool, value: &str| if missing { format!("without {}", self.group) } else { value.to_owned() };
        (groups.iter().map(|(&(missing, value), nodes)| group(title(missing, value), nodes)).collect(), hidden)
    }

    /// The labels by which nodes can be grouped, and the one that they are grouped by. What is different for each of many nodes groups nothing.
    pub fn labels(&self, cluster: &Cluster) -> BTreeSet<String> {
        let mut values = BTreeMap::<&str, BTreeSet<&str>>::new();
        for node in &cluster.nodes {
            let version = node.version.as_deref().map(|version| ("version", version));
            for (name, value) in node.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(version) {
                values.entry(name).or_default().insert(value);
            }
        }
        let nodes = cluster.nodes.len();
        let useful = values.into_iter().filter(|(_, values)| nodes <= FEW_NODES || values.len() < nodes).map(|(name, _)| name.to_owned());
        useful.chain(Some(self.group.clone()).filter(|group| !group.is_empty())).collect()
    }

    fn compare(&self, a: &Node, b: &Node) -> Ordering {
        let number = |key: fn(&Node) -> Option<f64>| key(a).unwrap_or(-1.0).total_cmp(&key(b).unwrap_or(-1.0));
        match self.column {
            "name" => a.name.cmp(&b.name),
            "cpu" => number(|node| node.cpu),
            "memory" => number(Node::memory_used),
            "disk" => number(|node| node.fullest().map(super::cluster::Filesystem::used)),
            "load" => number(|node| node.load),
            "pods" => number(|node| node.pods),
            "seen" => b.last_seen.cmp(&a.last_seen),
            "version" => a.version.cmp(&b.version),
            _ => state(a).cmp(&state(b)),
        }
    }
}

/// The value of a label by which nodes are grouped.
fn label<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.labels.get(name).or(node.version.as_ref().filter(|_| name == "version")).map(String::as_str)
}

impl RowGroup {
    /// Of these nodes, of which so many are shown.
    fn new(title: String, nodes: &[&Node], shown: usize, now: u64) -> Self {
        let count = |state_of: u8| nodes.iter().filter(|node| state(node) == state_of).count();
        let mut sum = vec![format!("{} node{}", grouped(nodes.len()), if nodes.len() == 1 { "" } else { "s" })];
        for (count, what) in [(count(SILENT), "silent"), (count(STOPPED), "stopped")] {
            if count > 0 {
                sum.push(format!("{} {what}", grouped(count)));
            }
        }
        let reporting = || nodes.iter().filter(|node| !node.silent);
        let (used, cores) = reporting()
            .filter_map(|node| Some((node.cpu?, node.cores.unwrap_or(1.0))))
            .fold((0.0, 0.0), |sum, (cpu, cores)| (sum.0 + cpu * cores, sum.1 + cores));
        if cores > 0.0 {
            sum.push(format!("CPU {}", percent(used / cores)));
        }
        let (used, total) = reporting().filter_map(|node| node.memory).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if total > 0.0 {
            sum.push(format!("memory {}", percent(used / total)));
        }
        Self { title, sum: sum.join(", "), rows: nodes.iter().take(shown).map(|node| Row::new(node, now)).collect() }
    }
}

/// The state of a node that is silent.
const SILENT: u8 = 0;
/// The state of a node that was stopped.
const STOPPED: u8 = 4;

/// The state of a node, worst first: what its dot shows.
fn state(node: &Node) -> u8 {
    let worst = [node.cpu, node.memory_used(), node.fullest().map(super::cluster::Filesystem::used)];
    let worst = worst.into_iter().flatten().fold(0.0, f64::max);
    match worst {
        _ if node.stopped => STOPPED,
        _ if node.silent => SILENT,
        worst if worst >= CRITICAL_FROM => 1,
        worst if worst >= WARN_FROM => 2,
        _ => 3,
    }
}

impl Row {
    /// A node as a row.
    pub fn new(node: &Node, now: u64) -> Self {
        let (class, state_text) = match state(node) {
            SILENT => ("crit", "silent"),
            STOPPED => ("soft", "stopped"),
            1 => ("crit", "a resource is nearly used up"),
            2 => ("warn", "a resource is scarce"),
            _ => ("ok", "reporting"),
        };
        let cpu = node.cpu.map(|cpu| {
            let title =
                node.cores.map_or_else(String::new, |cores| format!("{} of {} cores", three_digits(cpu * cores), three_digits(cores)));
            Meter::new(cpu, title)
        });
        let memory = node.memory.map(|(used, total)| Meter::new(used / total, format!("{} of {}", bytes(used), bytes(total))));
        let disk = node.fullest().map(|one| {
            let title = format!("{}: {} of {} left", one.mount, bytes(one.available), bytes(one.size));
            Meter::new(one.used(), title)
        });
        let dash = || "–".to_owned();
        Self {
            link: format!("/node?name={}", encode(&node.name)),
            name: node.name.clone(),
            state: class,
            state_text,
            silent: node.silent,
            last_known: last_known(node),
            cpu,
            memory,
            disk,
            load: node.load.map_or_else(dash, |load| format!("{load:.2}")),
            spark: Spark::draw(&node.spark, 1.0),
            pods: node.pods.map_or_else(dash, grouped),
            seen: node.last_seen.map(rfc3339).unwrap_or_default(),
            seen_ago: node.last_seen.map_or_else(dash, |seen| ago(seen, now)),
            version: node.version.clone().unwrap_or_else(dash),
            agent_notes: node.agent_notes.join(", "),
        }
    }
}

/// What was last known of a silent node.
fn last_known(node: &Node) -> String {
    let cpu = node.spark.iter().rev().copied().find(|value| value.is_finite()).map(|cpu| format!("CPU {}", percent(cpu)));
    let memory = node.memory_used().map(|used| format!("memory {}", percent(used)));
    let known: Vec<_> = cpu.into_iter().chain(memory).collect();
    if known.is_empty() { String::new() } else { format!("last known: {}", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let node = |name: &str, cpu, silent| Node { name: name.into(), cpu, silent, last_seen: Some(1_000), ..Node::default() };
        let nodes = vec![node("a", Some(0.2), false), node("b", Some(0.97), false), node("c", None, true), node("d", Some(0.3), false)];
        Cluster { nodes, others: vec![], missing: vec![], pods_not_ready: None, restarts: None, restarted: vec![], now: 2_000 }
    }

    fn sorted(pairs: &[(&str, &str)]) -> String {
        let query = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Order::of(&query).apply(&cluster()).iter().map(|node| node.name.as_str()).collect()
    }

    #[test]
    fn rows_are_sorted_and_filtered_as_the_address_says() {
        assert_eq!(sorted(&[]), "cbad", "what is wrong comes first, then by name");
        assert_eq!(sorted(&[("sort", "-cpu")]), "bdac");
        assert_eq!(sorted(&[("sort", "name")]), "abcd");
        assert_eq!(sorted(&[("sort", "nothing")]), "cbad");
        assert_eq!(sorted(&[("find", "B")]), "b");
    }

    #[test]
    fn nodes_are_grouped_by_a_label() {
        let mut cluster = cluster();
        for (node, rack) in [(0, "r1"), (1, "r2"), (2, "r1")] {
            cluster.nodes[node].labels.insert("rack".into(), rack.into());
        }
        for node in &mut cluster.nodes {
            node.labels.insert("serial".into(), node.name.clone());
            node.memory = Some((1.0, 2.0));
        }
        let order = |group: &str| Order::of(&HashMap::from([("group".to_owned(), group.to_owned())]));
        let shown = |group: &str| {
            let (groups, hidden) = order(group).groups(&cluster);
            assert_eq!(hidden, 0);
            let rows = |group: &RowGroup| group.rows.iter().map(|row| row.name.as_str()).collect::<String>();
            groups.iter().map(|group| format!("{}: {} ({})", group.title, rows(group), group.sum)).collect::<Vec<_>>()
        };
        assert_eq!(
            shown("rack"),
            [
                "r1: ca (2 nodes, 1 silent, CPU 20 %, memory 50 %)",
                "r2: b (1 node, CPU 97 %, memory 50 %)",
                "without rack: d (1 node, CPU 30 %, memory 50 %)"
            ]
        );
        assert_eq!(shown("").len(), 1);
        assert_eq!(order("").labels(&cluster).into_iter().collect::<Vec<_>>(), ["rack"]);
        assert_eq!(order("other").labels(&cluster).into_iter().collect::<Vec<_>>(), ["other", "rack"]);
        assert!(order("a&b").columns()[1].link.ends_with("&group=a%26b#nodes"));
    }

    #[test]
    fn a_node_that_was_stopped_comes_last_and_is_not_silent() {
        let mut cluster = cluster();
        cluster.nodes[0] = Node { silent: true, stopped: true, ..cluster.nodes[0].clone() };
        let (groups, _) = Order::of(&HashMap::new()).groups(&cluster);
        let rows: Vec<_> = groups[0].rows.iter().map(|row| (row.name.as_str(), row.state_text)).collect();
        assert_eq!(rows, [("c", "silent"), ("b", "a resource is nearly used up"), ("d", "reporting"), ("a", "stopped")]);
        assert!(groups[0].sum.starts_with("4 nodes, 1 silent, 1 stopped, "), "{}", groups[0].sum);
    }

    #[test]
    fn many_rows_are_shown_only_where_they_are_asked_for() {
        let mut cluster = cluster();
        cluster.nodes = (0..=MAX_ROWS).map(|index| Node { name: format!("n{index:03}"), ..Node::default() }).collect();
        for (at, node) in cluster.nodes.iter_mut().enumerate() {
            node.labels.insert("rack".into(), if at < 60 { "r1" } else { "r2" }.into());
        }
        let shown = |pairs: &[(&str, &str)]| {
            let query = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let (groups, hidden) = Order::of(&query).groups(&cluster);
            (groups.iter().map(|group| (group.rows.len(), group.sum.clone())).collect::<Vec<_>>(), hidden)
        };
        assert_eq!(shown(&[]), (vec![(100, "101 nodes".to_owned())], 1));
        assert_eq!(shown(&[("rows", "all")]), (vec![(101, "101 nodes".to_owned())], 0));
        assert_eq!(shown(&[("group", "rack")]), (vec![(60, "60 nodes".to_owned()), (40, "41 nodes".to_owned())], 1));
        assert_eq!(shown(&[("find", "n09")]), (vec![(10, "10 nodes".to_owned())], 0));
        let order = Order::of(&HashMap::from([("sort".to_owned(), "-cpu".to_owned()), ("find".to_owned(), "a".to_owned())]));
        assert_eq!(order.all_rows_link(), "/?sort=-cpu&find=a&rows=all#nodes");
    }

    #[test]
    fn a_second_click_turns_the_order_round_and_keeps_the_filter() {
        let link = |sort: &str| {
            let order = Order::of(&HashMap::from([("sort".to_owned(), sort.to_owned()), ("find".to_owned(), "a&b".to_owned())]));
            let columns = order.columns();
            let cpu = columns.iter().find(|column| column.name == "cpu").unwrap();
            (cpu.link.clone(), cpu.sorted)
        };
        assert_eq!(link(""), ("/?sort=-cpu&find=a%26b#nodes".to_owned(), ""));
        assert_eq!(link("-cpu"), ("/?sort=cpu&find=a%26b#nodes".to_owned(), " aria-sort=\"descending\""));
    }
}

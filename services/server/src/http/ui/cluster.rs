//! What the overview knows of the nodes: the sources of the store, and beside them what PromQL says about each instance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use golectra_process::banner::UNKNOWN;
use golectra_promql::{Labels, METRIC_NAME, Steps};

use super::agents;
use super::ask::{self, Line, Sample};
use super::format::whole;
use super::kept::{Keep, Kept};
use crate::history::labels::{SOURCE_LABEL, is_node};
use crate::history::query::QueryError;
use crate::http::App;
use crate::http::error::ApiError;
use crate::store::SourceInfo;

/// A source that has been silent for this long is shown as silent.
pub const SILENT_AFTER_MILLIS: u64 = 60_000;
/// The same for an instance that others write: they often scrape once a minute.
pub const INSTANCE_SILENT_AFTER_MILLIS: u64 = 180_000;

/// The step of the small lines, and how many there are.
const SPARK_STEP_MS: i64 = 60_000;
const SPARK_STEPS: i64 = 60;

/// The share of CPU time that is used, from node_exporter's names: as in the rules that are built in, nothing is used while processors wait for disks. Against
/// the time of all modes: the rate of a counter that began a moment ago is too small, that of each mode by the same factor.
const CPU: &str = r#"1 - sum by (instance) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[2m])) / sum by (instance) (rate(node_cpu_seconds_total[2m]))"#;
/// The same from the original's names.
const CPU_FALLBACK: &str = r#"avg by (instance) ({__name__=~"CPUutilization[0-9]+"}) / 100"#;
const CORES: &str =
    r#"count by (instance) (node_cpu_seconds_total{mode="idle"}) or count by (instance) ({__name__=~"CPUutilization[0-9]+"})"#;
/// Gauges that are shown as they are or compared with each other; the names of the original stand in where there are no others.
const GAUGES: &str =
    r#"{__name__=~"node_memory_MemTotal_bytes|node_memory_MemAvailable_bytes|TotalMemory|FreeMemory|node_load1|node_boot_time_seconds"}"#;
/// The time of the newest value, or of the newest one before stale markers: a single failed scrape writes these, and does not make an instance silent.
const SEEN: &str = r#"max by (instance) (timestamp({__name__=~"node_load1|node_memory_MemTotal_bytes|node_boot_time_seconds"})) or max_over_time(max by (instance) (timestamp({__name__=~"node_load1|node_memory_MemTotal_bytes|node_boot_time_seconds"}))[5m:15s])"#;
/// The nodes that were stopped: they do not report, and their last report says that the agent ends.
pub const STOPPED: &str = "golectra_source_stopped == 1";
const FILESYSTEMS: &str = r#"{__name__=~"(node_)?filesystem_((size|avail|available)_bytes|readonly)",fstype!~"tmpfs|ramfs|devtmpfs|overlay|squashfs|erofs|iso9660|fuse.*|nsfs"}"#;
/// Here and below without series of a program that is scraped with the labels of its own pod: their label `pod` is that pod, and `exported_pod` the one they are about.
const PODS: &str = r#"count by (instance, node) (count by (instance, node, namespace, pod) ({__name__=~"kube_pod_info|container_memory_working_set_bytes",pod!="",exported_pod=""}))"#;
/// 0 where states are reported and all pods are ready; nothing where no state is reported. A pod that several programs report counts once.
const NOT_READY: &str = r#"count(max by (namespace, pod) (kube_pod_status_phase{phase=~"Pending|Failed|Unknown",exported_pod=""}) == 1) or count(kube_pod_status_phase{exported_pod=""}) * 0"#;
/// The pods that restarted, and beside them a 0 without labels where restarts are reported at all. What several programs report of a container counts once. A
/// deleted pod does not count; stale markers are passed over for a while, since a single failed scrape writes them too. Sidecars are init containers.
const RESTARTS: &str = r#"sum by (namespace, pod) (max by (namespace, pod, container) (increase(kube_pod_container_status_restarts_total{exported_pod=""}[1h])) and max by (namespace, pod, container) (last_over_time(kube_pod_container_status_restarts_total{exported_pod=""}[3m])) or max by (namespace, pod, container) (increase(kube_pod_init_container_status_restarts_total{exported_pod=""}[1h])) and max by (namespace, pod, container) (last_over_time(kube_pod_init_container_status_restarts_total{exported_pod=""}[3m]))) > 0 or count(last_over_time(kube_pod_container_status_restarts_total{exported_pod=""}[3m])) * 0"#;
/// What is told of nodes in labels: the kernel, the system, the labels that Kubernetes has, and those that people write into a file of the agent.
const INFOS: &str = r#"{__name__=~"node_uname_info|node_os_info|kube_node_labels|node_labels",instance!=""}"#;
/// Labels of those that tell nothing by which nodes could be grouped, or tell it once more.
const NO_GROUPS: [&str; 9] =
    [METRIC_NAME, SOURCE_LABEL, "node", "nodename", "domainname", "release", "sysname", "version", "kubernetes_io_hostname"];

/// Everything that the overview shows.
pub struct Cluster {
    /// The nodes by name.
    pub nodes: Vec<Node>,
    /// Sources that are no node: the unnamed one, and remote-write's.
    pub others: Vec<SourceInfo>,
    /// Sentences about what could not be read.
    pub missing: Vec<String>,
    /// How many pods are not ready, where that is known.
    pub pods_not_ready: Option<f64>,
    /// How often containers restarted within an hour, where that is known.
    pub restarts: Option<f64>,
    /// The pods that restarted within an hour, by namespace and name, and how often.
    pub restarted: Vec<(String, String, f64)>,
    /// When this was.
    pub now: u64,
}

/// A node: a source, or an instance that others write.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its name, which is the label `instance` of its series.
    pub name: String,
    /// When it was seen last, in unix milliseconds.
    pub last_seen: Option<u64>,
    /// Whether nothing has come from it lately.
    pub silent: bool,
    /// Whether it was stopped: its last report says that its agent ends.
    pub stopped: bool,
    /// The number of its series where it is a source.
    pub series: Option<usize>,
    /// The share of CPU time that is used.
    pub cpu: Option<f64>,
    /// The number of its processors.
    pub cores: Option<f64>,
    /// Used and total memory.
    pub memory: Option<(f64, f64)>,
    /// Its filesystems that can be written to: read-only ones, such as images, are always full.
    pub filesystems: Vec<Filesystem>,
    /// The load of one minute.
    pub load: Option<f64>,
    /// When it started, in unix seconds.
    pub booted: Option<f64>,
    /// The share of CPU time over an hour; NaN where it is not known.
    pub spark: Vec<f64>,
    /// The number of its pods.
    pub pods: Option<f64>,
    /// What runs on it.
    pub version: Option<String>,
    /// What nodes can be grouped by: names such as `machine`, `os`, `kernel` and those of its own labels, with its values.
    pub labels: BTreeMap<String, String>,
    /// What is wrong with its agent, by what that says itself.
    pub agent_notes: Vec<String>,
}

/// A filesystem of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mount: String,
    /// What it is on; the mount where that is not told.
    pub device: String,
    /// Its size in bytes.
    pub size: f64,
    /// What is left for users, in bytes.
    pub available: f64,
}

impl Filesystem {
    /// The share that is used.
    pub fn used(&self) -> f64 {
        1.0 - self.available / self.size
    }
}

impl Node {
    /// The share of memory that is used.
    pub fn memory_used(&self) -> Option<f64> {
        self.memory.map(|(used, total)| used / total)
    }

    /// Whether it has a value now, which counts for five minutes.
    fn has_values(&self) -> bool {
        let gauges = [self.cpu, self.load, self.booted, self.memory.map(|(used, _)| used)];
        gauges.iter().any(Option::is_some) || !self.filesystems.is_empty()
    }

    /// The fullest filesystem.
    pub fn fullest(&self) -> Option<&Filesystem> {
        self.filesystems.iter().max_by(|a, b| a.used().total_cmp(&b.used()))
    }
}

/// The readings that are under way.
pub type KeptClusters = Kept<(), Option<Arc<Cluster>>>;

/// Pages that are told to look again at the same time share one reading: whoever comes while it is under way. Nothing is kept after that.
pub async fn shared(app: &App) -> Result<Arc<Cluster>, ApiError> {
    let found = app.clusters.get(&(), async || read(app).await.map(Arc::new).ok(), |_| Keep::No).await;
    match found.as_deref() {
        Some(Some(cluster)) => Ok(Arc::clone(cluster)),
        _ => read(app).await.map(Arc::new),
    }
}

/// Asks the store and PromQL. Only a store that does not list its sources is an error.
async fn read(app: &App) -> Result<Cluster, ApiError> {
    let now_ms = app.process.now_ms();
    // Whole steps, so that the small lines do not move with each look.
    let end_ms = now_ms - now_ms.rem_euclid(SPARK_STEP_MS);
    let steps = Steps::range(end_ms - SPARK_STEPS * SPARK_STEP_MS, end_ms, SPARK_STEP_MS).unwrap_or_else(|| Steps::at(end_ms));
    let sources = app.store.sources().await.map_err(ApiError::from)?;
    let mut reader = Reader { nodes: BTreeMap::new(), missing: Vec::new() };
    let mut others = Vec::new();
    for source in sources {
        if is_node(source.name.as_str()) {
            let node = reader.node(source.name.as_str());
            node.last_seen = Some(source.last_seen_millis);
            node.series = Some(source.series);
        } else {
            others.push(source);
        }
    }
    let now = u64::try_from(now_ms).unwrap_or_default();
    let first = tokio::join!(
        ask::range(app, CPU, steps),
        ask::instant(app, CORES),
        ask::instant(app, GAUGES),
        ask::instant(app, FILESYSTEMS),
        ask::instant(app, SEEN)
    );
    let second = tokio::join!(
        ask::instant(app, CPU),
        ask::instant(app, PODS),
        ask::instant(app, NOT_READY),
        ask::instant(app, RESTARTS),
        ask::instant(app, INFOS),
        ask::instant(app, agents::QUERY),
        ask::instant(app, STOPPED)
    );
    reader.cpu(second.0, first.0);
    if reader.nodes.values().any(|node| node.cpu.is_none() && node.spark.is_empty()) {
        let (now, lines) = tokio::join!(ask::instant(app, CPU_FALLBACK), ask::range(app, CPU_FALLBACK, steps));
        reader.cpu(now, lines);
    }
    reader.each("The number of processors", first.1, |node, sample| node.cores = Some(sample.value));
    reader.gauges(first.2);
    reader.filesystems(first.3);
    reader.seen(first.4, steps, now);
    reader.stopped(second.6);
    reader.pods(second.1);
    let pods_not_ready = reader.number("Pods that are not ready", second.2);
    let (restarts, restarted) = reader.restarts(second.3);
    reader.infos(second.4);
    reader.versions(second.5);
    let nodes = reader.nodes.into_values().collect();
    Ok(Cluster { nodes, others, missing: reader.missing, pods_not_ready, restarts, restarted, now })
}

/// Puts answers where they belong.
struct Reader {
    nodes: BTreeMap<String, Node>,
    missing: Vec<String>,
}

impl Reader {
    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.entry(name.to_owned()).or_insert_with(|| Node { name: name.to_owned(), ..Node::default() })
    }

    /// The answer, or a sentence in its place.
    fn answered<T>(&mut self, what: &str, answer: Result<Vec<T>, QueryError>) -> Vec<T> {
        answer.unwrap_or_else(|error| {
            self.missing.push(ask::sentence(what, &error));
            Vec::new()
        })
    }

    /// Each sample at its node. Only nodes that are known already are filled.
    fn each(&mut self, what: &str, answer: Result<Vec<Sample>, QueryError>, mut fill: impl FnMut(&mut Node, &Sample)) {
        for sample in self.answered(what, answer) {
            if let Some(node) = self.nodes.get_mut(sample.labels.value(SOURCE_LABEL)) {
                fill(node, &sample);
            }
        }
    }

    fn number(&mut self, what: &str, answer: Result<Vec<Sample>, QueryError>) -> Option<f64> {
        self.answered(what, answer).first().map(|sample| sample.value)
    }

    /// How often containers restarted, where that is known, and the pods that did.
    fn restarts(&mut self, answer: Result<Vec<Sample>, QueryError>) -> (Option<f64>, Vec<(String, String, f64)>) {
        let found = self.answered("Restarts", answer);
        let restarted: Vec<_> = found
            .iter()
            .filter(|sample| sample.value > 0.0)
            .map(|sample| (sample.labels.value("namespace").to_owned(), sample.labels.value("pod").to_owned(), sample.value.round()))
            .collect();
        // A sum of nothing would be -0.
        let restarts = (!found.is_empty()).then(|| restarted.iter().fold(0.0, |sum, (_, _, times)| sum + times));
        (restarts, restarted)
    }

    /// The use of now, and that of the last hour. What is known of a node already stays.
    fn cpu(&mut self, now: Result<Vec<Sample>, QueryError>, lines: Result<Vec<Line>, QueryError>) {
        let known: BTreeSet<_> =
            self.nodes.values().filter(|node| node.cpu.is_some() || !node.spark.is_empty()).map(|node| node.name.clone()).collect();
        for line in self.answered("CPU of the last hour", lines) {
            let Some(name) = instance(&line.labels).filter(|name| !known.contains(*name)) else { continue };
            let node = self.node(name);
            node.spark = line.values;
            drop_end(&mut node.spark);
        }
        for sample in self.answered("CPU", now) {
            let Some(name) = instance(&sample.labels).filter(|name| !known.contains(*name)) else { continue };
            self.node(name).cpu = Some(sample.value.clamp(0.0, 1.0)).filter(|cpu| cpu.is_finite());
        }
    }

    fn gauges(&mut self, answer: Result<Vec<Sample>, QueryError>) {
        let mut memory = BTreeMap::<String, BTreeMap<String, f64>>::new();
        for sample in self.answered("Memory and load", answer) {
            let Some(name) = instance(&sample.labels) else { continue };
            match sample.labels.metric_name() {
                "node_load1" => self.node(name).load = Some(sample.value),
                "node_boot_time_seconds" => self.node(name).booted = Some(sample.value),
                metric => {
                    memory.entry(name.to_owned()).or_default().insert(metric.to_owned(), sample.value);
                }
            }
        }
        for (name, of_node) in memory {
            let pair = |total: &str, free: &str| Some((*of_node.get(total)?, *of_node.get(free)?)).filter(|(total, _)| *total > 0.0);
            let known = pair("node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes").or_else(|| pair("TotalMemory", "FreeMemory"));
            self.node(&name).memory = known.map(|(total, free)| ((total - free).max(0.0), total));
        }
    }

    /// When instances without an agent were seen, and which nodes are silent. To be called after everything that adds nodes.
    fn seen(&mut self, answer: Result<Vec<Sample>, QueryError>, steps: Steps, now: u64) {
        // A query that fails makes no instance silent.
        let is_answered = answer.is_ok();
        // An instance without an agent has no source that says when it was seen.
        self.each("When instances were seen", answer, |node, sample| {
            if node.series.is_none() {
                node.last_seen = Some(whole(sample.value * 1000.0));
            }
        });
        for node in self.nodes.values_mut() {
            // An instance that is in the graph of the last hour alone was seen when its line ends.
            if node.last_seen.is_none() {
                let last = node.spark.iter().rposition(|value| value.is_finite());
                node.last_seen = last.map(|step| u64::try_from(steps.time_ms(step)).unwrap_or_default());
            }
            let (limit, is_known) =
                if node.series.is_some() { (SILENT_AFTER_MILLIS, true) } else { (INSTANCE_SILENT_AFTER_MILLIS, is_answered) };
            node.silent = is_known && node.last_seen.map_or_else(|| !node.has_values(), |seen| now.saturating_sub(seen) > limit);
        }
    }

    /// Which of the silent nodes have stopped.
    fn stopped(&mut self, answer: Result<Vec<Sample>, QueryError>) {
        self.each("Which nodes were stopped", answer, |node, _| node.stopped = node.silent);
    }

    fn filesystems(&mut self, answer: Result<Vec<Sample>, QueryError>) {
        let mut found = BTreeMap::<(String, String, String), (Option<f64>, Option<f64>, bool)>::new();
        for sample in self.answered("Disks", answer) {
            let Some(name) = instance(&sample.labels) else { continue };
            let mount = sample.labels.value("mountpoint").to_owned();
            let device = sample.labels.get("device").map_or_else(|| mount.clone(), str::to_owned);
            let (size, available, is_read_only) = found.entry((name.to_owned(), device, mount)).or_default();
            match sample.labels.metric_name() {
                name if name.ends_with("_readonly") => *is_read_only = sample.value > 0.0,
                name if name.contains("size") => *size = Some(sample.value),
                _ => *available = Some(sample.value),
            }
        }
        let mut seen = BTreeSet::new();
        for ((name, device, mount), (size, available, is_read_only)) in found {
            let (Some(size), Some(available)) = (size.filter(|size| *size > 0.0), available) else { continue };
            // A device that is mounted several times has its space once. A mount of another size is a directory with a quota, or another filesystem whose
            // device has no name of its own.
            if !is_read_only && seen.insert((name.clone(), device.clone(), size.to_bits())) {
                self.node(&name).filesystems.push(Filesystem { mount, device, size, available });
            }
        }
    }

    fn pods(&mut self, answer: Result<Vec<Sample>, QueryError>) {
        for sample in self.answered("Pods", answer) {
            // kube-state-metrics tells about the pods of all nodes; an agent tells about its own.
            let of_node = sample.labels.get("node").filter(|node| self.nodes.contains_key(*node));
            let Some(name) = of_node.or_else(|| instance(&sample.labels)) else { continue };
            if let Some(node) = self.nodes.get_mut(name) {
                node.pods = Some(node.pods.map_or(sample.value, |pods| pods.max(sample.value)));
            }
        }
    }

    /// What labels tell. The version is that of the kernel until [`Self::versions`] knows better.
    fn infos(&mut self, answer: Result<Vec<Sample>, QueryError>) {
        for sample in self.answered("Labels of nodes", answer) {
            let labels = &sample.labels;
            let of_kubernetes = labels.metric_name() == "kube_node_labels";
            let name = if of_kubernetes { labels.get("node") } else { instance(labels) };
            let Some(node) = name.and_then(|name| self.nodes.get_mut(name)) else { continue };
            let mut tell = |name: &str, value: &str| {
                if !value.is_empty() {
                    node.labels.insert(name.to_owned(), value.to_owned());
                }
            };
            match labels.metric_name() {
                "node_os_info" => tell("os", labels.get("pretty_name").unwrap_or_else(|| labels.value("name"))),
                _ if of_kubernetes => {
                    let own = labels.iter().filter_map(|(name, value)| Some((name.strip_prefix("label_")?, value)));
                    own.filter(|(name, _)| !NO_GROUPS.contains(name)).for_each(|(name, value)| tell(name, value));
                }
                metric => {
                    labels.iter().filter(|(name, _)| !NO_GROUPS.contains(name)).for_each(|(name, value)| tell(name, value));
                    if metric == "node_uname_info" {
                        tell("kernel", labels.value("release"));
                        node.version = labels.get("release").map(|release| format!("Linux {release}"));
                    }
                }
            }
        }
    }

    /// The version of the agent, where it is known; and what is wrong with the agent.
    fn versions(&mut self, agents: Result<Vec<Sample>, QueryError>) {
        for (name, agent) in agents::by_source(self.answered("What agents say", agents)) {
            if let Some(node) = self.nodes.get_mut(&name) {
                let known = agent.version.filter(|version| version != UNKNOWN);
                node.version = known.or(node.version.take());
                node.agent_notes = agent.notes;
            }
        }
    }
}

/// Removes the last two values of a line that ended before the last step: rates are of the two minutes before their step, so these are of a time when
/// nothing was reported any more.
fn drop_end(values: &mut [f64]) {
    let Some(last) = values.iter().rposition(|value| value.is_finite()).filter(|last| last + 2 < values.len()) else { return };
    for value in values.iter_mut().take(last + 1).skip(last.saturating_sub(1)) {
        *value = f64::NAN;
    }
}

fn instance(labels: &Labels) -> Option<&str> {
    labels.get(SOURCE_LABEL).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use golectra_promql::staleness::STALE;

    use super::super::fixture::{Fixture, NOW};
    use super::*;

    fn sample(labels: &[(&str, &str)], value: f64) -> Sample {
        Sample { labels: Labels::new(labels.iter().copied()), value }
    }

    fn reader() -> Reader {
        Reader { nodes: BTreeMap::new(), missing: Vec::new() }
    }

    #[test]
    fn memory_is_what_is_not_available_and_the_originals_names_stand_in() {
        let mut reader = reader();
        let gauge = |name: &str, instance: &str, value| sample(&[(METRIC_NAME, name), (SOURCE_LABEL, instance)], value);
        reader.gauges(Ok(vec![
            gauge("node_memory_MemTotal_bytes", "a", 100.0),
            gauge("node_memory_MemAvailable_bytes", "a", 40.0),
            gauge("TotalMemory", "a", 100.0),
            gauge("FreeMemory", "a", 1.0),
            gauge("TotalMemory", "b", 50.0),
            gauge("FreeMemory", "b", 10.0),
            gauge("TotalMemory", "c", 50.0),
            gauge("node_load1", "c", 1.5),
            gauge("node_load1", "", 1.5),
        ]));
        assert_eq!(reader.nodes["a"].memory, Some((60.0, 100.0)));
        assert_eq!(reader.nodes["b"].memory, Some((40.0, 50.0)));
        assert_eq!((reader.nodes["c"].memory, reader.nodes["c"].load), (None, Some(1.5)));
        assert_eq!(reader.nodes.len(), 3, "what has no instance is no node");
    }

    #[test]
    fn a_device_that_is_mounted_twice_counts_once() {
        let mut reader = reader();
        let of = |name: &str, mount: &str, value| {
            sample(&[(METRIC_NAME, name), (SOURCE_LABEL, "a"), ("device", "/dev/vda"), ("mountpoint", mount)], value)
        };
        reader.filesystems(Ok(vec![
            of("node_filesystem_size_bytes", "/", 100.0),
            of("node_filesystem_avail_bytes", "/", 25.0),
            of("node_filesystem_size_bytes", "/var/lib", 100.0),
            of("node_filesystem_avail_bytes", "/var/lib", 25.0),
            of("node_filesystem_size_bytes", "/without", 100.0),
        ]));
        let node = &reader.nodes["a"];
        assert_eq!(node.filesystems.len(), 1);
        assert_eq!(node.fullest().map(|one| (one.mount.as_str(), one.used())), Some(("/", 0.75)));
    }

    #[test]
    fn a_filesystem_that_cannot_be_written_to_is_not_full() {
        let mut fixture = Fixture::default();
        let mut add = |device: &str, mount: &str, size: f64, available: f64, is_read_only: bool| {
            let of = format!(r#"instance="a",device="{device}",fstype="ext4",mountpoint="{mount}""#);
            let readonly = f64::from(u8::from(is_read_only));
            for (name, value) in [("size_bytes", size), ("avail_bytes", available), ("readonly", readonly)] {
                fixture.add(&format!("node_filesystem_{name}{{{of}}}"), 0..=NOW, |_| value);
            }
        };
        add("/dev/vda", "/etc", 100.0, 25.0, true);
        add("/dev/vda", "/var", 100.0, 25.0, false);
        add("/dev/vdb", "/usr", 50.0, 0.0, true);
        // A directory with a quota, and filesystems whose devices have no name of their own.
        add("/dev/vda", "/var/quota", 10.0, 1.0, false);
        add("none", "/a", 30.0, 20.0, false);
        add("none", "/b", 40.0, 2.0, false);
        let mut reader = reader();
        reader.filesystems(Ok(fixture.now(FILESYSTEMS)));
        let node = &reader.nodes["a"];
        let mounts: Vec<_> = node.filesystems.iter().map(|one| one.mount.as_str()).collect();
        assert_eq!(mounts, ["/var", "/var/quota", "/a", "/b"]);
        assert_eq!(node.fullest().map(|one| one.mount.as_str()), Some("/b"));
    }

    #[test]
    fn an_instance_is_silent_when_nothing_has_come_for_minutes_and_not_when_a_scrape_failed() {
        let (steps, now) = (Steps::range(0, 600_000, 60_000).unwrap(), 600_000);
        let mut fixture = Fixture::default();
        // Stale markers come with each scrape that fails.
        for (instance, until) in [("well", NOW), ("missed", NOW - 30), ("gone", NOW - 240), ("dead", NOW - 330)] {
            let series = format!(r#"node_load1{{instance="{instance}"}}"#);
            fixture.add(&series, 0..=NOW, |second| if second > f64::from(until) { STALE } else { 1.0 });
        }
        let line = |instance: &str, until: usize| Line {
            labels: Labels::new([(SOURCE_LABEL, instance)]),
            values: (0..=10).map(|step| if step > until { f64::NAN } else { 0.5 }).collect(),
        };
        let silent = |answer: Result<Vec<Sample>, QueryError>| {
            let mut reader = reader();
            reader.cpu(Ok(Vec::new()), Ok(vec![line("missed", 10), line("dead", 6), line("cpu alone", 10)]));
            reader.node("well");
            reader.node("gone");
            reader.node("disk alone").filesystems.push(Filesystem { mount: "/".into(), device: "d".into(), size: 2.0, available: 1.0 });
            let source = reader.node("source");
            (source.series, source.last_seen) = (Some(1), Some(500_000));
            reader.seen(answer, steps, now);
            let nodes = reader.nodes.into_values();
            nodes.filter(|node| node.silent).map(|node| (node.name, node.last_seen)).collect::<Vec<_>>()
        };
        let of = |name: &str, seen| (name.to_owned(), Some(seen));
        let expected = [of("dead", 240_000), of("gone", 360_000), of("source", 500_000)];
        assert_eq!(silent(Ok(fixture.now(SEEN))), expected, "a line loses its last two steps where it ended");
        assert_eq!(silent(Err(QueryError::QueueFull)), [of("source", 500_000)], "nobody could be asked about the instances");
    }

    #[test]
    fn a_silent_node_whose_agent_ended_in_an_orderly_way_has_stopped() {
        let mut fixture = Fixture::default();
        for node in ["stopped", "back"] {
            fixture.add(&format!(r#"golectra_source_stopped{{instance="{node}",job="golectra-server"}}"#), 0..=NOW, |_| 1.0);
        }
        let mut reader = reader();
        for (name, silent) in [("stopped", true), ("vanished", true), ("back", false)] {
            reader.node(name).silent = silent;
        }
        reader.stopped(Ok(fixture.now(STOPPED)));
        let stopped: Vec<_> = reader.nodes.values().filter(|node| node.stopped).map(|node| node.name.as_str()).collect();
        assert_eq!(stopped, ["stopped"]);
    }

    #[test]
    fn pods_belong_to_the_node_that_they_run_on() {
        let mut reader = reader();
        reader.node("n1");
        reader.node("n2");
        reader.pods(Ok(vec![
            sample(&[(SOURCE_LABEL, "n1")], 3.0),
            sample(&[(SOURCE_LABEL, "n1"), ("node", "n1")], 4.0),
            sample(&[(SOURCE_LABEL, "ksm:8080"), ("node", "n2")], 7.0),
        ]));
        assert_eq!((reader.nodes["n1"].pods, reader.nodes["n2"].pods), (Some(4.0), Some(7.0)));
    }

    #[test]
    fn a_node_is_not_busy_because_its_counters_began_a_moment_ago() {
        let mut fixture = Fixture::default();
        for (node, begun) in [("old", 0), ("new", NOW - 30)] {
            for cpu in ["0", "1"] {
                // What waits for disks is not used.
                for (mode, share) in [("idle", 0.75), ("user", 0.125), ("iowait", 0.125)] {
                    let series = format!(r#"node_cpu_seconds_total{{instance="{node}",cpu="{cpu}",mode="{mode}"}}"#);
                    fixture.add(&series, begun..=NOW, |second| 1e6 + second * share);
                }
            }
        }
        assert_eq!(fixture.values(CPU, &[SOURCE_LABEL]), ["new 0.125", "old 0.125"]);
    }

    #[test]
    fn what_two_programs_report_of_a_pod_counts_once() {
        let mut fixture = Fixture::default();
        for (instance, job) in [("n1", "agent"), ("ksm:8080", "kube-state-metrics")] {
            let of = format!(r#"instance="{instance}",job="{job}",namespace="shop",pod="cart""#);
            fixture.add(&format!(r#"kube_pod_status_phase{{{of},phase="Pending"}}"#), 0..=NOW, |_| 1.0);
            fixture.add(&format!(r#"kube_pod_status_phase{{{of},phase="Running"}}"#), 0..=NOW, |_| 0.0);
            // The newest scrape of one of them failed.
            for (container, until) in [("app", NOW), ("side", NOW - 30)] {
                let restarts = format!(r#"kube_pod_container_status_restarts_total{{{of},container="{container}"}}"#);
                let times = |second: f64| if second < 300.0 { 0.0 } else { 2.0 };
                fixture.add(&restarts, 0..=NOW, |second| if second > f64::from(until) { STALE } else { times(second) });
            }
        }
        let deleted = r#"kube_pod_container_status_restarts_total{instance="n1",namespace="shop",pod="old",container="app"}"#;
        fixture.add(deleted, 0..=NOW - 330, |second| second / 15.0);
        let sidecar = r#"kube_pod_init_container_status_restarts_total{instance="n1",namespace="shop",pod="cart",container="proxy"}"#;
        fixture.add(sidecar, 0..=NOW, |second| if second < 300.0 { 0.0 } else { 1.0 });
        // A kube-state-metrics that is scraped with the labels of its own pod.
        let exported = r#"exported_namespace="shop",exported_pod="cart",instance="n1",job="pods",namespace="mon",pod="ksm""#;
        fixture.add(&format!(r#"kube_pod_status_phase{{{exported},phase="Pending"}}"#), 0..=NOW, |_| 1.0);
        let restarts = format!(r#"kube_pod_container_status_restarts_total{{{exported},container="app"}}"#);
        fixture.add(&restarts, 0..=NOW, |second| if second < 300.0 { 0.0 } else { 2.0 });
        assert_eq!(fixture.values(NOT_READY, &[]), ["1.000"]);
        let (times, restarted) = reader().restarts(Ok(fixture.now(RESTARTS)));
        assert_eq!((times, restarted), (Some(5.0), vec![("shop".to_owned(), "cart".to_owned(), 5.0)]));
    }

    #[test]
    fn a_line_that_ended_loses_the_values_that_are_only_partly_there() {
        let dropped = |values: &[f64]| {
            let mut values = values.to_vec();
            drop_end(&mut values);
            values.iter().filter(|value| value.is_finite()).count()
        };
        let none = f64::NAN;
        assert_eq!(dropped(&[0.1, 0.2, 0.5, 0.9, none, none]), 2);
        assert_eq!(dropped(&[0.1, 0.2, 0.5, 0.9, none]), 4, "the newest step may be too young");
        assert_eq!((dropped(&[0.9, none, none]), dropped(&[none, none]), dropped(&[])), (0, 0, 0));
    }

    #[test]
    fn the_version_is_that_of_the_agent_and_else_that_of_the_kernel() {
        let mut reader = reader();
        let kernel = |node: &str| sample(&[(METRIC_NAME, "node_uname_info"), (SOURCE_LABEL, node), ("release", "6.1.0")], 1.0);
        let agent = |node: &str, version: &str| sample(&[(SOURCE_LABEL, node), ("service", "agent"), ("version", version)], 100.0);
        for node in ["a", "b", "c"] {
            reader.node(node);
        }
        let dropped = sample(&[(SOURCE_LABEL, "a"), ("reason", "expired")], 3.0);
        reader.infos(Ok(vec![kernel("a"), kernel("b"), kernel("c")]));
        reader.versions(Ok(vec![agent("a", "v1.2.0"), agent("b", "N/A"), agent("x", "v1"), dropped]));
        let shown = |node: &str| reader.nodes[node].version.clone().unwrap();
        assert_eq!([shown("a"), shown("b"), shown("c")], ["v1.2.0", "Linux 6.1.0", "Linux 6.1.0"]);
        assert_eq!(reader.nodes["a"].agent_notes, ["3 reports dropped within an hour (expired)"]);
        assert_eq!(reader.nodes.len(), 3, "an agent alone makes no node");
    }

    #[test]
    fn labels_of_nodes_come_from_the_agent_from_kubernetes_and_from_people() {
        let mut reader = reader();
        reader.node("a");
        let info = |metric: &str, labels: &[(&str, &str)]| sample(&[&[(METRIC_NAME, metric), (SOURCE_LABEL, "a")], labels].concat(), 1.0);
        let of_kubernetes = [
            (METRIC_NAME, "kube_node_labels"),
            (SOURCE_LABEL, "ksm:8080"),
            ("node", "a"),
            ("label_zone", "z1"),
            ("label_kubernetes_io_hostname", "a"),
            ("namespace", "monitoring"),
        ];
        reader.infos(Ok(vec![
            info("node_uname_info", &[("machine", "x86_64"), ("nodename", "a"), ("release", "6.1.0"), ("version", "#1"), ("cluster", "c")]),
            info("node_os_info", &[("name", "Debian"), ("pretty_name", "Debian 12"), ("version", "12")]),
            info("node_labels", &[("rack", "r7")]),
            sample(&of_kubernetes, 1.0),
            sample(&[(METRIC_NAME, "node_labels"), (SOURCE_LABEL, "x"), ("rack", "r8")], 1.0),
        ]));
        let labels: Vec<_> = reader.nodes["a"].labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(labels, ["cluster=c", "kernel=6.1.0", "machine=x86_64", "os=Debian 12", "rack=r7", "zone=z1"]);
        assert_eq!(reader.nodes.len(), 1, "labels alone make no node");
    }

    #[test]
    fn restarts_are_known_only_where_they_are_reported() {
        let mut reader = reader();
        assert_eq!(reader.restarts(Ok(Vec::new())), (None, Vec::new()));
        assert_eq!(reader.restarts(Ok(vec![sample(&[], 0.0)])), (Some(0.0), Vec::new()));
        let cart = sample(&[("namespace", "shop"), ("pod", "cart")], 2.1);
        let expected = (Some(2.0), vec![("shop".to_owned(), "cart".to_owned(), 2.0)]);
        assert_eq!(reader.restarts(Ok(vec![cart, sample(&[], 0.0)])), expected);
        assert_eq!(reader.missing, [] as [String; 0]);
        assert_eq!(reader.restarts(Err(QueryError::QueueFull)), (None, Vec::new()));
        assert_eq!(reader.missing.len(), 1);
    }

    #[test]
    fn a_query_that_fails_leaves_a_sentence() {
        let mut reader = reader();
        reader.cpu(Err(QueryError::QueueFull), Ok(Vec::new()));
        assert!(reader.missing[0].starts_with("CPU can't be shown now: too many queries"), "{:?}", reader.missing);
    }
}

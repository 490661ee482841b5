//! `/stats/summary`: what the kubelet tells about its node, its pods and their volumes.
//!
//! The names and labels are those under which cAdvisor, the kubelet and node_exporter export the same values. What the summary
//! does not have, such as the image of a container, is not among the labels.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::items::{Items, LabelSets, Owner, Writer};
use crate::collect::Filter;
use crate::collect::devices::is_of_containers;
use crate::metrics::SkipReason;

const KUBELET: (&str, &str) = ("job", "kubelet");
const NODE: (&str, &str) = ("job", "node-exporter");

const NANOSECONDS: f64 = 1e9;

/// The kernel's totals of stalled time, which the kubelet passes on unchanged.
const MICROSECONDS: f64 = 1e6;

/// The type of a filesystem whose device is not known: rules and pages leave out filesystems without a type.
const UNKNOWN_KIND: &str = "unknown";

/// By how much the traffic of a pod on the node's network may differ from the node's, which is measured up to 20 s earlier or later, as a part of it.
const NETWORK_TOLERANCE: f64 = 0.01;

/// The type of a filesystem that makes inodes as they are needed.
const XFS: &str = "xfs";

/// Which metrics of the node are reported from the summary; the others come from the node's own folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeMetrics {
    /// `node_network_*`
    pub network: bool,
    /// `node_filesystem_*`
    pub filesystem: bool,
}

/// A filesystem as the mounts of the agent's own container show it. Empty where they do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) kind: String,
}

/// The devices of the two filesystems that a kubelet tells about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) root: Device,
    pub(super) image: Device,
}

impl Devices {
    /// Whether images are on the root filesystem. Where a device is not known, the sizes and inodes that the kubelet reports are compared: a kubelet without a
    /// filesystem for images reports the root filesystem twice. Two disks of one size look the same then. The number of inodes of XFS depends on the free space,
    /// so it may differ between two measurements of one filesystem.
    fn are_one(&self, root: &Filesystem, image: &Filesystem) -> bool {
        if !self.root.name.is_empty() && !self.image.name.is_empty() {
            return self.root.name == self.image.name;
        }
        let is_xfs = self.root.kind == XFS || self.image.kind == XFS;
        root.capacity_bytes == image.capacity_bytes && (is_xfs || root.inodes == image.inodes)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats<'a> {
    #[serde(default)]
    start_time: Option<String>,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
    #[serde(borrow)]
    network: Option<Network<'a>>,
    fs: Option<Filesystem>,
    runtime: Option<Runtime>,
    swap: Option<Swap>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats<'a> {
    #[serde(borrow)]
    pod_ref: Reference<'a>,
    start_time: Option<String>,
    #[serde(borrow)]
    containers: Option<Vec<Container<'a>>>,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
    io: Option<Io>,
    #[serde(borrow)]
    network: Option<Network<'a>>,
    #[serde(borrow, rename = "volume")]
    volumes: Option<Vec<Volume<'a>>>,
}

#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    start_time: Option<String>,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
    io: Option<Io>,
    rootfs: Option<Filesystem>,
    logs: Option<Filesystem>,
    swap: Option<Swap>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    usage_core_nano_seconds: Option<f64>,
    psi: Option<Pressure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    usage_bytes: Option<f64>,
    working_set_bytes: Option<f64>,
    rss_bytes: Option<f64>,
    psi: Option<Pressure>,
}

#[derive(Deserialize)]
struct Io {
    psi: Option<Pressure>,
}

#[derive(Deserialize)]
struct Pressure {
    full: Option<Stalls>,
    some: Option<Stalls>,
}

#[derive(Deserialize)]
struct Stalls {
    total: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Swap {
    swap_available_bytes: Option<f64>,
    swap_usage_bytes: Option<f64>,
}

#[derive(Deserialize)]
struct Network<'a> {
    /// The interface `eth0`, where there is one, which older kubelets tell alone.
    #[serde(borrow, flatten)]
    default: Interface<'a>,
    #[serde(borrow)]
    interfaces: Option<Vec<Interface<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    rx_bytes: Option<f64>,
    rx_errors: Option<f64>,
    tx_bytes: Option<f64>,
    tx_errors: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filesystem {
    available_bytes: Option<f64>,
    capacity_bytes: Option<f64>,
    used_bytes: Option<f64>,
    inodes_free: Option<f64>,
    inodes: Option<f64>,
    inodes_used: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    image_fs: Option<Filesystem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume<'a> {
    /// When it was measured.
    time: Option<String>,
    #[serde(flatten)]
    space: Filesystem,
    #[serde(borrow)]
    pvc_ref: Option<Reference<'a>>,
    #[serde(rename = "volumeHealthStats")]
    health: Option<Health>,
}

#[derive(Deserialize)]
struct Health {
    abnormal: Option<bool>,
}

/// When a volume was measured, in unix seconds, and how many of its bytes were used.
///
/// A kubelet measures a volume once for each pod that uses it. What was measured last counts; of two that were measured at the
/// same time, the one that has more bytes in use.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Measured {
    at: f64,
    used_bytes: f64,
}

/// Whether pods are on the node's network (`hostNetwork`), by namespace and name.
pub(super) type HostNetworks = HashMap<(String, String), bool>;

/// The node's network as its pods may have it too.
#[derive(Debug)]
struct NodeNetwork {
    interfaces: Vec<String>,
    rx_bytes: f64,
    tx_bytes: f64,
}

impl NodeNetwork {
    fn of(network: &Network<'_>) -> Option<Self> {
        let interfaces = network.interfaces().iter().map(|interface| interface.name.to_string()).collect();
        let (rx_bytes, tx_bytes) = network.traffic();
        (rx_bytes > 0.0 && tx_bytes > 0.0).then_some(Self { interfaces, rx_bytes, tx_bytes })
    }

    /// Whether a pod's network is this one, as far as its values tell.
    fn is(&self, network: &Network<'_>) -> bool {
        let near = |pod: f64, node: f64| pod > 0.0 && (pod - node).abs() <= node * NETWORK_TOLERANCE;
        let (rx_bytes, tx_bytes) = network.traffic();
        near(rx_bytes, self.rx_bytes)
            && near(tx_bytes, self.tx_bytes)
            && network.interfaces().iter().map(|interface| &*interface.name).eq(self.interfaces.iter().map(String::as_str))
    }
}

/// What is read from one summary.
#[derive(Debug)]
pub(super) struct Summary {
    node_metrics: NodeMetrics,
    /// Which of them, as of those that the agent measures itself.
    filter: Arc<Filter>,
    devices: Devices,
    /// The claims that were reported, by namespace and name, with what decides between the pods that use one.
    claims: BTreeMap<(String, String), Measured>,
    /// What is known of pods from elsewhere.
    host_networks: Arc<HostNetworks>,
    /// The node comes before its pods.
    node_network: Option<NodeNetwork>,
    /// Pods that it has.
    pub(super) pods: usize,
    /// Whether it has the node's part.
    pub(super) has_node: bool,
    /// Whether it tells how long containers were stalled.
    pub(super) has_pressure: bool,
}

impl Summary {
    pub(super) fn new(node_metrics: NodeMetrics, filter: Arc<Filter>, devices: Devices) -> Self {
        Self {
            node_metrics,
            filter,
            devices,
            claims: BTreeMap::new(),
            host_networks: Arc::default(),
            node_network: None,
            pods: 0,
            has_node: false,
            has_pressure: false,
        }
    }

    /// The same with what is known of the networks of pods. Of others it is found out by their traffic.
    pub(super) fn knowing(self, host_networks: Arc<HostNetworks>) -> Self {
        Self { host_networks, ..self }
    }

    /// Adds what an object of the summary tells. One that cannot be read is skipped.
    pub(super) fn read(&mut self, member: &str, object: &[u8], items: &mut Items, labels: &mut LabelSets) {
        let unreadable = match member {
            "node" => serde_json::from_slice(object).map(|node| self.node(&node, items, labels)).err(),
            "pods" => serde_json::from_slice(object).map(|pod| self.pod(pod, items, labels)).err(),
            _ => None,
        };
        if let Some(error) = unreadable {
            items.readings.skip(SkipReason::Unreadable, 1, format_args!("the kubelet's summary, {member}: {error}"));
        }
    }

    fn node(&mut self, node: &NodeStats<'_>, items: &mut Items, labels: &mut LabelSets) {
        self.has_node = true;
        self.node_network = node.network.as_ref().and_then(NodeNetwork::of);
        items.group(labels, Owner::Node("summary"), 0.0, |writer| {
            let root: &[(&str, &str)] = &[("id", "/"), KUBELET];
            usage(writer, root, &[("cpu", "total"), ("id", "/"), KUBELET], node.cpu.as_ref(), node.memory.as_ref());
            writer.gauge("container_start_time_seconds", root, unix_seconds(node.start_time.as_deref()));
            if let Some(swap) = node.swap.as_ref().filter(|swap| swap.exists()) {
                writer.gauge("container_memory_swap", root, swap.swap_usage_bytes);
            }
            if let Some(network) = node.network.as_ref().filter(|_| self.node_metrics.network) {
                for interface in network.interfaces() {
                    let device: &[(&str, &str)] = &[("device", &interface.name), NODE];
                    for (name, value) in [
                        ("node_network_receive_bytes_total", interface.rx_bytes),
                        ("node_network_receive_errs_total", interface.rx_errors),
                        ("node_network_transmit_bytes_total", interface.tx_bytes),
                        ("node_network_transmit_errs_total", interface.tx_errors),
                    ] {
                        self.gauge_of_node(writer, name, device, value);
                    }
                }
            }
            if let Some(root) = node.fs.as_ref().filter(|_| self.node_metrics.filesystem) {
                self.filesystem(writer, root, &self.devices.root, "/", root.free());
                // The bytes that are used on the image filesystem are those of images alone, so how much is free is not known.
                let image = node.runtime.as_ref().and_then(|runtime| runtime.image_fs.as_ref());
                if let Some(image) = image.filter(|image| !self.devices.are_one(root, image)) {
                    self.filesystem(writer, image, &self.devices.image, "imagefs", None);
                }
            }
        });
    }

    fn filesystem(&self, writer: &mut Writer<'_>, space: &Filesystem, device: &Device, mountpoint: &str, free: Option<f64>) {
        let kind = if device.kind.is_empty() { UNKNOWN_KIND } else { &device.kind };
        let labels: &[(&str, &str)] = &[("device", &device.name), ("fstype", kind), NODE, ("mountpoint", mountpoint)];
        for (name, value) in [
            ("node_filesystem_avail_bytes", space.available_bytes),
            ("node_filesystem_files", space.inodes),
            ("node_filesystem_files_free", space.inodes_free),
            ("node_filesystem_free_bytes", free),
            ("node_filesystem_size_bytes", space.capacity_bytes),
        ] {
            self.gauge_of_node(writer, name, labels, value);
        }
    }

    /// Adds a gauge under node_exporter's names, if the operator wants it.
    fn gauge_of_node(&self, writer: &mut Writer<'_>, name: &'static str, labels: &[(&str, &str)], value: Option<f64>) {
        if self.filter.allows(name, labels) {
            writer.gauge(name, labels, value);
        }
    }

    fn pod(&mut self, pod: PodStats<'_>, items: &mut Items, labels: &mut LabelSets) {
        self.pods += 1;
        let Reference { name, namespace } = &pod.pod_ref;
        let (name, namespace) = (name.as_ref(), namespace.as_ref());
        let started_at = unix_seconds(pod.start_time.as_deref()).unwrap_or(0.0);
        let of_pod: &[(&str, &str)] = &[KUBELET, ("namespace", namespace), ("pod", name)];
        let mut containers = pod.containers.unwrap_or_default();
        // The kubelet lists them in another order each time.
        containers.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| b.start_time.cmp(&a.start_time)));
        containers.dedup_by(|next, kept| next.name == kept.name);
        // That of the node is told once.
        let network = pod.network.as_ref().filter(|network| !self.is_on_host_network(namespace, name, network));
        let has_pressure = &mut self.has_pressure;
        items.group(labels, Owner::Pod(namespace.to_owned(), name.to_owned()), started_at, |writer| {
            for container in &containers {
                *has_pressure |= container.cpu.as_ref().is_some_and(|cpu| cpu.psi.is_some());
                container.write(writer, namespace, name);
            }
            // A runtime whose containers are not seen one by one still tells about the pod.
            if !containers.iter().any(|container| container.cpu.is_some() || container.memory.is_some()) {
                let cpu: &[(&str, &str)] = &[("cpu", "total"), KUBELET, ("namespace", namespace), ("pod", name)];
                usage(writer, of_pod, cpu, pod.cpu.as_ref(), pod.memory.as_ref());
                pressure(writer, of_pod, pod.cpu.as_ref(), pod.memory.as_ref(), pod.io.as_ref());
            }
            for interface in network.into_iter().flat_map(Network::interfaces) {
                let labels: &[(&str, &str)] = &[("interface", &interface.name), KUBELET, ("namespace", namespace), ("pod", name)];
                writer.gauge("container_network_receive_bytes_total", labels, interface.rx_bytes);
                writer.gauge("container_network_receive_errors_total", labels, interface.rx_errors);
                writer.gauge("container_network_transmit_bytes_total", labels, interface.tx_bytes);
                writer.gauge("container_network_transmit_errors_total", labels, interface.tx_errors);
            }
        });
        for volume in pod.volumes.iter().flatten() {
            self.volume(volume, items, labels);
        }
    }

    /// Some kubelets give a pod on the node's network the values of the node.
    fn is_on_host_network(&self, namespace: &str, name: &str, network: &Network<'_>) -> bool {
        let known = self.host_networks.get(&(namespace.to_owned(), name.to_owned())).copied();
        known.unwrap_or_else(|| self.node_network.as_ref().is_some_and(|node| node.is(network)))
    }

    /// Adds a volume of a claim, unless what is known of the claim is from later.
    fn volume(&mut self, volume: &Volume<'_>, items: &mut Items, labels: &mut LabelSets) {
        let Some(claim) = &volume.pvc_ref else { return };
        let key = (claim.namespace.to_string(), claim.name.to_string());
        let measured = volume.measured();
        if self.claims.get(&key).is_some_and(|known| *known >= measured) {
            return;
        }
        let (namespace, name) = key.clone();
        self.claims.insert(key, measured);
        // It takes the place of the group that the claim had before.
        items.group(labels, Owner::Volume(namespace, name), measured.at, |writer| volume.write(writer, claim));
    }
}

impl Container<'_> {
    fn write(&self, writer: &mut Writer<'_>, namespace: &str, pod: &str) {
        let labels: &[(&str, &str)] = &[("container", &self.name), KUBELET, ("namespace", namespace), ("pod", pod)];
        let cpu: &[(&str, &str)] = &[("container", &self.name), ("cpu", "total"), KUBELET, ("namespace", namespace), ("pod", pod)];
        usage(writer, labels, cpu, self.cpu.as_ref(), self.memory.as_ref());
        pressure(writer, labels, self.cpu.as_ref(), self.memory.as_ref(), self.io.as_ref());
        writer.gauge("container_start_time_seconds", labels, unix_seconds(self.start_time.as_deref()));
        if let Some(rootfs) = &self.rootfs {
            writer.gauge("container_fs_usage_bytes", labels, rootfs.used_bytes);
            writer.gauge("container_fs_limit_bytes", labels, rootfs.capacity_bytes);
            writer.gauge("container_fs_inodes_total", labels, rootfs.inodes);
            writer.gauge("container_fs_inodes_free", labels, rootfs.inodes_free);
        }
        writer.gauge("kubelet_container_log_filesystem_used_bytes", labels, self.logs.as_ref().and_then(|logs| logs.used_bytes));
        if let Some(swap) = self.swap.as_ref().filter(|swap| swap.exists()) {
            writer.gauge("container_memory_swap", labels, swap.swap_usage_bytes);
        }
    }
}

fn usage(writer: &mut Writer<'_>, labels: &[(&str, &str)], with_cpu: &[(&str, &str)], cpu: Option<&Cpu>, memory: Option<&Memory>) {
    let seconds = cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map(|nanoseconds| nanoseconds / NANOSECONDS);
    writer.gauge("container_cpu_usage_seconds_total", with_cpu, seconds);
    if let Some(memory) = memory {
        writer.gauge("container_memory_rss", labels, memory.rss_bytes);
        writer.gauge("container_memory_usage_bytes", labels, memory.usage_bytes);
        writer.gauge("container_memory_working_set_bytes", labels, memory.working_set_bytes);
    }
}

fn pressure(writer: &mut Writer<'_>, labels: &[(&str, &str)], cpu: Option<&Cpu>, memory: Option<&Memory>, io: Option<&Io>) {
    for (stalled, waiting, pressure) in [
        (
            "container_pressure_cpu_stalled_seconds_total",
            "container_pressure_cpu_waiting_seconds_total",
            cpu.and_then(|cpu| cpu.psi.as_ref()),
        ),
        (
            "container_pressure_memory_stalled_seconds_total",
            "container_pressure_memory_waiting_seconds_total",
            memory.and_then(|memory| memory.psi.as_ref()),
        ),
        ("container_pressure_io_stalled_seconds_total", "container_pressure_io_waiting_seconds_total", io.and_then(|io| io.psi.as_ref())),
    ] {
        let seconds = |stalls: &Option<Stalls>| stalls.as_ref().and_then(|stalls| stalls.total).map(|total| total / MICROSECONDS);
        writer.gauge(stalled, labels, pressure.and_then(|pressure| seconds(&pressure.full)));
        writer.gauge(waiting, labels, pressure.and_then(|pressure| seconds(&pressure.some)));
    }
}

impl Swap {
    /// Whether there is any. Where there is none its use is always 0.
    fn exists(&self) -> bool {
        self.swap_available_bytes.unwrap_or(0.0) > 0.0 || self.swap_usage_bytes.unwrap_or(0.0) > 0.0
    }
}

impl<'a> Network<'a> {
    /// The bytes that all interfaces received and sent.
    fn traffic(&self) -> (f64, f64) {
        let all = self.interfaces();
        let sum = |bytes: fn(&Interface<'a>) -> Option<f64>| all.iter().filter_map(|interface| bytes(interface)).sum();
        (sum(|interface| interface.rx_bytes), sum(|interface| interface.tx_bytes))
    }

    /// Those of the node or the pod, without those between them, sorted by name.
    fn interfaces(&self) -> Vec<&Interface<'a>> {
        let mut interfaces: Vec<_> = match &self.interfaces {
            Some(interfaces) if !interfaces.is_empty() => interfaces.iter().collect(),
            _ => vec![&self.default],
        };
        interfaces.retain(|interface| !interface.name.is_empty() && !is_of_containers(&interface.name));
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        interfaces.dedup_by(|next, kept| next.name == kept.name);
        interfaces
    }
}

impl Filesystem {
    /// What is free, with what only root may use.
    fn free(&self) -> Option<f64> {
        self.capacity_bytes.zip(self.used_bytes).map(|(capacity, used)| (capacity - used).max(0.0))
    }
}

impl Volume<'_> {
    fn measured(&self) -> Measured {
        Measured { at: unix_seconds(self.time.as_deref()).unwrap_or(0.0), used_bytes: self.space.used_bytes.unwrap_or(0.0) }
    }

    fn write(&self, writer: &mut Writer<'_>, claim: &Reference<'_>) {
        let labels: &[(&str, &str)] = &[KUBELET, ("namespace", &claim.namespace), ("persistentvolumeclaim", &claim.name)];
        writer.gauge("kubelet_volume_stats_available_bytes", labels, self.space.available_bytes);
        writer.gauge("kubelet_volume_stats_capacity_bytes", labels, self.space.capacity_bytes);
        writer.gauge("kubelet_volume_stats_inodes", labels, self.space.inodes);
        writer.gauge("kubelet_volume_stats_inodes_free", labels, self.space.inodes_free);
        writer.gauge("kubelet_volume_stats_inodes_used", labels, self.space.inodes_used);
        writer.gauge("kubelet_volume_stats_used_bytes", labels, self.space.used_bytes);
        let abnormal = self.health.as_ref().and_then(|health| health.abnormal);
        writer.gauge("kubelet_volume_stats_health_status_abnormal", labels, abnormal.map(|abnormal| f64::from(u8::from(abnormal))));
    }
}

/// The time of a text such as `2026-11-26T23:30:00Z`. A kubelet writes the year 1 for a time that it does not know.
pub(super) fn unix_seconds(text: Option<&str>) -> Option<f64> {
    let time = humantime::parse_rfc3339(text?).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs_f64()).filter(|seconds| *seconds > 0.0)
}

#[cfg(test)]
mod tests;

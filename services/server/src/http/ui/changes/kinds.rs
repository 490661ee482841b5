//! What is compared: expressions, each with the least deviation that its values are held against.

use super::super::panels::Unit;

/// What a change is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The node that the label `instance` names.
    Node,
    /// The pod that the labels `namespace` and `pod` name.
    Pod,
    /// The volume that the labels `namespace` and `persistentvolumeclaim` name.
    Volume,
}

/// How values are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// From one level to another.
    Level(Unit),
    /// As the number of events in each of the windows; the values are events an hour.
    Events,
}

/// An expression whose series are compared. `$of` stands for matchers, `$window` for the window of rates.
pub struct Kind {
    /// What its values are.
    pub title: &'static str,
    /// The expression.
    pub expr: &'static str,
    /// How values are said.
    pub style: Style,
    /// The least deviation: half of it is nothing that anyone looks for.
    pub floor: f64,
    /// What its series are of.
    pub subject: Subject,
    /// The label that tells several series of one subject apart.
    pub detail: Option<&'static str>,
    /// Whether a series that was not there before had the value 0: a pod that did not exist used nothing.
    pub starts_at_zero: bool,
    /// Whether a series that ends is a change: a node that does not report any more.
    pub ends: bool,
}

const MIB: f64 = 1_048_576.0;

const fn node(title: &'static str, unit: Unit, floor: f64, expr: &'static str) -> Kind {
    Kind { title, expr, style: Style::Level(unit), floor, subject: Subject::Node, detail: None, starts_at_zero: false, ends: false }
}

const fn pod(title: &'static str, style: Style, floor: f64, expr: &'static str) -> Kind {
    Kind { title, expr, style, floor, subject: Subject::Pod, detail: None, starts_at_zero: true, ends: false }
}

/// The bytes of a node's disks, without devices that stand on others: volumes, arrays, replicas and loops, whose bytes are those of the disks below, and
/// partitions, of which agents leave out the most but not all. Where a disk's name ends with a digit, a `p` stands before the partition's number.
macro_rules! of_disks {
    ($metric:literal) => {
        concat!(
            "sum by (instance) (rate(",
            $metric,
            r#"{device!~"(dm-|md|drbd|bcache|zd|loop|z?ram).*|(h|s|v|xv|das)d[a-z]+[0-9]+|.*[0-9]p[0-9]+",$of}[$window]))"#
        )
    };
}

/// The bytes of a node's network, without the devices of its containers, which agents do not report, and without others that stand on a device of the node:
/// bonds, bridges, VLANs and tunnels, whose bytes are those of the devices below.
macro_rules! of_network {
    ($metric:literal) => {
        concat!(
            "sum by (instance) (rate(",
            $metric,
            r#"{device!~"lo|datapath|mirror0|.*[.]cali.*|egress[.].*|(erspan|gre|gretap|ip6gre|ip6tnl|sit|teql)0|ip6?_vti0|"#,
            "(veth|cni|flannel|weave|ifb|dummy|tap|macvtap|docker|br-|podman|nerdctl|virbr|vnet|lxc|lxdbr|incusbr|k6t|cali|tunl|vxlan|eni|",
            "azv|azure|gke|cilium|ovn|ovs|genev|antrea|kube-|nodelocaldns).*|",
            r#"(bond|team|cbr|vmbr|fwbr|fwln|fwpr|vlan|macvlan|ipvlan|tun|wg|tailscale).*|br[0-9]+|.+[.][0-9]+",$of}[$window]))"#
        )
    };
}

/// All of them. What several programs report of a container, or two nodes of a pod that moves, counts once.
pub const KINDS: [Kind; 17] = [
    Kind {
        ends: true,
        ..node(
            "CPU",
            Unit::Percent,
            0.03,
            r#"1 - sum by (instance) (rate(node_cpu_seconds_total{mode=~"idle|iowait",$of}[$window])) / sum by (instance) (rate(node_cpu_seconds_total{$of}[$window])) or avg by (instance) ({__name__=~"CPUutilization[0-9]+",$of}) / 100"#,
        )
    },
    node(
        "memory",
        Unit::Percent,
        0.03,
        "max by (instance) (1 - node_memory_MemAvailable_bytes{$of} / node_memory_MemTotal_bytes{$of} or 1 - FreeMemory{$of} / TotalMemory{$of})",
    ),
    Kind {
        detail: Some("mountpoint"),
        ..node(
            "filesystem",
            Unit::Percent,
            0.01,
            r#"max by (instance, mountpoint) (1 - node_filesystem_avail_bytes{fstype!~"|tmpfs|ramfs|overlay|squashfs|erofs|iso9660|nsfs",$of} / node_filesystem_size_bytes{$of})"#,
        )
    },
    node("disk writes", Unit::BytesPerSecond, 4.0 * MIB, of_disks!("node_disk_written_bytes_total")),
    node("disk reads", Unit::BytesPerSecond, 4.0 * MIB, of_disks!("node_disk_read_bytes_total")),
    node("network received", Unit::BytesPerSecond, 4.0 * MIB, of_network!("node_network_receive_bytes_total")),
    node("network sent", Unit::BytesPerSecond, 4.0 * MIB, of_network!("node_network_transmit_bytes_total")),
    node("tasks that wait for CPU", Unit::Percent, 0.05, "max by (instance) (rate(node_pressure_cpu_waiting_seconds_total{$of}[$window]))"),
    node(
        "tasks that wait for memory",
        Unit::Percent,
        0.05,
        "max by (instance) (rate(node_pressure_memory_waiting_seconds_total{$of}[$window]))",
    ),
    node(
        "tasks that wait for disks",
        Unit::Percent,
        0.05,
        "max by (instance) (rate(node_pressure_io_waiting_seconds_total{$of}[$window]))",
    ),
    Kind {
        style: Style::Events,
        ..node("OOM kills", Unit::Number, 0.5, "sum by (instance) (rate(node_vmstat_oom_kill{$of}[$window])) * 3600")
    },
    pod(
        "CPU",
        Style::Level(Unit::Cores),
        0.1,
        r#"max by (namespace, pod) (sum by (instance, namespace, pod) (rate(container_cpu_usage_seconds_total{pod!="",container!="",$of}[$window])) or max by (instance, namespace, pod) (rate(container_cpu_usage_seconds_total{pod!="",container="",$of}[$window])))"#,
    ),
    pod(
        "memory",
        Style::Level(Unit::Bytes),
        64.0 * MIB,
        r#"max by (namespace, pod) (sum by (instance, namespace, pod) (container_memory_working_set_bytes{pod!="",container!="",$of}) or max by (instance, namespace, pod) (container_memory_working_set_bytes{pod!="",container="",$of}))"#,
    ),
    pod(
        "throttled periods",
        Style::Level(Unit::Percent),
        0.1,
        r#"sum by (namespace, pod) (rate(container_cpu_cfs_throttled_periods_total{pod!="",$of}[$window])) / sum by (namespace, pod) (rate(container_cpu_cfs_periods_total{pod!="",$of}[$window]))"#,
    ),
    pod(
        "restarts",
        Style::Events,
        0.5,
        r#"sum by (namespace, pod) (max by (namespace, pod, container) (rate(kube_pod_container_status_restarts_total{pod!="",$of}[$window])) or max by (namespace, pod, container) (rate(kube_pod_init_container_status_restarts_total{pod!="",$of}[$window]))) * 3600"#,
    ),
    pod(
        "OOM kills",
        Style::Events,
        0.5,
        r#"max by (namespace, pod) (sum by (instance, namespace, pod) (rate(container_oom_events_total{pod!="",container!="",$of}[$window])) or max by (instance, namespace, pod) (rate(container_oom_events_total{pod!="",container="",$of}[$window]))) * 3600"#,
    ),
    Kind {
        title: "volume",
        expr: "max by (namespace, persistentvolumeclaim) (1 - kubelet_volume_stats_available_bytes{$of} / kubelet_volume_stats_capacity_bytes{$of})",
        style: Style::Level(Unit::Percent),
        floor: 0.01,
        subject: Subject::Volume,
        detail: None,
        starts_at_zero: false,
        ends: false,
    },
];

#[cfg(test)]
mod tests {
    use golectra_promql::Query;
    use golectra_promql::parse::ParseLimits;

    use super::super::super::fixture::{Fixture, NOW};
    use super::*;

    /// The expression of a kind, of everything.
    fn expr(title: &str, subject: Subject) -> String {
        let kind = KINDS.iter().find(|kind| kind.title == title && kind.subject == subject).unwrap();
        kind.expr.replace("$of", "").replace("$window", "120s")
    }

    #[test]
    fn bytes_count_once_whatever_stands_on_a_device() {
        let mut fixture = Fixture::default();
        let mut add = |names: [&str; 2], devices: &str, rate: f64| {
            for (name, device) in names.iter().flat_map(|name| devices.split(' ').map(move |device| (name, device))) {
                fixture.add(&format!(r#"{name}{{instance="n",device="{device}"}}"#), 0..=NOW, |second| second * rate);
            }
        };
        let disks = ["node_disk_written_bytes_total", "node_disk_read_bytes_total"];
        add(disks, "sda sdaa nvme0n1 mmcblk0 nbd0 rbd1", 5.0);
        add(disks, "sda1 sdaa1 vdb12 nvme0n1p2 mmcblk0p1 nbd0p1", 5.0);
        add(disks, "dm-0 md127 drbd0 bcache0 zd16 loop0 zram0", 5.0);
        let network = ["node_network_receive_bytes_total", "node_network_transmit_bytes_total"];
        add(network, "eth0 ens3 enp0s31f6 wlan0 ib0", 5.0);
        add(
            network,
            "lo bond0 team0 br0 vmbr0 br-a1b2c3 eth0.100 bond0.7 vlan5 wg0 tun0 tailscale0 docker0 veth1a2b cali1234 cni0 cilium_host",
            5.0,
        );
        for (title, devices) in [("disk writes", 6), ("disk reads", 6), ("network received", 5), ("network sent", 5)] {
            let expected = format!("n {}.000", devices * 5);
            assert_eq!(fixture.values(&expr(title, Subject::Node), &["instance"]), [expected], "{title}");
        }
    }

    /// The panels of the chart's dashboard for Grafana leave out the same devices.
    #[test]
    fn the_dashboard_of_nodes_asks_the_same_of_the_network() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/golectra/dashboards/golectra-nodes.json");
        let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for (panel, kind) in [("Network, received", "network received"), ("Network, sent", "network sent")] {
            let panel = dashboard["panels"].as_array().unwrap().iter().find(|one| one["title"] == panel).unwrap();
            let kind = KINDS.iter().find(|one| one.title == kind).unwrap();
            let expected = kind.expr.replace("$of", r#"instance=~"$instance""#).replace("$window", "$__rate_interval");
            assert_eq!(panel["targets"][0]["expr"], expected, "{}", kind.title);
        }
    }

    #[test]
    fn a_node_is_not_busy_because_its_counters_began_a_moment_ago() {
        let mut fixture = Fixture::default();
        // What waits for disks is not used.
        for (mode, share) in [("idle", 0.625), ("iowait", 0.125), ("user", 0.25)] {
            let series = format!(r#"node_cpu_seconds_total{{instance="new",cpu="0",mode="{mode}"}}"#);
            fixture.add(&series, NOW - 30..=NOW, |second| 1e6 + second * share);
        }
        fixture.add(r#"CPUutilization1{instance="old"}"#, 0..=NOW, |_| 40.0);
        assert_eq!(fixture.values(&expr("CPU", Subject::Node), &["instance"]), ["new 0.250", "old 0.400"]);
    }

    #[test]
    fn a_pod_counts_once_and_without_containers_as_a_whole() {
        let mut fixture = Fixture::default();
        for instance in ["n1", "n2"] {
            let of = format!(r#"instance="{instance}",namespace="shop""#);
            for labels in [r#"pod="cart",container="app""#, r#"pod="cart",container="side""#, r#"pod="cart""#, r#"pod="kata""#] {
                fixture.add(&format!("container_cpu_usage_seconds_total{{{of},{labels}}}"), 0..=NOW, |second| 1e3 + second);
                fixture.add(&format!("container_memory_working_set_bytes{{{of},{labels}}}"), 0..=NOW, |_| 7.0);
                fixture.add(&format!("container_oom_events_total{{{of},{labels}}}"), 0..=NOW, |second| 1e3 + second / 3_600.0);
            }
            let restarts = format!(r#"kube_pod_container_status_restarts_total{{{of},pod="cart",container="app"}}"#);
            fixture.add(&restarts, 0..=NOW, |second| 1e3 + second / 3_600.0);
        }
        let values = |title: &str| fixture.values(&expr(title, Subject::Pod), &["pod"]);
        assert_eq!(values("CPU"), ["cart 2.000", "kata 1.000"]);
        assert_eq!(values("memory"), ["cart 14.000", "kata 7.000"]);
        assert_eq!(values("restarts"), ["cart 1.000"]);
        assert_eq!(values("OOM kills"), ["cart 2.000", "kata 1.000"]);
    }

    #[test]
    fn every_expression_is_valid_with_and_without_matchers() {
        for kind in &KINDS {
            for of in ["", r#"instance="a""#] {
                let query = kind.expr.replace("$of", of).replace("$window", "120s");
                Query::parse(&query, &ParseLimits::default()).unwrap_or_else(|error| panic!("{query}: {error}"));
                assert!(!query.contains('$'), "{query}");
            }
            assert!(kind.floor > 0.0 && kind.expr.contains("$of"), "{}", kind.title);
        }
    }
}

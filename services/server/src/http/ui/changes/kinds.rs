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

/// All of them.
pub const KINDS: [Kind; 17] = [
    Kind {
        ends: true,
        ..node(
            "CPU",
            Unit::Percent,
            0.03,
            r#"1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle",$of}[$window])) or avg by (instance) ({__name__=~"CPUutilization[0-9]+",$of}) / 100"#,
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
            r#"max by (instance, mountpoint) (1 - node_filesystem_avail_bytes{fstype!~"|tmpfs|ramfs|overlay|squashfs|iso9660|nsfs",$of} / node_filesystem_size_bytes{$of})"#,
        )
    },
    node("disk writes", Unit::BytesPerSecond, 4.0 * MIB, "sum by (instance) (rate(node_disk_written_bytes_total{$of}[$window]))"),
    node("disk reads", Unit::BytesPerSecond, 4.0 * MIB, "sum by (instance) (rate(node_disk_read_bytes_total{$of}[$window]))"),
    node(
        "network received",
        Unit::BytesPerSecond,
        4.0 * MIB,
        r#"sum by (instance) (rate(node_network_receive_bytes_total{device!~"lo|veth.*|cali.*|cni.*",$of}[$window]))"#,
    ),
    node(
        "network sent",
        Unit::BytesPerSecond,
        4.0 * MIB,
        r#"sum by (instance) (rate(node_network_transmit_bytes_total{device!~"lo|veth.*|cali.*|cni.*",$of}[$window]))"#,
    ),
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
        r#"sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{pod!="",container!="",$of}[$window]))"#,
    ),
    pod(
        "memory",
        Style::Level(Unit::Bytes),
        64.0 * MIB,
        r#"sum by (namespace, pod) (container_memory_working_set_bytes{pod!="",container!="",$of})"#,
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
        r#"sum by (namespace, pod) (rate(kube_pod_container_status_restarts_total{pod!="",$of}[$window])) * 3600"#,
    ),
    pod("OOM kills", Style::Events, 0.5, r#"sum by (namespace, pod) (rate(container_oom_events_total{pod!="",$of}[$window])) * 3600"#),
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

    use super::*;

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

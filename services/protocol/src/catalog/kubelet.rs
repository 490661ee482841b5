//! What the kubelet tells about pods, containers and volumes, under cAdvisor's names and its own.

use super::{MetricGroup, MetricInfo as M};

/// The labels of a container; a pod whose containers are not told one by one lacks the first, the node has `id="/"` instead.
const CONTAINER: &[&str] = &["container", "id", "namespace", "pod"];
const PROCESSOR: &[&str] = &["container", "cpu", "id", "namespace", "pod"];
const INTERFACE: &[&str] = &["interface", "namespace", "pod"];
const VOLUME: &[&str] = &["namespace", "persistentvolumeclaim"];

#[rustfmt::skip]
pub(super) static GROUP: MetricGroup = MetricGroup {
    title: "Containers and volumes",
    about: "From the kubelet of the node, every 30 s, with `KUBELET_URL`. Names, types, labels and units are cAdvisor's and the kubelet's, without the labels \
            that the kubelet's summary does not have (`id`, `image` and `name` of containers). Ids carry `job=\"kubelet\"`. A pod whose containers \
            the runtime does not tell one by one has no label `container`; the whole node has `id=\"/\"` and no other label. Of a volume that several pods of a node use, \
            the values that the kubelet measured last are told, and of two measured at the same time those with more bytes in use. The collector `cadvisor` \
            needs `PODS_DETAILS`. The node's `node_network_*` and `node_filesystem_*` come from the kubelet too where its own folders are not mounted: \
            without `packets` and `drop`, and with `mountpoint=\"/\"` for the filesystem of the kubelet and `imagefs` for another one of images. A pod on the \
            node's network (`hostNetwork`) has no `container_network_*`, since they would be the node's: with `PODS_DETAILS` its specification tells, without \
            it the same interfaces with traffic within 1 % of the node's.",
    job: Some("kubelet"),
    metrics: &[
        M::counter("kubelet", "container_cpu_usage_seconds_total", "seconds", PROCESSOR, "Processor time that a container used; `cpu` is `total`."),
        M::gauge("kubelet", "container_memory_working_set_bytes", "bytes", CONTAINER, "Memory of a container that cannot be freed under pressure."),
        M::gauge("kubelet", "container_memory_usage_bytes", "bytes", CONTAINER, "Memory of a container, caches included."),
        M::gauge("kubelet", "container_memory_rss", "bytes", CONTAINER, "Memory of a container without caches."),
        M::gauge("kubelet", "container_memory_swap", "bytes", CONTAINER, "Swap that a container uses, on nodes that have swap."),
        M::counter("kubelet", "container_network_receive_bytes_total", "bytes", INTERFACE, "Bytes that a pod received."),
        M::counter("kubelet", "container_network_receive_errors_total", "", INTERFACE, "Errors of receiving in a pod."),
        M::counter("kubelet", "container_network_transmit_bytes_total", "bytes", INTERFACE, "Bytes that a pod sent."),
        M::counter("kubelet", "container_network_transmit_errors_total", "", INTERFACE, "Errors of sending in a pod."),
        M::gauge("kubelet", "container_fs_usage_bytes", "bytes", CONTAINER, "Bytes that a container has written into its own layer."),
        M::gauge("kubelet", "container_fs_limit_bytes", "bytes", CONTAINER, "Size of the filesystem of a container's own layer."),
        M::gauge("kubelet", "container_fs_inodes_total", "", CONTAINER, "Inodes of that filesystem."),
        M::gauge("kubelet", "container_fs_inodes_free", "", CONTAINER, "Free inodes of that filesystem."),
        M::gauge("kubelet", "container_start_time_seconds", "seconds", CONTAINER, "When a container started, in unix time."),
        M::counter("kubelet", "container_pressure_cpu_stalled_seconds_total", "seconds", CONTAINER, "Time that all processes of a container waited for a processor."),
        M::counter("kubelet", "container_pressure_cpu_waiting_seconds_total", "seconds", CONTAINER, "Time that a process of a container waited for a processor."),
        M::counter("kubelet", "container_pressure_memory_stalled_seconds_total", "seconds", CONTAINER, "Time that all processes of a container waited for memory."),
        M::counter("kubelet", "container_pressure_memory_waiting_seconds_total", "seconds", CONTAINER, "Time that a process of a container waited for memory."),
        M::counter("kubelet", "container_pressure_io_stalled_seconds_total", "seconds", CONTAINER, "Time that all processes of a container waited for I/O."),
        M::counter("kubelet", "container_pressure_io_waiting_seconds_total", "seconds", CONTAINER, "Time that a process of a container waited for I/O."),
        M::gauge("kubelet", "kubelet_container_log_filesystem_used_bytes", "bytes", CONTAINER, "Bytes of a container's logs."),
        M::gauge("kubelet", "kubelet_volume_stats_available_bytes", "bytes", VOLUME, "Bytes of a volume that are available."),
        M::gauge("kubelet", "kubelet_volume_stats_capacity_bytes", "bytes", VOLUME, "Size of a volume."),
        M::gauge("kubelet", "kubelet_volume_stats_used_bytes", "bytes", VOLUME, "Bytes of a volume that are used."),
        M::gauge("kubelet", "kubelet_volume_stats_inodes", "", VOLUME, "Inodes of a volume."),
        M::gauge("kubelet", "kubelet_volume_stats_inodes_free", "", VOLUME, "Free inodes of a volume."),
        M::gauge("kubelet", "kubelet_volume_stats_inodes_used", "", VOLUME, "Used inodes of a volume."),
        M::gauge("kubelet", "kubelet_volume_stats_health_status_abnormal", "", VOLUME, "1 when a volume is not healthy, else 0, where its driver says so."),
        M::counter("cadvisor", "container_cpu_cfs_periods_total", "", CONTAINER, "Periods in which a container's limit was enforced."),
        M::counter("cadvisor", "container_cpu_cfs_throttled_periods_total", "", CONTAINER, "Of these, those in which it was throttled."),
        M::counter("cadvisor", "container_cpu_cfs_throttled_seconds_total", "seconds", CONTAINER, "Time that a container was throttled."),
        M::counter("cadvisor", "container_oom_events_total", "", CONTAINER, "How often a container ran out of memory."),
    ],
};

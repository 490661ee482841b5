use std::collections::BTreeMap;

use golectra_protocol::json;
use proptest::prelude::*;

use super::super::items::checked;
use super::super::splitter::Splitter;
use super::*;
use crate::collect::Choice;

const ALL: NodeMetrics = NodeMetrics { network: true, filesystem: true };

/// What is reported of a summary, and how many readings were skipped.
type Found = (BTreeMap<String, f64>, Vec<(SkipReason, u64)>);

fn device(name: &str, kind: &str) -> Device {
    Device { name: name.into(), kind: kind.into() }
}

/// Of a node with two disks.
fn read(document: &[u8], node_metrics: NodeMetrics) -> Found {
    read_filtered(document, node_metrics, Filter::default())
}

/// The same with an operator's choices.
fn read_filtered(document: &[u8], node_metrics: NodeMetrics, filter: Filter) -> Found {
    read_on(Devices { root: device("/dev/sda1", "ext4"), image: device("/dev/sdb", "xfs") }, document, node_metrics, filter)
}

/// Of a node with one disk.
fn read_on_one_disk(document: &[u8]) -> Found {
    read_on(Devices { root: device("/dev/sda1", "ext4"), image: device("/dev/sda1", "ext4") }, document, ALL, Filter::default())
}

fn read_on(devices: Devices, document: &[u8], node_metrics: NodeMetrics, filter: Filter) -> Found {
    let (mut items, mut labels, mut splitter) = (Items::default(), LabelSets::default(), Splitter::default());
    let mut summary = Summary::new(node_metrics, filter.into(), devices);
    let _ = splitter.read(document, &mut |member, object| summary.read(member, object, &mut items, &mut labels));
    let found = checked(&mut items);
    (found, items.readings.skipped_counts().collect())
}

fn assert_has(found: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (id, value) in expected {
        assert_eq!(found.get(*id), Some(value), "{id} in {:#?}", found.keys());
    }
}

#[test]
fn a_summary_of_1_34_has_the_node_its_pods_and_their_volumes() {
    let (found, skipped) = read(include_bytes!("../testdata/summary-1.34.json"), ALL);
    assert_eq!(skipped, []);
    let web = r#"{container="web",job="kubelet",namespace="shop",pod="web-7d4b9c-x2x4z"}"#;
    let of_web = |name: &str| format!("{name}{web}");
    assert_has(
        &found,
        &[
            (
                r#"container_cpu_usage_seconds_total{container="web",cpu="total",job="kubelet",namespace="shop",pod="web-7d4b9c-x2x4z"}"#,
                3723.5,
            ),
            (&of_web("container_memory_working_set_bytes"), 33e6),
            (&of_web("container_memory_usage_bytes"), 41e6),
            (&of_web("container_memory_rss"), 30e6),
            (&of_web("container_pressure_cpu_stalled_seconds_total"), 1.5),
            (&of_web("container_pressure_cpu_waiting_seconds_total"), 2.5),
            (&of_web("container_pressure_memory_waiting_seconds_total"), 20e-6),
            (&of_web("container_pressure_io_stalled_seconds_total"), 30e-6),
            (&of_web("container_fs_usage_bytes"), 4096.0),
            (&of_web("container_fs_limit_bytes"), 2e11),
            (&of_web("kubelet_container_log_filesystem_used_bytes"), 61440.0),
            (&of_web("container_start_time_seconds"), 1_795_600_802.0),
            (r#"container_network_receive_bytes_total{interface="eth0",job="kubelet",namespace="shop",pod="web-7d4b9c-x2x4z"}"#, 500.0),
            (r#"container_network_transmit_errors_total{interface="eth0",job="kubelet",namespace="shop",pod="web-7d4b9c-x2x4z"}"#, 0.0),
            (r#"kubelet_volume_stats_used_bytes{job="kubelet",namespace="shop",persistentvolumeclaim="web-data"}"#, 900.0),
            (r#"kubelet_volume_stats_inodes_free{job="kubelet",namespace="shop",persistentvolumeclaim="web-data"}"#, 5.0),
            (r#"kubelet_volume_stats_health_status_abnormal{job="kubelet",namespace="shop",persistentvolumeclaim="web-data"}"#, 0.0),
            (r#"container_cpu_usage_seconds_total{cpu="total",id="/",job="kubelet"}"#, 123_456.789),
            (r#"container_memory_working_set_bytes{id="/",job="kubelet"}"#, 2.5e9),
            (r#"node_network_receive_bytes_total{device="eth0",job="node-exporter"}"#, 1000.0),
            (r#"node_network_transmit_errs_total{device="eth1",job="node-exporter"}"#, 0.0),
            (r#"node_filesystem_size_bytes{device="/dev/sda1",fstype="ext4",job="node-exporter",mountpoint="/"}"#, 1e11),
            (r#"node_filesystem_free_bytes{device="/dev/sda1",fstype="ext4",job="node-exporter",mountpoint="/"}"#, 55e9),
            (r#"node_filesystem_avail_bytes{device="/dev/sdb",fstype="xfs",job="node-exporter",mountpoint="imagefs"}"#, 7e10),
        ],
    );
    for absent in ["veth", "container_memory_swap", "kube-api-access", "ephemeral"] {
        assert!(!found.keys().any(|id| id.contains(absent)), "{absent}");
    }
    let of_pods = |id: &&String| id.starts_with("container_cpu") && !id.contains("container=");
    assert_eq!(found.keys().filter(of_pods).count(), 1, "a pod with containers is not told a second time as a whole");
}

#[test]
fn a_summary_from_the_runtime_of_1_28_without_pressure() {
    let (found, skipped) = read_on_one_disk(include_bytes!("../testdata/summary-1.28-cri.json"));
    assert_eq!(skipped, [(SkipReason::Unreadable, 1)], "a pod that cannot be read does not hide the others");
    assert_has(
        &found,
        &[
            (r#"container_cpu_usage_seconds_total{cpu="total",job="kubelet",namespace="vm",pod="kata"}"#, 4.0),
            (r#"container_memory_working_set_bytes{job="kubelet",namespace="vm",pod="kata"}"#, 9.0),
            (r#"container_cpu_usage_seconds_total{container="app",cpu="total",job="kubelet",namespace="shop",pod="restarting"}"#, 0.02),
            (r#"container_cpu_usage_seconds_total{container="web",cpu="total",job="kubelet",namespace="shop",pod="web-0"}"#, 1.0),
            (r#"node_network_receive_bytes_total{device="ens5",job="node-exporter"}"#, 7.0),
        ],
    );
    assert!(!found.keys().any(|id| id.contains("imagefs")), "one filesystem for everything is told once");
    assert!(!found.keys().any(|id| id.contains("pressure")), "what is not told is absent");
}

/// The stats of cAdvisor on cgroup v1; the newest container of a pod has just been restarted, and a job has ended.
#[test]
fn a_summary_of_1_30_without_the_runtimes_stats() {
    let (found, skipped) = read_on_one_disk(include_bytes!("../testdata/summary-1.30.json"));
    assert_eq!(skipped, []);
    let api = r#"{container="api",job="kubelet",namespace="shop",pod="api-6d5f7c9b8-k2v7q"}"#;
    let pod = r#"job="kubelet",namespace="shop",pod="api-6d5f7c9b8-k2v7q"}"#;
    let of_api = |name: &str| format!("{name}{api}");
    assert_has(
        &found,
        &[
            (&format!(r#"container_cpu_usage_seconds_total{{container="api",cpu="total",{pod}"#), 1.5),
            (&format!(r#"container_cpu_usage_seconds_total{{container="mesh-proxy",cpu="total",{pod}"#), 812.044),
            (&of_api("container_start_time_seconds"), 1_717_407_655.0),
            (&of_api("container_memory_working_set_bytes"), 31_204_352.0),
            (&of_api("container_fs_usage_bytes"), 40_960.0),
            (&of_api("kubelet_container_log_filesystem_used_bytes"), 20_480.0),
            (&format!(r#"container_network_receive_errors_total{{interface="eth0",{pod}"#), 2.0),
            (
                r#"container_cpu_usage_seconds_total{container="etcd",cpu="total",job="kubelet",namespace="kube-system",pod="etcd-ip-10-0-1-20"}"#,
                51_204.412,
            ),
            (r#"kubelet_volume_stats_available_bytes{job="kubelet",namespace="shop",persistentvolumeclaim="api-cache"}"#, 1_020_440_576.0),
            (r#"container_cpu_usage_seconds_total{cpu="total",id="/",job="kubelet"}"#, 201_204.412_044_12),
            (r#"node_network_receive_bytes_total{device="ens5",job="node-exporter"}"#, 91_204_412_044.0),
            (r#"node_filesystem_avail_bytes{device="/dev/sda1",fstype="ext4",job="node-exporter",mountpoint="/"}"#, 21_474_836_480.0),
        ],
    );
    for absent in ["pressure", "swap", "imagefs", "cali1a2b3c4d5e6", "tunl0", "etcd-data", "kube-api-access", "migrate-28622105"] {
        assert!(!found.keys().any(|id| id.contains(absent)), "{absent}");
    }
}

/// The runtime's stats with pressure and swap. One container was restarted and its last run is told as well, one pod is on the node's network, and one
/// has a runtime that does not show its containers.
#[test]
fn a_summary_of_1_36_with_the_runtimes_stats() {
    let (found, skipped) = read(include_bytes!("../testdata/summary-1.36.json"), ALL);
    assert_eq!(skipped, []);
    let worker = r#"{container="worker",job="kubelet",namespace="jobs",pod="worker-0"}"#;
    let of_worker = |name: &str| format!("{name}{worker}");
    let of_sandbox = |name: &str| format!(r#"{name}{{job="kubelet",namespace="jobs",pod="sandboxed-7c4f"}}"#);
    assert_has(
        &found,
        &[
            (r#"container_cpu_usage_seconds_total{container="worker",cpu="total",job="kubelet",namespace="jobs",pod="worker-0"}"#, 9.5),
            (&of_worker("container_start_time_seconds"), 1_791_210_020.0),
            (&of_worker("container_memory_working_set_bytes"), 401_204_224.0),
            (&of_worker("container_memory_swap"), 1_048_576.0),
            (&of_worker("container_pressure_cpu_stalled_seconds_total"), 1.0),
            (&of_worker("container_pressure_cpu_waiting_seconds_total"), 3.0),
            (&of_worker("container_pressure_memory_waiting_seconds_total"), 240e-6),
            (&of_worker("container_pressure_io_waiting_seconds_total"), 1.5),
            (r#"container_network_receive_bytes_total{interface="net1",job="kubelet",namespace="jobs",pod="worker-0"}"#, 91_204.0),
            (r#"kubelet_volume_stats_available_bytes{job="kubelet",namespace="jobs",persistentvolumeclaim="data-worker-0"}"#, 0.0),
            (r#"kubelet_volume_stats_health_status_abnormal{job="kubelet",namespace="jobs",persistentvolumeclaim="data-worker-0"}"#, 1.0),
            (r#"container_cpu_usage_seconds_total{cpu="total",job="kubelet",namespace="jobs",pod="sandboxed-7c4f"}"#, 61.204_412),
            (&of_sandbox("container_memory_rss"), 261_204_992.0),
            (&of_sandbox("container_pressure_io_waiting_seconds_total"), 40e-6),
            (r#"container_network_transmit_bytes_total{interface="eth0",job="kubelet",namespace="jobs",pod="sandboxed-7c4f"}"#, 110_441.0),
            (r#"container_memory_swap{id="/",job="kubelet"}"#, 268_435_456.0),
            (r#"node_network_receive_bytes_total{device="bond0",job="node-exporter"}"#, 891_204_412_044.0),
            (r#"node_network_transmit_bytes_total{device="enp65s0f0np0",job="node-exporter"}"#, 241_204_412_044.0),
            (r#"node_filesystem_size_bytes{device="/dev/sdb",fstype="xfs",job="node-exporter",mountpoint="imagefs"}"#, 536_870_912_000.0),
        ],
    );
    let of_detector = |id: &&String| id.contains("node-problem-detector");
    assert!(found.keys().filter(of_detector).all(|id| !id.contains("_network_")), "its network is the node's");
    assert!(found.keys().filter(of_detector).count() > 10);
    assert_eq!(found.keys().filter(|id| id.contains("lxc") || id.contains("cilium")).count(), 0);
}

#[test]
fn a_pod_on_the_nodes_network_is_not_told_to_have_the_nodes_traffic() {
    let network = |rx: u64, tx: u64| {
        let of = |name: &str| serde_json::json!({"name": name, "rxBytes": rx, "rxErrors": 0, "txBytes": tx, "txErrors": 0});
        // Kubelets tell an interface by itself only where it is called eth0.
        serde_json::json!({"name": "", "interfaces": [of("vetha1b2c3d4"), of("ens5")]})
    };
    let pod =
        |name: &str, network: &serde_json::Value| serde_json::json!({"podRef": {"name": name, "namespace": "shop"}, "network": network});
    let other_name = serde_json::json!({"name": "eth1", "rxBytes": 1_000_000, "txBytes": 2_000_000});
    let document = |node: serde_json::Value, proxy: serde_json::Value| {
        let pods = [pod("proxy", &proxy), pod("web", &network(1_005_000, 900)), pod("idle", &network(0, 0)), pod("other", &other_name)];
        serde_json::json!({"node": {"nodeName": "n", "network": node}, "pods": pods}).to_string()
    };
    let told = |document: &str, known: HostNetworks| {
        let (mut items, mut labels, mut splitter) = (Items::default(), LabelSets::default(), Splitter::default());
        let mut summary = Summary::new(ALL, Arc::default(), Devices::default()).knowing(Arc::new(known));
        splitter.read(document.as_bytes(), &mut |member, object| summary.read(member, object, &mut items, &mut labels)).unwrap();
        let found = checked(&mut items);
        let is_told = |pod: &str| {
            let start = "container_network_receive_bytes_total{";
            found.keys().any(|id| id.starts_with(start) && id.contains(&format!("pod=\"{pod}\"")))
        };
        ["proxy", "web", "idle", "other"].map(is_told)
    };
    let busy = document(network(1_000_000, 2_000_000), network(1_005_000, 2_010_000));
    assert_eq!(told(&busy, HostNetworks::new()), [false, true, true, true]);
    let quiet = document(network(0, 0), network(0, 0));
    assert_eq!(told(&quiet, HostNetworks::new()), [true, true, true, true], "without traffic it is not known");
    // What the list of pods says counts.
    let known = |name: &str, is_on_host: bool| (("shop".to_owned(), name.to_owned()), is_on_host);
    let known = HostNetworks::from([known("proxy", false), known("web", true), known("idle", true)]);
    assert_eq!(told(&busy, known), [true, false, false, true]);
}

#[test]
fn a_windows_node_in_the_cluster() {
    let (found, skipped) = read(include_bytes!("../testdata/summary-windows.json"), ALL);
    assert_eq!(skipped, []);
    assert_has(
        &found,
        &[
            (r#"container_cpu_usage_seconds_total{container="iis",cpu="total",job="kubelet",namespace="web",pod="iis"}"#, 2.0),
            (r#"node_network_receive_bytes_total{device="vEthernet (Ethernet)",job="node-exporter"}"#, 10.0),
        ],
    );
}

#[test]
fn images_have_a_filesystem_of_their_own_where_their_device_is_another_one() {
    let (sda, sdb, unknown) = (device("/dev/sda1", "ext4"), device("/dev/sdb", "ext4"), Device::default());
    let xfs = device("/dev/sda1", "xfs");
    let of_sdb = r#"node_filesystem_size_bytes{device="/dev/sdb",fstype="ext4",job="node-exporter",mountpoint="imagefs"}"#;
    let of_unknown = r#"node_filesystem_size_bytes{fstype="unknown",job="node-exporter",mountpoint="imagefs"}"#;
    for (root, image, inodes, expected) in [
        (&sda, &sdb, 20, Some(of_sdb)),
        // Two disks of one size.
        (&sda, &sdb, 10, Some(of_sdb)),
        // The number of inodes of XFS varies with the room that is left.
        (&sda, &sda, 20, None),
        (&sda, &sda, 10, None),
        // Where a device is not known, sizes tell.
        (&sda, &unknown, 20, Some(of_unknown)),
        (&sda, &unknown, 10, None),
        (&xfs, &unknown, 20, None),
        (&xfs, &unknown, 10, None),
        (&unknown, &sdb, 10, None),
        (&unknown, &xfs, 20, None),
        (&unknown, &unknown, 10, None),
    ] {
        let document = serde_json::json!({"node": {
            "nodeName": "n",
            "fs": {"capacityBytes": 100, "availableBytes": 50, "usedBytes": 40, "inodes": 10, "inodesFree": 5},
            "runtime": {"imageFs": {"capacityBytes": 100, "availableBytes": 50, "usedBytes": 7, "inodes": inodes, "inodesFree": 5}},
        }});
        let devices = Devices { root: root.clone(), image: image.clone() };
        let (found, _) = read_on(devices, document.to_string().as_bytes(), ALL, Filter::default());
        let sizes: Vec<&str> = found.keys().map(String::as_str).filter(|id| id.starts_with("node_filesystem_size_bytes{")).collect();
        let of_images: Vec<&str> = sizes.iter().copied().filter(|id| id.contains("imagefs")).collect();
        assert_eq!(of_images, Vec::from_iter(expected), "{root:?} {image:?} {inodes}");
        assert!(sizes.iter().all(|id| id.contains("fstype=")), "rules and pages leave out what has no type: {sizes:?}");
    }
}

#[test]
fn of_a_volume_that_several_pods_use_what_was_measured_last_counts() {
    let pod = |name: &str, started: u32, time: Option<u32>, used: u64| {
        let time = time.map(|second| format!("2026-11-26T22:59:{second:02}Z"));
        serde_json::json!({
            "podRef": {"name": name, "namespace": "shop"},
            "startTime": format!("2026-11-26T10:00:{started:02}Z"),
            "volume": [{"time": time, "usedBytes": used, "availableBytes": 100 - used, "name": "v", "pvcRef": {"name": "data", "namespace": "shop"}}],
        })
    };
    let (old, new) = (pod("a", 0, Some(10), 60), pod("b", 0, Some(40), 20));
    let (fuller, unknown) = (pod("c", 0, Some(40), 30), pod("d", 0, None, 90));
    // The pod that started last is told alone, and it has no volume.
    let again = serde_json::json!({"podRef": {"name": "b", "namespace": "shop"}, "startTime": "2026-11-26T10:00:30Z"});
    let cases = [
        (vec![&old, &new], 20.0),
        (vec![&new, &old], 20.0),
        (vec![&new, &fuller, &old], 30.0),
        (vec![&fuller, &new, &unknown], 30.0),
        (vec![&unknown], 90.0),
        (vec![&unknown, &old], 60.0),
        (vec![&new, &again], 20.0),
    ];
    for (pods, used) in cases {
        let (found, skipped) = read(serde_json::json!({"pods": pods}).to_string().as_bytes(), ALL);
        assert_eq!(skipped, [], "{pods:?}");
        let of_claim =
            |name: &str| found.get(&format!(r#"{name}{{job="kubelet",namespace="shop",persistentvolumeclaim="data"}}"#)).copied();
        // Both values are of one measurement.
        let shown = (of_claim("kubelet_volume_stats_used_bytes"), of_claim("kubelet_volume_stats_available_bytes"));
        assert_eq!(shown, (Some(used), Some(100.0 - used)), "{pods:?}");
    }
}

#[test]
fn metrics_that_the_nodes_own_folders_tell_are_left_to_them() {
    let (found, _) = read(include_bytes!("../testdata/summary-1.34.json"), NodeMetrics { network: false, filesystem: false });
    assert!(!found.keys().any(|id| id.starts_with("node_")));
    assert!(found.keys().any(|id| id.starts_with("container_network_")));
}

#[test]
fn what_an_operator_leaves_out_of_the_node_is_left_out_of_the_summary() {
    let pattern = |text: &str| Some(text.parse().unwrap());
    let filter = Filter {
        metrics: Choice { include: None, exclude: pattern("node_network_.*_errs_total") },
        devices: Choice { include: pattern("eth0"), exclude: None },
        mounts: Choice { include: None, exclude: pattern("imagefs") },
    };
    let (found, _) = read_filtered(include_bytes!("../testdata/summary-1.34.json"), ALL, filter);
    let of_node: Vec<_> = found.keys().filter(|id| id.starts_with("node_network_")).collect();
    assert_eq!(
        of_node,
        [
            r#"node_network_receive_bytes_total{device="eth0",job="node-exporter"}"#,
            r#"node_network_transmit_bytes_total{device="eth0",job="node-exporter"}"#,
        ]
    );
    let of_filesystems: Vec<_> = found.keys().filter(|id| id.starts_with("node_filesystem_")).collect();
    assert!(!of_filesystems.is_empty() && of_filesystems.iter().all(|id| id.contains(r#"mountpoint="/"}"#)), "{of_filesystems:?}");
    assert!(found.keys().any(|id| id.starts_with("container_network_")), "pods are chosen by namespace");
}

#[test]
fn times_before_1970_are_not_known() {
    assert_eq!(unix_seconds(Some("1970-01-01T00:01:00Z")), Some(60.0));
    for text in
        [None, Some("0001-01-01T00:00:00Z"), Some(""), Some("yesterday"), Some("9999-99-99T99:99:99Z"), Some("é026-11-26T23:00:00Z")]
    {
        assert_eq!(unix_seconds(text), None, "{text:?}");
    }
}

/// Any JSON with the names of a summary.
fn summary_like() -> impl Strategy<Value = serde_json::Value> {
    let names = prop::sample::select(vec![
        "podRef",
        "name",
        "namespace",
        "startTime",
        "containers",
        "cpu",
        "memory",
        "psi",
        "full",
        "some",
        "total",
        "network",
        "interfaces",
        "rxBytes",
        "volume",
        "pvcRef",
        "rootfs",
        "capacityBytes",
        "usageCoreNanoSeconds",
        "fs",
        "runtime",
        "imageFs",
        "swap",
        "io",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<f64>().prop_map(|number| serde_json::json!(number)),
        any::<i64>().prop_map(|number| serde_json::json!(number)),
        ".{0,8}".prop_map(|text| serde_json::json!(text)),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            prop::collection::btree_map(names.clone(), inner, 0..8)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics(node in summary_like(), pods in prop::collection::vec(summary_like(), 0..4)) {
        read_or_skip(serde_json::json!({"node": node, "pods": pods}).to_string().as_bytes());
    }

    /// A summary with a few bytes changed.
    #[test]
    fn no_damage_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut document = include_bytes!("../testdata/summary-1.34.json").to_vec();
        for (at, byte) in changes {
            let at = at.index(document.len());
            document[at] = byte;
        }
        let _ = read_or_skip(&document);
    }
}

/// As `read`, for documents in which a name may occur twice.
fn read_or_skip(document: &[u8]) -> usize {
    let (mut items, mut labels, mut splitter) = (Items::default(), LabelSets::default(), Splitter::default());
    let mut summary = Summary::new(ALL, Arc::default(), Devices::default());
    let _ = splitter.read(document, &mut |member, object| summary.read(member, object, &mut items, &mut labels));
    items.batches(100_000).iter().map(|batch| json::decode_batch(format!("[{}]", batch.text).as_bytes(), 10_000).unwrap().len()).sum()
}

//! What a kubelet tells about a node with many pods, in answers of the length and variety that real ones have.

use std::fmt::Write as _;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::{Received, Reply};

/// The gzipped report of a node with 16 processors, at most.
pub const NODE_REPORT_BYTES: u64 = 9 << 10;

/// The gzipped reports of one reading of 110 pods in detail together, at most.
pub const POD_REPORT_BYTES: u64 = 66 << 10;

/// Besides those that an agent reads, this many of cAdvisor's metrics.
const OTHER_CADVISOR_METRICS: u64 = 45;

/// A node whose pods a test chooses. Whatever is measured is another number each time.
pub struct KubeletNode {
    state: Mutex<State>,
}

struct State {
    pods: Vec<u64>,
    random: u64,
}

impl KubeletNode {
    /// A node with these pods. A pod has the same names whenever it is told.
    pub fn with_pods(pods: impl IntoIterator<Item = u64>) -> Self {
        Self { state: Mutex::new(State { pods: pods.into_iter().collect(), random: 0 }) }
    }

    /// From now on the node has these pods.
    pub fn set_pods(&self, pods: impl IntoIterator<Item = u64>) {
        self.state.lock().expect("no holder panics").pods = pods.into_iter().collect();
    }

    /// The answer to a request of an agent for which the kubelet and the server are at one address: every report is taken.
    pub fn answer_beside_a_server(&self, request: &Received) -> Reply {
        self.answer(request).unwrap_or_else(|| {
            let items = golectra_protocol::json::count_items(&request.unpacked()).expect("an array");
            Reply::status(200).body("application/json", format!(r#"{{"updated":{items}}}"#))
        })
    }

    /// The answer to a request; None for one that no kubelet gets from an agent.
    fn answer(&self, request: &Received) -> Option<Reply> {
        let mut state = self.state.lock().expect("no holder panics");
        let (media_type, body) = match request.path.as_str() {
            "/stats/summary" => ("application/json", state.summary().to_string()),
            "/pods" => ("application/json", state.list().to_string()),
            "/metrics/cadvisor" => ("text/plain", state.cadvisor()),
            _ => return None,
        };
        Some(Reply::status(200).body(media_type, body))
    }

    /// The name of a pod.
    pub fn pod_name(pod: u64) -> String {
        format!("service-{}-{}-{}", pod / 8, letters(pod / 8, 10), letters(pod, 5))
    }
}

impl State {
    /// A number of up to so many digits, as counters have them.
    fn number(&mut self, below: u64) -> u64 {
        self.random += 1;
        mixed(self.random) % below
    }

    fn pressure(&mut self) -> Value {
        let mut stalls = || json!({"total": self.number(1_000_000_000), "avg10": 0.12, "avg60": 0.08, "avg300": 0.02});
        json!({"full": stalls(), "some": stalls()})
    }

    fn cpu(&mut self) -> Value {
        json!({"time": TIME, "usageNanoCores": self.number(100_000_000), "usageCoreNanoSeconds": self.number(100_000_000_000_000), "psi": self.pressure()})
    }

    fn memory(&mut self) -> Value {
        json!({
            "time": TIME, "usageBytes": self.number(1 << 30), "workingSetBytes": self.number(1 << 30), "rssBytes": self.number(1 << 30),
            "pageFaults": self.number(1 << 20), "majorPageFaults": 3, "psi": self.pressure(),
        })
    }

    fn filesystem(&mut self, capacity: u64) -> Value {
        json!({
            "time": TIME, "availableBytes": self.number(capacity), "capacityBytes": capacity, "usedBytes": self.number(capacity),
            "inodesFree": self.number(13_107_200), "inodes": 13_107_200, "inodesUsed": self.number(13_107_200),
        })
    }

    fn interface(&mut self, name: &str) -> Value {
        json!({"name": name, "rxBytes": self.number(1 << 40), "rxErrors": 0, "txBytes": self.number(1 << 40), "txErrors": 0})
    }

    fn container(&mut self, name: &str) -> Value {
        json!({
            "name": name, "startTime": TIME, "cpu": self.cpu(), "memory": self.memory(), "io": {"time": TIME, "psi": self.pressure()},
            "rootfs": self.filesystem(1 << 38), "logs": self.filesystem(1 << 37), "swap": {"time": TIME, "swapAvailableBytes": 0, "swapUsageBytes": 0},
        })
    }

    fn pod(&mut self, pod: u64) -> Value {
        let containers: Vec<_> = containers(pod).iter().map(|name| self.container(name)).collect();
        let mut volume = self.filesystem(1 << 36);
        volume["name"] = "kube-api-access-x2x4z".into();
        if pod.is_multiple_of(10) {
            volume["pvcRef"] = json!({"name": format!("data-{}", KubeletNode::pod_name(pod)), "namespace": namespace(pod)});
        }
        let mut network = self.interface("eth0");
        network["interfaces"] = json!([self.interface("eth0")]);
        json!({
            "podRef": {"name": KubeletNode::pod_name(pod), "namespace": namespace(pod), "uid": uid(pod)}, "startTime": TIME,
            "containers": containers, "cpu": self.cpu(), "memory": self.memory(), "network": network, "volume": [volume],
            "ephemeral-storage": self.filesystem(1 << 37), "process_stats": {"process_count": 3},
        })
    }

    fn summary(&mut self) -> Value {
        let pods: Vec<_> = self.pods.clone().into_iter().map(|pod| self.pod(pod)).collect();
        let mut network = self.interface("eth0");
        let ends: Vec<_> = self.pods.clone().into_iter().map(|pod| self.interface(&format!("veth{:08x}", mixed(pod) >> 32))).collect();
        network["interfaces"] = [vec![self.interface("eth0")], ends].concat().into();
        json!({
            "node": {
                "nodeName": "node-1", "startTime": TIME, "cpu": self.cpu(), "memory": self.memory(), "network": network,
                "fs": self.filesystem(1 << 37), "runtime": {"imageFs": self.filesystem(1 << 38)},
            },
            "pods": pods,
        })
    }

    fn list(&self) -> Value {
        let pod = |pod: &u64| {
            let resources = json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}});
            let environment: Vec<_> = (0..12).map(|at| json!({"name": format!("SETTING_{at}"), "value": letters(*pod + at, 20)})).collect();
            let specified =
                containers(*pod).iter().map(|name| json!({"name": name, "image": "a", "env": environment, "resources": resources}));
            let restarts = pod % 4;
            let last = if restarts > 0 { json!({"terminated": {"exitCode": 1, "reason": "Error"}}) } else { json!({}) };
            let status =
                |name: &&str| json!({"name": name, "ready": true, "restartCount": restarts, "state": {"running": {}}, "lastState": last});
            let owner = json!({"kind": "ReplicaSet", "name": format!("service-{}-{}", pod / 8, letters(pod / 8, 10)), "controller": true});
            json!({
                "metadata": {
                    "name": KubeletNode::pod_name(*pod), "namespace": namespace(*pod), "uid": uid(*pod), "creationTimestamp": TIME,
                    "labels": {"app": "service"}, "ownerReferences": [owner],
                },
                "spec": {"nodeName": "node-1", "containers": specified.collect::<Vec<_>>()},
                "status": {
                    "phase": "Running", "hostIP": "10.0.0.1", "podIP": format!("10.244.{}.{}", pod / 250, pod % 250),
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": containers(*pod).iter().map(status).collect::<Vec<_>>(),
                },
            })
        };
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods.iter().map(pod).collect::<Vec<_>>()})
    }

    fn cadvisor(&mut self) -> String {
        let known = [
            "container_cpu_cfs_periods_total",
            "container_cpu_cfs_throttled_periods_total",
            "container_cpu_cfs_throttled_seconds_total",
            "container_oom_events_total",
        ];
        let others = (0..OTHER_CADVISOR_METRICS).map(|number| format!("container_other_{number}"));
        let mut text = String::new();
        for metric in known.map(str::to_owned).into_iter().chain(others) {
            for pod in self.pods.clone() {
                let (name, namespace) = (KubeletNode::pod_name(pod), namespace(pod));
                for container in containers(pod).iter().chain(&[""]) {
                    let id = letters(pod, 60);
                    let value = self.number(1 << 20);
                    let _ = writeln!(
                        text,
                        "{metric}{{container=\"{container}\",id=\"/kubepods.slice/cri-{id}.scope\",image=\"a\",name=\"{id}\",namespace=\"{namespace}\",pod=\"{name}\"}} {value} 1795600800000"
                    );
                }
            }
        }
        text
    }
}

const TIME: &str = "2026-11-26T23:00:01Z";

/// Every third pod has a sidecar.
fn containers(pod: u64) -> &'static [&'static str] {
    if pod.is_multiple_of(3) { &["app", "sidecar"] } else { &["app"] }
}

fn namespace(pod: u64) -> String {
    format!("team-{}", pod % 5)
}

fn uid(pod: u64) -> String {
    let (high, low) = (mixed(pod), mixed(!pod));
    format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffff_ffff_ffff)
}

/// Letters as Kubernetes makes them for names, the same for a number each time.
fn letters(number: u64, count: u64) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = |at| LETTERS[usize::try_from(mixed(number.wrapping_mul(97).wrapping_add(at)) % 27).expect("a small number")];
    (0..count).map(|at| char::from(letter(at))).collect()
}

/// A number that looks random (splitmix64's last step).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

//! Agents: one on each node, and every poll is counted once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use golectra_tests::{Client, encode, eventually, until};
use serde_json::Value;

use crate::forward::metrics;
use crate::kube::{name, run};
use crate::release::Release;
use crate::say;

/// Time for two reports, including retries.
const TWO_REPORTS: Duration = Duration::from_mins(2);

/// Time for a question to the kubelet and a report.
const POD_SEEN: Duration = Duration::from_mins(3);

/// Time for the server's values to be of about the moment of the kubelet's.
const CLOSE: Duration = Duration::from_mins(3);

/// How far the server's values may be from those of the kubelet.
const TOLERANCE: f64 = 0.02;

/// Time limit for a question to the API server.
const LIMIT: Duration = Duration::from_mins(1);

/// Time limit for a kubelet to answer, asked again where it does not.
const KUBELET: Duration = Duration::from_mins(2);

/// The agent's pod of each node.
pub async fn by_node(release: &Release) -> BTreeMap<String, String> {
    let pods = release.namespace.pods("agent").await;
    pods.iter().map(|pod| (pod["spec"]["nodeName"].as_str().expect("scheduled").to_owned(), name(pod))).collect()
}

/// Waits until every node has an agent and is a source.
pub async fn on_every_node(release: &Release, client: &Client) {
    // helm waits for the agents without those that may be away in a rollout.
    release.namespace.rolled_out("daemonset/golectra-agent").await;
    let nodes = release.nodes().await;
    let agents = by_node(release).await;
    assert!(nodes.iter().all(|node| agents.contains_key(node)), "an agent on each of {nodes:?}: {agents:?}");
    until("every node is a source", TWO_REPORTS, async || {
        let sources = client.get("/api/v1/sources").send().await.expect(200).json();
        let sources: Vec<_> = sources["sources"].as_array().expect("a list").iter().map(|source| source["name"].clone()).collect();
        nodes.iter().all(|node| sources.iter().any(|source| source == node.as_str()))
    })
    .await;
}

/// How often an agent has polled since it started.
pub async fn polled(release: &Release, pod: &str) -> i64 {
    count(metrics(&release.namespace, pod).await.metric("golectra_agent_polls_total").expect("an agent counts its polls"))
}

/// How many of a node's polls the server has counted.
pub async fn counted(client: &Client, node: &str) -> i64 {
    let series = client.get(&format!("/api/v1/latest?source={node}&name=PollCount")).send().await.expect(200).json();
    series["series"][0]["delta"].as_i64().unwrap_or(0)
}

/// PollCount counts every poll once: all polls arrive, and the server never has more than the agent made. `before` is what the
/// server had when these agents started.
pub async fn each_poll_counts_once(release: &Release, client: &Client, before: &BTreeMap<String, i64>) {
    for (node, pod) in by_node(release).await {
        let base = before.get(&node).copied().unwrap_or(0);
        for _ in 0..2 {
            let earlier = polled(release, &pod).await;
            until("the agent's polls arrive", TWO_REPORTS, async || counted(client, &node).await - base >= earlier).await;
            let arrived = counted(client, &node).await - base;
            let later = polled(release, &pod).await;
            assert!(arrived <= later, "{node}: the server counts {arrived} polls, its agent made {later}");
        }
    }
}

/// What the kubelets tell arrives: each node's pods are in queries, with the values that the API server passes on from the kubelet.
pub async fn see_pods(release: &Release, client: &Client) {
    for (node, agent) in by_node(release).await {
        until("the agent's doctor finds its kubelet", KUBELET, async || {
            let doctor = release.namespace.try_kubectl(&["exec", &agent, "--", "/golectra-agent", "doctor"], LIMIT).await;
            let is_well = doctor.as_ref().is_ok_and(|doctor| doctor.contains("ok      kubelet"));
            say(&format!("{node}: {}", doctor.unwrap_or_else(|error| error)));
            is_well
        })
        .await;
    }
    let namespace = release.namespace.name();
    for (node, agent) in by_node(release).await {
        // The agent's own container: each node has one.
        let of_agent = format!("{{job=\"kubelet\",namespace=\"{namespace}\",pod=\"{agent}\",container=\"agent\"}}");
        let seen = of_node(&node, "container_memory_working_set_bytes", &of_agent);
        until("the memory of the agent's container", POD_SEEN, async || !query(client, &seen).await.is_empty()).await;
        // The values move, and the agent asks less often than this: it has told what the kubelet said at one of these times.
        let (mut cpu, mut memory) = (Vec::new(), Vec::new());
        until("the values of the kubelet", CLOSE, async || {
            let Some(told) = told(&summary_of(&node).await, &agent) else { return false };
            cpu.push(told.0);
            memory.push(told.1);
            let cpu_query = of_node(&node, "container_cpu_usage_seconds_total", &of_agent);
            let memory_query = of_node(&node, "container_memory_working_set_bytes", &of_agent);
            let (found_cpu, found_memory) = (query(client, &cpu_query).await, query(client, &memory_query).await);
            let is_one_of =
                |found: &[f64], told: &[f64]| found.len() == 1 && told.iter().any(|told| (found[0] - told).abs() <= told * TOLERANCE);
            is_one_of(&found_cpu, &cpu) && is_one_of(&found_memory, &memory)
        })
        .await;
        let network = format!("node_network_receive_bytes_total{{job=\"node-exporter\",instance=\"{node}\"}}");
        until("the node's traffic", POD_SEEN, async || !query(client, &network).await.is_empty()).await;
        let filesystem = format!("node_filesystem_size_bytes{{job=\"node-exporter\",instance=\"{node}\",mountpoint=\"/\"}}");
        until("the node's filesystem, once", POD_SEEN, async || query(client, &filesystem).await.len() == 1).await;
        // Volumes of some kinds, such as a node's folders, have no statistics.
        let volumes = with_statistics(&summary_of(&node).await);
        let capacities = format!("kubelet_volume_stats_capacity_bytes{{job=\"kubelet\",instance=\"{node}\"}}");
        until("the node's volumes", POD_SEEN, async || query(client, &capacities).await.len() >= volumes).await;
    }
}

/// A kubelet's summary, through the API server.
async fn summary_of(node: &str) -> Value {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let summary = async || run("kubectl", &["get", "--raw", &path], None, LIMIT).await.inspect_err(|problem| say(problem)).ok();
    serde_json::from_str(&eventually("a kubelet's summary", KUBELET, summary).await).expect("JSON")
}

/// How many claims have statistics in a summary.
fn with_statistics(summary: &Value) -> usize {
    let volumes = summary["pods"].as_array().into_iter().flatten().filter_map(|pod| pod["volume"].as_array()).flatten();
    let claims: BTreeSet<String> =
        volumes.filter(|volume| volume["capacityBytes"].is_u64()).filter_map(|volume| Some(volume.get("pvcRef")?.to_string())).collect();
    claims.len()
}

/// A metric of one node's containers.
fn of_node(node: &str, metric: &str, of: &str) -> String {
    format!("{metric}{}", of.replace('}', &format!(",instance=\"{node}\"}}")))
}

/// The values of a query.
async fn query(client: &Client, query: &str) -> Vec<f64> {
    let answer = client.get(&format!("/api/v1/query?query={}", encode(query))).send().await.expect(200).json();
    let result = answer["data"]["result"].as_array().expect("a list").clone();
    result.iter().map(|series| series["value"][1].as_str().expect("a text").parse().expect("a number")).collect()
}

/// The processor seconds and the working set of a pod's first container in a kubelet's summary.
fn told(summary: &Value, pod: &str) -> Option<(f64, f64)> {
    let container = &summary["pods"].as_array()?.iter().find(|told| told["podRef"]["name"] == pod)?["containers"][0];
    Some((container["cpu"]["usageCoreNanoSeconds"].as_f64()? / 1e9, container["memory"]["workingSetBytes"].as_f64()?))
}

fn count(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a count of polls")]
    let count = value as i64;
    count
}

//! Agents: one on each node, and every poll is counted once.

use std::collections::BTreeMap;
use std::time::Duration;

use golectra_tests::{Client, until};

use crate::forward::{Forward, metrics};
use crate::kube::name;
use crate::release::Release;

/// Time for two reports, including retries.
const TWO_REPORTS: Duration = Duration::from_secs(40);

/// The agent's pod of each node.
pub async fn by_node(release: &Release) -> BTreeMap<String, String> {
    let pods = release.namespace.pods("agent").await;
    pods.iter().map(|pod| (pod["spec"]["nodeName"].as_str().expect("scheduled").to_owned(), name(pod))).collect()
}

/// Waits until every node has an agent and is a source.
pub async fn on_every_node(release: &Release, client: &Client) {
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
        let forward = Forward::open(&release.namespace, &format!("pod/{pod}"), "9090").await;
        let agent = forward.client(None);
        let polls = async || count(agent.get("/metrics").send().await.expect(200).metric("golectra_agent_polls_total").expect("polls"));
        for _ in 0..2 {
            let earlier = polls().await;
            until("the agent's polls arrive", TWO_REPORTS, async || counted(client, &node).await - base >= earlier).await;
            let arrived = counted(client, &node).await - base;
            let later = polls().await;
            assert!(arrived <= later, "{node}: the server counts {arrived} polls, its agent made {later}");
        }
    }
}

fn count(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a count of polls")]
    let count = value as i64;
    count
}

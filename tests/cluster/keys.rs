//! The servers get another key than the agents: reports wait, both sides log the reason, and none is lost.

use std::time::Duration;

use golectra_tests::until;

use crate::agents;
use crate::forward::{metrics, try_metrics};
use crate::kube::name;
use crate::release::Release;

/// Time for an agent's report to be refused or accepted.
const REPORTED: Duration = Duration::from_mins(3);

/// Time for a line that was logged to be read.
const LOGGED: Duration = Duration::from_mins(1);

async fn set_key(release: &Release, key: &str) {
    let patch = format!("{{\"stringData\":{{\"key\":\"{key}\"}}}}");
    release.namespace.kubectl(&["patch", "secret", "golectra-hash-key", "--type=merge", "-p", &patch]).await;
    release.namespace.kubectl(&["rollout", "restart", "deployment/golectra-server"]).await;
    release.namespace.rolled_out("deployment/golectra-server").await;
    // Terminating servers still answer with the old key.
    release.namespace.ended("server").await;
}

/// Sets a wrong key on the servers only, then the right one again.
pub async fn wrong_then_right(release: &Release) {
    let right = release.key().await;
    let agents = agents::by_node(release).await;
    let restarts = release.namespace.restarts("agent").await;
    set_key(release, "not-the-key-that-the-agents-have").await;

    for pod in agents.values() {
        until("an agent's report is refused", REPORTED, async || {
            let refused = "golectra_agent_send_retries_total{reason=\"unauthorized\"}";
            // A forwarding that fails is tried again.
            let exported = try_metrics(&release.namespace, pod).await;
            exported.is_some_and(|exported| exported.text().lines().any(|line| line.starts_with(refused)))
        })
        .await;
        // The node may have passed the line on a moment after it was counted.
        until("the agent's log says what to look at", LOGGED, async || {
            release.namespace.kubectl(&["logs", pod]).await.contains("check KEY, or KEYS_DIR")
        })
        .await;
    }
    until("a server counts the refusals", REPORTED, async || {
        let mut counted = false;
        for pod in release.namespace.pods("server").await {
            let text = metrics(&release.namespace, &name(&pod)).await.text();
            counted |= text.lines().any(|line| line.starts_with("golectra_ingest_rejected_total{reason=\"signature_mismatch\"}"));
        }
        counted
    })
    .await;
    until("a server's log says that signatures are not those of its keys", LOGGED, async || {
        let mut said = false;
        for pod in release.namespace.pods("server").await {
            said |= release.namespace.kubectl(&["logs", &name(&pod)]).await.contains("requests are refused: Golectra-Signature");
        }
        said
    })
    .await;

    // Everything polled until now must arrive later.
    let mut polled = Vec::new();
    for (node, pod) in &agents {
        polled.push((node, pod, agents::polled(release, pod).await));
    }
    set_key(release, &right).await;
    let client = release.client().await;
    for (node, pod, polls) in polled {
        until("what waited arrives", REPORTED, async || agents::counted(&client, node).await >= polls).await;
        let counted = agents::counted(&client, node).await;
        let made = agents::polled(release, pod).await;
        assert!(counted <= made, "{node}: the server counts {counted} polls, its agent made {made}");
        let dropped = metrics(&release.namespace, pod).await.metric("golectra_agent_reports_dropped_total");
        assert_eq!(dropped, Some(0.0), "{node}: nothing was dropped");
    }
    assert_eq!(release.namespace.restarts("agent").await, restarts, "no agent restarted");
}

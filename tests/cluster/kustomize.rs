//! k8s/, applied as its README says: the Secrets, then a folder.

use std::time::Duration;

use golectra_tests::fresh_key;
use serde_json::json;

use crate::kube::Namespace;
use crate::release::{REACH, Release, total};
use crate::{agents, turn};

/// Creates the keys, applies an overlay and waits until everything is ready.
pub async fn apply(namespace: Namespace, overlay: &str) -> Release {
    for name in ["golectra-hash-key", "golectra-audit-key"] {
        let key = format!("--from-literal=key={}", fresh_key());
        namespace.kubectl(&["create", "secret", "generic", name, &key]).await;
    }
    namespace
        .try_kubectl(&["apply", "-k", &format!("k8s/overlays/{overlay}")], Duration::from_mins(5))
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    for workload in ["deployment/golectra-server", "daemonset/golectra-agent", "deployment/golectra-audit-sink"] {
        namespace.rolled_out(workload).await;
    }
    namespace.apply(REACH).await;
    Release { namespace }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_overlay_is_applied_and_used() {
    let Some(_turn) = turn().await else { return };
    let release = apply(Namespace::fresh("kustomize").await, "embedded").await;
    let client = release.client().await;
    agents::on_every_node(&release, &client).await;
    client.updates(&json!([{"id": "kept", "type": "counter", "delta": 42}])).await.expect(200);
    assert_eq!(total(&client, "kept").await, 42);
}

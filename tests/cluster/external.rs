//! database.mode=external: a PostgreSQL that is not part of the release, with its certificate verified.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::kube::Namespace;
use crate::release::{Release, total};
use crate::{agents, faults, kustomize, turn};

/// A PostgreSQL that the release knows only by its URL.
const DATABASE: &str = "
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: mine}
spec:
  instances: 1
  storage: {size: 1Gi}
  bootstrap: {initdb: {database: metrics, owner: metrics}}
";

const VALUES: [&str; 4] = [
    "--set",
    "database.mode=external,database.external.existingSecret.name=mine-app,database.external.existingSecret.key=uri",
    "--set",
    "database.external.caSecret.name=mine-ca",
];

#[tokio::test(flavor = "multi_thread")]
async fn with_an_external_database() {
    let Some(_turn) = turn().await else { return };
    let namespace = Namespace::fresh("external").await;
    namespace.apply(DATABASE).await;
    let ready = ["wait", "--for=condition=Ready", "clusters.postgresql.cnpg.io/mine", "--timeout=600s"];
    namespace.try_kubectl(&ready, Duration::from_mins(12)).await.unwrap_or_else(|error| panic!("{error}"));

    let release = Release::install(namespace, &VALUES).await;
    let client = release.client().await;
    agents::on_every_node(&release, &client).await;
    agents::each_poll_counts_once(&release, &client, &BTreeMap::new()).await;
    client.updates(&json!([{"id": "kept", "type": "counter", "delta": 42}])).await.expect(200);
    faults::rollouts(&release, &client, 1).await;

    // The rows are in the external database.
    let select = "SELECT sum(total) FROM golectra.latest WHERE metric = 'kept'";
    let pod = ["exec", "mine-1", "-c", "postgres", "--", "psql", "-At", "metrics", "-c", select];
    assert_eq!(release.namespace.kubectl(&pod).await.trim(), "42");
    release.uninstall().await;
    assert_eq!(release.namespace.kubectl(&pod).await.trim(), "42", "uninstalling deletes nothing in it");

    // The same database with kustomize.
    let template = "go-template={{.data.uri | base64decode}}";
    let dsn = release.namespace.kubectl(&["get", "secret", "mine-app", "-o", template]).await;
    let literal = format!("--from-literal=dsn={dsn}?sslmode=require");
    release.namespace.kubectl(&["create", "secret", "generic", "golectra-database", &literal]).await;
    let release = kustomize::apply(release.namespace, "external").await;
    let client = release.client().await;
    assert_eq!(total(&client, "kept").await, 42, "the overlay finds the rows");
    agents::on_every_node(&release, &client).await;
}

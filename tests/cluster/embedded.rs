//! database.mode=embedded: one server, with its data in memory and on a volume.

use std::collections::BTreeMap;

use serde_json::json;

use crate::killer::Killer;
use crate::kube::{Namespace, name};
use crate::release::{Release, total};
use crate::{agents, turn};

const VALUES: [&str; 2] = ["--set", "database.mode=embedded"];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database() {
    let Some(_turn) = turn().await else { return };
    let release = Release::install(Namespace::fresh("embedded").await, &VALUES).await;
    let client = release.client().await;
    agents::on_every_node(&release, &client).await;
    agents::each_poll_counts_once(&release, &client, &BTreeMap::new()).await;
    client.updates(&json!([{"id": "kept", "type": "counter", "delta": 42}])).await.expect(200);

    // Killed without a chance to save: everything acknowledged is on the volume.
    let pod = release.namespace.pods("server").await.remove(0);
    Killer::new().await.kill(&name(&pod), pod["spec"]["nodeName"].as_str().expect("scheduled")).await;
    assert_eq!(total(&client, "kept").await, 42, "after the server was killed");

    release.uninstall().await;
    release.install_again(&VALUES).await;
    let client = release.client().await;
    assert_eq!(total(&client, "kept").await, 42, "after another install");
}

//! The chart in a cluster, under load: the primary deleted, servers rolled out, the primary's node lost and back.
//!
//! Part of the complete form where GOLECTRA_CLUSTER_TESTS and KUBECONFIG are set, with three nodes; what else it needs is said in
//! tests/cluster. The node is lost and brought back by the commands in CLUSTER_NODE_DOWN and CLUSTER_NODE_UP, given to a shell with the
//! node's name as `$1`; without them that part is left out.

use std::time::{Duration, Instant};

use golectra_loadgen::{Address, Faults};
use golectra_process::Secret;
use golectra_tests::eventually;

use crate::kube::{Namespace, run};
use crate::load::{Load, SOME, pass};
use crate::release::Release;
use crate::{images, kube, say};

/// How long another instance may take to become the primary.
const FAILOVER: Duration = Duration::from_mins(3);

/// How long a node may take to go or come.
const NODE_LIMIT: Duration = Duration::from_mins(5);

/// How long the database may take until all of its instances are there again: one may be copied anew.
const WHOLE_LIMIT: Duration = Duration::from_mins(10);

const DELETIONS: usize = 5;
const ROLLOUTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "part of the complete form: make chaos, where GOLECTRA_CLUSTER_TESTS and KUBECONFIG are set"]
async fn the_primary_the_servers_and_a_node_go_under_load() {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !["GOLECTRA_CLUSTER_TESTS", "KUBECONFIG"].into_iter().all(is_set) {
        say("left out: GOLECTRA_CLUSTER_TESTS and KUBECONFIG are not both set");
        return;
    }
    images::ready().await;
    kube::operator_reached().await;
    let release = Release::install(Namespace::fresh("chaos").await, &[]).await;
    let (servers, key) = (nodes(&release).await, Secret::from(release.key().await));

    let (start, load) = (Instant::now(), Load::start_at(servers.clone(), Some(&key), SOME).await);
    for _ in 0..DELETIONS {
        load.goes_on().await;
        let old = primary(&release).await;
        release.namespace.kubectl(&["delete", "pod", &old, "--wait=false"]).await;
        another_primary(&release, &old).await;
        load.goes_on().await;
        whole(&release).await;
    }
    load.finish().await.judge("primary deleted", &format!("{DELETIONS} times"), start);

    let (start, load) = (Instant::now(), Load::start_at(servers.clone(), Some(&key), SOME).await);
    for _ in 0..ROLLOUTS {
        release.namespace.kubectl(&["rollout", "restart", "deployment/golectra-server"]).await;
        release.namespace.rolled_out("deployment/golectra-server").await;
        load.goes_on().await;
    }
    load.finish().await.judge("servers rolled out", &format!("{ROLLOUTS} times"), start);

    let (Some(down), Some(up)) = (command("CLUSTER_NODE_DOWN"), command("CLUSTER_NODE_UP")) else {
        say("the node's loss is left out: CLUSTER_NODE_DOWN and CLUSTER_NODE_UP are not set");
        return;
    };
    let (start, load) = (Instant::now(), Load::start_at(servers, Some(&key), Faults { cut_answers: 0.05, ..Faults::NONE }).await);
    load.goes_on().await;
    let (old, node) = primary_without_operator(&release).await;
    shell(&down, &node).await;
    let lost = Instant::now();
    another_primary(&release, &old).await;
    load.goes_on().await;
    let away = lost.elapsed();
    // Writes go on without the node, and not only just.
    pass(Duration::from_secs(30)).await;
    load.goes_on().await;
    shell(&up, &node).await;
    whole(&release).await;
    load.goes_on().await;
    let faults = format!("{node} lost, written again after {:.0} s, back", away.as_secs_f64());
    load.finish().await.judge("primary's node lost", &faults, start);
}

fn command(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|command| !command.is_empty())
}

async fn shell(command: &str, node: &str) {
    run("sh", &["-c", command, "sh", node], None, NODE_LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
}

/// The servers as every node's port reaches them: the load goes on when one node is lost.
async fn nodes(release: &Release) -> Vec<Address> {
    let service = release.namespace.json(&["service", "reach"]).await;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    let nodes = release.namespace.json(&["nodes"]).await;
    let addresses = nodes["items"].as_array().expect("a list").iter().map(|node| {
        let mut addresses = node["status"]["addresses"].as_array().expect("addresses").iter();
        let address = addresses.find(|address| address["type"] == "InternalIP").expect("a node has an address");
        format!("{}:{port}", address["address"].as_str().expect("text")).parse().expect("host and port")
    });
    addresses.collect()
}

async fn primary(release: &Release) -> String {
    let path = "jsonpath={.status.currentPrimary}";
    release.namespace.kubectl(&["get", "clusters.postgresql.cnpg.io", "golectra-postgres", "-o", path]).await
}

/// The primary and its node, which is not the operator's: lost with that node, the operator is started elsewhere only after the
/// five minutes that Kubernetes gives a node to come back, and nobody promotes another instance before.
async fn primary_without_operator(release: &Release) -> (String, String) {
    const OPERATOR: [&str; 6] =
        ["get", "pods", "--all-namespaces", "--selector=app.kubernetes.io/name=cloudnative-pg", "-o", "jsonpath={.items[*].spec.nodeName}"];
    let operators = release.namespace.kubectl(&OPERATOR).await;
    assert!(!operators.trim().is_empty(), "the operator's pod carries its chart's label");
    loop {
        let old = primary(release).await;
        let node = release.namespace.kubectl(&["get", "pod", &old, "-o", "jsonpath={.spec.nodeName}"]).await;
        if operators.split_whitespace().all(|operator| operator != node) {
            return (old, node);
        }
        release.namespace.kubectl(&["delete", "pod", &old, "--wait=false"]).await;
        another_primary(release, &old).await;
        whole(release).await;
    }
}

async fn another_primary(release: &Release, old: &str) {
    eventually("another primary", FAILOVER, async || (primary(release).await != old).then_some(())).await;
}

/// Waits until every instance of the database is there again.
async fn whole(release: &Release) {
    let arguments = ["wait", "--for=condition=Ready", "clusters.postgresql.cnpg.io/golectra-postgres", "--timeout=540s"];
    release.namespace.try_kubectl(&arguments, WHOLE_LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
}

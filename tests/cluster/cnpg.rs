//! The default installation with three instances of PostgreSQL: rollouts, a failover, upgrades, an uninstall.

use std::collections::BTreeMap;
use std::time::Duration;

use golectra_tests::{Client, promtool};

use crate::forward::metrics;
use crate::kube::{Namespace, name};
use crate::release::{Release, total};
use crate::{agents, audit, faults, full, keys, page, turn};

#[tokio::test(flavor = "multi_thread")]
async fn the_default_install_through_its_life() {
    let Some(_turn) = turn().await else { return };
    let release = Release::install(Namespace::fresh("cnpg").await, &[]).await;
    let client = release.client().await;

    agents::on_every_node(&release, &client).await;
    agents::see_pods(&release, &client).await;
    agents::each_poll_counts_once(&release, &client, &BTreeMap::new()).await;
    page::shows_every_node(&release).await;
    every_service_exports_metrics(&release).await;
    // Before an agent is replaced, because its counters begin with its process.
    keys::wrong_then_right(&release).await;

    audit::each_write_once(&release, &client, Duration::from_secs(if full() { 120 } else { 20 })).await;
    let rolled = faults::rollouts(&release, &client, if full() { 10 } else { 2 }).await;
    audit::of_a_load(&release, "rollout_total", &rolled).await;
    let failed_over = faults::failover(&release, &client).await;
    audit::of_a_load(&release, "failover_total", &failed_over).await;

    let rows = totals(&client).await;
    assert_eq!(rows, (rolled.sum, failed_over.sum));
    release.upgrade(&["--reuse-values", "--set", "server.settings.logLevel=debug", "--set", "agent.settings.reportInterval=5s"]).await;
    assert_eq!(totals(&client).await, rows, "after an upgrade");
    release.namespace.helm(&["rollback", "golectra", "1", "--wait", "--timeout", "10m"]).await;
    assert_eq!(totals(&client).await, rows, "after a rollback");

    let key = release.key().await;
    release.uninstall().await;
    release.install_again(&[]).await;
    assert_ne!(release.key().await, key, "a new install has new keys");
    let client = release.client().await;
    assert_eq!(totals(&client).await, rows, "after another install");
    agents::on_every_node(&release, &client).await;
}

/// What the two loads have added up to.
async fn totals(client: &Client) -> (i64, i64) {
    (total(client, "rollout_total").await, total(client, "failover_total").await)
}

async fn every_service_exports_metrics(release: &Release) {
    for component in ["server", "agent", "audit-sink"] {
        for pod in release.namespace.pods(component).await {
            let exported = metrics(&release.namespace, &name(&pod)).await.text();
            assert!(exported.contains("golectra_build_info"), "{component}: {exported}");
            promtool(&exported);
        }
    }
}

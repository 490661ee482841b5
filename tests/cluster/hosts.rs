//! agent.hostMounts: agents report more about their nodes, in a namespace that allows the mounts.

use std::time::Duration;

use golectra_tests::until;

use crate::kube::Namespace;
use crate::release::Release;
use crate::{agents, turn};

const VALUES: [&str; 2] = ["--set", "database.mode=embedded,agent.hostMounts.proc=true,agent.hostMounts.root=true"];

#[tokio::test(flavor = "multi_thread")]
async fn agents_with_host_mounts_report_more() {
    let Some(_turn) = turn().await else { return };
    let release = Release::install(Namespace::admitting("privileged", "hosts").await, &VALUES).await;
    let client = release.client().await;
    agents::on_every_node(&release, &client).await;
    for node in release.nodes().await {
        for name in [
            "node_network_receive_bytes_total",
            "node_network_transmit_bytes_total",
            "node_filesystem_size_bytes",
            "node_filesystem_avail_bytes",
        ] {
            until("a metric of the node arrives", Duration::from_mins(3), async || {
                let answer = client.get(&format!("/api/v1/latest?source={node}&name={name}")).send().await.expect(200).json();
                let series = answer["series"].as_array().expect("a list").clone();
                series.iter().any(|one| one["value"].as_f64().is_some_and(|value| value > 0.0))
            })
            .await;
        }
        for collector in ["netdev", "filesystem"] {
            let path = format!("/api/v1/latest?source={node}&name=node_scrape_collector_success");
            let answer = client.get(&path).send().await.expect(200).json();
            let id = format!("node_scrape_collector_success{{collector=\"{collector}\",job=\"node-exporter\"}}");
            let success = answer["series"].as_array().expect("a list").iter().find(|one| one["id"] == id.as_str());
            assert_eq!(success.expect("it is reported")["value"].as_f64(), Some(1.0), "{node}: {collector}: {answer}");
        }
    }
}

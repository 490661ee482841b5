//! The Grafana dashboard of nodes: golectra answers each of its queries about what agents report.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use golectra_tests::{Agent, Client, Server, encode, until};
use serde_json::Value;

const TRAFFIC: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
  eth0: 8640270    6405    0    0    0     0          0         0  4186257    4186    0    0    0     0       0          0
";

/// The titles and queries of the panels, with values in place of Grafana's variables.
fn panels() -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/golectra/dashboards/golectra-nodes.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).expect("the dashboard")).expect("a dashboard is JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("a query").replace("$instance", "agent").replace("$__rate_interval", "1m");
            assert!(!query.contains('$'), "an unknown variable in {query}");
            queries.push((panel["title"].as_str().expect("a title").to_owned(), query));
        }
    }
    assert!(queries.len() >= 15);
    queries
}

/// The samples that a query gives, by their labels.
async fn ask(client: &Client, query: &str) -> BTreeMap<String, f64> {
    let answer = client.get(&format!("/api/v1/query?query={}", encode(query))).send().await.expect(200).json();
    assert_eq!(answer["data"]["resultType"], "vector", "{query}: {answer}");
    let samples = answer["data"]["result"].as_array().expect("a list").iter();
    samples
        .map(|sample| {
            let value = sample["value"][1].as_str().expect("a value").parse().expect("a number");
            (sample["metric"]["instance"].as_str().unwrap_or_default().to_owned(), value)
        })
        .collect()
}

#[tokio::test]
async fn each_panel_of_the_dashboard_of_nodes_shows_what_the_agent_reports() {
    let server = Server::builder().start();
    let client = server.client();
    let proc = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(proc.path().join("1/net")).expect("a folder can be made");
    fs::write(proc.path().join("1/net/dev"), TRAFFIC).expect("a file can be written");
    let agent = Agent::builder(&server.url()).env("POLL_INTERVAL", "100ms").env("REPORT_INTERVAL", "200ms");
    let _agent = agent.env("HOST_PROC", proc.path().display()).env("HOST_ROOT", "/").start();
    until("two reports", Duration::from_secs(20), async || {
        let reports = ask(&client, "count_over_time(CPUutilization1[1m])").await;
        reports.get("agent").is_some_and(|count| *count >= 2.0)
    })
    .await;
    // Where everything is in layers, as in some containers, there is no filesystem on a device.
    let has_filesystems = !ask(&client, "node_filesystem_size_bytes").await.is_empty();
    for (title, query) in panels() {
        let samples = ask(&client, &query).await;
        if query.contains("filesystem_") && !has_filesystems {
            continue;
        }
        let aggregated = ["sum(", "avg(", "count("].iter().any(|start| query.starts_with(start));
        let instance = if aggregated { "" } else { "agent" };
        let value = samples.get(instance).unwrap_or_else(|| panic!("{title}: {query} gives {samples:?}"));
        assert!(value.is_finite() && *value >= 0.0, "{title}: {query} is {value}");
        if query.starts_with("100 *") || query.contains("CPUutilization") && !query.starts_with("count(") {
            assert!(*value <= 100.0, "{title}: {query} is {value}");
        }
    }
    let nodes: Value = client.get("/api/v1/label/instance/values?match[]=TotalMemory").send().await.expect(200).json();
    assert_eq!(nodes["data"], serde_json::json!(["agent"]), "the dashboard's variable");
}

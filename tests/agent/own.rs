//! What an agent says about itself reaches the pages and the rules of the server.

use std::time::Duration;

use golectra_tests::{Exit, Server, encode, until};
use serde_json::Value;

use crate::tally::quick;

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn the_page_status_shows_the_version_of_the_agent_and_its_counters_can_be_watched() {
    let server = Server::builder().start();
    let client = server.client();
    let spool = tempfile::tempdir().expect("a folder");
    let mut agent = quick(&server.url()).env("SPOOL_DIR", spool.path().join("spool").display()).start();
    let said = "golectra_agent_reports_dropped_total";
    until("several reports", LIMIT, async || {
        let reports = client.get(&format!("/api/v1/query?query={}", encode(&format!("count_over_time({said}[1m])")))).send().await;
        let reports: Value = reports.expect(200).json();
        let of_reason = |one: &Value| one["value"][1].as_str().is_some_and(|count| count.parse::<f64>().is_ok_and(|count| count >= 2.0));
        reports["data"]["result"].as_array().is_some_and(|series| series.len() == 7 && series.iter().all(of_reason))
    })
    .await;

    let own = agent.metrics_client().get("/metrics").send().await.expect(200).text();
    let build = own.lines().find_map(|line| line.strip_prefix("golectra_build_info{")).expect("the agent's build");
    let version = build.split("version=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a version");
    let page = client.get("/status").send().await.expect(200).text();
    let row = page.lines().find(|line| line.contains("/source?name=agent")).expect("the row of the agent");
    assert!(row.contains(&format!("<td>{version}</td>")), "{version} is not in {row}");

    for name in ["golectra_agent_spool_bytes", "golectra_agent_spool_oldest_age_seconds", "golectra_agent_queue_oldest_age_seconds"] {
        let id = format!("{name}{{instance=\"agent\"}}");
        let answer: Value = client.get(&format!("/api/v1/query?query={}", encode(&id))).send().await.expect(200).json();
        assert_eq!(answer["data"]["result"].as_array().map(Vec::len), Some(1), "{id}: {answer}");
    }
    let metadata: Value = client.get(&format!("/api/v1/metadata?metric={said}")).send().await.expect(200).json();
    assert_eq!(metadata["data"][said][0]["type"], "counter", "{metadata}");

    assert_eq!(agent.stop(), Exit::Code(0), "{}", agent.tail());
    let stopping: Value = client.get("/api/v1/latest?source=agent&name=golectra_agent_stopping").send().await.expect(200).json();
    assert_eq!(stopping["series"][0]["value"].as_f64(), Some(1.0), "{stopping}");
}

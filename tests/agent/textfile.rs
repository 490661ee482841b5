//! Metrics that other programs write into files are on the server.

use std::fs;
use std::time::Duration;

use golectra_tests::{Server, encode, until};
use serde_json::Value;

use crate::tally::quick;

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn metrics_of_files_are_in_queries_and_a_broken_file_is_told() {
    let server = Server::builder().start();
    let client = server.client();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("backup.prom"), "# TYPE backup_seconds gauge\nbackup_seconds{disk=\"a\"} 12.5\n").expect("a file");
    let _agent = quick(&server.url()).env("TEXTFILE_DIRS", folder.path().display()).start();
    let value = async |query: &str| -> Option<String> {
        let answer: Value = client.get(&format!("/api/v1/query?query={}", encode(query))).send().await.expect(200).json();
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let id = r#"backup_seconds{disk="a",instance="agent",job="node-exporter"}"#;
    until("the metric of the file", LIMIT, async || value(id).await.as_deref() == Some("12.5")).await;
    assert_eq!(value("node_textfile_scrape_error").await.as_deref(), Some("0"));
    let age = value("time() - node_textfile_mtime_seconds").await.expect("the time of the file");
    assert!(age.parse::<f64>().is_ok_and(|age| (0.0..600.0).contains(&age)), "{age}");
    fs::write(folder.path().join("backup.prom"), "backup_seconds{disk= 1\n").expect("a broken file");
    until("the error", LIMIT, async || value("node_textfile_scrape_error").await.as_deref() == Some("1")).await;
}

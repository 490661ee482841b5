//! What an agent reads from a kubelet arrives in queries, and what the kubelet no longer tells leaves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use golectra_tests::{Client, Receiver, Reply, Server, encode, until};
use serde_json::{Value, json};

use crate::tally::quick;

const LIMIT: Duration = Duration::from_mins(1);

const CPU: &str = r#"container_cpu_usage_seconds_total{job="kubelet",namespace="shop",container="web",instance="agent"}"#;

fn summary(pods: &[&str]) -> Vec<u8> {
    let pod = |name: &&str| {
        json!({
            "podRef": {"name": name, "namespace": "shop", "uid": name},
            "startTime": "2026-11-25T10:00:00Z",
            "containers": [{"name": "web", "cpu": {"usageCoreNanoSeconds": 3_500_000_000_u64}, "memory": {"workingSetBytes": 4096}}],
        })
    };
    json!({"node": {"nodeName": "node"}, "pods": pods.iter().map(pod).collect::<Vec<_>>()}).to_string().into_bytes()
}

/// The pods that a query finds at this time (now without one), with its values.
async fn pods(client: &Client, query: &str, time: Option<f64>) -> Vec<(String, String)> {
    let time = time.map_or_else(String::new, |time| format!("&time={time}"));
    let answer = client.get(&format!("/api/v1/query?query={}{time}", encode(query))).send().await.expect(200).json();
    let result = answer["data"]["result"].as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    result.iter().map(|series| (text(&series["metric"]["pod"]), text(&series["value"][1]))).collect()
}

#[tokio::test]
async fn pods_are_in_queries_as_long_as_the_kubelet_tells_of_them() {
    let server = Server::builder().start();
    let client = server.client();
    let gone = Arc::new(AtomicBool::new(false));
    let kubelet = Receiver::start({
        let gone = Arc::clone(&gone);
        move |request| {
            assert_eq!((request.path.as_str(), request.header("authorization")), ("/stats/summary", Some("Bearer a-token")));
            let pods: &[&str] = if gone.load(Relaxed) { &["stays"] } else { &["stays", "goes"] };
            Reply::status(200).body("application/json", summary(pods))
        }
    })
    .await;
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "a-token").expect("a token");
    let agent = quick(&server.url())
        .env("KUBELET_URL", kubelet.url())
        .env("KUBELET_INTERVAL", "200ms")
        .env("KUBELET_TOKEN_FILE", token.path().display())
        .start();
    let value = |pod: &str| (pod.to_owned(), "3.5".to_owned());
    until("both pods", LIMIT, async || pods(&client, CPU, None).await == [value("goes"), value("stays")]).await;

    gone.store(true, Relaxed);
    let last = |pod: &str| format!("timestamp({})", CPU.replace('{', &format!("{{pod=\"{pod}\",")));
    let time_of = async |pod: &str| -> f64 { pods(&client, &last(pod), None).await[0].1.parse().expect("a time") };
    until("a report without the pod", LIMIT, async || time_of("stays").await > time_of("goes").await + 1.0).await;
    let gone_at = time_of("goes").await;
    let found = pods(&client, CPU, Some(gone_at + 299.0)).await;
    assert_eq!(found, [value("goes"), value("stays")], "within the lookback a series may have missed reports only");
    assert_eq!(pods(&client, CPU, Some(gone_at + 300.5)).await, [value("stays")], "beyond it the pod is gone, although its node reports");
    drop(agent);
}

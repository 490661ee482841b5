//! What an agent reads from a kubelet arrives in queries, and what the kubelet no longer tells leaves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use golectra_tests::{AgentBuilder, Client, KubeletNode, POD_REPORT_BYTES, Receiver, Reply, Server, encode, until};
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

fn token() -> tempfile::NamedTempFile {
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "a-token").expect("a token");
    token
}

/// An agent that asks this kubelet five times a second.
fn beside(agent: AgentBuilder, kubelet: &Receiver, token: &tempfile::NamedTempFile) -> AgentBuilder {
    agent.env("KUBELET_URL", kubelet.url()).env("KUBELET_INTERVAL", "200ms").env("KUBELET_TOKEN_FILE", token.path().display())
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
    let token = token();
    let agent = beside(quick(&server.url()), &kubelet, &token).start();
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

/// The chart's spool and the docs are made for reports of this size.
#[tokio::test]
async fn reports_of_110_pods_are_as_large_as_the_spool_is_made_for() {
    let node = KubeletNode::with_pods(0..110);
    let server = Receiver::start(move |request| node.answer_beside_a_server(request)).await;
    let token = token();
    let _agent = beside(quick(&server.url()), &server, &token).env("PODS_DETAILS", "true").start();
    // A reading has more items than one batch takes: what comes first and what comes last in it.
    let mut sizes = (None, None);
    until("reports of pods", LIMIT, async || {
        for request in server.requests().into_iter().filter(|request| request.path == "/updates") {
            let body = request.unpacked();
            let has = |name: &[u8]| body.windows(name.len()).any(|found| found == name);
            let size = request.body.len() as u64;
            if has(b"kubelet_volume_stats_used_bytes") {
                sizes.0 = Some(size);
            } else if has(b"container_oom_events_total") {
                sizes.1 = Some(size);
            }
        }
        sizes.0.is_some() && sizes.1.is_some()
    })
    .await;
    let size = sizes.0.unwrap_or_default() + sizes.1.unwrap_or_default();
    assert!((POD_REPORT_BYTES * 3 / 4..=POD_REPORT_BYTES).contains(&size), "{size} bytes");
}

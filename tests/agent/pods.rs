//! What an agent reads from a kubelet arrives in queries, and what the kubelet no longer tells leaves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
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

const MEMORY: &str = r#"container_memory_working_set_bytes{job="kubelet",pod!="",instance="agent"}"#;

const AT_ONCE: u64 = 50;
const GROUPS: u64 = 20;

/// What an agent keeps of 950 pods, if it forgot none of them, is several times as much.
const ALLOWED_GROWTH_BYTES: f64 = 1_048_576.0;

#[tokio::test]
async fn a_thousand_pods_that_come_and_go_leave_nothing() {
    let server = Server::builder().start();
    let client = server.client();
    let node = KubeletNode::with_pods([]);
    // Which group of pods is on the node: the next one at each question, from the second on only when the test says so.
    let (group, last_group) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    let kubelet = Receiver::start({
        let last_group = Arc::clone(&last_group);
        move |request| {
            if request.path == "/stats/summary" {
                let now = group.fetch_add(1, Relaxed).min(last_group.load(Relaxed));
                group.store(now + 1, Relaxed);
                node.set_pods(now * AT_ONCE..(now + 1) * AT_ONCE);
            }
            node.answer(request).expect("a question of an agent")
        }
    })
    .await;
    let token = token();
    let agent = beside(quick(&server.url()), &kubelet, &token).env("PODS_DETAILS", "true").start();

    let number = async |query: &str, time: Option<f64>| {
        pods(&client, query, time).await.first().map_or(0.0, |found| found.1.parse().expect("a number"))
    };
    let alive_bytes = async || client.value("gauge", "Alloc").await.map_or(f64::MAX, |text| text.parse().expect("a number"));
    let restarts = r#"count(count_over_time(kube_pod_container_status_restarts_total{instance="agent"}[5m]) >= 3)"#;
    until("three reports with the first pods", LIMIT, async || number(restarts, None).await >= 50.0).await;
    let (alive_before, polls_before) = (alive_bytes().await, client.counter("PollCount").await);

    last_group.store(GROUPS - 1, Relaxed);
    let seen = format!("count(group by (pod) (count_over_time({MEMORY}[5m])))");
    until("all pods", LIMIT, async || number(&seen, None).await.to_bits() == f64::to_bits(1000.0)).await;
    until("more reports", LIMIT, async || client.counter("PollCount").await > polls_before + 5).await;
    until("as little memory as before", LIMIT, async || alive_bytes().await < alive_before + ALLOWED_GROWTH_BYTES).await;
    let waiting = ["golectra_agent_queue_batches", "golectra_agent_queue_bytes"];
    for metric in waiting {
        until(metric, LIMIT, async || agent.metric(metric).await.is_some_and(|waiting| waiting < 1.0)).await;
    }
    let dropped = agent.metric("golectra_agent_reports_dropped_total").await.unwrap_or(0.0);
    assert!(dropped < 1.0, "{}", agent.tail());

    // The last group stays and is the only one that is found once the lookback of the one before has passed.
    let time_of = async |group: u64| {
        let names: Vec<_> = (group * AT_ONCE..(group + 1) * AT_ONCE).map(KubeletNode::pod_name).collect();
        let of_group = MEMORY.replace(r#"pod!="""#, &format!("pod=~\"{}\"", names.join("|")));
        number(&format!("max(timestamp({of_group}))"), None).await
    };
    until("a report without the others", LIMIT, async || time_of(GROUPS - 1).await > time_of(GROUPS - 2).await + 1.0).await;
    let gone_at = time_of(GROUPS - 2).await;
    assert!(gone_at > 0.0);
    let found = number(&format!("count(group by (pod) ({MEMORY}))"), Some(gone_at + 300.5)).await;
    assert_eq!(found.to_bits(), f64::to_bits(50.0), "{found} pods");
}

/// The chart's spool and the docs are made for reports of this size.
#[tokio::test]
async fn reports_of_110_pods_are_as_large_as_the_spool_is_made_for() {
    let node = KubeletNode::with_pods(0..110);
    let server = Receiver::start(move |request| {
        node.answer(request).unwrap_or_else(|| {
            let items = golectra_protocol::json::count_items(&request.unpacked()).expect("an array");
            Reply::status(200).body("application/json", format!(r#"{{"updated":{items}}}"#))
        })
    })
    .await;
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

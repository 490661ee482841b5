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
            assert_eq!((request.path.as_str(), request.header("authorization")), ("/stats/summary", None), "without TLS it gets no token");
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

const AT_ONCE: u64 = 50;
const GROUPS: u64 = 20;

/// What an agent keeps of 950 pods, if it forgot none of them, is several times as much.
const ALLOWED_GROWTH_BYTES: f64 = 1_048_576.0;

/// Of what is freed the allocator keeps some.
const ALLOWED_RESIDENT_BYTES: u64 = 8 << 20;

/// How long the kubelet takes to answer once nothing changes any more. Five readings a second are more reports than a sender with a backlog sends to a
/// debug server: it pauses as long as the server takes to answer.
const QUIET: Duration = Duration::from_secs(1);

/// A kubelet whose node has 50 pods, and when the test says so other 50 at each question, until 1,000 were there and the first 50 are back.
struct Changing {
    kubelet: Receiver,
    /// How often the pods may change, and how often they have.
    allowed: Arc<AtomicU64>,
    changed: Arc<AtomicU64>,
}

impl Changing {
    async fn start() -> Self {
        let node = KubeletNode::with_pods([]);
        let (allowed, changed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let kubelet = Receiver::start({
            let (allowed, changed) = (Arc::clone(&allowed), Arc::clone(&changed));
            move |request| {
                if request.path == "/stats/summary" {
                    let group = changed.load(Relaxed) % GROUPS;
                    node.set_pods(group * AT_ONCE..(group + 1) * AT_ONCE);
                } else if request.path == "/metrics/cadvisor" {
                    // The last question of a reading.
                    let next = (changed.load(Relaxed) + 1).min(allowed.load(Relaxed));
                    changed.store(next, Relaxed);
                }
                let quiet = if changed.load(Relaxed) == GROUPS { QUIET } else { Duration::ZERO };
                node.answer_beside_a_server(request).after(quiet)
            }
        })
        .await;
        Self { kubelet, allowed, changed }
    }

    /// Lets all pods come and go.
    async fn change_all(&self) {
        self.allowed.store(GROUPS, Relaxed);
        until("all pods came and went", LIMIT, async || self.changed.load(Relaxed) == GROUPS).await;
    }
}

#[tokio::test]
async fn a_thousand_pods_that_come_and_go_leave_nothing() {
    let (server, node, folder) = (Server::builder().start(), Changing::start().await, tempfile::tempdir().expect("a folder"));
    let (client, token) = (server.client(), token());
    let agent = beside(quick(&server.url()), &node.kubelet, &token).env("PODS_DETAILS", "true").env("RATE_LIMIT", 4);
    let agent = agent.env("SPOOL_DIR", folder.path().display()).start();

    let number = async |query: &str, time: Option<f64>| -> f64 {
        pods(&client, query, time).await.first().map_or(0.0, |found| found.1.parse().expect("a number"))
    };
    let of_pods = r#"{instance="agent",job=~"kubelet|kube-state-metrics",pod!=""}"#;
    let alive_bytes = async || client.value("gauge", "Alloc").await.map_or(f64::MAX, |text| text.parse().expect("a number"));
    let restarts = r#"count(count_over_time(kube_pod_container_status_restarts_total{instance="agent"}[5m]) >= 3)"#;
    until("three reports with the first pods", LIMIT, async || number(restarts, None).await >= 50.0).await;
    let series_before = number(&format!("count({of_pods})"), None).await;
    let (alive_before, resident_before) = (alive_bytes().await, agent.anonymous_rss());

    node.change_all().await;
    for waiting in ["golectra_agent_queue_batches", "golectra_agent_queue_bytes", "golectra_agent_spool_batches"] {
        until(waiting, LIMIT, async || agent.metric(waiting).await.is_some_and(|waiting| waiting < 1.0)).await;
    }
    // In the answer to the last question of a reading, which is sealed after the others.
    let last_of = async |pod: u64| {
        let name = KubeletNode::pod_name(pod);
        let series = format!(r#"container_oom_events_total{{container="app",instance="agent",job="kubelet",pod="{name}"}}"#);
        number(&format!("max(timestamp({series}))"), None).await
    };
    // Of those that are gone it was there last.
    let last_gone = (GROUPS - 1) * AT_ONCE;
    until("the last ones are reported, and after them the first alone", LIMIT, async || {
        let gone_at = last_of(last_gone).await;
        gone_at > 0.0 && last_of(0).await > gone_at + 1.0
    })
    .await;
    let seen = r#"count(group by (pod) (count_over_time(container_memory_working_set_bytes{instance="agent",pod!=""}[5m])))"#;
    let seen = number(seen, None).await;
    assert_eq!(seen.to_bits(), f64::to_bits(1000.0), "{seen} pods were reported");

    // When the lookback of those that are gone has passed.
    let gone_at = last_of(last_gone).await;
    let series_after = number(&format!("count({of_pods})"), Some(gone_at + 300.5)).await;
    assert_eq!(series_after.to_bits(), series_before.to_bits(), "{series_before} series before, {series_after} after");
    until("as little memory as before", LIMIT, async || alive_bytes().await < alive_before + ALLOWED_GROWTH_BYTES).await;
    for lost in ["golectra_agent_reports_dropped_total", "golectra_agent_readings_skipped_total"] {
        let lost = agent.metric(lost).await.unwrap_or(0.0);
        assert!(lost < 1.0, "{lost}: {}", agent.tail());
    }
    let resident = agent.anonymous_rss();
    assert!(resident < resident_before + ALLOWED_RESIDENT_BYTES, "{resident_before} bytes are resident before, {resident} after");
}

/// The chart's spool and the docs are made for reports of this size.
#[tokio::test]
async fn reports_of_110_pods_are_as_large_as_the_spool_is_made_for() {
    let node = KubeletNode::with_pods(0..110);
    let server = Receiver::start(move |request| node.answer_beside_a_server(request)).await;
    let token = token();
    let _agent = beside(quick(&server.url()), &server, &token).env("PODS_DETAILS", "true").start();
    // A reading has a batch for each of its three questions.
    let mut sizes = [None; 3];
    until("reports of pods", LIMIT, async || {
        for request in server.requests().into_iter().filter(|request| request.path == "/updates") {
            let body = request.unpacked();
            let has = |name: &str| body.windows(name.len()).any(|found| found == name.as_bytes());
            let size = request.body.len() as u64;
            for (known, name) in sizes.iter_mut().zip(["kubelet_volume_stats_used_bytes", "kube_pod_info", "container_oom_events_total"]) {
                if has(name) {
                    *known = Some(size);
                }
            }
        }
        sizes.iter().all(Option::is_some)
    })
    .await;
    let size: u64 = sizes.iter().flatten().sum();
    assert!((POD_REPORT_BYTES * 3 / 4..=POD_REPORT_BYTES).contains(&size), "{size} bytes");
}

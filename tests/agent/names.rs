//! What the agent reports at its default settings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use golectra_tests::{AGENT_GAUGES, Agent, Exit, Server, promtool, until};
use serde_json::Value;

/// The gauges that have to change within a minute, like the counter PollCount.
const CHANGING: [&str; 9] = ["RandomValue", "Alloc", "TotalAlloc", "Mallocs", "Frees", "HeapAlloc", "HeapIdle", "HeapInuse", "HeapObjects"];

async fn snapshot(server: &Server) -> Value {
    server.client().get("/api/v1/snapshot").send().await.expect(200).json()
}

#[tokio::test]
async fn at_default_settings_every_name_is_reported_and_some_change_within_a_minute() {
    let server = Server::builder().start();
    // The host:port form of the address, and no interval: those are the defaults.
    let address = server.url().replace("http://", "");
    let mut agent = Agent::builder(&address).start();
    let start = Instant::now();
    until("the first report leaves within one report interval", Duration::from_secs(12), async || {
        snapshot(&server).await["counters"]["PollCount"].is_i64()
    })
    .await;
    let first = snapshot(&server).await;
    let gauges: BTreeSet<&str> = first["gauges"].as_object().expect("an object").keys().map(String::as_str).collect();
    let processors = std::thread::available_parallelism().expect("a number").get();
    let numbered = (1..=processors).map(|number| format!("CPUutilization{number}"));
    for name in AGENT_GAUGES.map(str::to_owned).into_iter().chain(numbered) {
        assert!(gauges.contains(name.as_str()), "{name} is not among {gauges:?}");
    }
    assert!(!gauges.contains("CPUutilization0"));
    assert!(first["gauges"]["TotalMemory"].as_f64().is_some_and(|bytes| bytes > 1e8));
    assert!(first["gauges"]["Sys"].as_f64().is_some_and(|bytes| bytes > 1e5));
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    loop {
        let now = snapshot(&server).await;
        for name in CHANGING {
            seen.entry(name).or_default().insert(now["gauges"][name].to_string());
        }
        seen.entry("PollCount").or_default().insert(now["counters"]["PollCount"].to_string());
        if seen.values().all(|values| values.len() > 1) {
            break;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "within a minute these did not all change: {seen:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(agent.stop(), Exit::Code(0));
    let sources = server.client().get("/api/v1/sources").send().await.expect(200).json();
    assert_eq!(sources["sources"][0]["name"], "agent");
}

#[tokio::test]
async fn the_source_is_the_hosts_name_by_default() {
    let server = Server::builder().start();
    let _agent = Agent::builder(&server.url()).env("SOURCE", "").env("POLL_INTERVAL", "100ms").env("REPORT_INTERVAL", "100ms").start();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host has a name");
    until("the host among the sources", Duration::from_secs(20), async || {
        let json = server.client().get("/api/v1/sources").send().await.expect(200).json();
        json["sources"][0]["name"] == host.trim()
    })
    .await;
}

#[tokio::test]
async fn the_metrics_listener_answers_scrapers_and_probes() {
    // Also without a server.
    let agent = Agent::builder("http://127.0.0.1:1").env("POLL_INTERVAL", "100ms").env("REPORT_INTERVAL", "100ms").start();
    until("the listener", Duration::from_secs(20), async || {
        agent.metrics_client().try_get("/ping").await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    let metrics = agent.metrics_client().get("/metrics").send().await.expect(200);
    let text = metrics.text();
    for name in ["golectra_build_info", "golectra_agent_polls_total", "process_resident_memory_bytes"] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    promtool(&text);
}

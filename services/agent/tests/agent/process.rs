//! The program golectra-agent.

use std::process::{Output, Stdio};
use std::time::Duration;

use golectra_protocol::{Value, json};
use tokio::process::{Child, Command};

use crate::server::{Act, Server};

pub(crate) fn agent(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_golectra-agent"));
    command.env_clear().envs(variables.iter().copied()).env("LOG_FORMAT", "json");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn end(child: Child) -> Output {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    tokio::time::timeout(Duration::from_mins(1), child.wait_with_output()).await.expect("it ends in time").unwrap()
}

/// The number after `"field":` in the log.
fn logged(output: &Output, field: &str) -> i64 {
    let log = String::from_utf8_lossy(&output.stderr);
    let (_, rest) = log.rsplit_once(&format!("\"{field}\":")).unwrap_or_else(|| panic!("no {field} in {log}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

fn client() -> reqwest::Client {
    golectra_process::install_crypto();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

/// One of the agent's metrics.
pub(crate) async fn metric(metrics: &str, name: &str) -> u64 {
    let page = client().get(format!("http://{metrics}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// Waits until each of these metrics of the agent is at least this.
pub(crate) async fn wait_for_metrics(metrics: &str, least: &[(&str, u64)]) {
    let http = client();
    let reached = async {
        loop {
            // The agent may not listen yet.
            if let Ok(answer) = http.get(format!("http://{metrics}/metrics")).send().await {
                let page = answer.text().await.unwrap();
                let metric = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
                if least.iter().all(|(name, least)| metric(name).is_some_and(|metric| metric >= *least)) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reached).await.expect("the metrics reach these values in time");
}

#[tokio::test]
async fn started_before_its_server_and_ended_by_sigterm_it_has_reported_every_poll() {
    let address = Server::reserve();
    let metrics = Server::free_address();
    let variables = [
        ("ADDRESS", address.as_str()),
        ("POLL_INTERVAL", "100ms"),
        ("REPORT_INTERVAL", "300ms"),
        ("METRICS_ADDRESS", &metrics),
        ("SOURCE", "n1"),
    ];
    let child = agent(&variables).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let server = Server::start_at(&address, None, |number, _| match number {
        0 => Act::Close,
        1 => Act::ApplyAndAnswerHalf,
        _ => Act::Apply,
    })
    .await;
    server.wait_for("reports", |ledger| ledger.applied.len() >= 10).await;

    let http = client();
    let page = http.get(format!("http://{metrics}/metrics")).send().await.unwrap().text().await.unwrap();
    for name in [
        "golectra_agent_polls_total",
        "golectra_agent_reports_replayed_total 1",
        "golectra_agent_send_retries_total{reason=\"cut\"}",
        "golectra_agent_queue_oldest_age_seconds",
        "golectra_agent_collector_success{collector=\"cpu\"} 1",
        "golectra_build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(page.contains(name), "{name} is missing in {page}");
    }
    assert_eq!(http.get(format!("http://{metrics}/ping")).send().await.unwrap().status(), 200);
    check_with_promtool(page).await;

    let output = end(child).await;
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("Build version: "));
    assert_eq!(server.ledger().polls, logged(&output, "polls"));
    assert!(server.ledger().requests.iter().all(|request| request.header("golectra-source") == Some("n1")));
}

#[tokio::test]
async fn only_the_last_report_says_that_the_agent_ends() {
    let server = Server::start(|_, _| Act::Apply).await;
    let variables = [("ADDRESS", server.address.as_str()), ("POLL_INTERVAL", "100ms"), ("REPORT_INTERVAL", "300ms")];
    let child = agent(&variables).spawn().unwrap();
    server.wait_for("three reports", |ledger| ledger.applied.len() >= 3).await;
    let output = end(child).await;
    assert!(output.status.success(), "{output:?}");
    let mut reports: Vec<_> = server.ledger().requests.iter().map(|request| (request.key().unix_millis(), request.unpacked())).collect();
    reports.sort_by_key(|(time, _)| *time);
    let stopping = |body: &[u8]| {
        let report = json::decode_batch(body, 10_000).unwrap();
        report.iter().find(|metric| metric.id == "golectra_agent_stopping").expect("each report has it").value
    };
    let mut values: Vec<Value> = reports.iter().map(|(_, body)| stopping(body)).collect();
    assert_eq!(values.pop(), Some(Value::Gauge(1.0)));
    assert!(values.iter().all(|value| *value == Value::Gauge(0.0)), "{values:?}");
}

#[tokio::test]
async fn at_default_settings_the_metrics_change() {
    let server = Server::start(|_, _| Act::Apply).await;
    let child = agent(&[("ADDRESS", &server.address)]).spawn().unwrap();
    server.wait_for("three reports", |ledger| ledger.applied.len() >= 3).await;
    let output = end(child).await;
    assert_eq!(server.ledger().polls, logged(&output, "polls"));
    let reports: Vec<_> = server.ledger().requests.iter().map(|request| json::decode_batch(&request.unpacked(), 10_000).unwrap()).collect();
    for name in "PollCount RandomValue Alloc TotalAlloc Mallocs Frees HeapAlloc HeapIdle HeapInuse HeapObjects".split(' ') {
        let values: Vec<Value> = reports.iter().map(|report| report.iter().find(|metric| metric.id == name).expect(name).value).collect();
        assert!(values.windows(2).any(|pair| pair[0] != pair[1]), "{name} does not change: {values:?}");
    }
}

/// Checks names and help texts with Prometheus's own tool, if it is installed.
async fn check_with_promtool(page: String) {
    use tokio::io::AsyncWriteExt as _;
    let tool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut tool) = tool else {
        assert!(std::env::var_os("CI").is_none(), "promtool is not installed: install the package prometheus");
        return;
    };
    tool.stdin.take().unwrap().write_all(page.as_bytes()).await.unwrap();
    let output = tool.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn reports_that_no_server_took_are_counted_and_the_exit_is_clean() {
    let address = Server::reserve();
    let metrics = Server::free_address();
    let variables =
        [("ADDRESS", address.as_str()), ("POLL_INTERVAL", "100ms"), ("REPORT_INTERVAL", "300ms"), ("METRICS_ADDRESS", &metrics)];
    let child = agent(&variables).spawn().unwrap();
    wait_for_metrics(&metrics, &[("golectra_agent_polls_total", 8), ("golectra_agent_reports_sealed_total", 3)]).await;
    let output = end(child).await;
    assert!(output.status.success(), "{output:?}");
    assert!(logged(&output, "polls") >= 8 && logged(&output, "batches") >= 3);
}

#[tokio::test]
async fn without_authorities_the_agent_says_so_and_does_not_start() {
    let variables = [("ADDRESS", "https://localhost:1"), ("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let output = tokio::time::timeout(Duration::from_mins(1), agent(&variables).output()).await.expect("it ends in time").unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("No CA certificates") && log.contains("install the package ca-certificates"), "{log}");
}

#[tokio::test]
async fn settings_that_need_the_kubelets_address_are_named() {
    let address = Server::reserve();
    let metrics = Server::free_address();
    let variables = [("ADDRESS", address.as_str()), ("METRICS_ADDRESS", &metrics), ("PODS_DETAILS", "true"), ("PODS_NAMESPACES", "shop")];
    let child = agent(&variables).spawn().unwrap();
    wait_for_metrics(&metrics, &[("golectra_agent_polls_total", 1)]).await;
    let output = end(child).await;
    let log = String::from_utf8_lossy(&output.stderr);
    for setting in ["PODS_DETAILS", "PODS_NAMESPACES"] {
        assert!(log.contains(&format!("{setting} needs the kubelet: it has no effect until KUBELET_URL is set")), "{log}");
    }
    assert!(!log.contains("PODS_EXCLUDE_NAMESPACES"), "{log}");
}

#[tokio::test]
async fn an_agent_that_reports_rarely_says_that_node_silent_has_to_be_replaced() {
    for (interval, warns) in [("30s", false), ("60s", true)] {
        let server = Server::start(|_, _| Act::Apply).await;
        let metrics = Server::free_address();
        let variables = [("ADDRESS", server.address.as_str()), ("METRICS_ADDRESS", &metrics), ("REPORT_INTERVAL", interval)];
        let child = agent(&variables).spawn().unwrap();
        wait_for_metrics(&metrics, &[("golectra_agent_polls_total", 1)]).await;
        let output = end(child).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(log.contains("BUILT_IN_RULES_DISABLED=NodeSilent"), warns, "{interval}: {log}");
    }
}

#[tokio::test]
async fn a_kubelet_without_tls_cannot_be_verified() {
    let variables = [("ADDRESS", "http://localhost:1"), ("KUBELET_URL", "http://127.0.0.1:10255"), ("KUBELET_TLS", "verify")];
    let output = tokio::time::timeout(Duration::from_mins(1), agent(&variables).output()).await.expect("it ends in time").unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && log.contains("KUBELET_TLS is verify: KUBELET_URL has to be https"), "{log}");
}

#[tokio::test]
async fn a_bad_setting_is_one_sentence_and_exit_2() {
    let output = agent(&[("RATE_LIMIT", "many")]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("RATE_LIMIT") && text.trim_end().lines().count() == 1, "{text}");
    let help = agent(&[]).arg("-h").output().await.unwrap();
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8_lossy(&help.stdout);
    assert!(help.contains("QUEUE_BATCHES") && help.contains("golectra-agent doctor"), "{help}");
}

//! The disk is full: under the journal, the snapshot, the audit file, the agent's spool.

use std::time::{Duration, Instant};

use golectra_tests::{Client, Exit, Server, until};

use crate::agents::Tapped;
use crate::amount;
use crate::disk::Disk;
use crate::load::{LIMIT, Load, SOME, pass};
use crate::results::say;
use crate::tap::Tap;

/// How long the disk stays full at the least.
pub fn hold() -> Duration {
    Duration::from_secs(amount(1, 15))
}

/// A metric of a server; 0 before it is exported.
pub async fn metric(metrics: &Client, name: &str) -> f64 {
    metrics.try_get("/metrics").await.and_then(|answer| answer.metric(name)).unwrap_or(0.0)
}

#[tokio::test]
async fn under_the_journal() {
    let Some(disk) = Disk::mount(64 * 1024) else { return };
    let start = Instant::now();
    let builder = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true");
    let mut server = builder.env("FILE_STORAGE_PATH", disk.path("metrics.json").display()).start();
    let load = Load::start(&[server.port()], SOME).await;
    let rounds = amount(1, 3);
    for _ in 0..rounds {
        load.goes_on().await;
        disk.fill();
        let before = load.failed_tries();
        until("writes are refused", LIMIT, async || load.failed_tries() >= before + 30).await;
        pass(hold()).await;
        disk.free();
        load.goes_on().await;
        server = server.crash_and_restart_with(&[]);
    }
    load.goes_on().await;
    load.finish().await.judge("disk full, journal", &format!("{rounds} times full, then SIGKILL"), start);
}

#[tokio::test]
async fn under_the_snapshot() {
    let Some(disk) = Disk::mount(64 * 1024) else { return };
    let start = Instant::now();
    let builder = Server::builder().metrics().env("STORE_INTERVAL", "1").env("RESTORE", "true");
    let server = builder.env("FILE_STORAGE_PATH", disk.path("metrics.json").display()).start();
    let metrics = server.metrics_client();
    let load = Load::start(&[server.port()], SOME).await;
    load.goes_on().await;
    until("a snapshot", LIMIT, async || metric(&metrics, "golectra_memory_snapshots_total").await >= 1.0).await;
    disk.fill();
    until("a snapshot fails", LIMIT, async || metric(&metrics, "golectra_memory_snapshot_failures_total").await >= 1.0).await;
    pass(hold()).await;
    // Memory takes what the disk can't.
    load.goes_on().await;
    disk.free();
    let saved = metric(&metrics, "golectra_memory_snapshots_total").await;
    until("a snapshot again", LIMIT, async || metric(&metrics, "golectra_memory_snapshots_total").await > saved).await;
    let _server = server.restart_with(&[]);
    load.goes_on().await;
    load.finish().await.judge("disk full, snapshot", "once full, then SIGTERM", start);
}

#[tokio::test]
async fn under_the_audit_file() {
    let Some(disk) = Disk::mount(16 * 1024) else { return };
    let start = Instant::now();
    let file = disk.path("audit.ndjson");
    let builder = Server::builder().metrics().env("AUDIT_FILE", file.display()).env("AUDIT_QUEUE", 1_000_000);
    let server = builder.start();
    let metrics = server.metrics_client();
    let load = Load::start(&[server.port()], SOME).await;
    load.goes_on().await;
    disk.fill();
    load.goes_on().await;
    pass(hold()).await;
    disk.free();
    load.goes_on().await;
    load.finish().await.judge("disk full, audit file", "once full", start);
    let applied = metric(&metrics, r#"golectra_ingest_batches_total{outcome="applied"}"#).await;
    let mut lines = 0_u32;
    until("every write has its line", LIMIT, async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        lines = 0;
        for line in text.lines() {
            // A line that is being written may be torn; one that stays so never adds up.
            lines += u32::from(serde_json::from_str::<serde_json::Value>(line).is_ok_and(|event| event["metrics"].is_array()));
        }
        f64::from(lines) >= applied
    })
    .await;
    say("disk full, audit file", &format!("{applied} writes applied, {lines} events in the file"));
    assert!((f64::from(lines) - applied).abs() < 0.5, "{lines} events for {applied} writes");
}

#[tokio::test]
async fn under_the_spool() {
    let Some(disk) = Disk::mount(2 * 1024) else { return };
    let start = Instant::now();
    let server = Server::builder().start();
    let tap = Tap::start(server.port(), 200).await;
    let mut agent = Tapped::start(&tap, "spool-full", &disk.path("spool"));
    agent.reports(3).await;
    tap.set_down(true);
    disk.fill();
    until("the spool is refused", LIMIT, async || agent.metric("golectra_agent_spool_write_errors_total").await >= 1.0).await;
    pass(hold()).await;
    disk.free();
    agent.reports(3).await;
    tap.heal();
    agent.drained().await;
    let polls = agent.stop();
    let stored = server.client().get("/api/v1/latest?source=spool-full&name=PollCount").send().await.expect(200).json();
    let stored = stored["series"][0]["delta"].as_i64().unwrap_or(0);
    let seconds = start.elapsed().as_secs_f64();
    say(
        "disk full, spool",
        &format!("polled {polls}, stored {stored}; lost {}, doubled {}; {seconds:.1} s", (polls - stored).max(0), (stored - polls).max(0)),
    );
    assert_eq!(stored, polls);
    let mut server = server;
    assert_eq!(server.stop(), Exit::Code(0));
}

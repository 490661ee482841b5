//! What the audit trail may take: long events, a sink that is away for long, a full volume.

use golectra_protocol::webhook::Secret;
use golectra_tests::{AuditSink, Client, Database, Server, Target, free_port, on_both_stores, unix_millis, until};
use serde_json::{Value, json};

use crate::{LIMIT, lines, write};

on_both_stores!(the_longest_batch_has_one_event_that_reaches_the_sink);

async fn the_longest_batch_has_one_event_that_reaches_the_sink(t: Target) {
    let sink = AuditSink::builder().env("AUDIT_KEY", "audit").start();
    let server = t.own().env("AUDIT_URL", sink.url()).env("AUDIT_KEY", "audit").start();
    let names: Vec<String> = (0..10_000).map(|index| format!("{index:0>250}")).collect();
    let batch: Vec<Value> = names.iter().map(|name| json!({"id": name, "type": "counter", "delta": 1})).collect();
    server.client().post("/updates").json(&json!(batch)).gzip().send().await.expect(200);
    until("the event at the sink", LIMIT, async || !sink.ndjson().await.is_empty()).await;
    let events = lines(&sink.ndjson().await);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["metrics"], json!(names));
}

async fn metric(metrics: &Client, series: &str) -> f64 {
    metrics.get("/metrics").send().await.expect(200).metric(series).unwrap_or(0.0)
}

#[tokio::test]
async fn a_sink_that_is_away_for_long_does_not_fill_the_database() {
    let Some(database) = Database::create() else { return };
    let sink = AuditSink::builder().env("AUDIT_KEY", "audit");
    let builder = Server::builder().env("AUDIT_URL", sink.url()).env("AUDIT_KEY", "audit").env("AUDIT_DATABASE_MAX_BYTES", "1MiB");
    let server = builder.database(&database).metrics().start();
    let (client, metrics) = (server.client(), server.metrics_client());
    // Random letters, because the database compresses long texts.
    let noise = || std::iter::repeat_with(fastrand::alphanumeric).take(3_000).collect::<String>();
    let ids: Vec<String> = (0..800).map(|index| format!("event{index}_{}", noise())).collect();
    for id in &ids {
        write(&client, id).await;
    }
    let dropped = || metric(&metrics, r#"golectra_audit_events_total{outcome="dropped",sink="webhook"}"#);
    // About 3,300 bytes an event: some 300 of them have room.
    until("the oldest events are dropped", LIMIT, async || dropped().await >= 300.0).await;
    assert!(metric(&metrics, r#"golectra_audit_database_bytes{kind="waiting"}"#).await > 1_000_000.0);
    let sink = sink.start();
    until("the others arrive", LIMIT, async || {
        let kept = u32::try_from(lines(&sink.ndjson().await).len()).expect("it fits");
        f64::from(kept) + dropped().await >= 800.0
    })
    .await;
    let mut kept: Vec<String> =
        lines(&sink.ndjson().await).iter().map(|event| event["metrics"][0].as_str().expect("a name").to_owned()).collect();
    kept.sort_by_key(|id| ids.iter().position(|other| other == id));
    assert!(kept.len() > 100, "{} kept", kept.len());
    assert_eq!(kept, ids[ids.len() - kept.len()..], "the newest are kept");
}

#[tokio::test]
async fn a_full_volume_removes_the_oldest_events() {
    const BOUND: u64 = 100_000;
    let port = free_port();
    let sink = AuditSink::builder().env("RETAIN_BYTES", BOUND).env("METRICS_ADDRESS", format!("127.0.0.1:{port}")).start();
    let (client, metrics) = (sink.client(), Client::new(&format!("http://127.0.0.1:{port}"), None));
    let now = unix_millis() / 1000;
    for index in 0..400 {
        // Signatures compress badly.
        let secret = Secret::parse("noise").unwrap();
        let noise: String = (0..8).map(|part| secret.sign(&index.to_string(), part, b"")).collect();
        let event = json!({"ts": now, "metrics": [format!("event{index}"), noise], "ip_address": "127.0.0.1"});
        let request = client.post(AuditSink::WEBHOOK_PATH).header("webhook-id", format!("id{index}"));
        request.body(event.to_string()).send().await.expect(200);
    }
    let folder = sink.folder().join("audit").read_dir().expect("the folder");
    let bytes: u64 = folder.map(|file| file.expect("a file").metadata().map_or(0, |about| about.len())).sum();
    assert!(bytes <= BOUND, "{bytes}");
    let removed = metric(&metrics, r#"golectra_audit_sink_removed_events_total{limit="RETAIN_BYTES"}"#).await;
    let kept = lines(&sink.ndjson().await);
    assert!(removed > 0.0 && !kept.is_empty(), "{removed}");
    assert!(
        (f64::from(u32::try_from(kept.len()).expect("it fits")) + removed - 400.0).abs() < 0.1,
        "{removed} removed, {} kept",
        kept.len()
    );
    assert_eq!(kept.last().expect("an event")["metrics"][0], "event399");
}

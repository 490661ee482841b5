//! The memory store's files: saved at the shutdown, loaded at the start, and never written in part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use golectra_tests::{Exit, ProgramBuilder, Server, runtime, until};
use serde_json::{Value, json};

/// The time limit for what a server does soon, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

fn batch() -> Value {
    json!([
        {"id": "temperature{room=\"a\"}", "type": "gauge", "value": 0.1},
        {"id": "hits", "type": "counter", "delta": 9_007_199_254_740_993_i64},
    ])
}

fn read(server: &Server) -> Vec<Value> {
    let path = server.snapshot_path();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn the_file_is_an_array_of_metric_objects() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut server = Server::builder().start();
        server.client().updates(&batch()).await.expect(200);
        server.client().post("/updates").source("node-1").json(&batch()).send().await.expect(200);
        server.signal(signal);
        assert_eq!(server.wait(Duration::from_secs(20)), Exit::Code(0));
        let items = read(&server);
        assert_eq!(items.len(), 4, "{items:?}");
        for item in &items {
            let object = item.as_object().expect("an object");
            for field in object.keys() {
                assert!(["id", "type", "value", "delta", "source", "at"].contains(&field.as_str()), "{field} in {item}");
            }
            match object["type"].as_str() {
                Some("gauge") => assert_eq!((&object["id"], &object["value"]), (&json!("temperature{room=\"a\"}"), &json!(0.1))),
                Some("counter") => assert_eq!((&object["id"], &object["delta"]), (&json!("hits"), &json!(9_007_199_254_740_993_i64))),
                other => panic!("{other:?} in {item}"),
            }
        }
        assert_eq!(items.iter().filter(|item| item["source"] == "node-1").count(), 2);
        let left: Vec<_> = std::fs::read_dir(server.folder())
            .expect("the folder")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let known = ["metrics-db.json", "metrics-db.json.journal", "metrics-db.json.lock", "metrics-db.json.history"];
        assert!(left.iter().all(|name| known.contains(&name.as_str())), "unexpected files: {left:?}");
    }
}

#[tokio::test]
async fn restore_loads_it_and_without_restore_nothing_is_loaded() {
    let server = Server::builder().env("RESTORE", "true").start();
    server.client().updates(&batch()).await.expect(200);
    let before = server.client().get("/api/v1/snapshot").send().await.expect(200).text();
    let server = server.restart_with(&[]);
    assert_eq!(server.client().get("/api/v1/snapshot").send().await.expect(200).text(), before);
    let server = server.restart_with(&[("RESTORE", "false")]);
    assert_eq!(server.client().get("/api/v1/snapshot").send().await.expect(200).text(), r#"{"gauges":{},"counters":{}}"#);
}

#[tokio::test]
async fn a_file_of_the_original_loads() {
    // The format of the original: no source, no time.
    let original = r#"[
  {"id": "PollCount", "type": "counter", "delta": 15},
  {"id": "RandomValue", "type": "gauge", "value": 0.6046602879796196}
]"#;
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    std::fs::write(folder.path().join("metrics-db.json"), original).expect("our own folder");
    let server = Server::builder().folder(&folder).env("RESTORE", "true").start();
    let snapshot = server.client().get("/api/v1/snapshot").send().await.expect(200).json();
    assert_eq!(snapshot, json!({"gauges": {"RandomValue": 0.604_660_287_979_619_6}, "counters": {"PollCount": 15}}));
}

#[tokio::test]
async fn it_is_written_at_every_interval() {
    let server = Server::builder().env("STORE_INTERVAL", "1").env("RESTORE", "true").start();
    server.client().updates(&batch()).await.expect(200);
    let path = server.snapshot_path();
    until("the first snapshot", LIMIT, async || std::fs::read_to_string(&path).is_ok_and(|text| text.contains("hits"))).await;
    let server = server.crash_and_restart_with(&[]);
    assert_eq!(server.client().value("counter", "hits").await.as_deref(), Some("9007199254740993"));
}

#[tokio::test]
async fn a_reader_never_sees_a_partial_file() {
    let server = Server::builder().env("STORE_INTERVAL", "0").start();
    let wide: Value = (0..2000).map(|index| json!({"id": format!("wide{index}"), "type": "gauge", "value": index})).collect();
    server.client().updates(&wide).await.expect(200);
    let server = server.restart_with(&[("RESTORE", "true"), ("STORE_INTERVAL", "100ms")]);
    let client = server.client();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = runtime().spawn({
        let stop = Arc::clone(&stop);
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.updates(&json!([{"id": "tick", "type": "counter", "delta": 1}])).await.expect(200);
            }
        }
    });
    let mut versions = std::collections::BTreeSet::new();
    until("a few snapshots were seen whole", LIMIT, async || {
        let items = read(&server);
        assert!(items.len() >= 2000, "{} of 2000", items.len());
        versions.insert(items.iter().find(|item| item["id"] == "tick").and_then(|item| item["delta"].as_i64()));
        versions.len() >= 5
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    writing.await.expect("writes went on");
}

#[tokio::test]
async fn at_interval_0_a_crash_under_load_loses_nothing_acknowledged() {
    let mut server = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true").start();
    let (mut sent, acknowledged) = (0, Arc::new(AtomicI64::new(0)));
    for _ in 0..5 {
        let mut writers = Vec::new();
        let tries = Arc::new(AtomicI64::new(0));
        for _ in 0..4 {
            let (client, acknowledged, tries) = (server.client(), Arc::clone(&acknowledged), Arc::clone(&tries));
            writers.push(runtime().spawn(async move {
                loop {
                    tries.fetch_add(1, Ordering::SeqCst);
                    let request = client.post("/updates").json(&json!([{"id": "hits", "type": "counter", "delta": 1}]));
                    match request.try_send().await {
                        Ok(answer) => drop(answer.expect(200)),
                        Err(_) => return,
                    }
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        let before = acknowledged.load(Ordering::SeqCst);
        until("some writes", LIMIT, async || acknowledged.load(Ordering::SeqCst) > before + 50).await;
        server.kill();
        for writer in writers {
            writer.await.expect("every answer was 200");
        }
        sent += tries.load(Ordering::SeqCst);
        server = server.start_again();
        let found = server.client().counter("hits").await;
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        assert!((acknowledged..=sent).contains(&found), "{acknowledged} were acknowledged, {sent} sent, {found} found");
    }
}

#[test]
fn a_damaged_file_is_neither_loaded_nor_overwritten() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("metrics-db.json");
    let damaged = r#"[{"id":"a","type":"gauge","value":1},{"id":"#;
    std::fs::write(&path, damaged).expect("our own folder");
    let mut run = ProgramBuilder::new("golectra-server").folder(&folder).env("ADDRESS", "127.0.0.1:0").env("RESTORE", "true").start();
    assert!(matches!(run.wait(LIMIT), Exit::Code(1..)), "{}", run.tail());
    assert!(run.stderr().contains("metrics-db.json"), "{}", run.stderr());
    assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), damaged);
}

//! /ping, /ping/live and /api/v1/snapshot.

use std::time::{Duration, Instant};

use golectra_tests::{Raw, Server, Store, Target, on_both_stores, on_every_store, until};
use serde_json::{Value, json};

on_every_store!(
    ping_answers_200_within_a_second,
    the_snapshot_of_an_empty_store,
    the_snapshot_has_every_metric,
    acknowledged_metrics_are_there_after_a_restart,
);

on_both_stores!(snapshots_for_many_slow_readers_are_bounded);

async fn ping_answers_200_within_a_second(t: Target) {
    for path in ["/ping", "/ping/live"] {
        // What else the machine does may make one of them late.
        until(&format!("{path} is answered within a second"), Duration::from_mins(1), async || {
            let start = Instant::now();
            t.get(path).send().await.expect(200);
            start.elapsed() < Duration::from_secs(1)
        })
        .await;
    }
}

async fn the_snapshot_of_an_empty_store(t: Target) {
    let server = t.own().start();
    let answer = server.client().get("/api/v1/snapshot").send().await.expect(200);
    assert_eq!((answer.media_type(), answer.text().as_str()), ("application/json", r#"{"gauges":{},"counters":{}}"#));
}

async fn the_snapshot_has_every_metric(t: Target) {
    let server = t.own().start();
    let client = server.client();
    let batch = json!([
        {"id": "a", "type": "gauge", "value": 0.1},
        {"id": "b<&>\"ü", "type": "gauge", "value": -0.0},
        {"id": "a", "type": "counter", "delta": i64::MAX},
    ]);
    client.updates(&batch).await.expect(200);
    client.post("/updates").source("node-1").json(&json!([{"id": "n", "type": "counter", "delta": 0}])).send().await.expect(200);
    let snapshot = client.get("/api/v1/snapshot").send().await.expect(200).json();
    assert_eq!(snapshot, json!({"gauges": {"a": 0.1, "b<&>\"ü": -0.0}, "counters": {"a": i64::MAX, "n": 0}}));
    let minus_zero = snapshot["gauges"]["b<&>\"ü"].as_f64().expect("a number");
    assert!(minus_zero.is_sign_negative());
}

async fn acknowledged_metrics_are_there_after_a_restart(t: Target) {
    let server = t.own().env("RESTORE", "true").start();
    for (index, value) in crate::DELICATE.into_iter().enumerate() {
        let id = format!("d{index}");
        let metric = json!({"id": id, "type": "gauge", "value": value});
        server.client().post("/update").source("node.1").json(&metric).send().await.expect(200);
    }
    server.client().updates(&json!([{"id": "c{a=\"1\"}", "type": "counter", "delta": 77}])).await.expect(200);
    let snapshot = |client: golectra_tests::Client| async move { client.get("/api/v1/snapshot").send().await.expect(200).body };
    let before = snapshot(server.client()).await;
    let series = server.client().get("/api/v1/latest").send().await.expect(200).json();
    let server = server.restart_with(&[]);
    assert_eq!(String::from_utf8_lossy(&snapshot(server.client()).await), String::from_utf8_lossy(&before));
    assert_eq!(server.client().get("/api/v1/latest").send().await.expect(200).json(), series);
    if t.store() == Store::Postgres {
        let server = server.crash_and_restart_with(&[("RESTORE", "false")]);
        assert_eq!(snapshot(server.client()).await, before, "a database needs neither RESTORE nor a clean shutdown");
    }
}

/// Asks for a snapshot and reads only its status.
async fn begin(server: &Server) -> (Raw, u16, Duration) {
    let start = Instant::now();
    let mut raw = Raw::connect(server.port()).await;
    raw.send("GET /api/v1/snapshot HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let status = raw.status().await;
    (raw, status, start.elapsed())
}

async fn snapshots_for_many_slow_readers_are_bounded(t: Target) {
    let server = t.own().start();
    let client = server.client();
    // More than 10 MB, which the socket buffers of both ends do not hold.
    let long = "x".repeat(200);
    for part in 0..50 {
        let id = |n: usize| format!("m{{n=\"{part}-{n}\",text=\"{long}\"}}");
        let batch: Value = (0..1_000).map(|n| json!({"id": id(n), "type": "gauge", "value": n})).collect();
        client.updates(&batch).await.expect(200);
    }
    let asked = futures_util::future::join_all((0..6).map(|_| begin(&server))).await;
    let (running, refused): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, status, _)| *status == 200);
    assert_eq!((running.len(), refused.len()), (2, 4));
    for (mut raw, status, took) in refused {
        assert_eq!(status, 503);
        assert!(took >= Duration::from_secs(4), "it waits for others to end: {took:?}");
        let answer = raw.answer().await.expect("an answer");
        assert_eq!(answer.header("retry-after"), Some("5"), "{answer:?}");
        assert!(answer.text().contains("\"code\":\"overloaded\""), "{answer:?}");
    }
    // Others are answered meanwhile, and clients that disconnect make room.
    client.get("/api/v1/latest?limit=1").send().await.expect(200);
    drop(running);
    until("there is room again", Duration::from_secs(30), async || client.get("/api/v1/snapshot").send().await.status == 200).await;
}

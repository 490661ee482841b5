//! AUDIT_FILE: one line for each write that was taken.

use golectra_tests::{Server, Store, Target, fresh_key, on_both_stores};
use serde_json::{Value, json};

use crate::{LIMIT, each_once, lines};

on_both_stores!(
    a_line_for_each_write_taken,
    nothing_for_a_write_refused_or_repeated,
    lines_outlive_the_server,
    a_full_disk_leaves_no_torn_line,
);

/// What stands in the audit file now.
fn read(server: &Server) -> Vec<Value> {
    lines(&std::fs::read_to_string(server.folder().join("audit.ndjson")).unwrap_or_default())
}

async fn a_line_for_each_write_taken(t: Target) {
    let server = t.own().env("AUDIT_FILE", "audit.ndjson").start();
    let client = server.client();
    let before = golectra_tests::unix_millis() / 1000;
    let batch = json!([
        {"id": "b", "type": "gauge", "value": 1},
        {"id": "a{pod=\"1\",k=\"<&>\"}", "type": "counter", "delta": 1},
        {"id": "a{pod=\"2\"}", "type": "counter", "delta": 1},
        {"id": "b", "type": "counter", "delta": 1},
        {"id": "b", "type": "gauge", "value": 2},
    ]);
    client.post("/updates").source("node").json(&batch).gzip().send().await.expect(200);
    let path = server.folder().join("audit.ndjson");
    let text =
        golectra_tests::eventually("a whole line", LIMIT, async || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')))
            .await;
    let ts = lines(&text)[0]["ts"].as_u64().expect("ts is a whole number of seconds");
    assert!((before..=before + 60).contains(&ts), "{ts}");
    // Byte for byte: names without labels, sorted, each once.
    let golden = format!("{{\"ts\":{ts},\"metrics\":[\"a\",\"b\"],\"ip_address\":\"127.0.0.1\"}}\n");
    assert_eq!(text, golden);
    client.post("/update").json(&json!({"id": "c", "type": "gauge", "value": 1})).send().await.expect(200);
    client.post("/update/counter/d/1").send().await.expect(200);
    golectra_tests::until("a line each", LIMIT, async || read(&server).len() == 3).await;
    let metrics: Vec<Value> = read(&server).iter().skip(1).map(|event| event["metrics"].clone()).collect();
    assert_eq!(metrics, [json!(["c"]), json!(["d"])]);
}

async fn nothing_for_a_write_refused_or_repeated(t: Target) {
    let server = t.own().env("AUDIT_FILE", "audit.ndjson").start();
    let (client, key) = (server.client(), fresh_key());
    let batch = json!([{"id": "once", "type": "counter", "delta": 1}]);
    for _ in 0..3 {
        client.post("/updates").idempotency_key(&key).json(&batch).send().await.expect(200);
    }
    client.post("/updates").idempotency_key(&key).json(&json!([{"id": "x", "type": "counter", "delta": 2}])).send().await.expect(422);
    client.updates(&json!([{"id": "bad", "type": "counter", "delta": -1}])).await.expect(400);
    client.post("/update/gauge/bad/NaN").send().await.expect(400);
    client.post("/value").json(&json!({"id": "once", "type": "counter"})).send().await.expect(200);
    // Events come in the order of their writes, so what stands before the last one is all there is.
    client.updates(&json!([{"id": "last", "type": "counter", "delta": 1}])).await.expect(200);
    each_once(&["once", "last"].map(str::to_owned), async || read(&server)).await;
}

async fn lines_outlive_the_server(t: Target) {
    let mut server = t.own().env("AUDIT_FILE", "audit.ndjson").start();
    let ids: Vec<String> = (0..50).map(|index| format!("write{index}")).collect();
    for (index, id) in ids.iter().enumerate() {
        crate::write(&server.client(), id).await;
        if index == 25 {
            server = server.restart_with(&[]);
        }
    }
    // What a stopped server has not written yet waits in the database for its next start; memory has no next start to wait for.
    if t.store() == Store::Postgres {
        server = server.restart_with(&[]);
    } else {
        server.stop();
    }
    each_once(&ids, async || read(&server)).await;
}

async fn a_full_disk_leaves_no_torn_line(t: Target) {
    let server = t.own().env("AUDIT_FILE", "audit.ndjson").metrics().start();
    let (client, path) = (server.client(), server.folder().join("audit.ndjson"));
    let mut ids = vec!["before".to_owned()];
    crate::write(&client, &ids[0]).await;
    golectra_tests::until("the first line", LIMIT, async || read(&server).len() == 1).await;
    let whole = std::fs::read(&path).expect("the audit file");
    // There is room for a part of the next line.
    server.limit_files(whole.len() as u64 + 30);
    let metrics = server.metrics_client();
    for round in 1..=3 {
        ids.push(format!("full{round}"));
        crate::write(&client, ids.last().expect("it was pushed")).await;
        golectra_tests::until("a failed delivery", LIMIT, async || {
            let answer = metrics.get("/metrics").send().await.expect(200);
            answer
                .metric(r#"golectra_audit_delivery_attempts_total{result="down",sink="file"}"#)
                .is_some_and(|tries| tries >= f64::from(round))
        })
        .await;
        assert_eq!(std::fs::read(&path).expect("the audit file"), whole, "nothing is left of a failed write");
    }
    server.unlimit_files();
    each_once(&ids, async || read(&server)).await;
}

//! Limits of requests and series.

use golectra_tests::{Client, KEY, Raw, Target, exchange, gzip, on_both_stores, on_every_store};
use serde_json::{Value, json};

on_every_store!(
    ten_thousand_items_are_accepted_and_one_more_is_413,
    a_body_over_16_mib_is_413_packed_or_not,
    bodies_of_queries_are_short,
    the_limits_are_settings,
    a_client_that_is_still_sending_gets_an_early_refusal,
    max_series_refuses_only_new_series,
    max_series_per_source_refuses_only_that_source,
);

on_both_stores!(unfinished_queries_leave_room_for_writes);

fn counters(ids: impl Iterator<Item = String>) -> Value {
    ids.map(|id| json!({"id": id, "type": "counter", "delta": 1})).collect()
}

async fn ten_thousand_items_are_accepted_and_one_more_is_413(t: Target) {
    let id = t.id("many");
    let batch = |count: usize| counters((0..count).map(|_| id.clone()));
    t.updates(&batch(10_000)).await.expect(200);
    t.updates(&batch(10_001)).await.expect(413).error();
    assert_eq!(t.counter(&id).await, 10_000);
}

async fn a_body_over_16_mib_is_413_packed_or_not(t: Target) {
    const LIMIT: usize = 16 << 20;
    let id = t.id("large");
    let batch = json!([{"id": id, "type": "counter", "delta": 1}]).to_string();
    let padded = |length: usize| format!("{batch}{}", " ".repeat(length - batch.len()));
    t.post("/updates").body(padded(LIMIT)).send().await.expect(200);
    t.post("/updates").body(padded(LIMIT)).gzip().send().await.expect(200);
    // The Content-Length alone is enough to refuse it: a client that waits for the answer need not send the body.
    let head = format!("POST /updates HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", LIMIT + 1);
    assert_eq!(exchange(t.server().port(), head).await.map(|answer| answer.status), Some(413));
    t.post("/updates").body(padded(LIMIT + 1)).gzip().send().await.expect(413).error();
    let bomb = gzip(&vec![0; LIMIT + 1]);
    for path in ["/updates", "/update", "/value"] {
        t.post(path).unsigned().header("content-encoding", "gzip").body(bomb.clone()).send().await.expect(413).error();
    }
    assert_eq!(t.counter(&id).await, 2);
}

async fn bodies_of_queries_are_short(t: Target) {
    let port = t.server().port();
    let status = async |path: &str, bytes: usize| {
        // With Expect a body is asked for before it is read.
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\nExpect: 100-continue\r\n\r\n");
        exchange(port, head).await.map(|answer| answer.status)
    };
    assert_eq!(status("/value", 1 << 20).await, Some(413));
    assert_eq!(status("/api/v1/query", (1 << 20) + 1).await, Some(413));
    t.post("/value").body(" ".repeat(64 << 10)).gzip().send().await.expect(413).error();
    let form = t.post("/api/v1/query").header("content-type", "application/x-www-form-urlencoded");
    let answer = form.body(format!("query=1&x={}", "x".repeat(1 << 20))).gzip().send().await.expect(413);
    assert_eq!(answer.json()["status"], "error");
    // The longest id, each byte of it as an escape.
    let tag = t.id("long");
    let id = format!("{tag}{}", "x".repeat(golectra_protocol::MAX_ID_BYTES - tag.len()));
    t.post("/update").json(&json!({"id": id, "type": "counter", "delta": 1})).send().await.expect(200);
    let escaped = id.chars().fold(String::new(), |text, c| format!("{text}\\u{:04x}", u32::from(c)));
    let query = t.post("/value").body(format!(r#"{{"id":"{escaped}","type":"counter"}}"#));
    query.clone().send().await.expect(200);
    query.gzip().send().await.expect(200);
}

async fn unfinished_queries_leave_room_for_writes(t: Target) {
    let limited = t.own().key(Some(KEY)).env("MAX_BODY_BYTES", "65536").env("MAX_INFLIGHT_BYTES", "524288");
    let server = limited.env("SIGNATURES", "required").start();
    let (mut unfinished, mut refused) = (Vec::new(), 0);
    for _ in 0..40 {
        let mut raw = Raw::connect(server.port()).await;
        raw.send("POST /value HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n").await;
        // The server asks for a body when it has memory for it.
        match raw.status().await {
            100 => unfinished.push(raw),
            status => {
                assert_eq!(status, 503);
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && !unfinished.is_empty(), "{refused} of 40 were refused");
    let client = server.client();
    client.post("/updates").json(&counters(std::iter::once("c".to_owned()))).signed("default", KEY).send().await.expect(200);
    drop(unfinished);
}

async fn the_limits_are_settings(t: Target) {
    let server = t.own().env("MAX_BODY_BYTES", "1000").env("MAX_BATCH_ITEMS", "3").start();
    let client = server.client();
    client.updates(&counters((0..3).map(|index| index.to_string()))).await.expect(200);
    client.updates(&counters((0..4).map(|index| index.to_string()))).await.expect(413).error();
    client.updates(&counters(std::iter::once("x".repeat(1000)))).await.expect(413).error();
}

async fn a_client_that_is_still_sending_gets_an_early_refusal(t: Target) {
    // The error is in the head, while most of the body is still to be sent.
    let body = vec![b' '; 7 << 20];
    for _ in 0..3 {
        t.post("/updates").header("golectra-source", "not a source").body(body.clone()).send().await.expect(400).error();
        t.post("/no/such/route").body(body.clone()).send().await.expect(404);
        t.request(http::Method::PUT, "/updates").body(body.clone()).send().await.expect(405);
    }
}

/// A batch that is refused because of its new series, with Retry-After.
async fn refused(client: &Client, source: &str, batch: &Value) -> String {
    let answer = client.post("/updates").source(source).json(batch).send().await.expect(429);
    let after = answer.header("retry-after").expect("Retry-After").parse::<u32>();
    assert!(after.is_ok_and(|seconds| seconds > 0), "{answer:?}");
    answer.error()
}

async fn max_series_refuses_only_new_series(t: Target) {
    let server = t.own().env("MAX_SERIES", "3").start();
    let client = server.client();
    client.updates(&counters(["a", "b", "c"].into_iter().map(str::to_owned))).await.expect(200);
    let error = refused(&client, "s", &counters(["a", "d"].into_iter().map(str::to_owned))).await;
    assert!(error.contains("MAX_SERIES"), "{error}");
    client.post("/update").json(&json!({"id": "a", "type": "gauge", "value": 1})).send().await.expect(429);
    client.post("/update/gauge/a/1").send().await.expect(429);
    for _ in 0..2 {
        client.updates(&counters(["a", "b", "c"].into_iter().map(str::to_owned))).await.expect(200);
    }
    let snapshot = client.get("/api/v1/snapshot").send().await.expect(200).json();
    assert_eq!(snapshot, json!({"gauges": {}, "counters": {"a": 3, "b": 3, "c": 3}}));
    // The refused source was not created.
    assert_eq!(client.get("/api/v1/sources").send().await.expect(200).json()["sources"].as_array().map(Vec::len), Some(1));
}

async fn max_series_per_source_refuses_only_that_source(t: Target) {
    let server = t.own().env("MAX_SERIES_PER_SOURCE", "2").start();
    let client = server.client();
    let two = counters(["a", "b"].into_iter().map(str::to_owned));
    client.post("/updates").source("s").json(&two).send().await.expect(200);
    let error = refused(&client, "s", &counters(["c"].into_iter().map(str::to_owned))).await;
    assert!(error.contains("MAX_SERIES_PER_SOURCE"), "{error}");
    assert!(refused(&client, "t", &counters(["a", "b", "c"].into_iter().map(str::to_owned))).await.contains("MAX_SERIES_PER_SOURCE"));
    client.post("/updates").source("s").json(&two).send().await.expect(200);
    client.post("/updates").source("t").json(&two).send().await.expect(200);
    assert_eq!((client.counter("a").await, client.counter("c").await), (3, 0));
}

//! DELETE /api/v1/sources/NAME: deletes a source.

use std::time::Duration;

use golectra_tests::{Client, Target, fresh_key, on_both_stores, on_every_store, until};
use http::Method;
use serde_json::{Value, json};

on_every_store!(a_source_is_deleted, unknown_sources_cannot_be_deleted);

on_both_stores!(
    only_delete_is_allowed,
    deletions_are_signed_if_signatures_are_required,
    a_deletion_is_audited_once,
    keys_of_a_deleted_source_are_remembered
);

async fn put(t: &Client, source: &str, batch: &Value) {
    t.post("/updates").source(source).json(batch).send().await.expect(200);
}

async fn names(client: &Client) -> Vec<String> {
    let json = client.get("/api/v1/sources").send().await.expect(200).json();
    json["sources"].as_array().expect("an array").iter().map(|one| one["name"].as_str().expect("a text").to_owned()).collect()
}

async fn a_source_is_deleted(t: Target) {
    let server = t.own().start();
    let client = server.client();
    let batch = json!([
        {"id": "load", "type": "gauge", "value": 1},
        {"id": "polls", "type": "counter", "delta": 5},
        {"id": "oom{pod=\"a\"}", "type": "counter", "delta": 2},
    ]);
    for source in ["node-1", "node-2"] {
        put(&client, source, &batch).await;
    }
    let answer = client.request(Method::DELETE, "/api/v1/sources/node-1").send().await.expect(204);
    assert!(answer.wire.is_empty(), "{answer:?}");
    assert_eq!(names(&client).await, ["node-2"]);
    let listed = client.get("/api/v1/latest?source=node-1").send().await.expect(200).json();
    assert_eq!(listed, json!({"series": [], "truncated": false}));
    client.get("/source?name=node-1").send().await.expect(404);
    let answer = client.request(Method::DELETE, "/api/v1/sources/node-1").send().await.expect(404);
    assert_eq!(answer.json()["code"], "unknown_source");
    // The sum of an unlabelled counter does not fall; a labelled counter is removed with its series.
    assert_eq!((client.counter("polls").await, client.counter("oom{pod=\"a\"}").await), (10, 2));
    // The source is back with its next report.
    put(&client, "node-1", &batch).await;
    assert_eq!(names(&client).await, ["node-1", "node-2"]);
    assert_eq!((client.counter("polls").await, client.counter("oom{pod=\"a\"}").await), (15, 4));
    let listed = client.get("/api/v1/latest?source=node-1&name=polls").send().await.expect(200).json();
    assert_eq!(listed["series"][0]["delta"], 5, "its own total starts at 0 again");
}

async fn unknown_sources_cannot_be_deleted(t: Target) {
    for (path, status, code) in [
        (t.id("/api/v1/sources/nobody"), 404, "unknown_source"),
        ("/api/v1/sources/a%20b".to_owned(), 400, "invalid_source"),
        ("/api/v1/sources/%C3%A9".to_owned(), 400, "invalid_source"),
        (format!("/api/v1/sources/{}", "x".repeat(254)), 400, "invalid_source"),
    ] {
        let answer = t.request(Method::DELETE, &path).send().await.expect(status);
        assert_eq!(answer.json()["code"], code, "{path}");
        answer.error();
    }
    // The unnamed source has no path.
    t.request(Method::DELETE, "/api/v1/sources/").send().await.expect(405);
}

async fn only_delete_is_allowed(t: Target) {
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH] {
        let answer = t.request(method.clone(), "/api/v1/sources/a").send().await.expect(405);
        assert_eq!((answer.header("allow"), answer.text().as_str()), (Some("DELETE"), "method not allowed"), "{method}");
    }
}

async fn deletions_are_signed_if_signatures_are_required(t: Target) {
    let server = t.own().key(Some("one")).env("SIGNATURES", "required").start();
    let client = server.client();
    let batch = json!([{"id": "c", "type": "counter", "delta": 1}]);
    client.post("/updates").source("a").json(&batch).signed("default", "one").send().await.expect(200);
    let delete = || client.request(Method::DELETE, "/api/v1/sources/a");
    for (request, code) in [
        (delete(), "signature_missing"),
        (delete().signed("default", "two"), "signature_mismatch"),
        (delete().signed("other", "one"), "signature_unknown_key"),
        (delete().signed_off("default", "one", -400), "signature_clock"),
    ] {
        let answer = request.send().await.expect(401);
        assert_eq!(answer.json()["code"], code);
    }
    assert_eq!(names(&client).await, ["a"], "a refused request changes nothing");
    delete().signed("default", "one").send().await.expect(204);
    assert_eq!(names(&client).await, [""; 0]);
}

async fn a_deletion_is_audited_once(t: Target) {
    let server = t.own().env("AUDIT_FILE", "audit.ndjson").start();
    let client = server.client();
    let delete = async |name: &str, status| {
        client.request(Method::DELETE, &format!("/api/v1/sources/{name}")).send().await.expect(status);
    };
    put(&client, "a", &json!([{"id": "before", "type": "counter", "delta": 1}])).await;
    delete("nobody", 404).await;
    delete("a b".replace(' ', "%20").as_str(), 400).await;
    delete("a", 204).await;
    delete("a", 404).await;
    put(&client, "a", &json!([{"id": "last", "type": "counter", "delta": 1}])).await;
    let path = server.folder().join("audit.ndjson");
    let events = async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>()
    };
    until("the last write is audited", Duration::from_mins(1), async || {
        events().await.iter().any(|event| event["metrics"] == json!(["last"]))
    })
    .await;
    let metrics: Vec<_> = events().await.into_iter().map(|event| event["metrics"].clone()).collect();
    assert_eq!(metrics, [json!(["before"]), json!([]), json!(["last"])]);
    assert_eq!(events().await[1]["ip_address"], "127.0.0.1");
}

async fn keys_of_a_deleted_source_are_remembered(t: Target) {
    let server = t.own().start();
    let (client, key) = (server.client(), fresh_key());
    let send = async || {
        let batch = json!([{"id": "c", "type": "counter", "delta": 1}]);
        client.post("/updates").source("a").idempotency_key(&key).json(&batch).send().await.expect(200)
    };
    send().await;
    client.request(Method::DELETE, "/api/v1/sources/a").send().await.expect(204);
    assert_eq!(send().await.header("idempotency-replayed"), Some("true"));
    assert_eq!((client.counter("c").await, names(&client).await.len()), (1, 0));
}

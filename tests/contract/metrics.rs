//! The listener for /metrics.

use golectra_tests::{Target, fresh_key, listed_in_monitoring, on_both_stores, promtool};
use serde_json::json;

on_both_stores!(the_metrics_show_what_happened, metrics_have_a_listener_of_their_own);

async fn the_metrics_show_what_happened(t: Target) {
    let server = t.own().metrics().start();
    let (client, key) = (server.client(), fresh_key());
    let batch = json!([{"id": "a", "type": "counter", "delta": 1}, {"id": "b", "type": "gauge", "value": 1}]);
    for _ in 0..3 {
        client.post("/updates").idempotency_key(&key).json(&batch).send().await.expect(200);
    }
    client.updates(&json!([])).await.expect(400);
    client.get("/value/counter/a").send().await.expect(200);
    client.get("/value/counter/secret-name-of-a-metric").send().await.expect(404);
    let answer = server.metrics_client().get("/metrics").send().await.expect(200);
    let text = answer.text();
    assert_eq!(answer.media_type(), "text/plain");
    for part in
        ["golectra_build_info", "process_resident_memory_bytes", "route=\"/value/{kind}/{name}\"", "status=\"404\"", "method=\"POST\""]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("secret-name"), "paths are counted by their template");
    promtool(&text);
    listed_in_monitoring(&text);
}

async fn metrics_have_a_listener_of_their_own(t: Target) {
    let server = t.own().metrics().start();
    server.client().get("/metrics").send().await.expect(404);
    server.metrics_client().get("/metrics").send().await.expect(200);
    server.metrics_client().get("/api/v1/snapshot").send().await.expect(404);
    server.metrics_client().post("/updates").send().await.expect(404);
}

//! POST /updates.

use golectra_tests::{Target, on_every_store};
use serde_json::{Value, json};

on_every_store!(
    a_batch_is_stored_and_counted,
    counters_add_up_and_the_last_gauge_wins,
    a_bad_item_is_named_and_nothing_of_its_batch_is_stored,
    a_body_that_is_not_an_array_of_metrics_is_400,
    an_overflow_stores_nothing_of_its_batch,
    concurrent_batches_are_all_stored,
    a_batch_with_many_metrics_is_stored_completely,
);

async fn a_batch_is_stored_and_counted(t: Target) {
    let (a, b, c) = (t.id("a"), t.id("b"), t.id("c"));
    let batch = json!([
        {"id": a, "type": "gauge", "value": 1.25},
        {"id": b, "type": "counter", "delta": 3},
        {"id": c, "type": "gauge", "value": 0},
    ]);
    let answer = t.updates(&batch).await.expect(200);
    assert_eq!((answer.media_type(), answer.text().as_str()), ("application/json", r#"{"updated":3}"#));
    t.updates(&batch).await.expect(200);
    assert_eq!(t.value("gauge", &a).await.as_deref(), Some("1.25"));
    assert_eq!(t.value("gauge", &c).await.as_deref(), Some("0"));
    assert_eq!(t.counter(&b).await, 6);
}

async fn counters_add_up_and_the_last_gauge_wins(t: Target) {
    let id = t.id("same");
    let batch = json!([
        {"id": id, "type": "gauge", "value": 1},
        {"id": id, "type": "counter", "delta": 1},
        {"id": id, "type": "gauge", "value": 9},
        {"id": id, "type": "counter", "delta": 20},
        {"id": id, "type": "gauge", "value": 2},
        {"id": id, "type": "counter", "delta": 300},
    ]);
    assert_eq!(t.updates(&batch).await.expect(200).json(), json!({"updated": 6}));
    assert_eq!(t.value("gauge", &id).await.as_deref(), Some("2"));
    assert_eq!(t.counter(&id).await, 321);
}

async fn a_bad_item_is_named_and_nothing_of_its_batch_is_stored(t: Target) {
    let id = t.id("half");
    let good = json!({"id": id, "type": "counter", "delta": 1});
    for (bad, words) in [
        (json!({"id": "", "type": "gauge", "value": 1}), "id"),
        (json!({"id": "x".repeat(golectra_protocol::MAX_ID_BYTES + 1), "type": "gauge", "value": 1}), "4096"),
        (json!({"id": "a\u{0}", "type": "gauge", "value": 1}), "control"),
        (json!({"id": "a", "type": "sum", "value": 1}), "type"),
        (json!({"id": "a", "value": 1}), "type"),
        (json!({"id": "a", "type": "gauge"}), "value"),
        (json!({"id": "a", "type": "counter", "delta": -5}), "negative"),
        (json!({"id": "a", "type": "counter", "delta": 1.5}), "1.5"),
        (json!(null), "null"),
        (json!(7), "7"),
    ] {
        let batch = json!([good, good, bad, {"id": ""}, good]);
        let answer = t.updates(&batch).await;
        assert_eq!(answer.status, 400, "{batch}");
        let error = answer.error();
        assert!(error.contains("item 2") && error.contains(words), "{batch}: {error}");
    }
    assert_eq!(t.value("counter", &id).await, None);
}

async fn a_body_that_is_not_an_array_of_metrics_is_400(t: Target) {
    for body in [
        "",
        " ",
        "null",
        "[]",
        "{}",
        "7",
        "\"a\"",
        "true",
        "[",
        "[]]",
        r#"{"id":"a","type":"gauge","value":1}"#,
        "[null]",
        "[[]]",
        "\u{feff}[]",
    ] {
        let answer = t.post("/updates").body(body).send().await;
        assert_eq!(answer.status, 400, "{body:?}");
        answer.error();
    }
}

async fn an_overflow_stores_nothing_of_its_batch(t: Target) {
    let (full, other) = (t.id("full"), t.id("other"));
    t.updates(&json!([{"id": full, "type": "counter", "delta": i64::MAX}])).await.expect(200);
    let batch = json!([{"id": other, "type": "counter", "delta": 1}, {"id": full, "type": "counter", "delta": 1}]);
    assert!(t.updates(&batch).await.expect(400).error().contains(&full));
    let within = json!([{"id": other, "type": "counter", "delta": i64::MAX}, {"id": other, "type": "counter", "delta": 1}]);
    assert!(t.updates(&within).await.expect(400).error().contains("item 1"));
    assert_eq!((t.counter(&full).await, t.value("counter", &other).await), (i64::MAX, None));
}

async fn concurrent_batches_are_all_stored(t: Target) {
    let (shared, gauge) = (t.id("shared"), t.id("gauge"));
    let sends = (0..50).map(|index| {
        let client = (*t).clone();
        let batch = json!([
            {"id": shared, "type": "counter", "delta": index},
            {"id": gauge, "type": "gauge", "value": index},
            {"id": format!("{shared}_{}", index % 5), "type": "counter", "delta": 1},
        ]);
        tokio::spawn(async move { client.updates(&batch).await.status })
    });
    for send in sends.collect::<Vec<_>>() {
        assert_eq!(send.await.expect("no panic"), 200);
    }
    assert_eq!(t.counter(&shared).await, (0..50).sum::<i64>());
    for index in 0..5 {
        assert_eq!(t.counter(&format!("{shared}_{index}")).await, 10);
    }
    let last: f64 = t.value("gauge", &gauge).await.and_then(|text| text.parse().ok()).expect("a number");
    assert!((0.0..50.0).contains(&last));
}

async fn a_batch_with_many_metrics_is_stored_completely(t: Target) {
    let ids: Vec<String> = (0..2000).map(|index| t.id(&format!("wide{index}"))).collect();
    let batch: Value = ids.iter().map(|id| json!({"id": id, "type": "counter", "delta": 2})).collect();
    assert_eq!(t.updates(&batch).await.expect(200).json(), json!({"updated": 2000}));
    let snapshot = t.get("/api/v1/snapshot").send().await.expect(200).json();
    for id in &ids {
        assert_eq!(snapshot["counters"][id], 2, "{id}");
    }
}

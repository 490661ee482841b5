//! Idempotency keys: their form, and the answers to repeats.

use golectra_tests::{Target, fresh_key, key_at, on_every_store, unix_millis};
use serde_json::json;

on_every_store!(
    a_repeat_gets_the_first_answer_and_changes_nothing,
    a_repeat_of_an_update_gets_the_current_value,
    the_same_key_with_another_body_is_422,
    a_key_that_is_not_a_uuid_of_version_7_is_400,
    too_old_and_too_far_ahead_are_409,
    the_oldest_accepted_time_is_a_setting,
    the_key_of_a_refused_batch_can_be_used,
    a_repeat_may_be_packed_differently,
    without_a_key_every_request_is_a_new_batch,
);

async fn a_repeat_gets_the_first_answer_and_changes_nothing(t: Target) {
    let (id, gauge, key) = (t.id("c"), t.id("g"), fresh_key());
    let batch = json!([{"id": id, "type": "counter", "delta": 3}, {"id": gauge, "type": "gauge", "value": 1}]);
    let first = t.post("/updates").idempotency_key(&key).json(&batch).send().await.expect(200);
    assert_eq!(first.header("idempotency-replayed"), None);
    t.updates(&json!([{"id": gauge, "type": "gauge", "value": 2}])).await.expect(200);
    for key in [key.clone(), key.to_uppercase()] {
        let repeat = t.post("/updates").idempotency_key(&key).json(&batch).send().await.expect(200);
        assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
        assert_eq!((repeat.body.clone(), repeat.media_type()), (first.body.clone(), "application/json"));
    }
    assert_eq!((t.counter(&id).await, t.value("gauge", &gauge).await.as_deref()), (3, Some("2")));
}

async fn a_repeat_of_an_update_gets_the_current_value(t: Target) {
    let (id, key) = (t.id("c"), fresh_key());
    let metric = json!({"id": id, "type": "counter", "delta": 3});
    let first = t.post("/update").idempotency_key(&key).json(&metric).send().await.expect(200);
    assert_eq!((first.header("idempotency-replayed"), first.json()["delta"].clone()), (None, json!(3)));
    t.post("/update").json(&metric).send().await.expect(200);
    let repeat = t.post("/update").idempotency_key(&key).json(&metric).send().await.expect(200);
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
    assert_eq!(repeat.json(), json!({"id": id, "type": "counter", "delta": 6}));
    assert_eq!(t.counter(&id).await, 6);
}

async fn the_same_key_with_another_body_is_422(t: Target) {
    let (id, key) = (t.id("c"), fresh_key());
    t.post("/updates").idempotency_key(&key).json(&json!([{"id": id, "type": "counter", "delta": 1}])).send().await.expect(200);
    for delta in [2, 0] {
        let other = json!([{"id": id, "type": "counter", "delta": delta}]);
        t.post("/updates").idempotency_key(&key).json(&other).send().await.expect(422).error();
    }
    let metric = json!({"id": id, "type": "counter", "delta": 9});
    t.post("/update").idempotency_key(&key).json(&metric).send().await.expect(422).error();
    assert_eq!(t.counter(&id).await, 1);
}

async fn a_key_that_is_not_a_uuid_of_version_7_is_400(t: Target) {
    let id = t.id("c");
    let good = fresh_key();
    let bad = [
        "",
        "1",
        "not-a-uuid",
        "b4d3f5a0-9a3e-4c2d-8f00-1a2b3c4d5e6f",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        &good.replace('-', ""),
        &format!("{{{good}}}"),
        &format!("urn:uuid:{good}"),
        &format!("{good}0"),
        &good[..35],
    ];
    for key in bad {
        let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
        t.post("/updates").idempotency_key(key).json(&batch).send().await.expect(400).error();
        t.post("/update").idempotency_key(key).json(&batch[0]).send().await.expect(400).error();
    }
    assert_eq!(t.value("counter", &id).await, None);
}

async fn too_old_and_too_far_ahead_are_409(t: Target) {
    const MINUTE: u64 = 60_000;
    let id = t.id("c");
    let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
    let now = unix_millis();
    for (at, status) in [
        (0, 409),
        (now - 72 * 60 * MINUTE, 409),
        (now + 11 * MINUTE, 409),
        (now + 365 * 24 * 60 * MINUTE, 409),
        (now + 9 * MINUTE, 200),
        (now - 30 * MINUTE, 200),
        (now - 47 * 60 * MINUTE, 200),
    ] {
        let answer = t.post("/updates").idempotency_key(&key_at(at)).json(&batch).send().await;
        assert_eq!(answer.status, status, "{} ms from now: {}", i128::from(at) - i128::from(now), answer.text());
        if status == 409 {
            assert!(answer.error().contains(if at < now { "old" } else { "ahead" }), "{}", answer.text());
        }
    }
    assert_eq!(t.counter(&id).await, 3);
}

async fn the_oldest_accepted_time_is_a_setting(t: Target) {
    const MINUTE: u64 = 60_000;
    let server = t.own().env("DEDUP_WINDOW", "1h").start();
    let (client, now) = (server.client(), unix_millis());
    for (age, status) in [(59 * MINUTE, 200), (61 * MINUTE, 409), (0, 200)] {
        let batch = json!([{"id": "a", "type": "counter", "delta": 1}]);
        client.post("/updates").idempotency_key(&key_at(now - age)).json(&batch).send().await.expect(status);
    }
    assert_eq!(client.counter("a").await, 2);
}

async fn the_key_of_a_refused_batch_can_be_used(t: Target) {
    let (id, key) = (t.id("c"), fresh_key());
    for bad in ["[", "[]", "null", r#"[{"id":"a","type":"counter","delta":-1}]"#] {
        t.post("/updates").idempotency_key(&key).body(bad).send().await.expect(400);
    }
    let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
    let answer = t.post("/updates").idempotency_key(&key).json(&batch).send().await.expect(200);
    assert_eq!(answer.header("idempotency-replayed"), None);
    assert_eq!(t.counter(&id).await, 1);
}

async fn a_repeat_may_be_packed_differently(t: Target) {
    let (id, key) = (t.id("c"), fresh_key());
    let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
    t.post("/updates").idempotency_key(&key).json(&batch).gzip().send().await.expect(200);
    let repeat = t.post("/updates").idempotency_key(&key).json(&batch).send().await.expect(200);
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
    assert_eq!(t.counter(&id).await, 1);
}

async fn without_a_key_every_request_is_a_new_batch(t: Target) {
    let id = t.id("c");
    for _ in 0..3 {
        let answer = t.updates(&json!([{"id": id, "type": "counter", "delta": 1}])).await.expect(200);
        assert_eq!(answer.header("idempotency-replayed"), None);
    }
    assert_eq!(t.counter(&id).await, 3);
}

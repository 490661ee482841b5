//! A batch is applied once: sent a hundred times at once, and again after the server was restarted or killed.

use golectra_tests::{Client, Store, Target, fresh_key, on_every_store};
use serde_json::json;

on_every_store!(a_hundred_at_once_are_applied_once, once_also_after_a_restart, once_also_after_a_crash, once_also_on_two_servers);

/// Sends one batch a hundred times at once; says how many answers were not repeats.
async fn send_a_hundred(client: &Client, key: &str, id: &str) -> usize {
    let batch = json!([{"id": id, "type": "counter", "delta": 7}, {"id": format!("{id}_g"), "type": "gauge", "value": 1.5}]);
    let sends: Vec<_> = (0..100)
        .map(|_| {
            let (client, key, batch) = (client.clone(), key.to_owned(), batch.clone());
            tokio::spawn(async move { client.post("/updates").source("one").idempotency_key(&key).json(&batch).send().await })
        })
        .collect();
    let mut first = 0;
    for send in sends {
        let answer = send.await.expect("no panic").expect(200);
        assert_eq!(answer.json(), json!({"updated": 2}));
        match answer.header("idempotency-replayed") {
            None => first += 1,
            Some(value) => assert_eq!(value, "true"),
        }
    }
    first
}

async fn a_hundred_at_once_are_applied_once(t: Target) {
    let id = t.id("c");
    let key = fresh_key();
    assert_eq!(send_a_hundred(&t, &key, &id).await, 1);
    assert_eq!(t.counter(&id).await, 7);
}

async fn once_also_after_a_restart(t: Target) {
    // Kept at every interval when the server has time to say good-bye.
    for interval in ["0", "300"] {
        let key = fresh_key();
        let server = t.own().env("STORE_INTERVAL", interval).env("RESTORE", "true").start();
        assert_eq!(send_a_hundred(&server.client(), &key, "c").await, 1);
        let server = server.restart_with(&[]);
        assert_eq!(send_a_hundred(&server.client(), &key, "c").await, 0, "STORE_INTERVAL={interval}");
        assert_eq!(server.client().counter("c").await, 7, "STORE_INTERVAL={interval}");
        if t.store() == Store::Postgres {
            break;
        }
    }
}

async fn once_also_after_a_crash(t: Target) {
    let mut server = t.own().env("STORE_INTERVAL", "0").env("RESTORE", "true").start();
    let mut total = 0;
    let mut keys = Vec::new();
    for _ in 0..3 {
        let key = fresh_key();
        assert_eq!(send_a_hundred(&server.client(), &key, "c").await, 1);
        keys.push(key);
        total += 7;
        server = server.crash_and_restart_with(&[]);
        assert_eq!(server.client().counter("c").await, total, "what was acknowledged is there");
        for key in &keys {
            assert_eq!(send_a_hundred(&server.client(), key, "c").await, 0);
        }
        assert_eq!(server.client().counter("c").await, total);
    }
}

async fn once_also_on_two_servers(t: Target) {
    if t.store() == Store::Memory {
        // Two servers share nothing but a database.
        return;
    }
    let first = t.own().start();
    let second = first.twin().start();
    let (key, other) = (fresh_key(), first.client());
    let one = tokio::spawn({
        let key = key.clone();
        async move { send_a_hundred(&other, &key, "c").await }
    });
    let two = send_a_hundred(&second.client(), &key, "c").await;
    assert_eq!(one.await.expect("no panic") + two, 1);
    assert_eq!((first.client().counter("c").await, second.client().counter("c").await), (7, 7));
}

//! A batch is applied once: with a hundred concurrent requests, and again after the server was restarted or killed.

use golectra_tests::{Answer, Client, Store, Target, fresh_key, on_every_store};
use serde_json::{Value, json};

on_every_store!(
    a_hundred_concurrent_repeats_are_applied_once,
    applied_once_also_after_a_restart,
    applied_once_also_after_a_crash,
    applied_once_also_by_two_servers
);

/// How often a busy server may answer 503.
const TRIES: usize = 20;

/// Sends a batch until it is accepted, like an agent: a hundred concurrent requests may be more than the database of a busy
/// machine handles in time. Returns whether it took more than one try.
async fn send_until_taken(client: &Client, key: &str, batch: &Value) -> (Answer, bool) {
    for tries in 0..TRIES {
        let answer = client.post("/updates").source("one").idempotency_key(key).json(batch).send().await;
        if answer.status != 503 {
            return (answer.expect(200), tries > 0);
        }
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    panic!("{TRIES} times in a row the server was too busy");
}

/// The answers to a hundred requests.
#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    /// Answers that were not to a repeat.
    first: usize,
    /// Whether some requests were retried; the first answer may then have been lost to a timeout.
    tried_again: bool,
}

impl Answers {
    #[track_caller]
    fn have_one_first(self) {
        assert!(self.first == 1 || (self.tried_again && self.first == 0), "{self:?}");
    }

    #[track_caller]
    fn are_all_repeats(self) {
        assert_eq!(self.first, 0, "{self:?}");
    }
}

/// Sends the same batch in a hundred concurrent requests.
async fn send_a_hundred(client: &Client, key: &str, id: &str) -> Answers {
    let batch = json!([{"id": id, "type": "counter", "delta": 7}, {"id": format!("{id}_g"), "type": "gauge", "value": 1.5}]);
    let sends: Vec<_> = (0..100)
        .map(|_| {
            let (client, key, batch) = (client.clone(), key.to_owned(), batch.clone());
            tokio::spawn(async move { send_until_taken(&client, &key, &batch).await })
        })
        .collect();
    let mut answers = Answers::default();
    for send in sends {
        let (answer, tried_again) = send.await.expect("no panic");
        assert_eq!(answer.json(), json!({"updated": 2}));
        answers.tried_again |= tried_again;
        match answer.header("idempotency-replayed") {
            None => answers.first += 1,
            Some(value) => assert_eq!(value, "true"),
        }
    }
    answers
}

async fn a_hundred_concurrent_repeats_are_applied_once(t: Target) {
    let id = t.id("c");
    let key = fresh_key();
    send_a_hundred(&t, &key, &id).await.have_one_first();
    assert_eq!(t.counter(&id).await, 7);
}

async fn applied_once_also_after_a_restart(t: Target) {
    // With an interval the file is saved at a clean shutdown.
    for interval in ["0", "300"] {
        let key = fresh_key();
        let server = t.own().env("STORE_INTERVAL", interval).env("RESTORE", "true").start();
        send_a_hundred(&server.client(), &key, "c").await.have_one_first();
        let server = server.restart_with(&[]);
        send_a_hundred(&server.client(), &key, "c").await.are_all_repeats();
        assert_eq!(server.client().counter("c").await, 7, "STORE_INTERVAL={interval}");
        if t.store() == Store::Postgres {
            break;
        }
    }
}

async fn applied_once_also_after_a_crash(t: Target) {
    let mut server = t.own().env("STORE_INTERVAL", "0").env("RESTORE", "true").start();
    let mut total = 0;
    let mut keys = Vec::new();
    for _ in 0..3 {
        let key = fresh_key();
        send_a_hundred(&server.client(), &key, "c").await.have_one_first();
        keys.push(key);
        total += 7;
        server = server.crash_and_restart_with(&[]);
        assert_eq!(server.client().counter("c").await, total, "what was acknowledged is there");
        for key in &keys {
            send_a_hundred(&server.client(), key, "c").await.are_all_repeats();
        }
        assert_eq!(server.client().counter("c").await, total);
    }
}

async fn applied_once_also_by_two_servers(t: Target) {
    if t.store() == Store::Memory {
        // Two servers share only their database.
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
    let one = one.await.expect("no panic");
    Answers { first: one.first + two.first, tried_again: one.tried_again || two.tried_again }.have_one_first();
    assert_eq!((first.client().counter("c").await, second.client().counter("c").await), (7, 7));
}

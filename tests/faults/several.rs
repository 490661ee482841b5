//! Several servers on one database.

use std::time::Duration;

use golectra_tests::{Client, Database, Fault, Proxy, Server, fresh_key, runtime, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn five_servers_start_at_once_on_an_empty_database() {
    let Some(database) = Database::create() else { return };
    let start = || {
        let builder = Server::builder().database(&database);
        // Each on a thread of its own, so that none waits for another.
        std::thread::spawn(move || builder.start())
    };
    let starts: Vec<_> = (0..5).map(|_| start()).collect();
    let servers: Vec<Server> = starts.into_iter().map(|start| start.join().expect("it serves")).collect();
    let batch = json!([{"id": "a", "type": "counter", "delta": 1}, {"id": "g", "type": "gauge", "value": 1}]);
    for server in &servers {
        server.client().updates(&batch).await.expect(200);
    }
    for server in &servers {
        assert_eq!(server.client().counter("a").await, 5);
        let series = server.client().get("/api/v1/latest").send().await.expect(200).json();
        assert_eq!(series["series"].as_array().map(Vec::len), Some(2));
    }
    let key = fresh_key();
    let mut first = 0;
    for server in &servers {
        let answer = server.client().post("/updates").idempotency_key(&key).json(&batch).send().await.expect(200);
        first += usize::from(answer.header("idempotency-replayed").is_none());
    }
    assert_eq!((first, servers[0].client().counter("a").await), (1, 6));
}

/// Sends a batch until it is accepted; returns whether it was a repeat.
async fn deliver(client: &Client, key: &str, batch: &Value) -> bool {
    loop {
        let answer = client.post("/updates").source("node").idempotency_key(key).json(batch).send().await;
        if answer.status == 200 {
            return answer.header("idempotency-replayed").is_some();
        }
        assert_eq!(answer.status, 503, "{answer:?}");
    }
}

#[tokio::test]
async fn one_key_to_two_servers_one_of_them_killed_between_commit_and_answer() {
    let Some(database) = Database::create() else { return };
    let healthy = Server::builder().database(&database).start();
    let proxy = Proxy::start(database.port()).await;
    let mut doomed = Server::builder().env("DATABASE_DSN", database.url_through(proxy.port())).start();
    for round in 0..3 {
        let (id, key) = (format!("commit_{round}"), fresh_key());
        let batch = json!([{"id": id, "type": "counter", "delta": 7}]);
        // The id identifies the transaction. From its COMMIT on the server receives nothing, and the COMMIT is delayed long
        // enough for the other server to start on the same batch.
        proxy.set(Fault::SilentAfter(vec![id.clone(), "COMMIT".to_owned()], Duration::from_millis(500)));
        until("the server has its connections again", LIMIT, async || doomed.client().get("/ping").send().await.status == 200).await;
        let struck = proxy.struck();
        let (client, own_key, own_batch) = (doomed.client(), key.clone(), batch.clone());
        let unanswered = runtime()
            .spawn(async move { client.post("/updates").source("node").idempotency_key(&own_key).json(&own_batch).try_send().await });
        until("the COMMIT is on its way", LIMIT, async || proxy.struck() > struck).await;
        let (client, own_key, own_batch) = (healthy.client(), key.clone(), batch.clone());
        let repeat = runtime().spawn(async move { deliver(&client, &own_key, &own_batch).await });
        until("the COMMIT has come through", LIMIT, async || healthy.client().counter(&id).await == 7).await;
        assert!(!unanswered.is_finished(), "the server answered before it was killed");
        doomed.kill();
        assert!(unanswered.await.expect("no panic").is_err());
        assert!(repeat.await.expect("no panic"), "the other server took the batch for a new one");
        proxy.set(Fault::None);
        doomed = doomed.start_again();
        assert!(deliver(&doomed.client(), &key, &batch).await);
        for server in [&healthy, &doomed] {
            assert_eq!(server.client().counter(&id).await, 7, "applied once");
        }
    }
}

#[tokio::test]
async fn servers_killed_under_load_apply_every_batch_once() {
    let Some(database) = Database::create() else { return };
    let healthy = Server::builder().database(&database).start();
    let mut doomed = healthy.twin().start();
    let mut expected = 0;
    for _ in 0..3 {
        let send = || {
            let (first, second, key) = (doomed.client(), healthy.client(), fresh_key());
            let batch = json!([{"id": "load", "type": "counter", "delta": 3}]);
            runtime().spawn(async move {
                // Whatever the outcome of the first try, the second one goes to another server, as behind a load balancer.
                let _ = first.post("/updates").source("node").idempotency_key(&key).json(&batch).try_send().await;
                deliver(&second, &key, &batch).await;
            })
        };
        let senders: Vec<_> = (0..40).map(|_| send()).collect();
        until("some of them are applied", LIMIT, async || healthy.client().counter("load").await > expected).await;
        doomed.kill();
        for sender in senders {
            sender.await.expect("no panic");
        }
        expected += 40 * 3;
        assert_eq!(healthy.client().counter("load").await, expected);
        doomed = doomed.start_again();
        assert_eq!(doomed.client().counter("load").await, expected);
    }
}

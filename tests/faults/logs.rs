//! The log in an outage: a line every 10 s with a count, not a line for each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use golectra_tests::{Client, Database, Fault, Proxy, Server, free_port, fresh_key, runtime, until};
use serde_json::{Value, json};

const CLIENTS: usize = 64;

/// The length of the outage.
const OUTAGE: Duration = Duration::from_secs(15);

/// Each condition has a line at once and one every 10 s, the last one after its end.
const LINES_A_CONDITION: usize = 3;

/// The lines of the server's log from this one on.
fn lines(server: &Server, from: usize) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    server.stderr().lines().skip(from).map(parse).collect()
}

/// The sum of the counts of the lines with this message.
fn count(lines: &[Value], message: &str) -> u64 {
    let of_message = lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message)));
    of_message.map(|line| line["count"].as_u64().expect("a count")).sum()
}

/// Writes and reads until it is told to stop, and counts refused requests.
async fn insist(client: Client, refused: Arc<AtomicU64>, end: Instant) {
    while Instant::now() < end {
        let batch = json!([{"id": "c", "type": "counter", "delta": 1}]);
        for request in [client.post("/updates").idempotency_key(&fresh_key()).json(&batch), client.get("/value/counter/c")] {
            let answer = request.send().await;
            assert_eq!(answer.status, 503, "{answer:?}");
            refused.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_outage_with_many_clients_writes_a_bounded_number_of_lines() {
    let Some(database) = Database::create() else { return };
    let proxy = Proxy::start(database.port()).await;
    let server = Server::builder().env("DATABASE_DSN", database.url_through(proxy.port())).start();
    let client = server.client();
    client.updates(&json!([{"id": "c", "type": "counter", "delta": 1}])).await.expect(200);
    let from = server.stderr().lines().count();
    proxy.set(Fault::Drop);
    proxy.cut();
    let (refused, end) = (Arc::new(AtomicU64::new(0)), Instant::now() + OUTAGE);
    until("the outage is seen", Duration::from_secs(10), async || client.get("/ping").send().await.status == 503).await;
    let clients: Vec<_> = (0..CLIENTS).map(|_| runtime().spawn(insist(client.clone(), Arc::clone(&refused), end))).collect();
    for client in clients {
        client.await.expect("every answer was 503");
    }
    let refused = refused.load(Ordering::SeqCst);
    assert!(refused > 500, "few requests were refused: {refused}");
    until("every refused request is in the log", Duration::from_secs(20), async || {
        let lines = lines(&server, from);
        count(&lines, "the store is unavailable") + count(&lines, "overloaded") >= refused
    })
    .await;
    let lines = lines(&server, from);
    let mut messages: Vec<_> = lines.iter().map(|line| line["message"].to_string()).collect();
    messages.sort();
    messages.dedup();
    assert!(lines.len() <= messages.len() * LINES_A_CONDITION, "{} lines: {lines:#?}", lines.len());
    assert!(messages.len() <= 6, "{messages:?}");
}

#[tokio::test]
async fn counts_that_are_pending_at_the_end_of_the_process_are_logged() {
    const REQUESTS: u64 = 20;
    // Nothing listens on this port.
    let dsn = format!("postgres://user:password@127.0.0.1:{}/name", free_port());
    let mut server = Server::builder().env("DATABASE_DSN", dsn).start_alive();
    until("the first attempt failed", Duration::from_secs(10), async || server.stderr().contains("the database is not ready")).await;
    for _ in 0..REQUESTS {
        server.client().get("/value/counter/c").send().await.expect(503);
    }
    server.stop();
    assert_eq!(count(&lines(&server, 0), "the store is unavailable"), REQUESTS);
}

//! SIGINT and SIGTERM end each program within a bounded time, whatever its connections do.

use std::time::{Duration, Instant};

use golectra_tests::{Agent, AuditSink, Database, Exit, Fault, Proxy, Raw, Receiver, Reply, Server, ServerBuilder, Store, until};
use serde_json::json;

/// The time limit of the contract.
const LIMIT: Duration = Duration::from_secs(20);

fn builder(store: Store) -> Option<ServerBuilder> {
    Some(match store {
        Store::Memory => Server::builder(),
        Store::Postgres => Server::builder().database(&Database::create()?),
    })
}

async fn ends_with_open_connections(signal: i32, store: Store) {
    let Some(builder) = builder(store) else { return };
    let mut server = builder.metrics().env("AUDIT_URL", "http://127.0.0.1:1/").start();
    server.client().updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(200);
    // One kept-alive, one silent, one in the middle of a head, one in the middle of a body.
    let mut open = Vec::new();
    for text in ["GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", "", "GET / HT", "POST /updates HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n["]
    {
        let mut raw = Raw::connect(server.port()).await;
        raw.send(text).await;
        open.push(raw);
    }
    assert_eq!(open[0].answer().await.map(|answer| answer.status), Some(200));
    let start = Instant::now();
    server.signal(signal);
    assert_eq!(server.wait(LIMIT), Exit::Code(0), "{}", server.tail());
    assert!(start.elapsed() < LIMIT);
}

#[tokio::test]
async fn sigterm_ends_a_server_with_open_connections() {
    ends_with_open_connections(libc::SIGTERM, Store::Memory).await;
}

#[tokio::test]
async fn sigint_ends_a_server_with_open_connections() {
    ends_with_open_connections(libc::SIGINT, Store::Memory).await;
}

#[tokio::test]
async fn sigterm_ends_a_server_with_a_database() {
    ends_with_open_connections(libc::SIGTERM, Store::Postgres).await;
}

#[tokio::test]
async fn sigterm_ends_a_server_whose_database_hangs() {
    let Some(database) = Database::create() else { return };
    let proxy = Proxy::start(database.port()).await;
    let mut server = Server::builder().env("DATABASE_DSN", database.url_through(proxy.port())).start();
    proxy.set(Fault::Hang);
    server.client().updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(503);
    server.signal(libc::SIGTERM);
    // Requests that wait for a database that does not answer may be aborted; the process ends in time all the same.
    let exit = server.wait(LIMIT);
    assert!(matches!(exit, Exit::Code(0 | 1)), "{exit:?} {}", server.tail());
}

#[tokio::test]
async fn a_request_in_progress_is_finished() {
    let mut server = Server::builder().start();
    let body = json!([{"id": "last", "type": "counter", "delta": 1}]).to_string();
    let mut raw = Raw::connect(server.port()).await;
    raw.send(format!("POST /updates HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n[", body.len())).await;
    // The handler runs once the server waits for the body. That can't be seen from outside, so another request is answered
    // first.
    server.client().get("/ping").send().await.expect(200);
    server.signal(libc::SIGTERM);
    until("the server stops listening", LIMIT, async || server.client().try_get("/ping").await.is_none()).await;
    assert!(raw.send(&body[1..]).await);
    assert_eq!(raw.answer().await.map(|answer| answer.text()), Some(r#"{"updated":1}"#.to_owned()));
    assert_eq!(server.wait(LIMIT), Exit::Code(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut server = Server::builder().start();
    let mut raw = Raw::connect(server.port()).await;
    raw.send("POST /updates HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n[").await;
    server.client().get("/ping").send().await.expect(200);
    server.signal(libc::SIGTERM);
    until("the server stops listening", LIMIT, async || server.client().try_get("/ping").await.is_none()).await;
    let start = Instant::now();
    server.signal(libc::SIGTERM);
    // After the first signal alone the request would have 10 s.
    assert_ne!(server.wait(LIMIT), Exit::Code(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_agent_ends_in_time_when_its_server_hangs() {
    let receiver = Receiver::start(|_| Reply::status(200).after(Duration::from_hours(1))).await;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut agent = Agent::builder(&receiver.url()).env("REPORT_INTERVAL", "100ms").env("POLL_INTERVAL", "100ms").start();
        let before = receiver.requests().len();
        until("a report is under way", LIMIT, async || receiver.requests().len() > before).await;
        agent.signal(signal);
        assert_eq!(agent.wait(LIMIT), Exit::Code(0), "{}", agent.tail());
    }
}

#[tokio::test]
async fn an_audit_sink_ends_in_time() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut sink = AuditSink::builder().start();
        let mut raw = Raw::connect(sink.port()).await;
        raw.send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(raw.answer().await.map(|answer| answer.status), Some(200));
        sink.signal(signal);
        assert_eq!(sink.wait(LIMIT), Exit::Code(0), "{}", sink.tail());
    }
}

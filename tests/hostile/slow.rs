//! Slow clients: each state of a connection ends within its limit.

use std::time::{Duration, Instant};

use golectra_tests::{Raw, Server, Store, runtime};

use crate::{server, valid};

/// More than any time limit of the server under test.
const PATIENCE: Duration = Duration::from_secs(15);

fn start() -> Server {
    server(Store::Memory).expect("memory is always there").start()
}

/// Sends the text byte by byte until the server closes the connection; returns the status of its answer, if any.
async fn trickle(port: u16, text: &str) -> Option<u16> {
    let mut raw = Raw::connect(port).await;
    let start = Instant::now();
    for byte in text.bytes() {
        if !raw.send([byte]).await {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the server waits longer than its limit");
        // The client is slow on purpose.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    raw.answer().await.map(|answer| answer.status)
}

#[tokio::test]
async fn slow_headers_are_cut_off() {
    let server = start();
    let traffic = valid::Traffic::start(&server).await;
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: {}\r\n\r\n", "y".repeat(400));
    let port = server.port();
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let head = head.clone();
            runtime().spawn(async move { trickle(port, &head).await })
        })
        .collect();
    for client in clients {
        let status = client.await.expect("no panic");
        assert!(matches!(status, None | Some(408)), "{status:?}");
    }
    traffic.stop().await;
}

#[tokio::test]
async fn a_slow_body_is_408_or_cut_off() {
    let server = start();
    let traffic = valid::Traffic::start(&server).await;
    let port = server.port();
    for framing in ["Content-Length: 1000\r\n\r\n[", "Transfer-Encoding: chunked\r\n\r\n3e8\r\n["] {
        let mut raw = Raw::connect(port).await;
        raw.send(format!("POST /updates HTTP/1.1\r\nHost: x\r\n{framing}")).await;
        let start = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, raw.answer()).await.expect("the server keeps its limit");
        let status = answer.map(|answer| answer.status);
        assert!(matches!(status, None | Some(408)), "{status:?}");
        assert!(start.elapsed() > Duration::from_secs(2), "the limit was 3 s, it took {:?}", start.elapsed());
    }
    traffic.stop().await;
}

#[tokio::test]
async fn a_trickled_body_is_408_or_cut_off() {
    let server = start();
    let text = format!("POST /updates HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{}", " ".repeat(1000));
    let (head, body) = text.split_at(text.find("\r\n\r\n").expect("a head") + 4);
    let mut raw = Raw::connect(server.port()).await;
    raw.send(head).await;
    let start = Instant::now();
    for byte in body.bytes() {
        if !raw.send([byte]).await {
            break;
        }
        tokio::select! {
            answer = raw.answer() => {
                assert!(answer.is_none_or(|answer| answer.status == 408));
                break;
            }
            // The client is slow on purpose.
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        assert!(start.elapsed() < PATIENCE, "the server waits longer than its limit");
    }
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test]
async fn silent_and_idle_connections_are_closed() {
    let server = server(Store::Memory).expect("memory is always there").env("IDLE_TIMEOUT", "3s").start();
    let traffic = valid::Traffic::start(&server).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Raw::connect(server.port()).await);
    }
    let mut idle = Raw::connect(server.port()).await;
    idle.send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(idle.answer().await.map(|answer| answer.status), Some(200));
    idle.closed(PATIENCE).await;
    for mut connection in silent {
        connection.closed(PATIENCE).await;
    }
    traffic.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_no_answers_does_not_affect_others() {
    let server = start();
    let traffic = valid::Traffic::start(&server).await;
    let before = server.rss();
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(server.port()).await;
        // The kernel's buffers hold some answers; the others would wait for a client that never reads.
        let _ = tokio::time::timeout(Duration::from_secs(1), raw.send(&request)).await;
        deaf.push(raw);
    }
    assert!(traffic.stop().await > 0);
    let growth = server.rss().saturating_sub(before);
    assert!(growth < 64 << 20, "unread answers take up memory: {} MiB", growth >> 20);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start();
    let mut raw = Raw::connect(server.port()).await;
    let pair = |index: i32| {
        let write = format!("POST /update/counter/p/{index} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        [write.as_str(), "GET /value/counter/p HTTP/1.1\r\nHost: x\r\n\r\n"].concat()
    };
    let requests = (0..100).map(pair).collect::<Vec<_>>().concat();
    assert!(raw.send(requests).await);
    for index in 0..100 {
        assert_eq!(raw.answer().await.map(|answer| answer.status), Some(200));
        let value = raw.answer().await.expect("an answer").text();
        assert_eq!(value, (0..=index).sum::<i32>().to_string());
    }
}

#[tokio::test]
async fn beyond_the_connection_limit_clients_wait() {
    let server = server(Store::Memory).expect("memory is always there").env("MAX_CONNECTIONS", "10").start();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(Raw::connect(server.port()).await);
    }
    // The silent connections are closed at their limit, and then this one is served.
    server.client().get("/ping").send().await.expect(200);
}

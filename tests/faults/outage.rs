//! PostgreSQL is absent at the start, stopped under load, or hangs: writes and /ping fail in time, the process keeps running
//! and recovers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use golectra_tests::{Answer, Client, Database, Fault, PostgresCluster, Proxy, Raw, RequestBuilder, Server, fresh_key, runtime, until};
use serde_json::json;
use tokio::task::JoinHandle;

/// How long the server may take to find its database again: between two attempts to bring up the schema are up to 7.5 s.
const RECOVERY: Duration = Duration::from_secs(30);

/// How long a write may take to fail: 3 s, and a margin for the machine.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// How long /ping may take: 1 s, and a margin for the machine.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// How long a read may take to fail: 5 s, and a margin for the machine.
const READ_LIMIT: Duration = Duration::from_secs(8);

async fn timed(request: RequestBuilder<'_>) -> (Answer, Duration) {
    let start = Instant::now();
    (request.try_send().await.expect("an answer"), start.elapsed())
}

/// The server answers 503 in time, and is alive.
async fn is_out(client: &Client) {
    let (answer, took) = timed(client.get("/ping")).await;
    assert!(took < PING_LIMIT, "/ping took {took:?}");
    answer.expect(503);
    let metric = json!({"id": "during", "type": "counter", "delta": 1});
    let writes =
        [client.post("/updates").json(&json!([metric])), client.post("/update").json(&metric), client.post("/update/counter/during/1")];
    for request in writes {
        let (answer, took) = timed(request).await;
        assert!(took < WRITE_LIMIT, "a write took {took:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        answer.expect(503);
    }
    for path in ["/api/v1/snapshot", "/value/counter/during", "/api/v1/sources", "/"] {
        let (answer, took) = timed(client.get(path)).await;
        assert!(took < READ_LIMIT, "{path} took {took:?}");
        assert_eq!(answer.status, 503, "{path}");
        assert!(!answer.text().contains("127.0.0.1"), "an answer shows no internals: {}", answer.text());
    }
    client.get("/ping/live").send().await.expect(200);
}

async fn recovers(client: &Client) {
    until("/ping is 200 again", RECOVERY, async || client.get("/ping").send().await.status == 200).await;
    client.updates(&json!([{"id": "after", "type": "counter", "delta": 1}])).await.expect(200);
    assert!(client.counter("after").await > 0);
}

#[tokio::test]
async fn a_database_that_is_absent_at_the_start() {
    let Some(cluster) = PostgresCluster::start() else { return };
    cluster.stop();
    let mut server = Server::builder().env("DATABASE_DSN", cluster.url()).start_alive();
    let client = server.client();
    is_out(&client).await;
    assert!(!server.snapshot_path().exists(), "a server with a database never falls back to memory");
    cluster.start_again();
    recovers(&client).await;
    assert_eq!(client.counter("during").await, 0);
    assert!(server.exited().is_none());
}

#[tokio::test]
async fn a_listing_that_loses_its_database_is_cut_off() {
    let Some(cluster) = PostgresCluster::start() else { return };
    let server = Server::builder().env("DATABASE_DSN", cluster.url()).start();
    let client = server.client();
    // An answer of 27 MB: more than the socket buffers of both ends hold.
    let long = "x".repeat(800);
    for part in 0..60 {
        let batch = (0..500).map(|n| json!({"id": format!("m{{n=\"{part}-{n}\",text=\"{long}\"}}"), "type": "gauge", "value": n}));
        client.updates(&batch.collect()).await.expect(200);
    }
    let mut listing = Raw::connect(server.port()).await;
    listing.send("GET /api/v1/latest HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(listing.status().await, 200);
    cluster.stop();
    let text = listing.to_the_end().await;
    assert!(text.contains("\"series\":[{") && !text.contains("truncated") && !text.ends_with("0\r\n\r\n"), "{} bytes", text.len());
    // The client may see the end before the server has logged it.
    let logged = async || server.stderr().contains("answers of /api/v1/latest were cut off");
    until("the cut is in the log", Duration::from_secs(15), logged).await;
    client.get("/api/v1/latest").send().await.expect(503);
    cluster.start_again();
    recovers(&client).await;
}

/// Numbers of transactions may come again after a crash that PostgreSQL itself survives.
#[tokio::test]
async fn nothing_that_was_kept_of_frames_is_answered_after_a_session_crashed() {
    let Some(cluster) = PostgresCluster::start() else { return };
    // No rule asks for anything meanwhile.
    let server = Server::builder().env("DATABASE_DSN", cluster.url()).env("EVALUATION_INTERVAL", "0s").metrics().start();
    let (client, metrics) = (server.client(), server.metrics_client());
    let send = async |value: i32| client.updates(&json!([{"id": "g", "type": "gauge", "value": value}])).await.expect(200);
    let newest = async || {
        let answer = client.get("/api/v1/query?query=g").send().await.expect(200).json();
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let hits = async || metrics.get("/metrics").send().await.metric("golectra_frame_cache_hits_total").unwrap_or_default();
    for value in 0..6 {
        send(value).await;
        assert_eq!(newest().await, Some(value.to_string()));
    }
    let before = hits().await;
    assert!(before > 0.0, "frames are kept");
    cluster.crash_a_session().await;
    until("queries are answered", RECOVERY, async || client.get("/api/v1/query?query=g").send().await.status == 200).await;
    // The first query after it had nothing from the cache.
    let after = hits().await;
    assert!((after - before).abs() < f64::EPSILON, "{before} {after}");
    recovers(&client).await;
    send(7).await;
    assert_eq!(newest().await, Some("7".to_owned()));
}

/// Writers that send each batch until it is accepted, like agents.
struct Load {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicI64>,
    refused: Arc<AtomicI64>,
    work: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let mut load = Self { stop: Arc::default(), taken: Arc::default(), refused: Arc::default(), work: Vec::new() };
        for writer in 0..4 {
            let (client, stop) = (client.clone(), Arc::clone(&load.stop));
            let (taken, refused) = (Arc::clone(&load.taken), Arc::clone(&load.refused));
            let source = format!("writer-{writer}");
            load.work.push(runtime().spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    deliver(&client, &source, &refused).await;
                    taken.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        load
    }

    fn taken(&self) -> i64 {
        self.taken.load(Ordering::SeqCst)
    }

    fn refused(&self) -> i64 {
        self.refused.load(Ordering::SeqCst)
    }

    async fn finish(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.work {
            writer.await.expect("every answer was 200 or 503");
        }
        self.taken.load(Ordering::SeqCst)
    }
}

/// Sends a new batch until it is accepted.
async fn deliver(client: &Client, source: &str, refused: &AtomicI64) {
    let (key, batch) = (fresh_key(), json!([{"id": "load", "type": "counter", "delta": 1}]));
    loop {
        let answer = client.post("/updates").source(source).idempotency_key(&key).json(&batch).send().await;
        if answer.status == 200 {
            return;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        refused.fetch_add(1, Ordering::SeqCst);
        // A client's pause between two tries.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_database_that_is_stopped_under_load() {
    let Some(cluster) = PostgresCluster::start() else { return };
    let mut server = Server::builder().env("DATABASE_DSN", cluster.url()).start();
    let (client, pid) = (server.client(), server.pid());
    let load = Load::start(&client);
    for _ in 0..2 {
        let before = load.taken();
        until("writes are taken", RECOVERY, async || load.taken() > before + 20).await;
        let refused = load.refused();
        cluster.stop();
        until("writes are refused", RECOVERY, async || load.refused() > refused).await;
        is_out(&client).await;
        assert_eq!((server.exited(), server.pid()), (None, pid));
        cluster.start_again();
        recovers(&client).await;
    }
    let taken = load.finish().await;
    assert_eq!(client.counter("load").await, taken, "each batch that was taken was applied once, and no other");
}

#[tokio::test]
async fn a_database_that_hangs_or_closes_connections() {
    let Some(database) = Database::create() else { return };
    let proxy = Proxy::start(database.port()).await;
    let server = Server::builder().env("DATABASE_DSN", database.url_through(proxy.port())).start();
    let client = server.client();
    let load = Load::start(&client);
    until("writes are taken", RECOVERY, async || load.taken() > 5).await;
    for fault in [Fault::Hang, Fault::Drop, Fault::HalfAnswer(3)] {
        proxy.set(fault);
        is_out(&client).await;
        proxy.set(Fault::None);
        recovers(&client).await;
    }
    let taken = load.finish().await;
    assert_eq!(client.counter("load").await, taken);
}

#[tokio::test]
async fn a_database_that_is_too_slow() {
    let Some(database) = Database::create() else { return };
    let proxy = Proxy::start(database.port()).await;
    let server = Server::builder().env("DATABASE_DSN", database.url_through(proxy.port())).start();
    // Slower than any write may take: each write is refused in time.
    proxy.set(Fault::Delay(Duration::from_secs(2)));
    is_out(&server.client()).await;
    proxy.set(Fault::None);
    recovers(&server.client()).await;
}

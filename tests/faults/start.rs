//! The first second of a server: requests wait for the first attempt to connect to the database and create its schema.

use std::time::{Duration, Instant};

use golectra_tests::{Client, Database, ProgramBuilder, Server, free_port, runtime, until};
use serde_json::json;
use sqlx::PgConnection;

const LIMIT: Duration = Duration::from_secs(20);

/// Holds the lock under which servers change the schema: a first attempt waits for it.
async fn hold(database: &Database) -> PgConnection {
    let mut connection = database.connect().await;
    let lock = async move {
        sqlx::query("SELECT pg_advisory_lock(x'676f6c65'::integer, 1)").execute(&mut connection).await?;
        Ok::<_, sqlx::Error>(connection)
    };
    runtime().spawn(lock).await.expect("no panic").expect("nobody else has the lock")
}

/// A server whose first attempt is running, and which this side does not end before the connection is dropped. Its schema is
/// there: on a busy machine the first making of it takes longer than requests wait.
async fn starting(database: &std::sync::Arc<Database>) -> (Server, PgConnection) {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'golectra-server'";
    drop(Server::builder().database(database).start());
    until("the first server's sessions have ended", LIMIT, async || database.number(sessions).await == 0).await;
    let held = hold(database).await;
    let server = Server::builder().database(database).start_alive();
    until("the server has connected", LIMIT, async || database.number(sessions).await > 0).await;
    (server, held)
}

async fn timed(client: &Client, request: &str) -> (u16, Duration) {
    let start = Instant::now();
    let request = match request {
        "POST" => client.post("/updates").json(&json!([{"id": "first", "type": "counter", "delta": 1}])),
        path => client.get(path),
    };
    (request.try_send().await.expect("an answer").status, start.elapsed())
}

#[tokio::test]
async fn requests_wait_for_the_first_attempt() {
    let Some(database) = Database::create() else { return };
    let (server, held) = starting(&database).await;
    let client = server.client();
    let release = async {
        // Long enough for the requests to arrive: without waiting they would have got a 503 by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(held);
    };
    let (write, read, list, ping, ()) = tokio::join!(
        timed(&client, "POST"),
        timed(&client, "/value/counter/absent"),
        timed(&client, "/api/v1/snapshot"),
        timed(&client, "/ping"),
        release
    );
    assert_eq!((write.0, read.0, list.0), (200, 404, 200), "{}", server.tail());
    for (status, took) in [write, read, list] {
        assert!(took >= Duration::from_millis(250), "{status} after {took:?} did not wait");
    }
    // A first attempt may take longer than a ping may wait.
    assert!(ping.0 == 200 || ping.1 > Duration::from_millis(850), "{ping:?}");
    assert_eq!(client.counter("first").await, 1);
}

#[tokio::test]
async fn requests_wait_no_longer_than_their_limit() {
    let Some(database) = Database::create() else { return };
    let (server, held) = starting(&database).await;
    let client = server.client();
    let (write, read, ping) = tokio::join!(timed(&client, "POST"), timed(&client, "/value/counter/absent"), timed(&client, "/ping"));
    assert_eq!((write.0, read.0, ping.0), (503, 503, 503));
    assert!(ping.1 < Duration::from_secs(2), "/ping took {:?}", ping.1);
    for (_, took) in [write, read] {
        assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&took), "{took:?}");
    }
    drop(held);
    until("the server is ready", LIMIT, async || client.get("/ping").send().await.status == 200).await;
}

#[tokio::test]
async fn after_a_failed_attempt_requests_are_answered_at_once() {
    let (port, dsn) = (free_port(), format!("postgres://u:p@127.0.0.1:{}/m", free_port()));
    let server = ProgramBuilder::new("golectra-server").env("ADDRESS", format!("127.0.0.1:{port}")).env("DATABASE_DSN", dsn).start();
    until("the first attempt failed", LIMIT, async || server.stderr().contains("the database is not ready")).await;
    let client = Client::new(&format!("http://127.0.0.1:{port}"), None);
    until("the server listens", LIMIT, async || client.try_get("/ping/live").await.is_some()).await;
    for request in ["POST", "/value/counter/absent", "/ping"] {
        let (status, took) = timed(&client, request).await;
        assert_eq!(status, 503, "{request}");
        // Where they wait for an attempt, writes and reads take 2.5 s and more.
        assert!(took < Duration::from_secs(2), "{request} took {took:?}");
    }
}

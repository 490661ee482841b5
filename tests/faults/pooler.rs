//! A connection pooler instead of PostgreSQL: refused with one sentence, and without changing sessions that other clients use.

use std::time::Duration;

use golectra_tests::{Database, PgBouncer, PoolMode, Proxy, Server, runtime, until};
use serde_json::json;
use sqlx::{Executor as _, PgConnection, Row as _};

const LIMIT: Duration = Duration::from_secs(20);

/// The settings in which golectra's sessions differ, and the number of prepared statements.
async fn session(mut connection: PgConnection) -> Vec<String> {
    let query = "SELECT name || '=' || setting FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'search_path',
            'idle_in_transaction_session_timeout', 'client_connection_check_interval', 'tcp_keepalives_idle', 'plan_cache_mode',
            'enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit', 'default_transaction_isolation', 'golectra.session')
        UNION ALL SELECT 'prepared=' || count(*) FROM pg_prepared_statements ORDER BY 1";
    let work = async move {
        let rows = connection.fetch_all(query).await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()
    };
    runtime().spawn(work).await.expect("no panic").expect("settings can be read")
}

async fn is_refused(mode: PoolMode, ignored_parameters: &[&str]) {
    let Some(database) = Database::create() else { return };
    let untouched = session(database.connect().await).await;
    let Some(bouncer) = PgBouncer::start(&database, mode, ignored_parameters).await else { return };
    let server = Server::builder().env("DATABASE_DSN", bouncer.url()).start_alive();
    let sentence = "DATABASE_DSN leads to a connection pooler";
    until("the log says why", LIMIT, async || server.stderr().contains(sentence)).await;
    let client = server.client();
    client.get("/ping").send().await.expect(503);
    client.updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(503);
    // All clients get the pooler's only session.
    assert_eq!(session(bouncer.connect().await).await, untouched, "{mode:?} {ignored_parameters:?}");
    assert_eq!(database.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'golectra'").await, 0);
    assert!(server.stderr().matches(sentence).count() < 5, "{}", server.tail());
}

#[tokio::test]
async fn a_pooler_that_refuses_session_settings() {
    is_refused(PoolMode::Transaction, &[]).await;
}

#[tokio::test]
async fn a_pooler_that_ignores_session_settings() {
    is_refused(PoolMode::Transaction, &["options", "extra_float_digits"]).await;
}

#[tokio::test]
async fn an_address_that_later_leads_to_a_pooler_is_refused_too() {
    let Some(database) = Database::create() else { return };
    let proxy = Proxy::start(database.port()).await;
    let server = Server::builder().env("DATABASE_DSN", database.url_through(proxy.port())).start();
    let client = server.client();
    client.updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(200);
    let before = server.stderr().lines().count();
    let ignored = ["options", "extra_float_digits"];
    let Some(bouncer) = PgBouncer::start(&database, PoolMode::Transaction, &ignored).await else { return };
    proxy.lead_to(bouncer.port());
    let sentence = "DATABASE_DSN leads to a connection pooler";
    until("the log says why", LIMIT, async || {
        client.get("/ping").send().await.expect(503);
        server.stderr().contains(sentence)
    })
    .await;
    for _ in 0..5 {
        client.get("/ping").send().await.expect(503);
    }
    client.updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(503);
    // Not one line for each connection that was tried.
    let lines = server.stderr().lines().skip(before).filter(|line| !line.contains("INFO")).count();
    assert!(lines < 8, "{lines} lines: {}", server.tail());
    drop(bouncer);
    proxy.lead_to(database.port());
    until("the server has its database again", LIMIT, async || client.get("/ping").send().await.status == 200).await;
    client.updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(200);
}

#[tokio::test]
async fn a_pooler_in_session_mode_does_not_pass_them_on_either() {
    is_refused(PoolMode::Session, &["options", "extra_float_digits"]).await;
}

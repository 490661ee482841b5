//! What sessions are told, whatever the database says, and what they do without.

use std::net::Ipv4Addr;

use golectra_protocol::IdempotencyKey;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Executor as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::store::conformance::{batch, counter};

/// Changes what the database's sessions begin with.
async fn set_for_database(database: &TestDatabase, setting: &str) {
    let mut conn = database.connect().await;
    let name: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut conn).await.unwrap();
    conn.execute(format!("ALTER DATABASE {name} SET {setting}").as_str()).await.unwrap();
}

#[tokio::test]
async fn transactions_are_read_committed_whatever_is_set_for_the_database() {
    let Some(database) = TestDatabase::create().await else { return };
    set_for_database(&database, "default_transaction_isolation = 'serializable'").await;
    let store = database.store().await;
    let options = &store.writers.context.options;
    let statement = "SELECT current_setting('transaction_isolation')";
    let mut plain = database.connect().await;
    assert_eq!(sqlx::query_scalar::<_, String>(statement).fetch_one(&mut plain).await.unwrap(), "serializable");
    let mut isolations: Vec<String> = Vec::new();
    for pool in [store.pool(), store.history.pool()] {
        isolations.push(sqlx::query_scalar(statement).fetch_one(pool).await.unwrap());
    }
    for opened in
        [connect::open_for_schema(options).await, connect::open_for_requests(options).await, connect::open_for_writing(options).await]
    {
        isolations.push(sqlx::query_scalar(statement).fetch_one(&mut opened.unwrap()).await.unwrap());
    }
    assert_eq!(isolations, ["read committed"; 5]);
}

#[tokio::test]
async fn a_database_without_triggers_is_refused() {
    let Some(database) = TestDatabase::create().await else { return };
    let options = DatabaseOptions::new(dsn::parse(database.dsn().expose()).unwrap());
    drop(connect::open_for_requests(&options).await.unwrap());
    set_for_database(&database, "session_replication_role = 'replica'").await;
    let refused = connect::open_for_requests(&options).await.expect_err("it is refused");
    assert!(describe(&refused).contains("session_replication_role is replica"), "{refused}");
}

/// How the interval arrives, and what stands in its place then: no valid value. PostgreSQL on Windows refuses any but 0 with the same SQLSTATE.
const INTERVAL: &[u8] = b"'200ms'";
const REFUSED_INTERVAL: &[u8] = b"'200xx'";

/// The address of the database through a proxy that has it refuse to look for closed connections.
async fn without_looks(database: &TestDatabase) -> Secret {
    let direct: PgConnectOptions = database.dsn().expose().parse().unwrap();
    let (host, port) = (direct.get_host().to_owned(), direct.get_port());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
            tokio::spawn(pass_on(client, server));
        }
    });
    let through = direct.host("127.0.0.1").port(own_port).ssl_mode(PgSslMode::Disable);
    Secret::from(through.to_url_lossy().to_string())
}

async fn pass_on(mut client: TcpStream, mut server: TcpStream) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
    let requests = async {
        let mut bytes = vec![0; 8192];
        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
            let sent = &mut bytes[..length];
            if let Some(at) = sent.windows(INTERVAL.len()).position(|window| window == INTERVAL) {
                sent[at..at + INTERVAL.len()].copy_from_slice(REFUSED_INTERVAL);
            }
            if to_server.write_all(sent).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_look_for_closed_connections_is_used() {
    let Some(database) = TestDatabase::create().await else { return };
    let interval = "SELECT current_setting('client_connection_check_interval')";
    let store = database.store().await;
    assert_eq!(sqlx::query_scalar::<_, String>(interval).fetch_one(store.pool()).await.unwrap(), "200ms");
    store.close().await.unwrap();
    let store = PostgresStore::open(config(without_looks(&database).await), Clock::System).unwrap();
    assert!(ready(&store).await);
    assert_eq!(sqlx::query_scalar::<_, String>(interval).fetch_one(store.pool()).await.unwrap(), "0");
    let one = batch("a", IdempotencyKey::at(Clock::System.unix_millis()), vec![counter("c", 1)]);
    assert_eq!(store.apply(one).await.unwrap(), Applied::New);
    store.close().await.unwrap();
}

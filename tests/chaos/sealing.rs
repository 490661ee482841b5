//! The server that seals history is killed while it does so, again and again, with others on the same database.
//!
//! A round of sealing begins about 25 seconds after a server's start and then once a minute. The servers are started one after another, so that there is
//! mostly one that is about to begin. A lock of the test's own on a table of sealed history, which reads pass, stops the round where it first writes
//! there; or the server is killed at any time of its round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use golectra_tests::{Client, Database, Server, until};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::history::HistoryLoad;
use crate::load::{LIMIT, pass};
use crate::{amount, full};

/// Where a round is stopped; nowhere at "any time". The first kill comes behind the sealing of a source at least.
const PLACES: [&str; 6] = ["rollups_1h", "chunks", "sealed_reports", "sealed_totals", "rollups_5m", "any time"];
/// Between the starts of two servers.
const STAGGER: Duration = Duration::from_secs(3);
const SERVERS: usize = 4;

/// The session that holds the lock of sealing: its process, its server's number, whether it waits for this session.
const SEALING: &str = "SELECT pid, substr(application_name, 8)::bigint, $1 = ANY(pg_blocking_pids(pid))
    FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE pg_database.datname = current_database() AND locktype = 'advisory' AND classid = x'676f6c65'::integer::oid AND objid = 4
        AND granted AND application_name LIKE 'server-%'";

/// Watches the sessions of a database.
pub struct Watch {
    pub connection: PgConnection,
}

impl Watch {
    /// The session that seals: its process, its server's number, whether it waits for this other process.
    pub async fn sealing(&mut self, gate_pid: i32) -> Option<(i32, usize, bool)> {
        let found: Option<(i32, i64, bool)> =
            sqlx::query_as(SEALING).bind(gate_pid).fetch_optional(&mut self.connection).await.expect("PostgreSQL answers");
        found.map(|(pid, server, waits)| (pid, usize::try_from(server).expect("a number of a server"), waits))
    }
}

/// A session that lets nobody write to a table until its transaction ends, and its process.
pub async fn gate(options: &PgConnectOptions, place: &str) -> (PgConnection, i32) {
    let mut connection = PgConnection::connect_with(options).await.expect("PostgreSQL answers");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await.expect("PostgreSQL answers");
    if place != "any time" {
        let statements = format!("SET lock_timeout = '60s'; BEGIN; LOCK TABLE ONLY golectra.{place} IN SHARE MODE");
        connection.execute(statements.as_str()).await.expect("the lock is free between two rounds");
    }
    (connection, pid)
}

#[tokio::test]
async fn the_server_that_seals_is_killed() {
    let Some(database) = Database::create() else { return };
    let (start, kills) = (Instant::now(), amount(3, 50));
    let separator = if database.url().contains('?') { '&' } else { '?' };
    let mut servers = Vec::new();
    for number in 0..SERVERS {
        let dsn = format!("{}{separator}application_name=server-{number}", database.url());
        let builder = Server::builder().env("DATABASE_DSN", dsn).env("SEAL_AFTER", "2m");
        servers.push(builder.env("DATABASE_CONNECTIONS", 4).env("DATABASE_QUERY_CONNECTIONS", 2).start());
        pass(STAGGER).await;
    }
    let load = HistoryLoad::start(&servers.iter().map(|server| server.port()).collect::<Vec<_>>());
    let mut watch = Watch { connection: PgConnection::connect_with(&database.options()).await.expect("PostgreSQL answers") };
    let mut killed: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..kills {
        load.goes_on().await;
        let place = PLACES[round % PLACES.len()];
        let (gate, gate_pid) = gate(&database.options(), place).await;
        let mut sealing = None;
        until("a server seals", LIMIT, async || {
            load.fail_early();
            sealing = watch.sealing(gate_pid).await;
            sealing.is_some_and(|(_, _, waits)| waits || place == "any time")
        })
        .await;
        let (pid, number, _) = sealing.expect("just found");
        if place == "any time" {
            pass(Duration::from_millis(fastrand::u64(0..300))).await;
        }
        let mut server = servers.remove(number);
        server.kill();
        // What its session waited for is done now, though there is nobody who waits for the session.
        gate.close().await.expect("PostgreSQL answers");
        servers.insert(number, server.start_again());
        until("the session of the killed server ends", LIMIT, async || {
            watch.sealing(0).await.is_none_or(|(next, ..)| next != pid)
        })
        .await;
        *killed.entry(place).or_default() += 1;
    }
    load.goes_on().await;
    let sealed = database.number("SELECT count(*) FROM sealed_reports").await;
    assert!(sealed > 0, "nothing was sealed");
    let history = load.finish().await;
    let clients: Vec<Client> = servers.iter().map(|server| server.client()).collect();
    let faults = format!("{kills} SIGKILLs of the server that sealed, stopped at {killed:?}");
    history.judge(&clients, "sealing server killed", &faults, start).await;
    if full() {
        const WAITING: &str = "SELECT (SELECT count(*) FROM frames) + (SELECT count(*) FROM chunks WHERE part > 0)";
        until("all is sealed and folded", LIMIT * 2, async || database.number(WAITING).await == 0).await;
        history.judge(&clients[..1], "sealing server killed", "all sealed and folded afterwards", start).await;
    }
    let deadlocks = database.number("SELECT sum(deadlocks)::bigint FROM pg_stat_database WHERE datname = current_database()").await;
    assert_eq!(deadlocks, 0);
}

//! The server that seals history is killed while it does so, again and again, with others on the same database; and PostgreSQL crashes then.
//!
//! A round of sealing begins about 25 seconds after a server's start and then once a minute. The servers are started one after another, so that there is
//! mostly one that is about to begin. A lock of the test's own on a table of sealed history, which reads pass, stops the round where it first writes
//! there; or the server is killed at any time of its round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use golectra_tests::{Database, PostgresCluster, Server, eventually, until};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::history::{History, HistoryLoad};
use crate::load::{LIMIT, pass};
use crate::postgres::beside;
use crate::{amount, full};

pub const ANY_TIME: &str = "any time";
/// Where a round is stopped; nowhere at "any time". The first kill comes behind the sealing of a source at least.
pub const PLACES: [&str; 6] = ["rollups_1h", "chunks", "sealed_reports", "sealed_totals", "rollups_5m", ANY_TIME];
/// Between the starts of two servers.
const STAGGER: Duration = Duration::from_secs(3);
pub const SERVERS: usize = 4;

/// The session that holds the lock of sealing: its process, its server's number, whether it waits for this session.
const SEALING: &str = "SELECT pid, substr(application_name, 8)::bigint, $1 = ANY(pg_blocking_pids(pid))
    FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE pg_database.datname = current_database() AND locktype = 'advisory' AND classid = x'676f6c65'::integer::oid AND objid = 4
        AND granted AND application_name LIKE 'server-%'";

/// Watches the sessions of a database.
pub struct Watch {
    connection: PgConnection,
}

impl Watch {
    pub async fn start(options: &PgConnectOptions) -> Self {
        Self { connection: PgConnection::connect_with(options).await.expect("PostgreSQL answers") }
    }

    /// Waits until a server that seals is stopped by this process at this place, or seals for some time; says the session's process and the server's number.
    pub async fn stopped(&mut self, load: &HistoryLoad, gate_pid: i32, place: &str) -> (i32, usize) {
        let (pid, number) = eventually("a server seals", LIMIT, async || {
            load.fail_early();
            let (pid, number, waits) = self.sealing(gate_pid).await?;
            (waits || place == ANY_TIME).then_some((pid, number))
        })
        .await;
        if place == ANY_TIME {
            pass(Duration::from_millis(fastrand::u64(0..300))).await;
        }
        (pid, number)
    }

    /// Waits until the session with this process waits for a standby to have its commit.
    pub async fn waits_for_standby(&mut self, pid: i32) {
        until("a commit waits for the standby", LIMIT, async || {
            let query = "SELECT wait_event IS NOT DISTINCT FROM 'SyncRep' FROM pg_stat_activity WHERE pid = $1";
            let found: Option<bool> =
                sqlx::query_scalar(query).bind(pid).fetch_optional(&mut self.connection).await.expect("PostgreSQL answers");
            found.expect("the session that seals is there")
        })
        .await;
    }

    /// The session that seals: its process, its server's number, whether it waits for this other process.
    async fn sealing(&mut self, gate_pid: i32) -> Option<(i32, usize, bool)> {
        let found: Option<(i32, i64, bool)> =
            sqlx::query_as(SEALING).bind(gate_pid).fetch_optional(&mut self.connection).await.expect("PostgreSQL answers");
        found.map(|(pid, server, waits)| (pid, usize::try_from(server).expect("a number of a server"), waits))
    }
}

/// A session that lets nobody write to a table until its transaction ends, and its process.
pub async fn gate(options: &PgConnectOptions, place: &str) -> (PgConnection, i32) {
    let mut connection = PgConnection::connect_with(options).await.expect("PostgreSQL answers");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await.expect("PostgreSQL answers");
    if place != ANY_TIME {
        let statements = format!("SET lock_timeout = '60s'; BEGIN; LOCK TABLE ONLY golectra.{place} IN SHARE MODE");
        connection.execute(statements.as_str()).await.expect("the lock is free between two rounds");
    }
    (connection, pid)
}

/// A server for each of these numbers, started one after another, on the database with this URL.
pub async fn servers(url: &str, count: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    let separator = if url.contains('?') { '&' } else { '?' };
    for number in 0..count {
        if number > 0 {
            pass(STAGGER).await;
        }
        let builder = Server::builder().env("DATABASE_DSN", format!("{url}{separator}application_name=server-{number}"));
        servers.push(builder.env("SEAL_AFTER", "2m").env("DATABASE_CONNECTIONS", 4).env("DATABASE_QUERY_CONNECTIONS", 2).start());
    }
    servers
}

pub fn load(servers: &[Server]) -> HistoryLoad {
    HistoryLoad::start(&servers.iter().map(Server::port).collect::<Vec<_>>())
}

/// Waits until all is sealed, folded and rolled up, and compares it once more.
pub async fn judge_folded(history: &History, options: &PgConnectOptions, server: &Server, scenario: &str, start: Instant) {
    const WAITING: &str = "SELECT (SELECT count(*) FROM golectra.frames) + (SELECT count(*) FROM golectra.chunks WHERE part > 0)";
    let mut connection = PgConnection::connect_with(options).await.expect("PostgreSQL answers");
    until("all is sealed and folded", LIMIT * 2, async || {
        let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&mut connection).await.expect("PostgreSQL answers");
        waiting == 0
    })
    .await;
    history.judge_rollups(&mut connection).await;
    history.judge(&server.client(), scenario, "all sealed and folded afterwards", start).await;
}

#[tokio::test]
async fn the_server_that_seals_is_killed() {
    let Some(database) = Database::create() else { return };
    let (start, kills, options) = (Instant::now(), amount(3, 50), database.options());
    let mut servers = servers(database.url(), SERVERS).await;
    let load = load(&servers);
    let mut watch = Watch::start(&options).await;
    let mut killed: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..kills {
        load.goes_on().await;
        let place = PLACES[round % PLACES.len()];
        let (gate, gate_pid) = gate(&options, place).await;
        let (pid, number) = watch.stopped(&load, gate_pid, place).await;
        let mut server = servers.remove(number);
        server.kill();
        // What its session waited for is done now, though there is nobody who waits for the session.
        gate.close().await.expect("PostgreSQL answers");
        servers.insert(number, server.start_again());
        until("the session of the killed server ends", LIMIT, async || watch.sealing(0).await.is_none_or(|(next, ..)| next != pid)).await;
        *killed.entry(place).or_default() += 1;
    }
    load.goes_on().await;
    assert!(database.number("SELECT count(*) FROM sealed_reports").await > 0, "nothing was sealed");
    let history = load.finish().await;
    let faults = format!("{kills} SIGKILLs of the server that sealed, stopped at {killed:?}");
    history.judge(&servers[0].client(), "sealing server killed", &faults, start).await;
    if full() {
        judge_folded(&history, &options, &servers[0], "sealing server killed", start).await;
    }
    let deadlocks = database.number("SELECT sum(deadlocks)::bigint FROM pg_stat_database WHERE datname = current_database()").await;
    assert_eq!(deadlocks, 0);
}

#[tokio::test]
#[ignore = "part of the complete form: make chaos"]
async fn postgres_crashes_while_a_server_folds() {
    let Some(cluster) = beside(PostgresCluster::start).await else { return };
    let (start, crashes) = (Instant::now(), 12);
    let cluster = Arc::new(cluster);
    let options: PgConnectOptions = cluster.url().parse().expect("a URL");
    let servers = servers(cluster.url(), SERVERS).await;
    let load = load(&servers);
    for round in 0..crashes {
        load.goes_on().await;
        let place = PLACES[round % PLACES.len()];
        let (gate, gate_pid) = gate(&options, place).await;
        Watch::start(&options).await.stopped(&load, gate_pid, place).await;
        let postgres = Arc::clone(&cluster);
        beside(move || {
            postgres.stop_immediately();
            postgres.start_again();
        })
        .await;
        // It has ended already.
        let _ = gate.close().await;
    }
    load.goes_on().await;
    let history = load.finish().await;
    let scenario = "PostgreSQL crashed while a server folded";
    history.judge(&servers[0].client(), scenario, &format!("{crashes} times"), start).await;
    judge_folded(&history, &options, &servers[0], scenario, start).await;
}

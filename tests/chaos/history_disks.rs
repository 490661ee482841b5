//! The disk is full under PostgreSQL while it folds, and under the memory store's files of history.

use std::sync::Arc;
use std::time::Instant;

use golectra_tests::{PostgresCluster, Server, until};
use sqlx::Connection as _;

use crate::amount;
use crate::disk::Disk;
use crate::disks::{hold, metric};
use crate::history::HistoryLoad;
use crate::load::{LIMIT, pass};
use crate::postgres::beside;
use crate::sealing::{Watch, gate};

#[tokio::test]
async fn under_postgres_while_it_folds() {
    let Some(disk) = Disk::mount(192 * 1024) else { return };
    let (start, folder) = (Instant::now(), disk.path("database"));
    std::fs::create_dir(&folder).expect("the disk takes a folder");
    let Some(cluster) = PostgresCluster::start_in(&folder) else { return };
    let options: sqlx::postgres::PgConnectOptions = cluster.url().parse().expect("a URL");
    let dsn = format!("{}?application_name=server-0", cluster.url());
    let server = Server::builder().metrics().env("DATABASE_DSN", dsn).env("SEAL_AFTER", "2m").start();
    let load = HistoryLoad::start(&[server.port()]);
    load.goes_on().await;
    let (gate, gate_pid) = gate(&options, "rollups_1h").await;
    Watch::start(&options).await.stopped(&load, gate_pid, "rollups_1h").await;
    disk.fill();
    // PostgreSQL may have ended, for want of room for its log.
    let _ = gate.close().await;
    let metrics = server.metrics_client();
    until("the server says that it can't fold", LIMIT, async || metric(&metrics, "golectra_history_failures_total").await >= 1.0).await;
    load.is_refused(30).await;
    pass(hold()).await;
    disk.free();
    let cluster = Arc::new(cluster);
    let crashed = Arc::clone(&cluster);
    beside(move || crashed.start_after_crash()).await;
    load.goes_on().await;
    let history = load.finish().await;
    history.judge(&server.client(), "disk full, postgres", "once full while it folded", start).await;
}

#[tokio::test]
async fn under_the_files_of_history_where_every_write_is_on_disk() {
    let Some(disk) = Disk::mount(96 * 1024) else { return };
    let (start, rounds) = (Instant::now(), amount(1, 3));
    let builder = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true");
    let mut server = builder.env("FILE_STORAGE_PATH", disk.path("metrics.json").display()).start();
    let load = HistoryLoad::start(&[server.port()]);
    for _ in 0..rounds {
        load.goes_on().await;
        disk.fill();
        load.is_refused(30).await;
        pass(hold()).await;
        disk.free();
        load.goes_on().await;
        server = server.crash_and_restart_with(&[]);
    }
    load.goes_on().await;
    let history = load.finish().await;
    history.judge(&server.client(), "disk full, history in memory", &format!("{rounds} times full, then SIGKILL"), start).await;
}

#[tokio::test]
async fn under_the_files_of_history_between_saves() {
    let Some(disk) = Disk::mount(96 * 1024) else { return };
    let start = Instant::now();
    let builder = Server::builder().metrics().env("STORE_INTERVAL", "1").env("RESTORE", "true");
    let server = builder.env("FILE_STORAGE_PATH", disk.path("metrics.json").display()).start();
    let metrics = server.metrics_client();
    let count = async |name: &str| metric(&metrics, name).await;
    let load = HistoryLoad::start(&[server.port()]);
    load.goes_on().await;
    until("a save", LIMIT, async || count("golectra_memory_snapshots_total").await >= 1.0).await;
    disk.fill();
    until("a save fails", LIMIT, async || count("golectra_memory_snapshot_failures_total").await >= 1.0).await;
    pass(hold()).await;
    // Memory takes what the disk can't.
    load.goes_on().await;
    disk.free();
    let saved = count("golectra_memory_snapshots_total").await;
    until("a save again", LIMIT, async || count("golectra_memory_snapshots_total").await > saved).await;
    let server = server.restart_with(&[]);
    load.goes_on().await;
    let history = load.finish().await;
    history.judge(&server.client(), "disk full, saves of history", "once full, then SIGTERM", start).await;
}

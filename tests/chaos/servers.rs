//! The server is killed under load, again and again.

use std::time::{Duration, Instant};

use golectra_tests::{Database, Server};

use crate::history::HistoryLoad;
use crate::load::{Load, SOME, pass};
use crate::{amount, full};

/// Between two kills in the complete form.
const EVERY: Duration = Duration::from_secs(3);

async fn killed(scenario: &str, mut server: Server) {
    let (start, times) = (Instant::now(), amount(3, 50));
    let load = Load::start(&[server.port()], SOME).await;
    for _ in 0..times {
        load.goes_on().await;
        if full() {
            pass(EVERY).await;
        }
        server = server.crash_and_restart_with(&[]);
    }
    load.goes_on().await;
    let results = load.finish().await;
    results.judge(scenario, &format!("{times} SIGKILLs"), start);
}

#[tokio::test]
async fn killed_memory() {
    // At any other interval a crash may lose as much as one interval.
    killed("server killed, memory", Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true").start()).await;
}

#[tokio::test]
async fn killed_postgres() {
    let Some(database) = Database::create() else { return };
    killed("server killed, postgres", Server::builder().database(&database).start()).await;
}

#[tokio::test]
async fn killed_with_history_in_memory() {
    let (start, times) = (Instant::now(), amount(3, 50));
    let mut server = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true").start();
    let load = HistoryLoad::start(&[server.port()]);
    for _ in 0..times {
        load.goes_on().await;
        server = server.crash_and_restart_with(&[]);
    }
    load.goes_on().await;
    let history = load.finish().await;
    history.judge(&server.client(), "server killed, history in memory", &format!("{times} SIGKILLs"), start).await;
}

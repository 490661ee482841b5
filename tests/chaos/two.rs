//! Two servers on one database, behind what deals connections to them in turn: a retry meets the other server.

use std::time::{Duration, Instant};

use golectra_tests::{Database, Server};

use crate::load::{Load, SOME, pass};
use crate::results::say;
use crate::{amount, full};

#[tokio::test]
async fn two_servers_one_database() {
    let Some(database) = Database::create() else { return };
    let (start, times) = (Instant::now(), amount(2, 10));
    let mut first = Server::builder().database(&database).start();
    let mut second = first.twin().start();
    let load = Load::start(&[first.port(), second.port()], golectra_loadgen::Faults { cut_answers: 0.1, ..SOME }).await;
    for round in 0..times {
        load.goes_on().await;
        if full() {
            pass(Duration::from_secs(3)).await;
        }
        if round % 2 == 0 {
            first = first.crash_and_restart_with(&[]);
        } else {
            second = second.crash_and_restart_with(&[]);
        }
    }
    load.goes_on().await;
    let results = load.finish().await;
    results.judge("two servers, one database", &format!("{times} SIGKILLs in turn"), start);
    let deadlocks = database.number("SELECT sum(deadlocks)::bigint FROM pg_stat_database WHERE datname = current_database()").await;
    say("two servers, one database", &format!("{deadlocks} deadlocks"));
    assert_eq!(deadlocks, 0);
}

//! PostgreSQL's primary is lost while a server seals or folds, and a synchronous standby takes over.
//!
//! Every commit that was answered is on both, so nothing that was acknowledged may be missing afterwards. What was not answered may be on the standby or
//! not: the primary is killed in the middle of a transaction, and also while its commit waits for a standby that does not get it.

use std::collections::BTreeMap;
use std::time::Instant;

use golectra_tests::{PostgresPair, Server};
use sqlx::{Connection as _, PgConnection};

use crate::history::HistoryLoad;
use crate::sealing::{ANY_TIME, PLACES, SERVERS, Watch, gate, judge_folded, load, servers};
use crate::{amount, full};

#[tokio::test]
async fn the_primary_is_lost_while_a_server_folds() {
    let Some(mut pair) = PostgresPair::start().await else { return };
    let (start, rounds) = (Instant::now(), amount(2, 2 * PLACES.len()));
    let servers = servers(&pair.url(), SERVERS).await;
    let load = load(&servers);
    let mut lost: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..rounds {
        load.goes_on().await;
        let (place, options) = (PLACES[round % PLACES.len()], pair.options());
        let (gate, gate_pid) = gate(&options, place).await;
        let mut watch = Watch::start(&options).await;
        let (pid, _) = watch.stopped(&load, gate_pid, place).await;
        // Each place once within the transaction, and once at its end.
        let at_commit = place != ANY_TIME && (round + round / PLACES.len()) % 2 == 1;
        if at_commit {
            pair.cut_replication();
            gate.close().await.expect("PostgreSQL answers");
            watch.waits_for_standby(pid).await;
        }
        pair.fail_over().await;
        *lost.entry(if at_commit { "commit" } else { place }).or_default() += 1;
    }
    load.goes_on().await;
    let failovers = pair.failovers().await;
    assert_eq!(usize::try_from(failovers), Ok(rounds));
    assert!(sealed_reports(&pair).await > 0, "nothing was sealed");
    let history = load.finish().await;
    let scenario = "primary lost while a server folded";
    history.judge(&servers[0].client(), scenario, &format!("{failovers} failovers, at {lost:?}"), start).await;
    if full() {
        judge_folded(&history, &pair.options(), &servers[0], scenario, start).await;
    }
}

async fn sealed_reports(pair: &PostgresPair) -> i64 {
    let mut connection = PgConnection::connect_with(&pair.options()).await.expect("PostgreSQL answers");
    sqlx::query_scalar("SELECT count(*) FROM golectra.sealed_reports").fetch_one(&mut connection).await.expect("PostgreSQL answers")
}

/// A commit that waits for the standby when the primary crashes is there once the primary is back, though the standby does not have it.
#[tokio::test]
async fn the_primary_comes_back_without_its_standby_and_is_lost_then() {
    let Some(mut pair) = PostgresPair::start().await else { return };
    let (start, rounds) = (Instant::now(), amount(1, 10));
    let server = Server::builder().env("DATABASE_DSN", pair.url()).start();
    let load = HistoryLoad::start(&[server.port()]);
    for _ in 0..rounds {
        load.goes_on().await;
        pair.cut_replication();
        load.is_refused(8).await;
        pair.crash_primary();
        load.is_refused(8).await;
        pair.fail_over().await;
    }
    load.goes_on().await;
    let history = load.finish().await;
    let faults = format!("{rounds} times cut off from its standby, crashed, and lost then");
    history.judge(&server.client(), "primary back without its standby", &faults, start).await;
}

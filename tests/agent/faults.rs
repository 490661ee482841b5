//! Faults between the agent and its server.

use std::time::Duration;

use golectra_tests::{Agent, Database, Fault, Proxy, Received, Receiver, Reply, Server, Store, until};

use crate::tally::{balances, quick, reports_go_through};

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_server_that_comes_up_20_seconds_late() {
    let mut server = Server::builder().start();
    server.kill();
    let agent = quick(&server.url()).start();
    // The delay is what is tested.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let server = server.start_again();
    balances(agent, &server.client()).await;
}

async fn with_faults(faults: impl IntoIterator<Item = Fault>) {
    let server = Server::builder().start();
    let proxy = Proxy::start(server.port()).await;
    let faults: Vec<_> = faults.into_iter().collect();
    let count = faults.len();
    proxy.next(faults);
    let agent = quick(&proxy.url()).env("RATE_LIMIT", "2").start();
    until("every fault has struck", LIMIT, async || proxy.struck() >= count).await;
    balances(agent, &server.client()).await;
}

#[tokio::test]
async fn the_first_connection_is_closed_unanswered() {
    with_faults([Fault::Drop, Fault::Unanswered, Fault::Drop]).await;
}

#[tokio::test]
async fn half_an_answer_and_then_the_end() {
    with_faults([Fault::HalfAnswer(1), Fault::HalfAnswer(20), Fault::HalfAnswer(150)]).await;
}

#[tokio::test]
async fn a_connection_that_hangs_before_and_after_the_server_has_the_report() {
    with_faults([Fault::Hang, Fault::SilentAfter(vec!["POST /updates".to_owned()], Duration::ZERO)]).await;
}

#[tokio::test]
async fn a_server_that_answers_late() {
    with_faults([Fault::Delay(Duration::from_secs(3))]).await;
}

async fn restarts(store: Store) {
    let mut builder = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true");
    if store == Store::Postgres {
        let Some(database) = Database::create() else { return };
        builder = builder.database(&database);
    }
    let mut server = builder.start();
    let agent = quick(&server.url()).start();
    for _ in 0..2 {
        reports_go_through(&server.client()).await;
        server = server.restart_with(&[]);
        reports_go_through(&server.client()).await;
        server = server.crash_and_restart_with(&[]);
    }
    balances(agent, &server.client()).await;
}

#[tokio::test]
async fn a_server_that_restarts_and_crashes_memory() {
    restarts(Store::Memory).await;
}

#[tokio::test]
async fn a_server_that_restarts_and_crashes_postgres() {
    restarts(Store::Postgres).await;
}

async fn refused_twice(agent: &Agent) {
    until("the agent was refused twice", LIMIT, async || {
        agent.metric("golectra_agent_send_retries_total").await.is_some_and(|retries| retries >= 2.0)
    })
    .await;
}

#[tokio::test]
async fn the_wrong_key_and_then_the_right_one() {
    let mut server = Server::builder().key(Some("wrong")).start();
    let agent = quick(&server.url()).env("KEY", "right").start();
    refused_twice(&agent).await;
    assert_eq!(server.client().counter("PollCount").await, 0);
    server.stop();
    let server = Server::builder().key(Some("right")).port(server.port()).start();
    balances(agent, &server.client()).await;
}

#[tokio::test]
async fn a_busy_server_gets_the_same_report_again() {
    let server = Server::builder().start();
    let busy = Receiver::start(|_| Reply::status(503).header("retry-after", 1)).await;
    let proxy = Proxy::start(busy.port()).await;
    let agent = quick(&proxy.url()).start();
    refused_twice(&agent).await;
    let requests = busy.requests();
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key")).collect();
    assert!(keys.iter().all(|key| key.is_some() && *key == keys[0]), "a report keeps its key: {keys:?}");
    let bodies: Vec<_> = requests.iter().map(Received::unpacked).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "a report keeps its body");
    proxy.lead_to(server.port());
    balances(agent, &server.client()).await;
}

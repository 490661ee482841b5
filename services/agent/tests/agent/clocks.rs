//! Agents whose clock is wrong for a while: nothing is lost, and what was sealed then arrives with the right times.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use golectra_agent::clock::Clock;
use golectra_agent::metrics::DropReason;
use golectra_protocol::MAX_AHEAD_MILLIS;
use golectra_protocol::signature::Claim;
use tempfile::TempDir;

use crate::harness::Agent;
use crate::server::{Act, Request, Server};

const THREE_DAYS: Duration = Duration::from_hours(72);

fn unix_millis() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A clock that can be set ahead.
#[derive(Clone, Default)]
struct Settable(Arc<AtomicU64>);

impl Settable {
    fn set_ahead(&self, by: Duration) {
        self.0.store(by.as_secs(), Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Clock::from_fn(move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::Relaxed)))
    }
}

/// How golectra answers by its own clock, with or without a Date.
fn golectra(request: &Request, date: bool) -> Act {
    let now = unix_millis();
    if let Some(signature) = request.header("golectra-signature")
        && Claim::parse(signature.as_bytes()).unwrap().check_time(now / 1000).is_err()
    {
        return Act::Answer(401, "", r#"{"error":"clock","code":"signature_clock"}"#.to_owned());
    }
    if request.key().unix_millis() > now + MAX_AHEAD_MILLIS { Act::TooNew { date } } else { Act::Apply }
}

async fn more_batches(agent: &Agent, batches: usize) {
    let wanted = agent.queue.usage().batches + batches;
    agent.wait_for("reports", |agent| agent.queue.usage().batches >= wanted).await;
}

/// Each batch was applied with a time of the test, whatever the agent's clock said.
fn times_are_right(server: &Server, start: u64) {
    let times: Vec<_> = server.ledger().applied.keys().map(golectra_protocol::IdempotencyKey::unix_millis).collect();
    let right = start - 2_000..=unix_millis() + 2_000;
    assert!(times.iter().all(|time| right.contains(time)), "{times:?} are not within {right:?}");
}

async fn survives_a_jump(spool: Option<&Path>) {
    let (start, clock) = (unix_millis(), Settable::default());
    let address = Server::reserve();
    let mut builder = Agent::builder(&address).clock(clock.clock());
    if let Some(folder) = spool {
        builder = builder.spool(folder);
    }
    let agent = builder.start();
    more_batches(&agent, 5).await;
    clock.set_ahead(THREE_DAYS);
    more_batches(&agent, 5).await;
    clock.set_ahead(Duration::ZERO);
    more_batches(&agent, 5).await;
    let server = Server::start_at(&address, None, |_, request| golectra(request, false)).await;
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 20).await;
    assert_eq!(agent.metrics.dropped_so_far(DropReason::Expired), 0);
    assert!(agent.metrics.sealed_again_so_far() >= 3, "{} sealed again", agent.metrics.sealed_again_so_far());
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
    times_are_right(&server, start);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_and_back_loses_nothing_in_memory() {
    survives_a_jump(None).await;
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_and_back_loses_nothing_on_disk() {
    let folder = TempDir::new().unwrap();
    survives_a_jump(Some(folder.path())).await;
}

#[tokio::test]
async fn signed_reports_wait_until_the_clock_is_right_again() {
    let (start, clock) = (unix_millis(), Settable::default());
    clock.set_ahead(THREE_DAYS);
    let server = Server::start_at("127.0.0.1:0", Some("key"), |_, request| golectra(request, false)).await;
    let agent = Agent::builder(&server.address).key(Some("key")).clock(clock.clock()).start();
    agent.wait_for("refused signatures", |agent| agent.metrics.retried_so_far("clock_skew") >= 2).await;
    more_batches(&agent, 3).await;
    clock.set_ahead(Duration::ZERO);
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 10).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
    times_are_right(&server, start);
}

#[tokio::test]
async fn while_the_clock_is_ahead_reports_get_the_servers_time() {
    let (start, clock) = (unix_millis(), Settable::default());
    clock.set_ahead(THREE_DAYS);
    let server = Server::start(|_, request| golectra(request, true)).await;
    let agent = Agent::builder(&server.address).clock(clock.clock()).start();
    server.wait_for("some polls", |ledger| ledger.polls >= 30).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
    times_are_right(&server, start);
}

#[tokio::test]
async fn a_restart_after_the_jump_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let (start, clock) = (unix_millis(), Settable::default());
    clock.set_ahead(THREE_DAYS);
    // Nothing listens there, so that nothing is sent.
    let nowhere = Server::reserve();
    let agent = Agent::builder(&nowhere).clock(clock.clock()).spool(folder.path()).start();
    more_batches(&agent, 5).await;
    let kept = agent.finish_early().await;
    let server = Server::start(|_, request| golectra(request, false)).await;
    let agent = Agent::builder(&server.address).spool(folder.path()).start();
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 10).await;
    assert!(agent.metrics.sealed_again_so_far() >= 5);
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls + i64::try_from(kept).unwrap());
    // What the first agent sealed is placed just before the start of the second.
    times_are_right(&server, start);
}

#[tokio::test]
async fn reports_that_an_earlier_agent_left_long_ago_are_for_the_server_to_judge() {
    let folder = TempDir::new().unwrap();
    let nowhere = Server::reserve();
    let long_ago = Clock::from_fn(|| SystemTime::now() - THREE_DAYS);
    let agent = Agent::builder(&nowhere).clock(long_ago).spool(folder.path()).start();
    more_batches(&agent, 3).await;
    let kept = agent.finish_early().await;
    // A server that accepts them gets them, although they look older than SPOOL_MAX_AGE.
    let server = Server::start(|_, _| Act::Apply).await;
    let agent = Agent::builder(&server.address).spool(folder.path()).start();
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 5).await;
    assert_eq!(agent.metrics.dropped_so_far(DropReason::Expired), 0);
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls + i64::try_from(kept).unwrap());
}

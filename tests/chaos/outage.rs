//! The server is away for a while, and many real agents come back to it at once.

use std::time::{Duration, Instant};

use golectra_tests::{Server, until};

use crate::agents::{BACKLOG_LIMIT, Tapped, naive_over_count, polls_stored};
use crate::amount;
use crate::load::{LIMIT, pass};
use crate::results::say;
use crate::tap::Tap;

#[tokio::test]
async fn everything_polled_in_an_outage_arrives() {
    let (start, count, away) = (Instant::now(), amount(4, 50), Duration::from_secs(amount(4, 300)));
    let mut server = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true").start();
    let tap = Tap::start(server.port(), 0).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let agents: Vec<(String, Tapped)> = (0..count)
        .map(|index| {
            let source = format!("outage-{index}");
            let agent = Tapped::start_at(&tap, &source, &folder.path().join(&source), amount("500ms", "1s"));
            (source, agent)
        })
        .collect();
    for (_, agent) in &agents {
        agent.reports(2).await;
    }
    server.kill();
    pass(away).await;
    let backlog = waiting(&agents).await;
    let back = Instant::now();
    let server = server.start_again();
    until("the backlog is sent", BACKLOG_LIMIT, async || waiting(&agents).await <= f64::from(count)).await;
    let drained = back.elapsed();

    let busiest = tap.busiest_second(back);
    let (mut polled, mut stored, mut lost, mut doubled) = (0, 0, 0, 0);
    for (source, mut agent) in agents {
        let polls = agent.stop();
        let there = polls_stored(&server, &source).await;
        polled += polls;
        stored += there;
        lost += (polls - there).max(0);
        doubled += (there - polls).max(0);
    }
    let over = naive_over_count(&server).await;
    say(
        "outage",
        &format!(
            "{count} agents, {:.0} s away, {backlog} reports waiting, sent within {:.1} s, at most {busiest} requests in a second; \
             polled {polled}, stored {stored}, lost {lost}, doubled {doubled}; naive control over-counted by {over}; {:.1} s",
            away.as_secs_f64(),
            drained.as_secs_f64(),
            start.elapsed().as_secs_f64(),
        ),
    );
    assert_eq!((lost, doubled), (0, 0));
    assert!(over > 0, "the naive control did not over-count");
    assert!(drained < LIMIT);
}

/// Reports that wait at all agents.
async fn waiting(agents: &[(String, Tapped)]) -> f64 {
    let mut sum = 0.0;
    for (_, agent) in agents {
        sum += agent.metric("golectra_agent_queue_batches").await;
    }
    sum
}

//! The agent is killed, with reports on its disk that nobody has taken yet.

use std::path::Path;
use std::time::{Duration, Instant};

use golectra_tests::{Agent, AgentBuilder, Exit, Server, until};
use serde_json::Value;

use crate::amount;
use crate::load::LIMIT;
use crate::results::say;
use crate::tap::Tap;

/// How long a backlog may take to arrive.
pub const BACKLOG_LIMIT: Duration = Duration::from_mins(3);

/// A real agent whose reports go through a tap.
pub struct Tapped {
    builder: AgentBuilder,
    agent: Agent,
}

impl Tapped {
    /// An agent in a hurry, of this source, with its spool in this folder.
    pub fn start(tap: &Tap, source: &str, spool: &Path) -> Self {
        Self::start_at(tap, source, spool, "200ms")
    }

    /// The same with another time between two reports.
    pub fn start_at(tap: &Tap, source: &str, spool: &Path, interval: &str) -> Self {
        let builder = Agent::builder(&tap.url()).env("SOURCE", source).env("POLL_INTERVAL", "100ms").env("REPORT_INTERVAL", interval);
        let builder = builder.env("RATE_LIMIT", "2").env("SPOOL_DIR", spool.display());
        Self { agent: builder.clone().start(), builder }
    }

    /// A metric of the agent; 0 before it is exported.
    pub async fn metric(&self, name: &str) -> f64 {
        self.agent.metric(name).await.unwrap_or(0.0)
    }

    /// Waits until it has sealed this many more reports.
    pub async fn reports(&self, count: u32) {
        let before = self.metric("golectra_agent_reports_sealed_total").await;
        until("reports are sealed", LIMIT, async || self.metric("golectra_agent_reports_sealed_total").await >= before + f64::from(count))
            .await;
    }

    /// Waits until nothing that was sealed by now waits any more, and a report or two have gone through since.
    pub async fn drained(&self) {
        let before = self.metric("golectra_agent_reports_acknowledged_total").await;
        until("the backlog is sent", BACKLOG_LIMIT, async || {
            self.metric("golectra_agent_reports_acknowledged_total").await > before
                && self.metric("golectra_agent_queue_batches").await < 2.0
        })
        .await;
    }

    /// SIGKILL; gives how many reports it had sealed, at the least.
    async fn kill(&mut self) -> f64 {
        let sealed = self.metric("golectra_agent_reports_sealed_total").await;
        self.agent.kill();
        sealed
    }

    /// Starts it again with its folder.
    fn start_again(&mut self) {
        self.agent = self.builder.clone().start();
    }

    /// Ends it as an operator does; gives the polls that it says it has made and reported.
    pub fn stop(&mut self) -> i64 {
        assert_eq!(self.agent.stop(), Exit::Code(0), "{}", self.agent.tail());
        let said = self.agent.stderr();
        let polls = said.lines().rev().find_map(|line| {
            let json: Value = serde_json::from_str(line).ok()?;
            (json["message"] == "every poll was reported").then(|| json["polls"].as_i64())?
        });
        polls.unwrap_or_else(|| panic!("the agent does not say that every poll was reported\n{}", self.agent.tail()))
    }
}

/// The sum of a source's PollCount on the server.
pub async fn polls_stored(server: &Server, source: &str) -> i64 {
    let path = format!("/api/v1/latest?source={source}&name=PollCount");
    server.client().get(&path).send().await.expect(200).json()["series"][0]["delta"].as_i64().unwrap_or(0)
}

#[tokio::test]
async fn killed_with_reports_on_its_disk() {
    let (start, times) = (Instant::now(), amount(4, 50));
    let server = Server::builder().start();
    let tap = Tap::start(server.port(), 200).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut agent = Tapped::start(&tap, "killed", &folder.path().join("spool"));
    let mut sealed = 0.0;
    for round in 0..times {
        // Every other life ends with a backlog on its disk.
        tap.set_down(round % 2 == 1);
        agent.reports(4).await;
        sealed += agent.kill().await;
        agent.start_again();
    }
    tap.heal();
    agent.drained().await;
    sealed += agent.metric("golectra_agent_reports_sealed_total").await;
    agent.stop();
    let (reports, stored) = (tap.reports("killed"), polls_stored(&server, "killed").await);
    let acknowledged: i64 = reports.iter().filter(|report| report.acknowledged).map(|report| report.polls).sum();
    let issued: i64 = reports.iter().map(|report| report.polls).sum();
    let taken = reports.iter().filter(|report| report.acknowledged).count();
    let lost_reports = (sealed - f64::from(u32::try_from(taken).expect("a few"))).max(0.0);
    let over = naive_over_count(&server).await;
    say(
        "agent killed",
        &format!(
            "{times} SIGKILLs, {} answers cut; {sealed} reports sealed before, {taken} taken, lost {lost_reports}; \
             PollCount acked {acknowledged} <= stored {stored} <= issued {issued}; lost {}, doubled {}; \
             naive control over-counted by {over}; {:.1} s",
            tap.cut(),
            (acknowledged - stored).max(0),
            (stored - issued).max(0),
            start.elapsed().as_secs_f64(),
        ),
    );
    assert!(acknowledged <= stored && stored <= issued, "{acknowledged} {stored} {issued}");
    assert!(lost_reports < 0.5, "sealed {sealed}, taken {taken}");
    assert!(over > 0, "the naive control did not over-count");
}

/// What a real agent's reports come to when each try has a key of its own: PollCount beyond the polls made.
pub async fn naive_over_count(server: &Server) -> i64 {
    let tap = Tap::start(server.port(), 400).await;
    tap.make_naive();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut agent = Tapped::start(&tap, "naive", &folder.path().join("spool"));
    until("answers were cut", LIMIT, async || tap.cut() >= 3).await;
    tap.heal();
    agent.drained().await;
    let polls = agent.stop();
    polls_stored(server, "naive").await - polls
}

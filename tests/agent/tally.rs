//! Compares the polls that an agent made with the sum of PollCount on the server.

use std::time::Duration;

use golectra_tests::{Agent, AgentBuilder, Client, Exit, until};
use serde_json::Value;

/// How long an agent may take to deliver everything. It pauses up to 5 s and waits up to 10 s for an answer.
const LIMIT: Duration = Duration::from_mins(1);

/// An agent with short intervals.
pub(crate) fn quick(url: &str) -> AgentBuilder {
    Agent::builder(url).env("POLL_INTERVAL", "200ms").env("REPORT_INTERVAL", "500ms")
}

/// Waits until the server has more polls than now.
pub(crate) async fn reports_go_through(client: &Client) {
    let before = client.counter("PollCount").await;
    until("reports go through", LIMIT, async || client.counter("PollCount").await > before).await;
}

/// Ends the agent and compares its own count of polls with the server's sum.
pub(crate) async fn balances(mut agent: Agent, client: &Client) {
    reports_go_through(client).await;
    let polls = agent.metric("golectra_agent_polls_total").await.expect("the agent has the metric");
    let dropped = agent.metric("golectra_agent_reports_dropped_total").await.unwrap_or(0.0);
    assert!(polls > 0.0 && dropped < 1.0, "{polls} polls, {dropped} reports dropped");
    assert_eq!(agent.stop(), Exit::Code(0), "{}", agent.tail());
    let counted = client.counter("PollCount").await;
    assert_eq!(counted, polls_made(&agent), "the sum of PollCount on the server is not the number of polls\n{}", agent.tail());
}

/// The number of polls that the agent logs at its end, all of them reported.
pub(crate) fn polls_made(agent: &Agent) -> i64 {
    let log = agent.stderr();
    let polls = log.lines().rev().find_map(|line| {
        let json: Value = serde_json::from_str(line).ok()?;
        (json["message"] == "every poll was reported").then(|| json["polls"].as_i64())?
    });
    polls.unwrap_or_else(|| panic!("the agent does not log that every poll was reported\n{}", agent.tail()))
}

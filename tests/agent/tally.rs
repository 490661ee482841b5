//! Polls made, by the agent's own count, against polls summed on the server.

use std::time::Duration;

use golectra_tests::{Agent, AgentBuilder, Client, Exit, until};
use serde_json::Value;

/// How long the agent may take to deliver what is left; its pauses are up to 5 s and its patience with a hanging server 10 s.
const LIMIT: Duration = Duration::from_mins(1);

/// An agent in a hurry.
pub(crate) fn quick(url: &str) -> AgentBuilder {
    Agent::builder(url).env("POLL_INTERVAL", "200ms").env("REPORT_INTERVAL", "500ms")
}

/// Waits until the server has heard of more polls than now.
pub(crate) async fn reports_go_through(client: &Client) {
    let before = client.counter("PollCount").await;
    until("reports go through", LIMIT, async || client.counter("PollCount").await > before).await;
}

/// Ends the agent and holds its own count of polls against the server's sum.
pub(crate) async fn balances(mut agent: Agent, client: &Client) {
    reports_go_through(client).await;
    let polls = agent.figure("golectra_agent_polls_total").await.expect("the agent tells of itself");
    let dropped = agent.figure("golectra_agent_reports_dropped_total").await.unwrap_or(0.0);
    assert!(polls > 0.0 && dropped < 1.0, "{polls} polls, {dropped} reports dropped");
    assert_eq!(agent.stop(), Exit::Code(0), "{}", agent.tail());
    let counted = client.counter("PollCount").await;
    assert_eq!(counted, polls_made(&agent), "PollCount summed on the server is not the number of polls\n{}", agent.tail());
}

/// How many polls the agent says at its end that it has made and reported.
pub(crate) fn polls_made(agent: &Agent) -> i64 {
    let said = agent.stderr();
    let polls = said.lines().rev().find_map(|line| {
        let json: Value = serde_json::from_str(line).ok()?;
        (json["message"] == "every poll was reported").then(|| json["polls"].as_i64())?
    });
    polls.unwrap_or_else(|| panic!("the agent does not say that every poll was reported\n{}", agent.tail()))
}

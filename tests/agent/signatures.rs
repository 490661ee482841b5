//! Which key an agent signs with, and that it loses nothing while its signature is refused.

use std::time::Duration;

use golectra_tests::{Exit, Server, ServerBuilder, until};
use tempfile::TempDir;

use crate::tally::{polls_made, quick};

const LIMIT: Duration = Duration::from_mins(1);

fn put(folder: &TempDir, id: &str, key: &str) {
    std::fs::write(folder.path().join(id), key).expect("our own folder");
}

fn required() -> ServerBuilder {
    Server::builder().env("SIGNATURES", "required")
}

#[tokio::test]
async fn key_alone_is_enough_on_both_sides() {
    let server = required().key(Some("swordfish")).start();
    let mut agent = quick(&server.url()).env("KEY", "swordfish").start();
    let client = server.client();
    until("reports that are taken", LIMIT, async || client.counter("PollCount").await >= 5).await;
    agent.stop();
    assert_eq!(client.counter("PollCount").await, polls_made(&agent));
    assert!(!agent.stderr().contains("swordfish"));
}

#[tokio::test]
async fn a_refused_signature_is_logged_and_counted_and_loses_nothing() {
    let (server_keys, agent_keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(&server_keys, "new", "swordfish");
    put(&agent_keys, "other", "x");
    let server = required().env("KEYS_DIR", server_keys.path().display()).start();
    let mut agent = quick(&server.url()).env("KEYS_DIR", agent_keys.path().display()).env("SIGNING_KEY_ID", "new").start();
    let retries =
        async |reason: &str| agent.metric(&format!("golectra_agent_send_retries_total{{reason=\"{reason}\"}}")).await.unwrap_or(0.0);
    until("tries without a key", LIMIT, async || retries("no_signing_key").await >= 1.0).await;
    put(&agent_keys, "new", "not yet the right one");
    until("refused signatures", LIMIT, async || retries("unauthorized").await >= 1.0).await;
    let client = server.client();
    assert_eq!(client.counter("PollCount").await, 0);
    put(&agent_keys, "new", "swordfish\n");
    until("reports that are taken", LIMIT, async || client.counter("PollCount").await >= 5).await;
    assert_eq!(agent.metric("golectra_agent_reports_dropped_total").await, Some(0.0));
    agent.stop();
    assert_eq!(client.counter("PollCount").await, polls_made(&agent), "every poll arrived once");
    let log = agent.stderr();
    assert!(log.contains("KEYS_DIR has no key new") && log.contains("Golectra-Signature does not match"), "{log}");
    assert!(!log.contains("swordfish") && !server.stderr().contains("swordfish"));
}

#[tokio::test]
async fn the_doctor_says_whether_the_server_takes_the_agents_reports_and_changes_nothing() {
    let server = required().key(Some("swordfish")).start();
    for (key, exit, line) in [
        ("swordfish", Exit::Code(0), format!("ok      server       {} takes the reports of this agent", server.url())),
        ("another", Exit::Code(1), format!("MISSING server       {} refuses reports: ", server.url())),
        ("", Exit::Code(1), format!("MISSING server       {} refuses reports: 401", server.url())),
    ] {
        let mut doctor = quick(&server.url()).env("KEY", key).flags(["doctor"]).start();
        assert_eq!(doctor.wait(LIMIT), exit, "{}", doctor.tail());
        assert!(doctor.stdout().contains(&line) && !doctor.stdout().contains("swordfish"), "{}", doctor.tail());
    }
    let sources = server.client().get("/api/v1/sources").send().await.expect(200).text();
    assert!(!sources.contains("agent"), "{sources}");
}

//! The bytes that an agent sends, and servers that are not golectra's.

use std::collections::BTreeMap;
use std::time::Duration;

use golectra_protocol::{IdempotencyKey, hash, json};
use golectra_tests::{Agent, Proxy, Received, Receiver, Reply, Server, gunzip, until};
use serde_json::Value;

use crate::tally::{balances, polls_made, quick};

const LIMIT: Duration = Duration::from_secs(30);

/// The answer of the original's server: the number of items that it took, and with a key the hash.
fn original(request: &Received, key: Option<&str>) -> Reply {
    let items = json::count_items(&request.unpacked()).expect("an array");
    let body = format!(r#"{{"updated":{items}}}"#);
    let reply = Reply::status(200).body("application/json", body.clone());
    match key {
        Some(key) => reply.header("hashsha256", hash::body_hash(body.as_bytes(), key.as_bytes())),
        None => reply,
    }
}

/// Lets an agent report a few times to a server whose answers are signed with this key, and checks every byte.
async fn reports_to_an_original(key: Option<&'static str>, signing: Option<&'static str>) -> Agent {
    let receiver = Receiver::start(move |request| original(request, signing)).await;
    let mut agent = quick(&receiver.url()).env("KEY", key.unwrap_or_default()).start();
    until("five reports", LIMIT, async || receiver.requests().len() >= 5).await;
    agent.stop();
    let mut reports = BTreeMap::new();
    for request in receiver.requests() {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/updates"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("content-encoding"), Some("gzip"));
        assert_eq!(request.header("golectra-source"), Some("agent"));
        let body = gunzip(&request.body);
        assert_eq!(request.header("hashsha256").map(str::to_owned), key.map(|key| hash::body_hash(&body, key.as_bytes())));
        let batch_key = request.header("idempotency-key").expect("each report has a key").to_owned();
        IdempotencyKey::parse(&batch_key).expect("a UUIDv7");
        let first = reports.insert(batch_key, polls_in(&body)).is_none();
        assert!(first, "a report that was taken is not sent again");
    }
    assert_eq!(reports.values().sum::<i64>(), polls_made(&agent), "the sum of PollCount is the number of polls");
    agent
}

/// The polls that a report counts; every item has to be a metric object of the contract.
fn polls_in(body: &[u8]) -> i64 {
    let batch: Value = serde_json::from_slice(body).expect("JSON");
    let mut polls = 0;
    for item in batch.as_array().expect("an array") {
        assert_eq!(item.as_object().map(serde_json::Map::len), Some(3), "{item}");
        match item["type"].as_str() {
            Some("gauge") => assert!(item["value"].is_number(), "{item}"),
            Some("counter") => assert!(item["delta"].is_i64(), "{item}"),
            other => panic!("{other:?} in {item}"),
        }
        if item["id"] == "PollCount" {
            polls += item["delta"].as_i64().expect("PollCount is a counter");
        }
    }
    polls
}

#[tokio::test]
async fn a_server_that_answers_as_the_original_does() {
    reports_to_an_original(None, None).await;
}

#[tokio::test]
async fn with_a_key_against_a_server_that_signs() {
    let agent = reports_to_an_original(Some("secret"), Some("secret")).await;
    assert!(!agent.stderr().contains("have no HashSHA256"), "{}", agent.tail());
}

#[tokio::test]
async fn with_a_key_against_a_server_that_does_not_sign() {
    let agent = reports_to_an_original(Some("secret"), None).await;
    assert_eq!(agent.stderr().matches("the server's answers have no HashSHA256").count(), 1, "{}", agent.tail());
}

/// Starts an agent against something that answers every request like this, and then leads it to golectra.
async fn loses_nothing_behind(reply: Reply, reason: &str) {
    let server = Server::builder().start();
    let other = Receiver::start(move |_| reply.clone()).await;
    let proxy = Proxy::start(other.port()).await;
    let agent = quick(&proxy.url()).start();
    let metric = format!("golectra_agent_send_retries_total{{reason=\"{reason}\"}}");
    until("some tries", LIMIT, async || agent.metric(&metric).await.is_some_and(|tries| tries >= 2.0)).await;
    assert!(agent.stderr().contains(&format!("\"reason\":\"{reason}\"")), "{}", agent.tail());
    proxy.lead_to(server.port());
    balances(agent, &server.client()).await;
}

#[tokio::test]
async fn a_login_page_takes_no_report() {
    let page = "<html><body><form>login</form></body></html>";
    loses_nothing_behind(Reply::status(200).body("text/html", page), "not_acknowledged").await;
}

#[tokio::test]
async fn an_empty_success_takes_no_report() {
    loses_nothing_behind(Reply::status(200), "not_acknowledged").await;
}

#[tokio::test]
async fn a_proxys_refusal_drops_no_report() {
    let page = "<html><h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port</html>";
    loses_nothing_behind(Reply::status(400).body("text/html", page), "not_golectra").await;
}

#[tokio::test]
async fn what_golectra_rejects_is_dropped_counted_and_logged_in_one_line() {
    // No report has as few items.
    let server = Server::builder().env("MAX_BATCH_ITEMS", 3).start();
    let mut agent = quick(&server.url()).env("REPORT_INTERVAL", "200ms").start();
    let dropped = "golectra_agent_reports_dropped_total{reason=\"too_large\"}";
    until("reports are rejected", LIMIT, async || agent.metric(dropped).await.is_some_and(|reports| reports >= 5.0)).await;
    agent.stop();
    let lines = agent.stderr().matches("the server rejected a report for good").count();
    assert!((1..=3).contains(&lines), "{lines} lines\n{}", agent.tail());
}

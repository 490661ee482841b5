//! The agent's bytes, and an old server that knows nothing of what this project added.

use std::collections::BTreeMap;
use std::time::Duration;

use golectra_protocol::{IdempotencyKey, hash};
use golectra_tests::{Receiver, Reply, gunzip, until};
use serde_json::Value;

use crate::tally::{polls_made, quick};

const LIMIT: Duration = Duration::from_secs(30);

/// Lets an agent report a few times to a server that answers like this, and looks at each byte.
async fn reports_to(reply: Reply, key: Option<&str>) {
    let receiver = Receiver::start(move |_| reply.clone()).await;
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
    assert_eq!(reports.values().sum::<i64>(), polls_made(&agent), "PollCount summed is the number of polls");
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
    reports_to(Reply::status(200).body("application/json", r#"{"updated":1}"#), None).await;
}

#[tokio::test]
async fn a_server_that_answers_with_nothing_but_200() {
    reports_to(Reply::status(200), None).await;
}

#[tokio::test]
async fn with_a_key_against_a_server_that_signs() {
    let body = r#"{"updated":1}"#;
    let signed = Reply::status(200).body("application/json", body).header("hashsha256", hash::body_hash(body.as_bytes(), b"secret"));
    reports_to(signed, Some("secret")).await;
}

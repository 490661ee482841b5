//! AUDIT_URL: one POST for each write that was taken, signed as Standard Webhooks has it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use golectra_protocol::webhook::Secret;
use golectra_tests::{Received, Receiver, Reply, Target, on_both_stores, unix_millis, until};
use serde_json::json;

use crate::{LIMIT, write};

on_both_stores!(
    the_body_and_the_signature,
    without_a_key_nothing_is_signed,
    a_failure_is_tried_again_with_the_same_id,
    a_redirect_is_not_followed,
    a_receiver_that_hangs_slows_no_write,
);

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn requests(receiver: &Receiver, count: usize) -> Vec<Received> {
    until("requests at the webhook", LIMIT, async || receiver.requests().len() >= count).await;
    receiver.requests()
}

async fn the_body_and_the_signature(t: Target) {
    let receiver = Receiver::start(|_| Reply::status(204)).await;
    for key in [KEY, "any other text"] {
        let server = t.own().env("AUDIT_URL", format!("{}/hook?a=b", receiver.url())).env("AUDIT_KEY", key).start();
        let before = receiver.requests().len();
        let batch = json!([{"id": "b", "type": "gauge", "value": 1}, {"id": "a", "type": "counter", "delta": 1}, {"id": "b", "type": "gauge", "value": 1}]);
        server.client().updates(&batch).await.expect(200);
        let request = requests(&receiver, before + 1).await.swap_remove(before);
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook?a=b"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        let event: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
        let golden = format!(r#"{{"ts":{},"metrics":["a","b"],"ip_address":"127.0.0.1"}}"#, event["ts"]);
        assert_eq!(String::from_utf8_lossy(&request.body), golden);
        let header = |name: &str| request.header(name).unwrap_or_else(|| panic!("{name} is missing in {request:?}")).to_owned();
        let (id, timestamp, signature) = (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
        let now = i64::try_from(unix_millis() / 1000).expect("it fits");
        Secret::parse(key).expect("a key").verify(&id, &timestamp, &signature, &request.body, now).expect("the signature is right");
        Secret::parse("wrong")
            .expect("a key")
            .verify(&id, &timestamp, &signature, &request.body, now)
            .expect_err("with another key it is not");
    }
}

async fn without_a_key_nothing_is_signed(t: Target) {
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let server = t.own().env("AUDIT_URL", receiver.url()).start();
    write(&server.client(), "a").await;
    let request = requests(&receiver, 1).await.swap_remove(0);
    assert_eq!((request.header("webhook-signature"), request.header("webhook-id").is_some()), (None, true));
}

async fn a_failure_is_tried_again_with_the_same_id(t: Target) {
    let tries = AtomicUsize::new(0);
    let receiver = Receiver::start(move |_| Reply::status([500, 429, 200][tries.fetch_add(1, Ordering::SeqCst).min(2)])).await;
    let server = t.own().env("AUDIT_URL", receiver.url()).env("AUDIT_KEY", KEY).start();
    write(&server.client(), "a").await;
    let requests = requests(&receiver, 3).await;
    let ids: BTreeSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids.len(), 1, "one event, one id: {ids:?}");
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    write(&server.client(), "b").await;
    let more = self::requests(&receiver, 4).await;
    assert_ne!(more[3].header("webhook-id"), more[0].header("webhook-id"));
}

async fn a_redirect_is_not_followed(t: Target) {
    let elsewhere = Receiver::start(|_| Reply::status(200)).await;
    let url = elsewhere.url();
    let tries = AtomicUsize::new(0);
    let receiver = Receiver::start(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(307).header("location", &url),
        _ => Reply::status(200),
    })
    .await;
    let server = t.own().env("AUDIT_URL", receiver.url()).start();
    write(&server.client(), "a").await;
    let requests = requests(&receiver, 2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"), "a redirect is a failure and is tried again");
    assert!(elsewhere.requests().is_empty());
}

async fn a_receiver_that_hangs_slows_no_write(t: Target) {
    let receiver = Receiver::start(|_| Reply::status(200).after(Duration::from_hours(1))).await;
    let server = t.own().env("AUDIT_URL", receiver.url()).env("AUDIT_FILE", "audit.ndjson").start();
    let client = server.client();
    let start = std::time::Instant::now();
    for index in 0..50 {
        write(&client, &format!("w{index}")).await;
    }
    assert!(start.elapsed() < Duration::from_secs(20), "50 writes took {:?}", start.elapsed());
    // One sink's trouble is not another's.
    let path = server.folder().join("audit.ndjson");
    until("the file has all", LIMIT, async || std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 50)).await;
}

//! Schedule, queue and senders together: whatever the server does, the polls that it counts are the polls that were made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use golectra_agent::metrics::DropReason;
use golectra_protocol::hash;
use golectra_protocol::signature::{self, Claim};

use crate::harness::{Agent, together};
use crate::server::{Act, Request, Server};

/// Runs an agent against a server that misbehaves for the first requests, and checks that no poll is lost or counted twice.
async fn survives(senders: usize, act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Server {
    let server = Server::start(move |number, _| act(number)).await;
    let agent = Agent::builder(&server.address).senders(senders).start();
    server.wait_for("some polls", |ledger| ledger.polls >= 20).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
    server
}

#[tokio::test]
async fn a_server_that_works() {
    let server = Server::start_at("127.0.0.1:0", Some("key"), |_, _| Act::Apply).await;
    let agent = Agent::builder(&server.address).key(Some("key")).start();
    server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
    let polls = agent.finish().await;
    let ledger = server.ledger();
    assert_eq!(ledger.polls, polls);
    for request in &ledger.requests {
        assert!(request.head.starts_with("POST /updates HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("content-encoding"), Some("gzip"));
        assert_eq!(request.header("golectra-source"), Some("node-1"));
        assert!(hash::verify(&request.unpacked(), b"key", request.header("hashsha256").unwrap().as_bytes()));
        is_signed_now(request, b"key");
    }
    assert_eq!(ledger.applied.len(), ledger.requests.len(), "every report has a key of its own");
}

/// Fails unless the request is signed with this key under the id `default`.
fn is_signed_now(request: &Request, key: &[u8]) {
    let claim = Claim::parse(request.header("golectra-signature").expect("a signature").as_bytes()).unwrap();
    assert_eq!(claim.key_id(), "default");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    claim.check_time(now).unwrap();
    let signed = signature::Request {
        method: "POST",
        target: "/updates",
        source: b"node-1",
        idempotency_key: request.header("idempotency-key").unwrap().as_bytes(),
        body_digest: &hash::body_digest(&request.unpacked()),
    };
    claim.verify(&signed, key).unwrap();
}

#[tokio::test]
async fn each_try_has_its_own_signature() {
    let refusal = r#"{"error":"Golectra-Signature does not match"}"#.to_owned();
    let act = move |number, _: &_| if number == 0 { Act::Answer(401, "Retry-After: 1\r\n", refusal.clone()) } else { Act::Apply };
    let server = Server::start_at("127.0.0.1:0", Some("key"), act).await;
    let agent = Agent::builder(&server.address).key(Some("key")).start();
    server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
    let polls = agent.finish().await;
    let ledger = server.ledger();
    assert_eq!(ledger.polls, polls, "a refused signature loses nothing");
    let first = &ledger.requests[0];
    let second = ledger.requests[1..].iter().find(|request| request.key() == first.key()).expect("the batch is sent again");
    assert_eq!((first.key(), &first.body, first.header("hashsha256")), (second.key(), &second.body, second.header("hashsha256")));
    assert_ne!(first.header("golectra-signature"), second.header("golectra-signature"));
    is_signed_now(first, b"key");
    is_signed_now(second, b"key");
}

#[tokio::test]
async fn a_server_that_comes_up_late() {
    let address = Server::reserve();
    let agent = Agent::builder(&address).senders(2).start();
    tokio::time::timeout(Duration::from_mins(1), async {
        while agent.queue.usage().batches < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("reports queue up");
    let server = Server::start_at(&address, None, |_, _| Act::Apply).await;
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 8).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}

#[tokio::test]
async fn connections_closed_unanswered() {
    let server = survives(1, |number| if number == 0 { Act::Close } else { Act::Apply }).await;
    let tries = server.ledger().requests[..2].to_vec();
    assert_eq!(tries[0], tries[1], "the same batch is sent again with its key");
    survives(4, |number| if number < 3 { Act::ApplyAndClose } else { Act::Apply }).await;
}

#[tokio::test]
async fn half_an_answer() {
    survives(1, |number| if number == 0 { Act::ApplyAndAnswerHalf } else { Act::Apply }).await;
    survives(1, |number| if number == 0 { Act::AnswerHalf } else { Act::Apply }).await;
}

#[tokio::test]
async fn a_server_that_hangs() {
    let server = survives(1, |number| if number == 0 { Act::ApplyAndHang } else { Act::Apply }).await;
    let ledger = server.ledger();
    assert_eq!(ledger.requests[0], ledger.requests[1], "the same bytes and headers are sent again");
}

#[tokio::test]
async fn refusals_that_are_no_reason_to_drop_are_retried() {
    let passing = [
        (401, ""),
        (404, ""),
        (429, ""),
        (500, ""),
        (503, ""),
        (307, ""),
        (400, r#"{"error":"invalid hash","code":"invalid_hash"}"#),
        (409, r#"{"error":"too new","code":"too_new"}"#),
    ];
    let servers = passing.map(|(status, body)| {
        let body = body.to_owned();
        survives(1, move |number| match number {
            0 => Act::Answer(status, "Location: /elsewhere\r\n", body.clone()),
            _ => Act::Apply,
        })
    });
    for server in together(servers).await {
        let ledger = server.ledger();
        assert_eq!(ledger.requests[0].key(), ledger.requests[1].key());
        assert!(ledger.requests.iter().all(|request| request.head.starts_with("POST /updates ")), "redirects are not followed");
    }
}

#[tokio::test]
async fn a_rejected_batch_is_dropped_and_its_polls_go_into_the_next() {
    for (status, code, reason) in [
        (413, "too_large", DropReason::TooLarge),
        (413, "too_many_items", DropReason::TooLarge),
        (422, "key_reused", DropReason::KeyReused),
        (409, "too_old", DropReason::TooOld),
        (400, "invalid_metric", DropReason::Invalid),
        (400, "malformed", DropReason::Invalid),
    ] {
        let server = Server::start(move |number, _| match number {
            0 => Act::Answer(status, "", format!(r#"{{"error":"no","code":"{code}"}}"#)),
            _ => Act::Apply,
        })
        .await;
        let agent = Agent::builder(&server.address).start();
        server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
        assert_eq!(agent.metrics.dropped_so_far(reason), 1, "{status}");
        let polls = agent.finish().await;
        let ledger = server.ledger();
        assert_ne!(ledger.requests[0].key(), ledger.requests[1].key(), "{status}");
        assert_eq!(ledger.polls, polls, "{status}");
    }
}

#[tokio::test]
async fn the_pause_that_a_server_asks_for_is_kept() {
    let server = Server::start(|number, _| match number {
        0 => Act::Answer(503, "Retry-After: 3\r\n", String::new()),
        _ => Act::Apply,
    })
    .await;
    let start = std::time::Instant::now();
    let agent = Agent::builder(&server.address).senders(4).start();
    server.wait_for("the second try", |ledger| ledger.requests.len() >= 2).await;
    assert!(start.elapsed() >= Duration::from_secs(3));
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}

#[tokio::test]
async fn a_full_queue_keeps_every_count() {
    let address = Server::reserve();
    let agent = Agent::builder(&address).batches(3).start();
    tokio::time::timeout(Duration::from_mins(1), async {
        while agent.metrics.dropped_so_far(DropReason::QueueFull) < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the queue overflows");
    let server = Server::start_at(&address, None, |_, _| Act::Apply).await;
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 5).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}

#[tokio::test]
async fn an_answer_signed_with_another_key_is_no_acknowledgement() {
    let honest = Arc::new(AtomicBool::new(false));
    let wrong = {
        let honest = Arc::clone(&honest);
        Server::start(move |_, request| {
            if honest.load(Ordering::Relaxed) {
                Act::Apply
            } else {
                let forged = "HashSHA256: 0000000000000000000000000000000000000000000000000000000000000000\r\n";
                Act::Answer(200, forged, format!(r#"{{"updated":{}}}"#, request.items()))
            }
        })
        .await
    };
    let agent = Agent::builder(&wrong.address).key(Some("key")).start();
    wrong.wait_for("two tries", |ledger| ledger.requests.len() >= 2).await;
    // Each try has its own signature; everything else is the same.
    let unsigned = |request: &Request| {
        let head = request.head.lines().filter(|line| !line.starts_with("golectra-signature: ")).collect::<Vec<_>>().join("\n");
        (head, request.body.clone())
    };
    let tries: Vec<_> = wrong.ledger().requests[..2].iter().map(unsigned).collect();
    assert_eq!(tries[0], tries[1]);
    honest.store(true, Ordering::Relaxed);
    let polls = agent.finish().await;
    assert_eq!(wrong.ledger().polls, polls);
}

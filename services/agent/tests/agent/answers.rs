//! What acknowledges a batch and what drops it: only golectra's own words do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use golectra_agent::metrics::DropReason;

use crate::harness::{Agent, together};
use crate::server::{Act, Request, Server};

const LOGIN_PAGE: &str = "<html><body><form>login</form></body></html>";
const PROXY_ERROR: &str = "<html><h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port</html>";

/// Runs an agent behind something that answers every request like this, and then against golectra: nothing is lost, and
/// each try is counted under this reason.
async fn is_kept(reason: &'static str, answer: impl Fn(&Request) -> Act + Send + Sync + 'static) {
    let repaired = Arc::new(AtomicBool::new(false));
    let server = {
        let repaired = Arc::clone(&repaired);
        Server::start(move |_, request| if repaired.load(Ordering::Relaxed) { Act::Apply } else { answer(request) }).await
    };
    let agent = Agent::builder(&server.address).start();
    agent.wait_for("two tries", |agent| agent.metrics.retried_so_far(reason) >= 2).await;
    repaired.store(true, Ordering::Relaxed);
    server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
    for reason in DropReason::ALL {
        assert_eq!(agent.metrics.dropped_so_far(reason), 0, "{reason:?}");
    }
    let polls = agent.finish().await;
    let ledger = server.ledger();
    assert_eq!(ledger.polls, polls);
    assert_eq!((ledger.requests[0].key(), &ledger.requests[0].body), (ledger.requests[1].key(), &ledger.requests[1].body));
}

#[tokio::test]
async fn a_success_that_does_not_say_that_the_whole_batch_was_taken_is_no_acknowledgement() {
    let fixed = |status, body: &'static str| move |_: &Request| Act::Answer(status, "Content-Type: text/html\r\n", body.to_owned());
    let pages: Vec<_> = [LOGIN_PAGE, "", "2", "[2]", "{}"].map(|body| is_kept("not_acknowledged", fixed(200, body))).into();
    together(pages).await;
    let counts: Vec<_> = [|items| items - 1, |items: usize| items + 1]
        .map(|other: fn(usize) -> usize| {
            is_kept("not_acknowledged", move |request| Act::ApplyAndAnswer(200, "", format!(r#"{{"updated":{}}}"#, other(request.items()))))
        })
        .into();
    together(counts).await;
    let statuses: Vec<_> = [201, 202, 204]
        .map(|status| is_kept("unexpected_status", fixed(status, if status == 204 { "" } else { r#"{"updated":2}"# })))
        .into();
    together(statuses).await;
}

#[tokio::test]
async fn an_endless_success_is_no_acknowledgement() {
    let long = format!(r#"{{"updated":2}}{}"#, " ".repeat(1 << 20));
    is_kept("not_acknowledged", move |_| Act::Answer(200, "", long.clone())).await;
}

#[tokio::test]
async fn a_refusal_without_golectras_code_drops_nothing() {
    let answers = [400, 409, 413, 422].into_iter().flat_map(|status| {
        [PROXY_ERROR, "", r#"{"error":"too large"}"#, r#"{"error":"no","code":"of_another_program"}"#].map(|body| (status, body))
    });
    let kept = answers.map(|(status, body)| is_kept("not_golectra", move |_| Act::Answer(status, "", body.to_owned())));
    together(kept.collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn golectras_codes_that_say_nothing_final_drop_nothing() {
    let answers = [
        (400, "invalid_hash", "invalid_hash"),
        (400, "invalid_gzip", "altered"),
        (400, "overflow", "overflow"),
        (401, "signature_mismatch", "unauthorized"),
        (401, "signature_clock", "clock_skew"),
        (429, "series_limit", "throttled"),
        (503, "store_unavailable", "server_error"),
    ];
    let kept = answers.map(|(status, code, reason)| {
        is_kept(reason, move |_| Act::Answer(status, "", format!(r#"{{"error":"a sentence","code":"{code}"}}"#)))
    });
    together(kept).await;
}

/// Something refuses the first batch like this again and again and lets the others through.
async fn others_pass(status: u16, headers: &'static str, body: &'static str) {
    let (first_key, repaired) = (OnceLock::new(), Arc::new(AtomicBool::new(false)));
    let server = {
        let repaired = Arc::clone(&repaired);
        Server::start(move |_, request| {
            let is_first = *first_key.get_or_init(|| request.key()) == request.key();
            if is_first && !repaired.load(Ordering::Relaxed) { Act::Answer(status, headers, body.to_owned()) } else { Act::Apply }
        })
        .await
    };
    let agent = Agent::builder(&server.address).start();
    server.wait_for("the others", |ledger| ledger.applied.len() >= 5).await;
    repaired.store(true, Ordering::Relaxed);
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls, "{status}");
}

#[tokio::test]
async fn a_batch_that_is_refused_again_and_again_steps_aside_for_newer_ones() {
    let refusals = [
        (500, "", ""),
        (400, "", PROXY_ERROR),
        (413, "", "<html>413 Request Entity Too Large</html>"),
        (200, "", LOGIN_PAGE),
        // The server's Retry-After is for this batch alone.
        (429, "Retry-After: 60\r\n", r#"{"error":"too many series","code":"series_limit"}"#),
    ];
    together(refusals.map(|(status, headers, body)| others_pass(status, headers, body))).await;
}

#[tokio::test]
async fn with_a_key_an_answer_without_a_hash_is_an_acknowledgement() {
    let server = Server::start(|_, _| Act::Apply).await;
    let agent = Agent::builder(&server.address).key(Some("key")).start();
    server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
    let polls = agent.finish().await;
    let ledger = server.ledger();
    assert_eq!((ledger.polls, ledger.requests.len()), (polls, ledger.applied.len()), "each report was sent once");
}

#[tokio::test]
async fn a_rejection_with_a_wrong_hash_drops_nothing() {
    let forged = "HashSHA256: 0000000000000000000000000000000000000000000000000000000000000000\r\n";
    let rejection = r#"{"error":"too large","code":"too_large"}"#;
    let server = Server::start(move |number, _| match number {
        0 | 1 => Act::Answer(413, forged, rejection.to_owned()),
        _ => Act::Apply,
    })
    .await;
    let agent = Agent::builder(&server.address).key(Some("key")).start();
    server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
    assert_eq!(agent.metrics.dropped_so_far(DropReason::TooLarge), 0);
    assert_eq!(agent.metrics.retried_so_far("unverified"), 2);
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}

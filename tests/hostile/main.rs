//! Hostile clients against the real server, on both stores: no answer is a 5xx, the process keeps running, its memory stays
//! bounded and valid traffic is served meanwhile.

mod bombs;
mod corpus;
mod forged;
mod queries;
mod slow;
mod valid;

use golectra_tests::{Database, Raw, RawAnswer, Server, ServerBuilder, Store, Target, on_both_stores, resend};

on_both_stores!(the_whole_corpus);

/// The memory that all hostile requests together may take: a few of the largest bodies at the same time, not the sum of all.
const CORPUS_GROWTH_BYTES: u64 = 256 << 20;

/// A server of the store with short time limits; None if there is no database.
fn server(store: Store) -> Option<ServerBuilder> {
    let builder = Server::builder().env("HEADER_TIMEOUT", "2s").env("BODY_TIMEOUT", "3s");
    Some(match store {
        Store::Memory => builder,
        Store::Postgres => builder.database(&Database::create()?),
    })
}

async fn the_whole_corpus(t: Target) {
    // Short enough to end requests that never complete, long enough for large ones on a busy machine.
    let mut server = t.own().env("HEADER_TIMEOUT", "5s").env("BODY_TIMEOUT", "15s").start();
    let traffic = valid::Traffic::start(&server).await;
    let cases = corpus::cases();
    assert!(cases.len() >= 60, "the corpus has only {} requests", cases.len());
    server.reset_peak();
    let before = server.rss();
    // Four at a time: some overlap, and the machine still has time for valid traffic.
    let port = server.port();
    let mut cases = cases.into_iter();
    let mut running = tokio::task::JoinSet::new();
    let mut failures = Vec::new();
    loop {
        while running.len() < 4
            && let Some(case) = cases.next()
        {
            running.spawn(async move { play(port, case).await.err() });
        }
        match running.join_next().await {
            Some(outcome) => failures.extend(outcome.expect("no panic")),
            None => break,
        }
    }
    assert!(server.exited().is_none(), "the server ended\n{}", server.tail());
    let growth = server.peak_rss().saturating_sub(before);
    let writes = traffic.stop().await;
    assert!(failures.is_empty(), "{} of the corpus:\n{}", failures.len(), failures.join("\n"));
    assert!(growth < CORPUS_GROWTH_BYTES, "memory grew by {} MiB", growth >> 20);
    assert!(writes > 0);
}

/// Sends a hostile request on a connection of its own.
async fn send(port: u16, case: &corpus::Case) -> Option<RawAnswer> {
    let mut raw = Raw::connect(port).await;
    raw.send(&case.bytes).await;
    if case.then_finish {
        raw.finish().await;
    }
    raw.answer().await
}

/// Sends a hostile request, and again where the server is overloaded by the others and did not try it; returns what is wrong with the server's reaction.
async fn play(port: u16, case: corpus::Case) -> Result<(), String> {
    let answer = resend(|| send(port, &case), |answer| answer.as_ref().and_then(RawAnswer::overloaded_pause)).await;
    let status = answer.as_ref().map(|answer| answer.status);
    let fine = match (&case.expected, status) {
        (_, Some(500..)) | (corpus::Expected::Status(_), None) => false,
        (corpus::Expected::Status(list), Some(status)) => list.contains(&status),
        (corpus::Expected::Refused, status) => status.is_none_or(|status| (400..500).contains(&status)),
        (corpus::Expected::Harmless, _) => true,
    };
    let redirect = status.is_some_and(|status| (300..400).contains(&status));
    if fine && !redirect {
        return Ok(());
    }
    let shown = answer.map(|answer| answer.text().chars().take(200).collect::<String>());
    Err(format!("{}: expected {:?}, got {status:?} {shown:?}", case.name, case.expected))
}

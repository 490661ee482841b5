//! A sink that is away: no write is harmed or slowed, and each event is in the sink once when it is back.

use std::time::{Duration, Instant};

use golectra_tests::{Answer, AuditSink, Database, Server, Target, on_both_stores, resend, until};
use serde_json::json;

use crate::{LIMIT, each_once, lines, write};

on_both_stores!(a_sink_that_is_down_for_20_seconds_gets_each_event_once);

/// What a write may take at worst on a busy machine; a write that waited for the sink would take its time limit of 5 s.
const SLOWEST: Duration = Duration::from_secs(4);

async fn a_sink_that_is_down_for_20_seconds_gets_each_event_once(t: Target) {
    let sink = AuditSink::builder().env("AUDIT_KEY", "audit");
    let server = t.own().env("AUDIT_URL", sink.url()).env("AUDIT_KEY", "audit").start();
    let client = server.client();
    let start = Instant::now();
    let mut ids = Vec::new();
    while start.elapsed() < Duration::from_secs(20) {
        let id = format!("down{}", ids.len());
        let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
        // The pauses before a write that was refused as overloaded is sent again are not counted.
        let timed = || async {
            let begun = Instant::now();
            let answer = client.post("/updates").json(&batch).try_send().await.expect("an answer");
            assert!(begun.elapsed() < SLOWEST, "a write took {:?} while the sink was down", begun.elapsed());
            answer
        };
        resend(timed, Answer::overloaded_pause).await.expect(200);
        ids.push(id);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(ids.len() > 50, "only {} writes in 20 s", ids.len());
    let logged = server.stderr().lines().filter(|line| line.contains("audit events could not be delivered")).count() as u64;
    let most = 2 + start.elapsed().as_secs() / 10;
    assert!((1..=most).contains(&logged), "one line at once and one every 10 s, not {logged}");
    let mut sink = sink.start();
    let read = async |sink: &AuditSink| lines(&sink.ndjson().await);
    each_once(&ids, async || read(&sink).await).await;
    // What it has acknowledged outlives it, and it may come and go under load.
    sink.kill();
    let sink = sink.start_again();
    for index in 0..20 {
        ids.push(format!("after{index}"));
        write(&client, &ids[ids.len() - 1]).await;
    }
    each_once(&ids, async || read(&sink).await).await;
}

#[tokio::test]
async fn what_waits_for_a_sink_that_is_no_longer_set_is_given_up_in_time() {
    let Some(database) = Database::create() else { return };
    let nobody = AuditSink::builder();
    let server = Server::builder().env("AUDIT_URL", nobody.url()).database(&database).metrics().start();
    for id in ["first", "second"] {
        write(&server.client(), id).await;
    }
    let rows = async |table: &str| database.number(&format!("SELECT count(*) FROM {table}")).await;
    assert_eq!((rows("outbox").await, rows("deliveries").await), (2, 2));
    let server = server.restart_with(&[("AUDIT_URL", "")]);
    write(&server.client(), "third").await;
    assert_eq!(rows("outbox").await, 2, "a write without sinks makes no event");
    database.execute("UPDATE golectra.outbox SET created_at = created_at - interval '50 hours'").await;
    until("the events are given up", LIMIT, async || rows("outbox").await == 0 && rows("deliveries").await == 0).await;
    assert_eq!(rows("dead_letters").await, 2);
    let metrics = server.metrics_client();
    let bytes = async || metrics.get("/metrics").send().await.metric("golectra_audit_database_bytes").unwrap_or_default();
    until("the space that they take is told", LIMIT, async || bytes().await > 0.0).await;
    database.execute("UPDATE golectra.dead_letters SET died_at = died_at - interval '8 days'").await;
    until("the dead letters are removed", LIMIT, async || rows("dead_letters").await == 0).await;
}

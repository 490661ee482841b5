//! The audit trail has every write once, also after the sink was down.

use std::time::{Duration, Instant};

use golectra_protocol::webhook::Secret;
use golectra_tests::{Client, unix_millis, until};
use serde_json::{Value, json};

use crate::forward::{Forward, get};
use crate::load::Tally;
use crate::release::Release;
use crate::say;

/// Time limit for the delivery of events once the sink is up. A server's pause between two tries grows while it is down.
const DELIVERED: Duration = Duration::from_mins(3);

/// How long fifty writes may take while the sink is away. With each waiting for the sink they would take several minutes.
const FIFTY_WRITES: Duration = Duration::from_mins(1);

/// All events that the sink has, once it can be reached.
async fn events(release: &Release) -> Vec<Value> {
    let text = get(&release.namespace, "deployment/golectra-audit-sink", "8090", "/events.ndjson").await.text();
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an event")).collect()
}

/// How many events name this metric.
fn naming(events: &[Value], id: &str) -> usize {
    events.iter().filter(|event| event["metrics"].as_array().is_some_and(|ids| ids.iter().any(|other| other == id))).count()
}

async fn write(client: &Client, ids: &[String]) {
    for id in ids {
        client.updates(&json!([{"id": id, "type": "gauge", "value": 1}])).await.expect(200);
    }
}

/// Each of these ids is in exactly one event.
async fn each_once(release: &Release, ids: &[String]) {
    let start = Instant::now();
    until("the events arrive", DELIVERED, async || {
        let events = events(release).await;
        ids.iter().all(|id| naming(&events, id) >= 1)
    })
    .await;
    let events = events(release).await;
    for id in ids {
        assert_eq!(naming(&events, id), 1, "{id} has one event");
    }
    say(&format!("audit: {} writes have one event each after {:.1} s", ids.len(), start.elapsed().as_secs_f64()));
}

/// Writes while the sink is up, writes while it is down, and an event with a wrong signature.
pub async fn each_write_once(release: &Release, client: &Client, away: Duration) {
    let before: Vec<_> = (0..50).map(|index| format!("audited_{index}")).collect();
    write(client, &before).await;
    each_once(release, &before).await;

    release.namespace.kubectl(&["scale", "deployment/golectra-audit-sink", "--replicas=0"]).await;
    release.namespace.gone("app.kubernetes.io/component=audit-sink").await;
    let while_away: Vec<_> = (0..50).map(|index| format!("unheard_{index}")).collect();
    let start = Instant::now();
    write(client, &while_away).await;
    let took = start.elapsed();
    assert!(took < FIFTY_WRITES, "writes do not wait for the sink: {took:?}");
    tokio::time::sleep(away.saturating_sub(took)).await;
    release.namespace.kubectl(&["scale", "deployment/golectra-audit-sink", "--replicas=1"]).await;
    release.namespace.rolled_out("deployment/golectra-audit-sink").await;
    each_once(release, &while_away).await;

    let sink = Forward::open(&release.namespace, "deployment/golectra-audit-sink", "8090").await;
    let (body, at) = (json!({"ts": 1, "metrics": ["forged"], "ip_address": "192.0.2.1"}).to_string(), unix_millis() / 1000);
    let signature = Secret::parse("another key").expect("a key").sign("forged", i64::try_from(at).expect("it fits"), body.as_bytes());
    let client = sink.client(None);
    let forged = client.post("/").header("content-type", "application/json").header("webhook-id", "forged").body(body);
    forged.header("webhook-timestamp", at.to_string()).header("webhook-signature", signature).send().await.expect(401);
    assert_eq!(naming(&events(release).await, "forged"), 0);
}

/// Every write of a load has one event, whatever happened to the servers and the database meanwhile.
pub async fn of_a_load(release: &Release, counter: &str, tally: &Tally) {
    let wanted = tally.acknowledged.len();
    until("the load's events arrive", DELIVERED, async || naming(&events(release).await, counter) >= wanted).await;
    assert_eq!(naming(&events(release).await, counter), wanted, "{counter}: an event a write");
}

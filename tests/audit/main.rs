//! The audit trail from a write to the file, the webhook and golectra-audit-sink.

mod bounds;
mod down;
mod file;
mod shared;
mod sink;
mod webhook;

use std::collections::BTreeMap;
use std::time::Duration;

use golectra_tests::{Client, eventually};
use serde_json::{Value, json};

/// How long an event may take to its sink once the sink is there; the server's pauses grow while it is not.
const LIMIT: Duration = Duration::from_mins(1);

/// Writes this one metric.
async fn write(client: &Client, id: &str) {
    client.updates(&json!([{"id": id, "type": "counter", "delta": 1}])).await.expect(200);
}

/// How often each id stands in the events.
fn times(events: &[Value]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for event in events {
        for id in event["metrics"].as_array().expect("an event has its metrics") {
            *times.entry(id.as_str().expect("an id").to_owned()).or_default() += 1;
        }
    }
    times
}

/// The events of NDJSON.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits for at least this many events, and holds what came against exactly these ids, each once.
async fn each_once(ids: &[String], read: impl AsyncFn() -> Vec<Value>) {
    let events = eventually("all events at their sink", LIMIT, async || {
        let events = read().await;
        (events.len() >= ids.len()).then_some(events)
    })
    .await;
    let expected: BTreeMap<String, usize> = ids.iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(times(&events), expected);
}

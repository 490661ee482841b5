//! Prometheus's API for queries: what Grafana, promtool and the like ask for, and how they are answered.

mod bounds;
mod clients;
mod errors;
mod export;
mod lists;
mod values;

use golectra_tests::{Answer, Client, encode, key_at, unix_millis};
use serde_json::{Value, json};

/// A whole minute an hour ago, in unix seconds: the time of the first samples.
fn an_hour_ago() -> u64 {
    unix_millis() / 60_000 * 60 - 3_600
}

/// Writes a batch that was sampled at this time.
async fn write_at(client: &Client, source: &str, seconds: u64, batch: &Value) {
    client.post("/updates").source(source).idempotency_key(&key_at(seconds * 1_000)).json(batch).send().await.expect(200);
}

fn gauge(id: &str, value: f64) -> Value {
    json!({"id": id, "type": "gauge", "value": value})
}

fn counter(id: &str, delta: u32) -> Value {
    json!({"id": id, "type": "counter", "delta": delta})
}

/// Names and values as a query or a form.
fn pairs(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect::<Vec<_>>().join("&")
}

async fn get(client: &Client, path: &str, parameters: &[(&str, &str)]) -> Answer {
    client.get(&format!("/api/v1/{path}?{}", pairs(parameters))).send().await
}

async fn post(client: &Client, path: &str, parameters: &[(&str, &str)]) -> Answer {
    let form = client.post(&format!("/api/v1/{path}")).header("content-type", "application/x-www-form-urlencoded");
    form.body(pairs(parameters)).send().await
}

/// The data of an answer that has nothing else to say.
async fn data(client: &Client, path: &str, parameters: &[(&str, &str)]) -> Value {
    let answer = get(client, path, parameters).await.expect(200);
    assert_eq!(answer.media_type(), "application/json");
    let json = answer.json();
    assert_eq!(json.as_object().expect("an object").keys().collect::<Vec<_>>(), ["data", "status"], "{json}");
    json["data"].clone()
}

/// The sentence of an error of this type.
#[track_caller]
fn error_of(answer: &Answer, error_type: &str) -> String {
    assert_eq!(answer.media_type(), "application/json", "{answer:?}");
    let json = answer.json();
    assert_eq!(json.as_object().expect("an object").len(), 3, "{json}");
    assert_eq!((json["status"].as_str(), json["errorType"].as_str()), (Some("error"), Some(error_type)), "{json}");
    json["error"].as_str().expect("a text").to_owned()
}

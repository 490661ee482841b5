//! The audit trail with webhook receivers on loopback that misbehave.

mod receiver;

use std::time::{Duration, Instant};

use golectra_protocol::audit::Event;
use golectra_protocol::{Metric, MetricId, Value};
use prometheus::Registry;

use self::receiver::{Answer, Receiver};
use super::*;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn draft(number: i64) -> Draft {
    let metric = |id| Metric { id: MetricId::parse(id).unwrap(), value: Value::Counter(1) };
    let names = Arc::new(NameList::of(&["m{l=\"\\n\"}", "Alloc"].map(metric).into_iter().collect()));
    Draft { ts: number, ip_address: [127, 0, 0, 1].into(), names, repeated: true, traceparent: Some(TRACEPARENT.into()) }
}

fn config(url: Option<String>) -> AuditConfig {
    AuditConfig { file: None, url, key: KEY.parse().ok(), queue: 10_000, database_max_bytes: u64::MAX, instance: "here".into() }
}

fn in_memory(config: AuditConfig, registry: &Registry) -> Trail {
    Trail::start(config, Backend::Memory, registry, Clock::default()).unwrap().unwrap()
}

/// The value of a series, such as `golectra_audit_events_total{outcome="dead",sink="webhook"}`.
fn metric_value(registry: &Registry, series: &str) -> f64 {
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}"))
}

#[tokio::test]
async fn without_a_sink_there_is_no_trail() {
    assert!(Trail::start(config(None), Backend::Memory, &Registry::new(), Clock::default()).unwrap().is_none());
    let empty = AuditConfig { file: Some(std::path::PathBuf::new()), ..config(None) };
    assert!(Trail::start(empty, Backend::Memory, &Registry::new(), Clock::default()).unwrap().is_none());
    let wrong = config(Some("audit-sink:8090".into()));
    assert!(Trail::start(wrong, Backend::Memory, &Registry::new(), Clock::default()).is_err());
}

#[tokio::test]
async fn a_request_is_the_signed_event_with_the_trace_context() {
    let receiver = Receiver::start(|_| Answer::Status(204)).await;
    let trail = in_memory(config(Some(receiver.url())), &Registry::new());
    trail.queue(&draft(1_700_000_000));
    let request = receiver.requests(1).await.remove(0);
    assert_eq!(request.body, br#"{"ts":1700000000,"metrics":["Alloc","m"],"ip_address":"127.0.0.1"}"#.as_slice());
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("traceparent"), TRACEPARENT);
    let (id, at) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    id.parse::<Uuid>().unwrap();
    let secret = golectra_protocol::webhook::Secret::parse(KEY).unwrap();
    secret.verify(id, at, request.header("webhook-signature"), &request.body, Clock::default().unix_seconds()).unwrap();
}

#[tokio::test]
async fn without_a_key_nothing_is_signed() {
    let receiver = Receiver::start(|_| Answer::Status(200)).await;
    let trail = in_memory(AuditConfig { key: None, ..config(Some(receiver.url())) }, &Registry::new());
    trail.queue(&draft(1));
    assert_eq!(receiver.requests(1).await[0].header("webhook-signature"), "");
}

#[tokio::test]
async fn a_retry_has_the_same_id_and_redirects_are_not_followed() {
    for first in [Answer::Status(500), Answer::Status(429), Answer::Redirect, Answer::Close] {
        let receiver = Receiver::start(move |number| if number == 0 { first } else { Answer::Status(200) }).await;
        let trail = in_memory(config(Some(receiver.url())), &Registry::new());
        trail.queue(&draft(1));
        let requests = receiver.requests(2).await;
        assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"), "{first:?}");
        assert_eq!((requests[0].path.as_str(), requests[1].path.as_str()), ("/events", "/events"), "{first:?}");
        trail.finish(Duration::from_secs(5)).await;
        assert_eq!(receiver.requests(2).await.len(), 2, "{first:?}");
    }
}

#[tokio::test]
async fn both_sinks_get_every_event_and_a_hanging_one_delays_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.ndjson");
    let receiver = Receiver::start(|_| Answer::Hang).await;
    let registry = Registry::new();
    let config = AuditConfig { file: Some(path.clone()), queue: 50, ..config(Some(receiver.url())) };
    let trail = in_memory(config, &registry);
    let before = Instant::now();
    for number in 0..50 {
        trail.queue(&draft(number));
    }
    assert!(before.elapsed() < Duration::from_secs(3));
    // When the file has all events its queue is empty; the webhook's queue stays full.
    let written = async {
        while metric_value(&registry, r#"golectra_audit_events_total{outcome="delivered",sink="file"}"#) < 50.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), written).await.expect("the file has all events");
    trail.queue(&draft(50));
    trail.finish(Duration::from_secs(2)).await;
    let lines: Vec<Event> = std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|event| event.ts).collect::<Vec<_>>(), (0..=50).collect::<Vec<_>>());
    let dropped = metric_value(&registry, r#"golectra_audit_events_total{outcome="dropped",sink="webhook"}"#);
    assert!((dropped - 51.0).abs() < 0.1, "one event did not fit and fifty were left: {dropped}");
}

#[tokio::test]
async fn events_made_just_before_the_shutdown_are_delivered() {
    let receiver = Receiver::start(|_| Answer::Status(200)).await;
    let registry = Registry::new();
    let trail = in_memory(config(Some(receiver.url())), &registry);
    for number in 0..300 {
        trail.queue(&draft(number));
    }
    trail.finish(Duration::from_secs(10)).await;
    assert_eq!(receiver.requests(300).await.len(), 300);
    let delivered = metric_value(&registry, r#"golectra_audit_delivery_attempts_total{result="delivered",sink="webhook"}"#);
    assert!((delivered - 300.0).abs() < 0.1, "{delivered}");
}

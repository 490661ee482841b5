//! POST /update: one metric, as JSON or in the path.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use golectra_process::LogLimiter;
use golectra_protocol::hash::body_digest;
use golectra_protocol::{ErrorCode, Kind, Metric, MetricId, Metrics, Selector, Value, json, number};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::error::{ApiError, TextError};
use super::extract::{ClientAddress, Key, Payload, Sender};
use super::updates::replayed;
use super::{App, AppState};
use crate::ingest::Write;
use crate::store::Applied;

/// How long storing a metric and reading it back take together at most. Each store ends a write by then.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Log lines about metrics that are stored and could not be read back.
static UNREAD_LOG: LogLimiter<()> = LogLimiter::new();

/// The answer for a metric that is stored and whose value is not known: the metric without a value, and why.
#[derive(Serialize)]
struct Unread<'a> {
    id: &'a str,
    r#type: &'static str,
    error: &'static str,
}

/// POST /update with a metric object: answers with the metric's current value over all sources.
pub async fn json(
    State(state): State<AppState>,
    Sender(source): Sender,
    Key(key): Key,
    ClientAddress(peer): ClientAddress,
    payload: Payload,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    let metric = json::decode_metric(&payload.bytes)?;
    let write = Write { source, key, digest: payload.digest(), metrics: Metrics::from(&metric), peer };
    let applied = state.ingest.write(write).await?;
    let current = read_back(&state, &metric, deadline).await;
    Ok(answer(&applied, metric, current))
}

/// The metric's current value; none where it can't be read in time.
async fn read_back(app: &App, metric: &Metric, deadline: Instant) -> Option<Value> {
    let selector = Selector { kind: metric.kind(), id: metric.id.clone() };
    let reason = match timeout_at(deadline, app.store.value(&selector)).await {
        Ok(Ok(Some(value))) => return Some(value),
        // Its source was forgotten meanwhile.
        Ok(Ok(None)) => "it is not there any more".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s of the request", ANSWER_LIMIT.as_secs()),
    };
    UNREAD_LOG.log((), move |count| tracing::warn!(count, reason, "metrics are stored, and could not be read back for the answer"));
    None
}

/// The answer to a write that is stored. An error would let clients send it again, and a counter would count twice: so it is a success, even where the
/// metric can't be read back.
fn answer(applied: &Applied, sent: Metric, current: Option<Value>) -> Response {
    let value = current.or(match (applied, sent.value) {
        // What was stored just now. After a repeat another value may have followed.
        (Applied::New, Value::Gauge(_)) => Some(sent.value),
        _ => None,
    });
    if let Some(value) = value {
        return replayed(applied, Json(Metric { id: sent.id, value }));
    }
    let error = "the metric was stored, and its value can't be read now: do not send it again, and read it later";
    let unread = Unread { id: sent.id.as_str(), r#type: sent.kind().as_str(), error };
    replayed(applied, (StatusCode::ACCEPTED, Json(unread)))
}

/// POST /update/:type/:name/:value: answers 200 with an empty body.
pub async fn path(
    State(state): State<AppState>,
    segments: Result<Path<(String, String, String)>, PathRejection>,
    sender: Result<Sender, ApiError>,
    key: Result<Key, ApiError>,
    ClientAddress(peer): ClientAddress,
    payload: Result<Payload, ApiError>,
) -> Result<Response, TextError> {
    let (Sender(source), Key(key)) = (sender?, key?);
    // The body is only read for its signature and hash: the metric is in the path.
    drop(payload?);
    let Path((kind, name, value)) = segments.map_err(|error| ApiError::new(ErrorCode::Malformed, error.body_text()))?;
    let metric = metric(&kind, &name, &value)?;
    let digest = body_digest(format!("{}\n{name}\n{value}", metric.kind()).as_bytes());
    let write = Write { source, key, digest, metrics: Metrics::from(&metric), peer };
    let applied = state.ingest.write(write).await.map_err(ApiError::from)?;
    Ok(replayed(&applied, "ok"))
}

/// POST /update/:type and /update/:type/:name: a name or a value is missing.
pub async fn missing() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "not found: expected /update/:type/:name/:value")
}

fn metric(kind: &str, name: &str, value: &str) -> Result<Metric, ApiError> {
    let kind = Kind::parse(kind).map_err(|error| ApiError::new(ErrorCode::InvalidMetric, error.to_string()))?;
    let id = MetricId::parse(name).map_err(|error| ApiError::new(ErrorCode::InvalidMetric, error.to_string()))?;
    let value = number::parse(kind, value).map_err(|error| ApiError::new(ErrorCode::InvalidMetric, error.to_string()))?;
    Ok(Metric { id, value })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn what_is_stored_is_a_success_also_where_it_cannot_be_read_back() {
        let gauge = Value::Gauge(1.5);
        let unread = |kind| {
            let error = "the metric was stored, and its value can't be read now: do not send it again, and read it later";
            format!(r#"{{"id":"a","type":"{kind}","error":"{error}"}}"#)
        };
        for (applied, sent, current, status, body) in [
            (Applied::New, gauge, Some(Value::Gauge(2.5)), 200, r#"{"id":"a","type":"gauge","value":2.5}"#.to_owned()),
            (Applied::New, gauge, None, 200, r#"{"id":"a","type":"gauge","value":1.5}"#.to_owned()),
            (Applied::Repeat, gauge, None, 202, unread("gauge")),
            (Applied::New, Value::Counter(1), Some(Value::Counter(3)), 200, r#"{"id":"a","type":"counter","delta":3}"#.to_owned()),
            (Applied::New, Value::Counter(1), None, 202, unread("counter")),
            (Applied::Repeat, Value::Counter(1), None, 202, unread("counter")),
        ] {
            let case = format!("{applied:?} {sent:?} {current:?}");
            let response = answer(&applied, Metric { id: MetricId::parse("a").unwrap(), value: sent }, current);
            assert_eq!(response.status().as_u16(), status, "{case}");
            assert_eq!(response.headers().contains_key("idempotency-replayed"), applied == Applied::Repeat, "{case}");
            assert_eq!(to_bytes(response.into_body(), 1000).await.unwrap(), body, "{case}");
        }
    }
}

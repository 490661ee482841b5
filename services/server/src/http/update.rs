//! POST /update: one metric, as JSON or in the path.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use golectra_protocol::hash::body_digest;
use golectra_protocol::{ErrorCode, Kind, Metric, MetricId, Metrics, Selector, json, number};

use super::AppState;
use super::error::{ApiError, TextError};
use super::extract::{ClientAddress, Key, Payload, Sender};
use super::updates::replayed;
use crate::ingest::Write;

/// POST /update with a metric object: answers with the metric's current value over all sources.
pub async fn json(
    State(state): State<AppState>,
    Sender(source): Sender,
    Key(key): Key,
    ClientAddress(peer): ClientAddress,
    payload: Payload,
) -> Result<Response, ApiError> {
    let metric = json::decode_metric(&payload.bytes)?;
    let metrics = Metrics::from(&metric);
    let selector = Selector { kind: metric.kind(), id: metric.id };
    let write = Write { source, key, digest: payload.digest(), metrics, peer };
    let applied = state.ingest.write(write).await?;
    let value = state.store.value(&selector).await?;
    let value =
        value.ok_or_else(|| ApiError::new(ErrorCode::StoreUnavailable, "the metric was stored but can't be read back").retry_after(1))?;
    Ok(replayed(&applied, Json(Metric { id: selector.id, value })))
}

/// POST /update/:type/:name/:value: answers 200 with an empty body.
pub async fn path(
    State(state): State<AppState>,
    segments: Result<Path<(String, String, String)>, PathRejection>,
    Sender(source): Sender,
    Key(key): Key,
    ClientAddress(peer): ClientAddress,
    payload: Result<Payload, ApiError>,
) -> Result<Response, TextError> {
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

//! /value: one metric over all sources.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use golectra_protocol::{ErrorCode, Kind, Metric, MetricId, Selector, json, number};

use super::AppState;
use super::error::{ApiError, TextError};
use super::extract::QueryPayload;

/// The longest body that names a metric. An id has 4,096 bytes at most, each of them six where it is written as an escape.
const MAX_SELECTOR_BYTES: usize = 32 << 10;

/// POST /value with `{id, type}`.
pub async fn json(
    State(state): State<AppState>,
    QueryPayload(payload): QueryPayload<MAX_SELECTOR_BYTES>,
) -> Result<Json<Metric>, ApiError> {
    let selector = json::decode_selector(&payload.bytes)?;
    let value = state.store.value(&selector).await?.ok_or_else(ApiError::no_such_metric)?;
    Ok(Json(Metric { id: selector.id, value }))
}

/// GET /value/:type/:name.
pub async fn path(State(state): State<AppState>, segments: Result<Path<(String, String)>, PathRejection>) -> Result<String, TextError> {
    let Path((kind, name)) = segments.map_err(|error| ApiError::new(ErrorCode::Malformed, error.body_text()))?;
    let kind = Kind::parse(&kind).map_err(|error| ApiError::new(ErrorCode::InvalidMetric, error.to_string()))?;
    let id = MetricId::parse(&name).map_err(|error| ApiError::new(ErrorCode::InvalidMetric, error.to_string()))?;
    let value = state.store.value(&Selector { id, kind }).await.map_err(ApiError::from)?;
    Ok(number::format(value.ok_or_else(ApiError::no_such_metric)?))
}

/// GET /value/:type: the name is missing.
pub async fn missing() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "not found: expected /value/:type/:name")
}

//! /api/v1/sources: the sources, and deleting one of them.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use golectra_protocol::{ErrorCode, Source};
use serde::Serialize;

use super::AppState;
use super::error::ApiError;
use super::extract::{ClientAddress, Payload};
use crate::clock::rfc3339;
use crate::store::SourceInfo;

/// The answer of GET /api/v1/sources.
#[derive(Serialize)]
pub struct Sources {
    sources: Vec<SourceView>,
}

#[derive(Serialize)]
struct SourceView {
    name: String,
    first_seen: String,
    last_seen: String,
    series: usize,
}

impl From<SourceInfo> for SourceView {
    fn from(info: SourceInfo) -> Self {
        Self {
            name: info.name.as_str().to_owned(),
            first_seen: rfc3339(info.first_seen_millis),
            last_seen: rfc3339(info.last_seen_millis),
            series: info.series,
        }
    }
}

/// GET /api/v1/sources, sorted by name; the unnamed source has an empty name. Times are RFC 3339 in UTC.
pub async fn list(State(state): State<AppState>) -> Result<Json<Sources>, ApiError> {
    let sources = state.store.sources().await?;
    Ok(Json(Sources { sources: sources.into_iter().map(Into::into).collect() }))
}

/// DELETE /api/v1/sources/:name: deletes a source now, as if it had been silent for `SOURCE_EXPIRY`.
pub async fn forget(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
    ClientAddress(peer): ClientAddress,
    payload: Result<Payload, ApiError>,
) -> Result<StatusCode, ApiError> {
    // The body is only read for its signature and hash: the source is named in the path.
    drop(payload?);
    let Path(name) = name.map_err(|error| ApiError::new(ErrorCode::Malformed, error.body_text()))?;
    let source = Source::parse(&name).map_err(|error| ApiError::new(ErrorCode::InvalidSource, error.to_string()))?;
    if state.ingest.forget_source(&source, peer).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::new(ErrorCode::UnknownSource, format!("there is no source {source}")))
    }
}

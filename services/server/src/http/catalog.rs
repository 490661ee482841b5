//! /api/v1/sources and /api/v1/series: who measures, and what.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use golectra_protocol::{Source, Value};
use serde::{Deserialize, Serialize};

use super::AppState;
use super::error::ApiError;
use crate::clock::rfc3339;
use crate::store::{LatestFilter, Series, SourceInfo};

/// How many series a listing has at most, unless it is asked for fewer.
const MAX_LISTED: usize = 100_000;

/// The answer of /api/v1/sources.
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

/// GET /api/v1/sources, sorted by name; the unnamed source has an empty one. Times are RFC 3339 in UTC.
pub async fn sources(State(state): State<AppState>) -> Result<Json<Sources>, ApiError> {
    let sources = state.store.sources().await?;
    Ok(Json(Sources { sources: sources.into_iter().map(Into::into).collect() }))
}

/// The query of /api/v1/series.
#[derive(Deserialize)]
pub struct Wanted {
    source: Option<String>,
    name: Option<String>,
    limit: Option<usize>,
}

/// The answer of /api/v1/series.
#[derive(Serialize)]
pub struct Listing {
    series: Vec<SeriesView>,
    /// Whether the limit left some out.
    truncated: bool,
}

#[derive(Serialize)]
struct SeriesView {
    source: String,
    id: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<i64>,
    at: String,
}

impl From<Series> for SeriesView {
    fn from(series: Series) -> Self {
        let (value, delta) = match series.value {
            Value::Gauge(value) => (Some(value), None),
            Value::Counter(total) => (None, Some(total)),
        };
        Self {
            source: series.source.as_str().to_owned(),
            id: series.id.as_str().to_owned(),
            r#type: series.value.kind().as_str(),
            value,
            delta,
            at: rfc3339(series.at_millis),
        }
    }
}

/// GET /api/v1/series?source=&name=&limit=: the series with their newest values, sorted by source, id and type.
///
/// `source` absent means all, empty the unnamed one; `name` is an id, or the part of it before its labels.
pub async fn series(State(state): State<AppState>, query: Result<Query<Wanted>, QueryRejection>) -> Result<Json<Listing>, ApiError> {
    let Query(wanted) = query.map_err(|error| ApiError::bad_request("malformed", error.body_text()))?;
    let source = wanted.source.as_deref().map(Source::from_stored).transpose();
    let source = source.map_err(|error| ApiError::bad_request("invalid_source", format!("source: {error}")))?;
    let limit = wanted.limit.unwrap_or(MAX_LISTED).clamp(1, MAX_LISTED);
    let filter = LatestFilter { source, name: wanted.name.filter(|name| !name.is_empty()), matchers: Vec::new() };
    let mut found = first(&state, filter, limit + 1).await?;
    let truncated = found.len() > limit;
    found.truncate(limit);
    Ok(Json(Listing { series: found.into_iter().map(Into::into).collect(), truncated }))
}

/// The first series of a listing.
pub async fn first(state: &AppState, filter: LatestFilter, limit: usize) -> Result<Vec<Series>, ApiError> {
    let (mut pages, mut found) = (state.store.latest(filter).await?, Vec::new());
    while found.len() < limit {
        let page = pages.next_page().await?;
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    found.truncate(limit);
    Ok(found)
}

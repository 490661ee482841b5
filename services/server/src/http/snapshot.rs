//! GET /api/v1/snapshot: all metrics over all sources.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::AppState;
use super::error::ApiError;

/// The answer: ids and their values.
#[derive(Serialize)]
pub struct Body {
    gauges: BTreeMap<String, f64>,
    counters: BTreeMap<String, i64>,
}

/// Each gauge's newest value and each counter's sum.
pub async fn get(State(state): State<AppState>) -> Result<Json<Body>, ApiError> {
    let snapshot = state.store.snapshot().await?;
    Ok(Json(Body { gauges: snapshot.gauges, counters: snapshot.counters }))
}

//! /api/v1/metadata: what senders of remote-write say about metrics.

use std::collections::BTreeMap;

use axum::extract::State;
use golectra_protocol::remote_write::Metadata;
use serde::Serialize;

use super::answer::Answer;
use super::error::ApiFailure;
use super::parameters::Parameters;
use crate::http::AppState;

/// What is known of a metric.
#[derive(Debug, Serialize)]
struct MetricMetadata {
    r#type: &'static str,
    help: String,
    unit: String,
}

/// /api/v1/metadata: types, helps and units by metric.
pub async fn metrics(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let limit = parameters.limit("limit")?.unwrap_or(usize::MAX);
    let limit_per_metric = parameters.limit("limit_per_metric")?.unwrap_or(usize::MAX);
    let metadata = state.store.metadata(parameters.given("metric"), limit, limit_per_metric).await;
    let metadata = metadata.map_err(|error| ApiFailure::Refused(error.into()))?;
    let of_metric = |all: Vec<Metadata>| -> Vec<MetricMetadata> {
        all.into_iter().map(|one| MetricMetadata { r#type: one.kind.as_str(), help: one.help, unit: one.unit }).collect()
    };
    let answer: BTreeMap<String, Vec<MetricMetadata>> = metadata.into_iter().map(|(name, all)| (name, of_metric(all))).collect();
    Ok(Answer::json(&answer))
}

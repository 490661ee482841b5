//! /api/v1/metadata, /api/v1/rules and /api/v1/alerts: what golectra has nothing of is empty.

use std::collections::BTreeMap;

use serde::Serialize;

use super::answer::Answer;
use super::error::ApiFailure;
use super::parameters::Parameters;

/// What is known of a metric.
#[derive(Debug, Serialize)]
pub struct Metadata {
    r#type: String,
    help: String,
    unit: String,
}

/// /api/v1/metadata: types, helps and units by metric.
pub async fn metrics(parameters: Parameters) -> Result<Answer, ApiFailure> {
    parameters.limit("limit")?;
    parameters.limit("limit_per_metric")?;
    Ok(Answer::json(&BTreeMap::<String, Vec<Metadata>>::new()))
}

/// /api/v1/rules: there are no rules.
pub async fn rules() -> Answer {
    Answer::json(&BTreeMap::from([("groups", [(); 0])]))
}

/// /api/v1/alerts: without rules there are no alerts.
pub async fn alerts() -> Answer {
    Answer::json(&BTreeMap::from([("alerts", [(); 0])]))
}

//! /api/v1/metadata: what agents send, by the table that they share with the server, and what senders of remote-write say about metrics.

use std::collections::BTreeMap;

use axum::extract::State;
use golectra_protocol::catalog;
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
    let metric = parameters.given("metric");
    // One more of each metric, since one may be what agents send too, which is said once.
    let told = state.store.metadata(metric, limit, limit_per_metric.saturating_add(1)).await;
    let metadata = merged(metric, told.map_err(|error| ApiFailure::Refused(error.into()))?, limit, limit_per_metric);
    let of_metric = |all: Vec<Metadata>| -> Vec<MetricMetadata> {
        all.into_iter().map(|one| MetricMetadata { r#type: one.kind.as_str(), help: one.help, unit: one.unit }).collect()
    };
    let answer: BTreeMap<String, Vec<MetricMetadata>> = metadata.into_iter().map(|(name, all)| (name, of_metric(all))).collect();
    Ok(Answer::json(&answer))
}

/// What agents send goes before what senders of remote-write say. Each thing is said once.
fn merged(
    metric: Option<&str>,
    told: BTreeMap<String, Vec<Metadata>>,
    limit: usize,
    limit_per_metric: usize,
) -> impl Iterator<Item = (String, Vec<Metadata>)> {
    let mut all: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
    let known: Vec<Metadata> = match metric {
        Some(name) => catalog::metadata_of(name).into_iter().collect(),
        None => catalog::metadata().collect(),
    };
    for one in known.into_iter().chain(told.into_values().flatten()) {
        let of_metric = all.entry(one.name.clone()).or_default();
        if of_metric.len() < limit_per_metric && !of_metric.contains(&one) {
            of_metric.push(one);
        }
    }
    all.into_iter().take(limit)
}

#[cfg(test)]
mod tests {
    use golectra_protocol::remote_write::MetadataKind;

    use super::*;

    #[test]
    fn what_agents_send_and_what_is_told_are_merged() {
        let told =
            |name: &str, help: &str| Metadata { name: name.into(), kind: MetadataKind::Gauge, help: help.into(), unit: String::new() };
        let known = catalog::metadata_of("node_load1").unwrap();
        let of = |all: Vec<Metadata>| all.into_iter().map(|one| (one.name.clone(), vec![one])).collect::<BTreeMap<_, _>>();
        let both: Vec<_> = merged(Some("node_load1"), of(vec![told("node_load1", "other")]), 10, 10).collect();
        assert_eq!(both, [("node_load1".to_owned(), vec![known.clone(), told("node_load1", "other")])]);
        let same: Vec<_> = merged(Some("node_load1"), of(vec![known.clone()]), 10, 10).collect();
        assert_eq!(same, [("node_load1".to_owned(), vec![known.clone()])]);
        let one: Vec<_> = merged(Some("node_load1"), of(vec![told("node_load1", "other")]), 10, 1).collect();
        assert_eq!(one, [("node_load1".to_owned(), vec![known])]);
        assert_eq!(
            merged(None, of(vec![told("A_first", "x")]), 1, 1).collect::<Vec<_>>(),
            [("A_first".to_owned(), vec![told("A_first", "x")])]
        );
        assert!(merged(None, BTreeMap::new(), usize::MAX, 1).any(|(name, _)| name == "node_memory_MemTotal_bytes"));
    }
}

//! The server that evaluates rules, found by its metrics.

use std::time::Duration;

use golectra_tests::{Answer, eventually};
use serde_json::Value;

use crate::forward::Forward;
use crate::kube::name;
use crate::release::Release;

/// Time limit for another server to evaluate.
const LIMIT: Duration = Duration::from_mins(4);

/// A server that evaluates rules.
#[derive(Debug, Clone)]
pub struct Evaluator {
    /// Its pod.
    pub pod: String,
    /// The node on which it runs.
    pub node: String,
    /// When it evaluated last, in unix seconds by the database's clock; 0 before its first evaluation.
    pub evaluated_seconds: f64,
    /// How many notifications wait for receivers.
    pub waiting: f64,
}

/// The server that evaluates, if there is one now.
pub async fn now(release: &Release) -> Option<Evaluator> {
    let servers = metrics(release).await;
    servers.into_iter().find(|(_, metrics)| metrics.metric("golectra_rule_evaluator") == Some(1.0)).map(|(pod, metrics)| Evaluator {
        pod: name(&pod),
        node: pod["spec"]["nodeName"].as_str().expect("scheduled").to_owned(),
        evaluated_seconds: evaluated(&metrics),
        waiting: metrics.metric("golectra_alerts_notifications_waiting").unwrap_or(0.0),
    })
}

/// Waits until rules are evaluated at a later time than any until now. A process that took over or began again counts its own evaluations only.
pub async fn next(release: &Release) -> Evaluator {
    let last = metrics(release).await.iter().map(|(_, metrics)| evaluated(metrics)).fold(0.0, f64::max);
    eventually("rules are evaluated", LIMIT, async || now(release).await.filter(|now| now.evaluated_seconds > last)).await
}

fn evaluated(metrics: &Answer) -> f64 {
    metrics.metric("golectra_rule_last_evaluation_timestamp_seconds").unwrap_or(0.0)
}

/// The metrics of each server that answers.
async fn metrics(release: &Release) -> Vec<(Value, Answer)> {
    let mut found = Vec::new();
    for pod in release.namespace.pods("server").await {
        let Ok(forward) = Forward::try_open(&release.namespace, &format!("pod/{}", name(&pod)), "9090").await else { continue };
        if let Some(answer) = forward.client(None).try_get("/metrics").await.filter(|answer| answer.status == 200) {
            found.push((pod, answer));
        }
    }
    found
}

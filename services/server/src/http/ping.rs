//! /ping and /ping/live: for load balancers and probes.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;

use super::AppState;

/// The answer has to arrive within a second; this leaves some time for the network.
const LIMIT: Duration = Duration::from_millis(900);

/// GET /ping: 200 when the store answers, else 503.
pub async fn ready(State(state): State<AppState>) -> (StatusCode, &'static str) {
    if answers(&state).await { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "the store is unavailable") }
}

/// Whether the store answers in time.
pub async fn answers(state: &AppState) -> bool {
    let up = matches!(tokio::time::timeout(LIMIT, state.store.ping()).await, Ok(Ok(())));
    state.metrics.store_up(up);
    up
}

/// GET /ping/live: 200 while the process runs, whatever the state of its store.
pub async fn live() -> &'static str {
    "ok"
}

//! Health of the sink: whether the process answers, and whether it could store an event.

use axum::extract::State;
use http::StatusCode;

use crate::state::SinkState;

/// 200 when an event could be stored now.
pub(crate) async fn ready(State(state): State<SinkState>) -> (StatusCode, &'static str) {
    if state.journal.ping().await { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") }
}

/// 200 as long as the process answers.
pub(crate) async fn live() -> &'static str {
    "ok"
}

//! Whether the sink lives, and whether it can take an event.

use axum::extract::State;
use http::StatusCode;

use crate::app::App;

/// 200 when an event could be stored now.
pub(crate) async fn ready(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.journal.ping().await { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") }
}

/// 200 as long as the process answers.
pub(crate) async fn live() -> &'static str {
    "ok"
}

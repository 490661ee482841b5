//! Every route of the sink.

use axum::Router;
use axum::routing::{get, post};

use crate::http::{error, events, ping, receive};
use crate::state::SinkState;

pub(crate) fn router(state: SinkState) -> Router {
    Router::new()
        .route("/", post(receive::event))
        .route("/events", post(receive::event).get(events::newest))
        .route("/events.ndjson", get(events::everything))
        .route("/ping", get(ping::ready))
        .route("/ping/live", get(ping::live))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(state)
}

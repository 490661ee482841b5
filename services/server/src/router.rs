//! Every route of the server on one page.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

use crate::http::{AppState, dashboard, fallback, latest, ping, snapshot, sources, update, updates, value};
use crate::middleware;

/// The server's routes behind its middleware. Paths must be plain before they are routed: [`middleware::path::normalize`].
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(dashboard::index))
        .route("/source", get(dashboard::source))
        .route("/assets/{name}", get(dashboard::asset))
        .route("/update", post(update::json))
        .route("/update/{kind}", post(update::missing))
        .route("/update/{kind}/{name}", post(update::missing))
        .route("/update/{kind}/{name}/{value}", post(update::path))
        .route("/updates", post(updates::post))
        .route("/value", post(value::json))
        .route("/value/{kind}", get(value::missing))
        .route("/value/{kind}/{name}", get(value::path))
        .route("/api/v1/snapshot", get(snapshot::get))
        .route("/api/v1/latest", get(latest::get))
        .route("/api/v1/sources", get(sources::list))
        .route("/api/v1/sources/{name}", delete(sources::forget))
        .route("/ping", get(ping::ready))
        .route("/ping/live", get(ping::live))
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), middleware::around))
        .with_state(state)
}

//! Every route and every layer of the server on one page.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tower::Layer;
use tower::util::MapRequestLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::http::layers::{answer, drain, observe, path};
use crate::http::{AppState, catalog, dashboard, error, fallback, ping, snapshot, update, updates, value};

/// The server's routes behind its layers.
pub fn router(state: AppState) -> Router {
    let routes = Router::new()
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
        .route("/api/v1/sources", get(catalog::sources))
        .route("/api/v1/series", get(catalog::series))
        .route("/ping", get(ping::ready))
        .route("/ping/live", get(ping::live))
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        // A request meets the layers from the last to the first.
        .layer(from_fn(path::refuse_bad_escapes))
        .layer(from_fn(drain::drain))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn_with_state(state.metrics.clone(), observe::observe))
        .layer(from_fn_with_state(state.key.clone(), answer::finish))
        .layer(header_layer(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .with_state(state);
    // The path must be plain before it is routed, hence outside of the router.
    Router::new().fallback_service(MapRequestLayer::new(path::normalize).layer(routes))
}

fn header_layer(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

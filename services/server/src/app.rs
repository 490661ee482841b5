//! Every route and every layer of the server on one page.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::FutureExt as _;

use crate::http::layers::{answer, drain, observe, path};
use crate::http::{AppState, catalog, dashboard, error, fallback, ping, snapshot, update, updates, value};

/// The server's routes behind its layers. Paths must be plain before they are routed: [`path::normalize`].
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
        .route("/api/v1/sources", get(catalog::sources))
        .route("/api/v1/series", get(catalog::series))
        .route("/ping", get(ping::ready))
        .route("/ping/live", get(ping::live))
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), around))
        .with_state(state)
}

/// What every request passes on its way to its route and back. One layer, since axum boxes what passes each.
async fn around(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let takes_gzip = answer::accepts_gzip(request.headers());
    let watch = observe::Watch::begin(&state.metrics, &request);
    let route = async {
        let (request, rest) = drain::keep(request);
        let answer = match path::refusal(request.uri()) {
            Some(refusal) => refusal,
            None => next.run(request).await,
        };
        rest.drain().await;
        answer
    };
    // What a panic may have left half done is dropped with the request.
    let route = AssertUnwindSafe(route).catch_unwind();
    let answer = watch.see(async { route.await.unwrap_or_else(error::panicked) }).await;
    answer::finish(answer, takes_gzip, state.key.as_deref()).await
}

//! Every route of the server on one page.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};

use crate::http::{AppState, api, fallback, latest, ping, receivers, silences, snapshot, sources, stream, ui, update, updates, value};
use crate::middleware;

/// A route, and what makes its handlers.
type Route = (&'static str, fn() -> MethodRouter<AppState>);

/// Golectra's own routes whose errors are its JSON, also where the middleware refuses a request.
static JSON: [Route; 11] = [
    ("/update", || post(update::json)),
    ("/updates", || post(updates::post)),
    ("/value", || post(value::json)),
    ("/api/v1/snapshot", || get(snapshot::get)),
    ("/api/v1/latest", || get(latest::get)),
    ("/api/v1/sources", || get(sources::list)),
    ("/api/v1/sources/{name}", || delete(sources::forget)),
    ("/api/v1/silences", || get(silences::list).post(silences::create)),
    ("/api/v1/silences/{id}", || delete(silences::end)),
    ("/api/v1/receivers", || get(receivers::list)),
    ("/api/v1/receivers/{name}/test", || post(receivers::test)),
];

/// Whether the errors of a route are golectra's JSON.
pub fn has_json_errors(route: &str) -> bool {
    JSON.iter().any(|(path, _)| *path == route)
}

/// The server's routes behind its middleware. Paths must be plain before they are routed: [`middleware::path::normalize`].
pub fn router(state: AppState) -> Router {
    JSON.iter()
        .fold(Router::new(), |router, (path, handlers)| router.route(path, handlers()))
        .route("/", get(ui::overview))
        .route("/node", get(ui::node))
        .route("/source", get(ui::metrics))
        .route("/pods", get(ui::pods))
        .route("/pod", get(ui::pod))
        .route("/page", get(ui::page))
        .route("/alerts", get(ui::alerts))
        .route("/changes", get(ui::changes))
        .route("/compare", get(ui::compare))
        .route("/explore", get(ui::explore))
        .route("/status", get(ui::status))
        .route("/stream", get(stream::get))
        .route("/sign-in", post(ui::sign_in))
        .route("/sign-out", post(ui::sign_out))
        .route("/assets/{name}", get(ui::assets::asset))
        .route("/update/{kind}", post(update::missing))
        .route("/update/{kind}/{name}", post(update::missing))
        .route("/update/{kind}/{name}/{value}", post(update::path))
        .route("/value/{kind}", get(value::missing))
        .route("/value/{kind}/{name}", get(value::path))
        .merge(prometheus())
        .route("/api/v1/write", post(api::write::post))
        .route("/ping", get(ping::ready))
        .route("/ping/live", get(ping::live))
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), middleware::around))
        .with_state(state)
}

/// The routes of Prometheus's API, and the export of history.
fn prometheus() -> Router<AppState> {
    Router::new()
        .route("/api/v1/query", get(api::query::instant).post(api::query::instant))
        .route("/api/v1/query_range", get(api::query::range).post(api::query::range))
        .route("/api/v1/query_exemplars", get(api::query::exemplars).post(api::query::exemplars))
        .route("/api/v1/format_query", get(api::query::format).post(api::query::format))
        .route("/api/v1/parse_query", get(api::query::parse).post(api::query::parse))
        .route("/api/v1/series", get(api::labels::series).post(api::labels::series))
        .route("/api/v1/labels", get(api::labels::names).post(api::labels::names))
        .route("/api/v1/label/{name}/values", get(api::labels::values))
        .route("/api/v1/export", get(api::export::get))
        .route("/api/v1/metadata", get(api::metadata::metrics))
        .route("/api/v1/rules", get(api::rules::rules))
        .route("/api/v1/alerts", get(api::rules::alerts))
        .route("/api/v1/status/buildinfo", get(api::status::build_info))
        .route("/api/v1/status/runtimeinfo", get(api::status::runtime_info))
        .route("/api/v1/status/flags", get(api::status::flags))
        .route("/api/v1/status/config", get(api::status::config))
        .route("/api/v1/status/tsdb", get(api::status::tsdb))
        .route("/-/healthy", get(api::status::healthy))
        .route("/-/ready", get(api::status::ready))
}

//! What is known of each request afterwards: a span in the trace, a count and a duration by route.

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use golectra_process::trace;
use tracing::{Instrument, field};

use crate::http::error::Refused;
use crate::metrics::ServerMetrics;

/// Watches a request. Routes are named by their template, so that no client decides how many there are.
pub async fn observe(State(metrics): State<ServerMetrics>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let method = method(request.method());
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
    );
    trace::set_parent(&span, request.headers());
    let watch = metrics.request_starts();
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    watch.ends(route, method, response.status());
    if let Some(Refused(reason)) = response.extensions().get().filter(|_| route.starts_with("/update")) {
        metrics.rejected(reason);
    }
    response
}

/// The method as a label: the ones that HTTP defines, and one name for all that a client may think up.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => "other",
    }
}

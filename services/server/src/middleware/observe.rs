//! Observes every request: a span in the trace, and a count and a duration by route.

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::response::Response;
use golectra_process::trace;
use tracing::{Instrument, Span, field};

use crate::http::error::Refused;
use crate::metrics::{RequestWatch, ServerMetrics};

/// A request that is being handled. Routes are named by their template, so that clients can't create new label values.
pub struct Watch {
    metrics: ServerMetrics,
    route: Option<MatchedPath>,
    method: &'static str,
    span: Span,
    request: RequestWatch,
}

impl Watch {
    /// Begins observing a request.
    pub fn begin(metrics: &ServerMetrics, request: &Request) -> Self {
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let method = method(request.method());
        let span = span(method, route(matched.as_ref()));
        trace::set_parent(&span, request.headers());
        Self { metrics: metrics.clone(), route: matched, method, span, request: metrics.request_starts() }
    }

    /// Observes until the answer is complete.
    pub async fn see(self, answer: impl Future<Output = Response>) -> Response {
        let response = answer.instrument(self.span.clone()).await;
        let route = route(self.route.as_ref());
        self.span.record("http.response.status_code", response.status().as_u16());
        self.request.ends(route, self.method, response.status());
        if let Some(Refused(code)) = response.extensions().get().filter(|_| route.starts_with("/update") || route == "/api/v1/write") {
            self.metrics.rejected(code.as_str());
        }
        response
    }
}

fn route(matched: Option<&MatchedPath>) -> &str {
    matched.map_or("none", MatchedPath::as_str)
}

/// A span for traces, and at debug level for the log: making a span for every request costs too much otherwise.
fn span(method: &'static str, route: &str) -> Span {
    macro_rules! request {
        ($level:ident) => {
            tracing::span!(
                tracing::Level::$level,
                "request",
                otel.name = format!("{method} {route}"),
                otel.kind = "server",
                http.request.method = method,
                http.route = route,
                http.response.status_code = field::Empty,
            )
        };
    }
    if trace::is_active() { request!(INFO) } else { request!(DEBUG) }
}

/// The method as a label: one of the methods that HTTP defines, or one value for all others.
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

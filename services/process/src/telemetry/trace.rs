//! W3C trace context: adding it to the headers of requests and reading it from them.
//!
//! Everything here does nothing while traces are off.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header that identifies the caller's span.
const TRACEPARENT: &str = "traceparent";

static ACTIVE: AtomicBool = AtomicBool::new(false);

pub(super) fn activate() {
    ACTIVE.store(true, Ordering::Relaxed);
}

pub(super) fn deactivate() {
    ACTIVE.store(false, Ordering::Relaxed);
}

/// Whether traces are on.
pub fn is_active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// Adds the current span to a request's headers.
pub fn inject(headers: &mut HeaderMap) {
    if is_active() {
        inject_context(&Span::current().context(), headers);
    }
}

/// The caller's span from its headers; an empty context when they have none.
pub fn extract(headers: &HeaderMap) -> Context {
    if is_active() { extract_context(headers) } else { Context::new() }
}

/// Makes the caller's span the parent of `span`, which must not have been entered yet.
pub fn set_parent(span: &Span, headers: &HeaderMap) {
    if is_active() && headers.contains_key(TRACEPARENT) {
        // It fails for a span that no layer records, which needs no parent.
        let _ = span.set_parent(extract_context(headers));
    }
}

/// The current span as a `traceparent` value, to be stored with work that is done later.
pub fn traceparent() -> Option<String> {
    if !is_active() {
        return None;
    }
    let mut headers = HeaderMap::new();
    inject_context(&Span::current().context(), &mut headers);
    headers.get(TRACEPARENT)?.to_str().ok().map(str::to_owned)
}

/// Makes a stored `traceparent` the parent of `span`, which must not have been entered yet.
pub fn set_parent_str(span: &Span, traceparent: &str) {
    if let Ok(value) = HeaderValue::from_str(traceparent) {
        set_parent(span, &HeaderMap::from_iter([(HeaderName::from_static(TRACEPARENT), value)]));
    }
}

fn inject_context(context: &Context, headers: &mut HeaderMap) {
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(context, &mut HeadersOut(headers));
    }
}

fn extract_context(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeadersIn(headers))
}

struct HeadersOut<'a>(&'a mut HeaderMap);

impl Injector for HeadersOut<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty tracestate carries no information, so it is left out.
        if let (Ok(name), Ok(value), false) = (HeaderName::try_from(key), HeaderValue::try_from(value.as_str()), value.is_empty()) {
            self.0.insert(name, value);
        }
    }
}

struct HeadersIn<'a>(&'a HeaderMap);

impl Extractor for HeadersIn<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

//! A collector of traces over OTLP/HTTP.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use prost::Message as _;

use crate::{Receiver, Reply, eventually};

/// A finished span as exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The service that made the span.
    pub service: String,
    /// The name of the span.
    pub name: String,
    /// The id of its trace, 16 bytes.
    pub trace: Vec<u8>,
    /// The id of the span, 8 bytes.
    pub id: Vec<u8>,
    /// The id of the parent span; empty for a root.
    pub parent: Vec<u8>,
}

/// A running collector.
pub struct OtlpReceiver(Receiver);

impl OtlpReceiver {
    /// Starts a collector.
    pub async fn start() -> Self {
        Self(Receiver::start(|_| Reply::status(200).body("application/x-protobuf", Vec::new())).await)
    }

    /// The value for OTEL_EXPORTER_OTLP_ENDPOINT.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// All spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.0.requests().iter().filter(|request| request.path == "/v1/traces").flat_map(|request| decode(&request.unpacked())).collect()
    }

    /// Waits until `look` returns something for the received spans.
    pub async fn find<T>(&self, what: &str, limit: Duration, mut look: impl FnMut(&[Span]) -> Option<T>) -> T {
        eventually(what, limit, async || look(&self.spans())).await
    }
}

fn decode(body: &[u8]) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(body).expect("an export request");
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = attributes.into_iter().find(|attribute| attribute.key == "service.name").and_then(|attribute| attribute.value);
        let service = match service.and_then(|value| value.value) {
            Some(any_value::Value::StringValue(name)) => name,
            other => panic!("service.name is no text: {other:?}"),
        };
        let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(found.map(|span| Span {
            service: service.clone(),
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
        }));
    }
    spans
}

//! One trace from the agent over the server to the audit sink, as a collector sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use golectra_tests::{Agent, AuditSink, Database, OtlpReceiver, Receiver, Reply, Server, Span, until};

const LIMIT: Duration = Duration::from_secs(30);

/// Traces in which each of these services has a span.
fn common(spans: &[Span], services: &[&str]) -> Option<Vec<u8>> {
    let traces: BTreeSet<_> = spans.iter().map(|span| span.trace.clone()).collect();
    traces
        .into_iter()
        .find(|trace| services.iter().all(|service| spans.iter().any(|span| span.trace == *trace && span.service == *service)))
}

#[tokio::test]
async fn agent_server_and_sink_share_a_trace_memory() {
    share_a_trace(Server::builder()).await;
}

#[tokio::test]
async fn agent_server_and_sink_share_a_trace_postgres() {
    let Some(database) = Database::create() else { return };
    share_a_trace(Server::builder().database(&database)).await;
}

async fn share_a_trace(server: golectra_tests::ServerBuilder) {
    let collector = OtlpReceiver::start().await;
    let (endpoint, hurry) = (collector.url(), "200");
    let sink = AuditSink::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", hurry).start();
    let server =
        server.env("AUDIT_URL", sink.url()).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", hurry).start();
    let agent = Agent::builder(&server.url()).env("POLL_INTERVAL", "100ms").env("REPORT_INTERVAL", "200ms");
    let _agent = agent.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", hurry).start();
    let services = ["golectra-agent", "golectra-server", "golectra-audit-sink"];
    let trace = collector.find("one trace through all three", LIMIT, |spans| common(spans, &services)).await;
    // The agent's span is above the server's, whose span is above what the sink does. Each service sends its own when it likes,
    // so the last link may be the last to come.
    until("a trace whose every span hangs on another", LIMIT, async || {
        let spans: Vec<_> = collector.spans().into_iter().filter(|span| span.trace == trace).collect();
        let ids: BTreeSet<_> = spans.iter().map(|span| &span.id).collect();
        spans.iter().filter(|span| span.service != "golectra-agent").all(|span| ids.contains(&span.parent))
    })
    .await;
}

#[tokio::test]
async fn the_webhook_carries_the_clients_trace() {
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let collector = OtlpReceiver::start().await;
    let server = Server::builder().env("AUDIT_URL", receiver.url()).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).start();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let batch = serde_json::json!([{"id": "a", "type": "gauge", "value": 1}]);
    server.client().post("/updates").header("traceparent", parent).json(&batch).send().await.expect(200);
    until("the webhook's request", LIMIT, async || !receiver.requests().is_empty()).await;
    let requests = receiver.requests();
    let carried = requests[0].header("traceparent").expect("a trace context");
    assert!(carried.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && carried != parent, "{carried}");
}

#[tokio::test]
async fn a_query_has_a_span_below_its_request() {
    let collector = OtlpReceiver::start().await;
    let server = Server::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", "100").start();
    let parent = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    server.client().get("/api/v1/query?query=1").header("traceparent", parent).send().await.expect(200);
    until("the query's span", LIMIT, async || {
        let spans: Vec<_> = collector.spans().into_iter().filter(|span| span.trace.starts_with(&[0x5b, 0xf9])).collect();
        let request = spans.iter().find(|span| span.name == "GET /api/v1/query");
        request.is_some_and(|request| spans.iter().any(|span| span.name == "query" && span.parent == request.id))
    })
    .await;
}

#[tokio::test]
async fn a_dead_collector_harms_nobody() {
    let server = Server::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").env("OTEL_BSP_SCHEDULE_DELAY", "100").start();
    for index in 0..20 {
        server.client().post(&format!("/update/gauge/g/{index}")).send().await.expect(200);
    }
    let mut server = server;
    assert_eq!(server.stop(), golectra_tests::Exit::Code(0));
}

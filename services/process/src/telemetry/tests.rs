//! Exporting spans to a collector that answers, one that is unreachable and one that does not answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use http::HeaderMap;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;

use super::export::Export;
use super::trace;

/// The shutdown's three seconds, with a margin for a busy machine.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(4500);

fn export_to(endpoint: &str) -> Export {
    crate::install_crypto();
    let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build().unwrap();
    Export::over("golectra-test", exporter)
}

fn one_span(export: &Export) {
    let subscriber = Registry::default().with(export.layer());
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("counting stars", stars = 7).in_scope(|| {});
        tracing::info_span!(target: "reqwest", "not ours").in_scope(|| {});
    });
}

/// Accepts one request, answers it, and returns its first line and its body.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (hand_over, taken) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        hand_over.send((first.trim().to_owned(), body)).unwrap();
    });
    (endpoint, taken)
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_span_is_sent_on_shutdown() {
    let (endpoint, taken) = collector();
    let export = export_to(&endpoint);
    one_span(&export);
    export.shutdown();
    let (first, body) = taken.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(first, "POST /v1/traces HTTP/1.1");
    for text in ["counting stars", "service.name", "golectra-test", "service.version", "stars"] {
        assert!(contains(&body, text), "{text}");
    }
    assert!(!contains(&body, "not ours"));
}

/// The services are asynchronous: starting and ending the exporter must work on a runtime's thread.
#[tokio::test]
async fn it_works_inside_a_runtime() {
    let (endpoint, taken) = collector();
    let export = export_to(&endpoint);
    one_span(&export);
    export.shutdown();
    assert!(contains(&taken.recv_timeout(Duration::from_secs(10)).unwrap().1, "counting stars"));
}

#[test]
fn an_unreachable_collector_does_not_delay_the_shutdown() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let export = export_to(&format!("http://{gone}/v1/traces"));
    one_span(&export);
    let since = Instant::now();
    export.shutdown();
    assert!(since.elapsed() < SHUTDOWN_LIMIT, "{:?}", since.elapsed());
}

#[test]
fn a_collector_that_hangs_does_not_delay_the_shutdown() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let export = export_to(&format!("http://{}/v1/traces", silent.local_addr().unwrap()));
    one_span(&export);
    let since = Instant::now();
    export.shutdown();
    assert!(since.elapsed() < SHUTDOWN_LIMIT, "{:?}", since.elapsed());
}

/// One test covers traces on and off, because that state is global to the process; other tests do not change it.
#[test]
fn headers_carry_context_only_while_traces_are_on() {
    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
    let (endpoint, _taken) = collector();
    let export = export_to(&endpoint);
    let work = |set_parent: &dyn Fn(&tracing::Span)| {
        let subscriber = Registry::default().with(export.layer());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("work");
            set_parent(&span);
            span.in_scope(|| {
                let mut headers = HeaderMap::new();
                trace::inject(&mut headers);
                (headers, trace::traceparent())
            })
        })
    };
    let caller = HeaderMap::from_iter([("traceparent".parse().unwrap(), CALLER.parse().unwrap())]);

    let (headers, kept) = work(&|span| trace::set_parent(span, &caller));
    assert!(headers.is_empty() && kept.is_none());

    trace::activate();
    let (headers, kept) = work(&|span| trace::set_parent(span, &caller));
    let sent = headers["traceparent"].to_str().unwrap();
    assert!(sent.contains(TRACE_ID) && sent != CALLER, "{sent}");
    assert_eq!(kept.as_deref(), Some(sent));
    assert!(!headers.contains_key("tracestate"));
    let (headers, _) = work(&|span| trace::set_parent_str(span, CALLER));
    assert!(headers["traceparent"].to_str().unwrap().contains(TRACE_ID));
    for broken in ["", "nonsense", "00-0-0-00", "line\nbreak"] {
        let (headers, _) = work(&|span| trace::set_parent_str(span, broken));
        assert!(!headers["traceparent"].to_str().unwrap().contains(TRACE_ID), "a new trace");
    }
    let mut outside = HeaderMap::new();
    trace::inject(&mut outside);
    assert!(outside.is_empty() && trace::traceparent().is_none(), "no span, no header");
    trace::deactivate();
}

//! Sends spans to a collector from a thread of its own, so that a slow or absent collector never delays the service.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::banner::BUILD;

/// The time limit for sending the last spans.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// The pipeline from finished spans to the collector. Its queue is bounded by the SDK (2,048 spans); what does not fit is dropped.
#[derive(Debug)]
pub(super) struct Export {
    service: &'static str,
    provider: SdkTracerProvider,
}

impl Export {
    /// Makes the pipeline; the exporter reads the endpoint from the standard variables itself.
    pub(super) fn start(service: &'static str) -> Result<Self, ExporterBuildError> {
        crate::install_crypto();
        let exporter = SpanExporter::builder().with_http().build()?;
        Ok(Self::over(service, exporter))
    }

    pub(super) fn over(service: &'static str, exporter: SpanExporter) -> Self {
        let resource =
            Resource::builder().with_service_name(service).with_attribute(KeyValue::new("service.version", BUILD.version)).build();
        let exporter = Reporting { exporter, failing: AtomicBool::new(false) };
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        Self { service, provider }
    }

    /// The layer that turns tracing spans into exported spans: golectra's own, not those of libraries, among them the
    /// exporter's HTTP client.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let ours = filter_fn(|metadata| metadata.target().starts_with("golectra") && *metadata.level() <= tracing::Level::INFO);
        tracing_opentelemetry::layer().with_tracer(self.provider.tracer(self.service)).with_filter(ours)
    }

    /// Sends the remaining spans. The SDK waits for its thread, which may block on the network, so it gets only
    /// `SHUTDOWN_LIMIT`.
    pub(super) fn shutdown(self) {
        let (done, wait) = mpsc::channel();
        let flush = move || {
            let _ = done.send(self.provider.shutdown_with_timeout(SHUTDOWN_LIMIT));
        };
        let started = std::thread::Builder::new().name("traces-shutdown".to_owned()).spawn(flush);
        if started.is_err() || !matches!(wait.recv_timeout(SHUTDOWN_LIMIT), Ok(Ok(()))) {
            tracing::warn!("some traces were not sent before the process ended");
        }
    }
}

/// Logs once when the collector stops accepting spans, and once when it accepts them again.
struct Reporting {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl fmt::Debug for Reporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter's own Debug output contains its headers, which may hold a token.
        f.debug_struct("Reporting").field("failing", &self.failing).finish_non_exhaustive()
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(_) if !was_failing => {
                tracing::warn!(spans, "traces are dropped: the collector at the OTLP endpoint does not accept them");
            }
            Ok(()) if was_failing => tracing::info!("the collector accepts traces again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

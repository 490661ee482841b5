//! Logs on stderr, and traces to an OTLP endpoint when one is set.

mod export;
mod options;
#[cfg(test)]
mod tests;
pub mod trace;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use self::export::Export;
use self::options::{Format, Options};
pub(crate) use self::options::{VARIABLES, check};
use crate::log_limiter::write_pending_lines;

/// The target of events that are logged whatever the filter is: why a program can't run.
pub const UNFILTERED: &str = "golectra_process::cannot_run";

/// Keeps the trace exporter alive; dropping it has the effect of [`shutdown`](Self::shutdown).
#[derive(Debug)]
#[must_use = "traces end when this is dropped"]
pub struct Telemetry {
    export: Option<Export>,
}

impl Telemetry {
    /// Logs the counts that are pending in [`LogLimiter`](crate::LogLimiter)s, and sends the remaining spans, which blocks the thread
    /// for 3 s at most.
    pub fn shutdown(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        write_pending_lines();
        if let Some(export) = self.export.take() {
            trace::deactivate();
            export.shutdown();
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Starts logging, and tracing when `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set.
///
/// `service` is the service name of the traces. Invalid settings are logged and ignored: a service must not fail because of its
/// telemetry. (`Settings::load` has refused them before.)
pub fn init(service: &'static str) -> Telemetry {
    let (options, problem) = Options::from_process();
    let (export, failure) = match options.export.then(|| Export::start(service)).transpose() {
        Ok(export) => (export, None),
        Err(error) => (None, Some(error)),
    };
    let traces = export.as_ref().map(Export::layer);
    // Installing fails when a test has installed a subscriber before: the first one stays.
    let _ = Registry::default().with(traces).with(log_layer(&options)).try_init();
    if export.is_some() {
        trace::activate();
    }
    if let Some(problem) = problem {
        tracing::warn!(problem, "a telemetry setting is invalid and ignored");
    }
    if let Some(error) = failure {
        tracing::warn!(%error, "traces are off: the exporter could not be made");
    }
    Telemetry { export }
}

/// Text on a terminal, JSON otherwise, unless LOG_FORMAT is set.
fn log_layer<S>(options: &Options) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let terminal = io::stderr().is_terminal();
    let filter = EnvFilter::builder().parse_lossy(format!("{},{UNFILTERED}=error", options.filter));
    let json = match options.format {
        Some(format) => format == Format::Json,
        None => !terminal,
    };
    if json {
        fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(io::stderr)
            .with_filter(filter)
            .boxed()
    } else {
        fmt::layer().with_ansi(terminal).with_writer(io::stderr).with_filter(filter).boxed()
    }
}

/// Installs the TLS provider: call it before building an HTTP client. Calling it again does nothing.
pub fn install_crypto() {
    // It fails when a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

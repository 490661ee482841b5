//! What every service says about itself, and the listener it says it on.

mod process;

use std::future::Future;
use std::io;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};

use crate::banner::BUILD;
use crate::{ConnectionLimits, ListenAddress, Shutdown, listen};

/// The text format's content type.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Scrapers and probes are few.
const LIMITS: ConnectionLimits = ConnectionLimits {
    headers: std::time::Duration::from_secs(5),
    idle: std::time::Duration::from_secs(120),
    write_stall: std::time::Duration::from_secs(10),
    max_connections: 64,
    max_header_bytes: 16 << 10,
    drain: std::time::Duration::from_secs(2),
};

/// A registry that holds the build and process figures; a service adds its own.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Where the service registers its metrics.
    pub registry: Registry,
}

impl Metrics {
    /// `service` is the `service` label of `golectra_build_info`. The error is prometheus' own, for a name that cannot be used.
    pub fn new(service: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let build = Opts::new("golectra_build_info", "Always 1; the labels say which build this is.")
            .const_label("service", service)
            .const_label("version", BUILD.version)
            .const_label("commit", BUILD.commit);
        let build = IntGauge::with_opts(build)?;
        build.set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(process::Collector::new()?))?;
        Ok(Self { registry })
    }
}

/// `GET /metrics` in Prometheus's text format, and `GET /ping`: 200 `ok` when `ping` resolves to true, else 503.
pub fn router<F, P>(registry: Registry, ping: F) -> Router
where
    F: Fn() -> P + Clone + Send + Sync + 'static,
    P: Future<Output = bool> + Send,
{
    let metrics = move || {
        let registry = registry.clone();
        async move { render(&registry) }
    };
    let ping = move || {
        let ping = ping.clone();
        async move {
            if ping().await { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") }
        }
    };
    Router::new().route("/metrics", get(metrics)).route("/ping", get(ping))
}

fn render(registry: &Registry) -> axum::response::Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Serves [`router`] on an address of its own until the shutdown; does nothing without an address.
///
/// Returns once the address is bound. The error names the address and what to do about it.
pub async fn serve_observability<F, P>(
    address: Option<&ListenAddress>,
    registry: Registry,
    ping: F,
    shutdown: &Shutdown,
) -> io::Result<()>
where
    F: Fn() -> P + Clone + Send + Sync + 'static,
    P: Future<Output = bool> + Send,
{
    let Some(address) = address else { return Ok(()) };
    let listener = address.bind().await?;
    tracing::info!(address = %listener.local_addr()?, "metrics are at /metrics");
    shutdown.spawn(listen::serve(listener, router(registry, ping), LIMITS, shutdown.token()));
    Ok(())
}

//! The smallest whole service: settings, banner, telemetry, listeners and an orderly end. The crate's tests run it.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use golectra_process::metrics::{Metrics, serve_observability};
use golectra_process::{ConnectionLimits, Interval, ListenAddress, Secret, Shutdown, banner, listen, telemetry, trace};
use tracing::Instrument as _;

golectra_process::settings! {
    /// An example of a service: says hello.
    pub struct Settings {
        /// Where to listen: host:port, :port or port.
        #[arg(short = 'a', long)]
        pub address: ListenAddress = ":8080",
        /// Where metrics are served; without it they are not.
        pub metrics_address: Option<ListenAddress>,
        /// A key.
        #[arg(short = 'k', long)]
        pub key: Option<Secret>,
        /// How long the service may take to end.
        pub shutdown_limit: Interval = "20s",
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    banner::print();
    let settings = Settings::load("golectra-example");
    let telemetry = telemetry::init("golectra-example");
    tracing::info!(?settings, "starting");
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals(settings.shutdown_limit.duration())?;
    let metrics = Metrics::new("golectra-example").map_err(io::Error::other)?;
    serve_observability(settings.metrics_address.as_ref(), metrics.registry, || async { true }, &shutdown).await?;
    let app = Router::new().route("/", get(hello)).route("/hang", get(hang));
    let listener = settings.address.bind().await?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    listen::serve(listener, app, ConnectionLimits::default(), shutdown.token()).await;
    shutdown.wait(Duration::from_secs(5)).await;
    tracing::info!("stopped");
    telemetry.shutdown();
    Ok(())
}

/// Greets within the caller's trace.
async fn hello(headers: HeaderMap) -> &'static str {
    let span = tracing::info_span!("greeting");
    trace::set_parent(&span, &headers);
    async { "hello" }.instrument(span).await
}

/// Never answers.
async fn hang() -> &'static str {
    tracing::info!("hanging");
    std::future::pending().await
}

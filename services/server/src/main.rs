//! golectra-server: receives metrics, stores them and shows them.

mod access;
mod alerts;
mod assemble;
mod audit;
mod clock;
mod config;
mod export_command;
mod folder;
mod history;
mod http;
mod ingest;
mod metrics;
mod middleware;
mod router;
mod selfcheck;
mod store;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::listen::{ConnectionMetrics, serve_counted};
use golectra_process::metrics::{Metrics, serve_observability};
use golectra_process::{Shutdown, banner, telemetry};
use tokio::time::timeout;
use tower::Layer as _;
use tower::util::MapRequestLayer;

use crate::assemble::{Parts, Refused};
use crate::config::Settings;

/// A request allocates about thirty small and a few large pieces of memory, and frees them together. A test that counts what the
/// memory store takes has an allocator of its own.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often the metrics of sources are updated.
const SOURCES_EVERY: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    #[cfg(feature = "audit-sink")]
    if std::env::args_os().next().is_some_and(|name| std::path::Path::new(&name).ends_with("golectra-audit-sink")) {
        return golectra_audit_sink::main();
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == "export") {
        // Its output is data.
        return export_command::main();
    }
    banner::print();
    if std::env::args_os().nth(1).is_some_and(|first| first == "selfcheck") {
        return selfcheck::main();
    }
    let settings = Settings::load("golectra-server");
    let telemetry = telemetry::init("golectra-server");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let served = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(settings)));
    let code = match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(target: telemetry::UNFILTERED, "golectra-server can't run: {error}");
            // The same exit code as for other settings that can't be used.
            if error.is::<Refused>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    };
    telemetry.shutdown();
    code
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let limits = assemble::connection_limits(&settings)?;
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals(settings.shutdown_timeout.duration())?;
    let metrics = Metrics::new("server")?;
    let connections = ConnectionMetrics::default();
    let Parts { state, trail } = assemble::parts(&settings, &metrics.registry, &connections)?;
    let listener = settings.address.bind().await?;
    tracing::info!(address = %listener.local_addr()?, "listening");

    let probe = state.clone();
    let ping = move || {
        let state = probe.clone();
        async move { http::ping::answers(&state).await }
    };
    serve_observability(settings.metrics_address.as_ref(), metrics.registry, ping, &shutdown).await?;
    let watched = state.clone();
    shutdown.spawn(shutdown.token().run_until_cancelled_owned(async move { watch_sources(&watched).await }));

    let signatures = Arc::clone(&state.signatures);
    shutdown.spawn(shutdown.token().run_until_cancelled_owned(async move { signatures.watch_keys().await }));

    let deliveries = state.alerts.start(&shutdown);
    shutdown.spawn(shutdown.token().run_until_cancelled_owned(state.panels.clone().watch()));
    let (pages, stopping) = (state.clone(), shutdown.token());
    shutdown.spawn(async move { pages.pulse.run(&pages.alerts, stopping).await });

    if let Some(tokens) = state.tokens.clone() {
        shutdown.spawn(shutdown.token().run_until_cancelled_owned(tokens.watch()));
    }

    let app = MapRequestLayer::new(middleware::path::normalize).layer(router::router(state.clone()));
    // Notifications that are being delivered must be known as delivered before the store is closed.
    let stopping = shutdown.token();
    let deliveries = async {
        stopping.cancelled().await;
        let _ = timeout(limits.linger + limits.drain, deliveries).await;
    };
    tokio::join!(serve_counted(listener, app, limits, connections, shutdown.token()), deliveries);

    // The rest of the time limit is shared: events first, because the writes make them, then the store.
    let share = settings.shutdown_timeout.duration() / 5;
    if let Some(trail) = trail {
        // The event of a write whose client has disconnected may only exist once the write is on disk.
        if let Err(error) = state.store.flush().await {
            tracing::warn!(%error, "not every write is on disk before the last audit events are delivered");
        }
        trail.finish(share).await;
    }
    state.store.close().await?;
    shutdown.wait(share).await;
    tracing::info!("stopped");
    Ok(())
}

/// Updates the metrics of when each source was last seen.
async fn watch_sources(state: &http::AppState) {
    let mut ticks = tokio::time::interval(SOURCES_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Ok(sources) = state.store.sources().await {
            state.metrics.sources(&sources);
        }
        http::ping::answers(state).await;
    }
}

//! golectra's audit sink: the receiver of the audit webhook inside of a cluster.
//!
//! It checks who sent an event, keeps each event once, on disk before it says so, and shows what it has. The journal is
//! plain NDJSON in one folder: what anyone may read, ship or archive without asking this program.

pub mod app;
pub mod config;
mod figures;
mod http;
mod journal;
#[cfg(test)]
mod tests;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::metrics::{Metrics, serve_observability};
use golectra_process::{ConnectionLimits, Shutdown, banner, listen, telemetry};

use crate::app::App;
use crate::config::Settings;
use crate::figures::Figures;
use crate::journal::{Journal, Limits};

/// Why the sink can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on, or signals can't be heard.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The folder of events can't be used.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The metrics can't be registered.
    #[error("the metrics can't be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The whole program, from its settings to its exit code.
pub fn main() -> ExitCode {
    let settings = Settings::load("golectra-audit-sink");
    banner::print();
    let telemetry = telemetry::init("golectra-audit-sink");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime.map_err(StartError::Io).and_then(|runtime| runtime.block_on(run(settings))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the audit sink cannot start");
            ExitCode::FAILURE
        }
    };
    telemetry.shutdown();
    code
}

/// Serves until a signal, then finishes what is under way.
pub async fn run(settings: Settings) -> Result<(), StartError> {
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals(settings.shutdown_timeout.duration())?;
    let metrics = Metrics::new("audit-sink")?;
    let figures = Figures::register(&metrics.registry)?;
    let limits = Limits {
        rotate_bytes: settings.rotate_bytes.get() as u64,
        retain_files: settings.retain_files,
        remember_ids: settings.remember_ids,
        remember: settings.remember.duration(),
    };
    let (journal, writer) = Journal::open(&settings.data_dir, limits, figures.clone(), unix_seconds())?;
    if settings.audit_key.is_none() {
        tracing::warn!("AUDIT_KEY is not set: events are taken from anyone who can reach this address");
    }
    let app = App {
        journal,
        figures,
        secret: settings.audit_key.as_ref().map(|key| Arc::new(key.secret().clone())),
        max_body_bytes: settings.max_body_bytes.get(),
        body_limit: settings.body_timeout.duration(),
        clock: Arc::new(unix_seconds),
        downloads: Arc::new(tokio::sync::Semaphore::new(app::DOWNLOADS)),
    };
    let ping = {
        let journal = app.journal.clone();
        move || {
            let journal = journal.clone();
            async move { journal.ping().await }
        }
    };
    serve_observability(settings.metrics_address.as_ref(), metrics.registry, ping, &shutdown).await?;
    let limits = ConnectionLimits {
        headers: settings.header_timeout.duration(),
        max_connections: settings.max_connections,
        ..ConnectionLimits::default()
    };
    let listener = settings.address.bind().await?;
    tracing::info!(address = %listener.local_addr()?, folder = %settings.data_dir.display(), "listening");
    listen::serve(listener, app.router(), limits, shutdown.token()).await;
    shutdown.wait(Duration::from_secs(3)).await;
    writer.finish(Duration::from_secs(5)).await;
    tracing::info!("stopped");
    Ok(())
}

/// Now, in unix seconds.
fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

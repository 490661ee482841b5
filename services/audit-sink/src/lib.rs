//! golectra's audit sink: the receiver of the audit webhook within a cluster.
//!
//! It checks the signature of an event, stores each event once, on disk before it answers, and shows what it has. The journal is a
//! folder of NDJSON files, gzipped once they are closed, which can be read, copied and archived without this program.

pub mod config;
mod http;
mod inflight;
mod journal;
mod metrics;
mod router;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::metrics::{Metrics, serve_observability};
use golectra_process::{ConnectionLimits, Shutdown, banner, listen, telemetry};

use crate::config::Settings;
use crate::inflight::Inflight;
use crate::journal::{Journal, Limits};
use crate::metrics::SinkMetrics;
use crate::state::SinkState;

/// How much of an answer a client has to take every five minutes. The download of all events has no time limit, since there may be any number of them and a
/// download that was cut off can't be continued. A slow client occupies one of the downloads, and no memory but its buffers. The newest events, which are in
/// memory until they are taken, are less than this, so that their client has five minutes in all.
const PACE_BYTES: usize = 16 << 20;

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
            tracing::error!(target: telemetry::UNFILTERED, %error, "the audit sink cannot start");
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
    let Metrics { registry } = Metrics::new("audit-sink")?;
    let metrics = SinkMetrics::register(&registry)?;
    let retain_bytes = Some(settings.retain_bytes.get() as u64).filter(|bytes| *bytes > 0).unwrap_or(u64::MAX);
    let limits = Limits {
        // Several files must fit, so that what is removed is a small part of what is kept.
        rotate_bytes: (settings.rotate_bytes.get() as u64).min(retain_bytes / 8),
        retain_files: settings.retain_files,
        retain_bytes,
        remember_ids: settings.remember_ids,
        remember: settings.remember.duration(),
    };
    let (journal, writer) = Journal::open(&settings.data_dir, limits, metrics.clone(), unix_seconds())?;
    if settings.audit_key.is_none() {
        tracing::warn!("AUDIT_KEY is not set: events are accepted from everyone who can reach this address");
    }
    let max_body_bytes = settings.max_body_bytes.get();
    let state = SinkState {
        journal,
        metrics,
        secret: settings.audit_key.as_ref().map(|key| Arc::new(key.secret().clone())),
        max_body_bytes,
        body_limit: settings.body_timeout.duration(),
        inflight: Inflight::new(settings.max_inflight_bytes.get(), max_body_bytes),
        clock: Arc::new(unix_seconds),
        downloads: Arc::new(tokio::sync::Semaphore::new(state::DOWNLOADS)),
        newest: Arc::new(tokio::sync::Semaphore::new(state::NEWEST)),
    };
    let ping = {
        let journal = state.journal.clone();
        move || {
            let journal = journal.clone();
            async move { journal.ping().await }
        }
    };
    serve_observability(settings.metrics_address.as_ref(), registry, ping, &shutdown).await?;
    let limits = connection_limits(&settings);
    let listener = settings.address.bind().await?;
    tracing::info!(address = %listener.local_addr()?, folder = %settings.data_dir.display(), "listening");
    listen::serve(listener, router::router(state), limits, shutdown.token()).await;
    shutdown.wait(Duration::from_secs(3)).await;
    writer.finish(Duration::from_secs(5)).await;
    tracing::info!("stopped");
    Ok(())
}

fn connection_limits(settings: &Settings) -> ConnectionLimits {
    ConnectionLimits {
        headers: settings.header_timeout.duration(),
        max_connections: settings.max_connections,
        // The rest of the time is for the journal.
        drain: settings.shutdown_timeout.duration() / 2,
        slow_write_bytes: Some(PACE_BYTES),
        // Servers send short heads, and the memory limit of the chart is for events.
        heads_bytes: 4 << 20,
        ..ConnectionLimits::default()
    }
}

/// Now, in unix seconds.
fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

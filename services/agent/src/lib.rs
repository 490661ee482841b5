//! golectra's agent: polls its process and its host, seals what it saw into batches, and ships them.
//!
//! The way of a batch through these modules: [`collect`] samples, [`schedule`] says when, [`batch`] seals, [`spool`]
//! keeps, [`ship`] sends. A sealed batch never changes, so that its key stands for the same bytes on every try.

pub mod allocator;
pub mod batch;
pub mod collect;
pub mod config;
pub mod schedule;
pub mod ship;
pub mod spool;
pub mod stats;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::{Shutdown, metrics};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::batch::Sealer;
use crate::collect::Collectors;
use crate::config::Settings;
use crate::ship::{Client, Signer, SignerError};
use crate::spool::disk::DiskError;
use crate::spool::{Disk, Left, Memory, Queue, Spool};
use crate::stats::{DropReason, Stats};

/// From a signal to the end of the process, at most: the last poll, the drain, and the metrics listener's own end.
const EXIT_LIMIT: Duration = Duration::from_secs(15);

/// How long the last batches may take to leave after a signal.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// How long the disk may take to confirm what stays on it.
const SYNC_LIMIT: Duration = Duration::from_secs(2);

/// How long the metrics listener may take to end.
const LISTENER_LIMIT: Duration = Duration::from_secs(3);

/// The stack of a helper thread. What runs there reads small files or looks up names.
pub(crate) const HELPER_STACK_BYTES: usize = 256 << 10;

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system gave no event loop.
    #[error("the event loop could not be made: {0}")]
    Runtime(io::Error),
    /// The system refused the handlers of SIGINT and SIGTERM.
    #[error("the signal handlers could not be installed: {0}")]
    Signals(io::Error),
    /// `METRICS_ADDRESS` cannot be listened on; the text says why and what to do.
    #[error("METRICS_ADDRESS: {0}")]
    Listen(io::Error),
    /// The system gave no thread for a collector.
    #[error("a collector's thread could not be started: {0}")]
    Thread(io::Error),
    /// `SPOOL_DIR` cannot be used; the text says why and what to do.
    #[error(transparent)]
    Spool(#[from] DiskError),
    /// The keys are not to be had, or it is not clear which of them signs.
    #[error(transparent)]
    Keys(#[from] SignerError),
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    Client(#[from] reqwest::Error),
    /// A metric of the agent's own has a name that cannot be used.
    #[error("the agent's metrics could not be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A runtime of one thread, since an agent waits more than it works; names are looked up on helper threads.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().thread_name("helper").thread_stack_size(HELPER_STACK_BYTES).max_blocking_threads(4).build()
}

/// Runs the agent until SIGINT or SIGTERM; what is queued then is sent as far as the time limit
/// allows; the rest stays on disk, where there is a spool.
pub async fn run(settings: Settings) -> Result<(), StartError> {
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals(EXIT_LIMIT).map_err(StartError::Signals)?;

    let own = metrics::Metrics::new("agent")?;
    let stats = Arc::new(Stats::new(&own.registry, settings.poll_interval.duration())?);
    let queue = Queue::new(open_spool(&settings, &stats)?);
    own.registry.register(Box::new(queue.figures()?))?;
    let ping = {
        let stats = Arc::clone(&stats);
        move || {
            let alive = stats.polls_are_recent();
            async move { alive }
        }
    };
    metrics::serve_observability(settings.metrics_address.as_ref(), own.registry, ping, &shutdown).await.map_err(StartError::Listen)?;

    let source = settings.source();
    let signer = Signer::new(&settings)?;
    let client = Client::new(&settings.address, &source, settings.key.clone(), signer)?;
    let mut collectors = Collectors::start(collect::all(settings.host_folders()), Arc::clone(&stats)).map_err(StartError::Thread)?;
    let mut sealer = Sealer::new(settings.key.clone());
    tracing::info!(
        address = %settings.address, %source,
        poll_seconds = settings.poll_interval.duration().as_secs_f64(),
        report_seconds = settings.report_interval.duration().as_secs_f64(),
        senders = settings.rate_limit.get(),
        "the agent polls and reports"
    );

    let senders = ship::start(client, queue.clone(), &stats, settings.rate_limit.get());
    let syncing = settings.spool_dir.is_some().then(|| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.keep_synced().await })
    });
    let intervals = schedule::Intervals { poll: settings.poll_interval.duration(), report: settings.report_interval.duration() };
    schedule::run(intervals, async || collectors.sample().await, &mut sealer, &queue, &stats, shutdown.token()).await;

    // The last report is in the queue: let the senders finish.
    queue.close();
    senders.hurry();
    senders.finish(DRAIN_LIMIT).await;
    say_what_is_left(queue.leave(), &stats);
    if let Some(syncing) = syncing {
        syncing.abort();
        if timeout(SYNC_LIMIT, queue.sync()).await.is_err() {
            tracing::warn!("the disk did not confirm the spool in time: a power cut now may lose reports");
        }
    }
    shutdown.wait(LISTENER_LIMIT).await;
    Ok(())
}

fn open_spool(settings: &Settings, stats: &Arc<Stats>) -> Result<Box<dyn Spool>, DiskError> {
    let memory = Memory::new(settings.queue_limits(), Arc::clone(stats));
    Ok(match &settings.spool_dir {
        Some(folder) => Box::new(Disk::open(folder, settings.disk_limits(), memory, settings.key.clone(), Arc::clone(stats))?),
        None => Box::new(memory),
    })
}

fn say_what_is_left(left: Left, stats: &Stats) {
    if left.batches > 0 || left.polls > 0 {
        stats.dropped(DropReason::Shutdown, left.batches);
        tracing::warn!(batches = left.batches, polls = left.polls, "the server did not take these before the end: they are lost");
    }
    if left.kept_batches > 0 {
        tracing::info!(batches = left.kept_batches, polls = left.kept_polls, "these stay in SPOOL_DIR: the next agent sends them");
    }
    if left == Left::default() {
        tracing::info!(polls = stats.polls(), "every poll was reported");
    }
}

//! golectra's agent: polls its process and its host, seals the results into batches, and sends them to a server.
//!
//! The modules in the order in which a batch passes through them: [`collect`] measures, [`schedule`] decides when, [`sealer`]
//! makes a [`batch`], [`spool`] keeps it, [`sender`] sends it. A sealed batch does not change, so that its key means the same
//! bytes on every try.

pub mod allocator;
pub mod batch;
pub mod clock;
pub mod collect;
pub mod config;
pub mod doctor;
pub mod metrics;
pub mod own_metrics;
pub mod schedule;
pub mod sealer;
pub mod sender;
pub mod spool;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::Shutdown;
use golectra_process::metrics::{Metrics, serve_observability};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::collect::Collectors;
use crate::collect::kubelet::Kubelet;
use crate::collect::scrape::{ScrapeClientError, Scraper};
use crate::config::Settings;
use crate::metrics::{AgentMetrics, DropReason};
use crate::own_metrics::OwnMetrics;
use crate::schedule::Occasion;
use crate::sealer::Sealer;
use crate::sender::{Client, Signer, SignerError, with_causes};
use crate::spool::disk::DiskError;
use crate::spool::{Disk, Memory, Queue, Spool, Unsent};

/// The longest time from a signal to the end of the process: the last poll, the last reports and the end of the metrics listener.
const EXIT_LIMIT: Duration = Duration::from_secs(15);

/// How long the last reports may take after a signal.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// How long the last sync of the spool may take.
const SYNC_LIMIT: Duration = Duration::from_secs(2);

/// How long the metrics listener may take to end.
const LISTENER_LIMIT: Duration = Duration::from_secs(3);

/// The longest time between two batches with which the server's rule `NodeSilent` does not fire when one of them comes late. It fires a minute after a node's last batch.
const LONGEST_WITH_NODE_SILENT: Duration = Duration::from_secs(30);

/// The stack of a helper thread, which reads small files or looks up names.
pub(crate) const HELPER_STACK_BYTES: usize = 256 << 10;

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused the event loop.
    #[error("the event loop could not be created: {0}")]
    Runtime(io::Error),
    /// The system refused the handlers of SIGINT and SIGTERM.
    #[error("the signal handlers could not be installed: {0}")]
    Signals(io::Error),
    /// The agent cannot listen on `METRICS_ADDRESS`; the text says why and what to do.
    #[error("METRICS_ADDRESS: {0}")]
    Listen(io::Error),
    /// The system refused a thread for a collector.
    #[error("a collector's thread could not be started: {0}")]
    Thread(io::Error),
    /// `SPOOL_DIR` cannot be used; the text says why and what to do.
    #[error(transparent)]
    Spool(#[from] DiskError),
    /// The keys cannot be read, or it is not clear which of them signs.
    #[error(transparent)]
    Keys(#[from] SignerError),
    /// The kubelet's certificate must be verified, and without TLS it shows none.
    #[error("KUBELET_TLS is verify: KUBELET_URL has to be https")]
    KubeletTls,
    /// The HTTP client could not be created.
    #[error("the HTTP client could not be created: {}", with_causes(.0))]
    Client(#[from] reqwest::Error),
    /// The HTTP client for scraping could not be created.
    #[error("the HTTP client for scraping could not be created: {0}")]
    ScrapeClient(#[from] ScrapeClientError),
    /// A name of the agent's own metrics cannot be used.
    #[error("the agent's metrics could not be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// Whether settings are to blame whose values are valid and that can't be used, alone or together.
    pub fn is_of_settings(&self) -> bool {
        matches!(self, Self::Keys(_) | Self::KubeletTls)
    }
}

/// A runtime of one thread, because an agent mostly waits; names are looked up on helper threads.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().thread_name("helper").thread_stack_size(HELPER_STACK_BYTES).max_blocking_threads(4).build()
}

/// Runs the agent until SIGINT, SIGTERM or SIGHUP. What is queued then is sent within the time limit; the rest stays on disk, if there
/// is a spool.
pub async fn run(settings: Settings) -> Result<(), StartError> {
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals(EXIT_LIMIT).map_err(StartError::Signals)?;
    if settings.verifies_without_tls() {
        return Err(StartError::KubeletTls);
    }

    let clock = Clock::system();
    let own = Metrics::new("agent")?;
    let metrics = Arc::new(AgentMetrics::new(&own.registry, settings.poll_interval.duration())?);
    let queue = Queue::new(open_spool(&settings, &clock, &metrics)?, clock.clone());
    own.registry.register(Box::new(queue.metrics()?))?;
    let ping = {
        let metrics = Arc::clone(&metrics);
        move || {
            let alive = metrics.polls_are_recent();
            async move { alive }
        }
    };
    serve_observability(settings.metrics_address.as_ref(), own.registry, ping, &shutdown).await.map_err(StartError::Listen)?;

    let source = settings.source();
    if let Some(folder) = settings.host_proc.as_deref().filter(|folder| collect::hides_first_process(folder)) {
        tracing::warn!(
            folder = %folder.display(),
            "HOST_PROC is mounted with hidepid, which hides the node's first process and its network from this user: the node's network is not read there; \
             run the agent in the group of the mount's option gid, or unset HOST_PROC"
        );
    }
    let signer = Signer::new(&settings, clock.clone())?;
    let client = Client::new(&settings.address, &source, settings.key.clone(), signer)?;
    let mut collectors = Collectors::start(collect::of_each_poll(), Arc::clone(&metrics)).map_err(StartError::Thread)?;
    let host = settings.host(&source);
    let host_collectors = Collectors::start(collect::of_the_host(&host), Arc::clone(&metrics)).map_err(StartError::Thread)?;
    let mut host_collectors = host_collectors.with_max_series(host.max_series);
    let mut own_metrics = OwnMetrics::new(queue.clone(), Arc::clone(&metrics), settings.spool_dir.is_some());
    let mut sealer = Sealer::new(settings.key.clone());
    let scrape_settings = settings.scrape_settings(&source);
    warn_without_kubelet(&settings);
    warn_of_rare_reports(&settings);
    let scraper = if scrape_settings.is_empty() {
        None
    } else {
        Some(Scraper::new(scrape_settings, settings.scrape_max_series.get(), settings.key.clone(), Arc::clone(&metrics))?)
    };
    tracing::info!(
        address = %settings.address, %source,
        poll_seconds = settings.poll_interval.duration().as_secs_f64(),
        report_seconds = settings.report_interval.duration().as_secs_f64(),
        senders = settings.rate_limit.get(),
        "the agent has started"
    );

    let senders = sender::start(client, queue.clone(), clock, &metrics, settings.rate_limit.get());
    let syncing = settings.spool_dir.is_some().then(|| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.keep_synced().await })
    });
    let kubelet = settings.kubelet().map(|kubelet| {
        let kubelet = Kubelet::new(kubelet, Arc::clone(&metrics));
        tokio::spawn(kubelet.run(queue.clone(), settings.key.clone(), shutdown.token()))
    });
    let scraping = scraper.map(|scraper| tokio::spawn(scraper.run(queue.clone(), shutdown.token())));
    let intervals = schedule::Intervals { poll: settings.poll_interval.duration(), report: settings.report_interval.duration() };
    let sample = async |occasion| match occasion {
        Occasion::Poll => collectors.sample().await,
        Occasion::Report => {
            let mut sample = host_collectors.sample().await;
            sample.metrics.extend(own_metrics.of_report());
            sample
        }
    };
    schedule::run(intervals, sample, &mut sealer, &queue, &metrics, shutdown.token()).await;

    if let Some(kubelet) = kubelet {
        // It ends at once: it waits for nothing that the shutdown does not interrupt.
        let _ = kubelet.await;
    }
    if let Some(scraping) = scraping {
        let _ = scraping.await;
    }
    // The last report is in the queue.
    queue.close();
    senders.hurry();
    senders.finish(DRAIN_LIMIT).await;
    log_unsent(queue.close_spool(), &metrics);
    if let Some(syncing) = syncing {
        syncing.abort();
        if timeout(SYNC_LIMIT, queue.sync()).await.is_err() {
            tracing::warn!("the spool was not synced to the disk in time: a power failure now may lose reports");
        }
    }
    shutdown.wait(LISTENER_LIMIT).await;
    Ok(())
}

fn warn_without_kubelet(settings: &Settings) {
    if settings.scrape_pods && settings.kubelet_url.is_none() {
        tracing::warn!("SCRAPE_PODS needs the kubelet's list of pods: no pod is scraped until KUBELET_URL is set");
    }
    for setting in settings.without_kubelet() {
        tracing::warn!("{setting} needs the kubelet: it has no effect until KUBELET_URL is set");
    }
}

fn warn_of_rare_reports(settings: &Settings) {
    let time = settings.time_between_batches();
    if time > LONGEST_WITH_NODE_SILENT {
        tracing::warn!(
            seconds = time.as_secs_f64(),
            "the agent reports so rarely that the server's rule NodeSilent, which fires a minute after a node's last report, can fire for it while all is well: \
             disable the rule with the server's setting BUILT_IN_RULES_DISABLED=NodeSilent and put one with a longer time into its RULES_DIR, or lower REPORT_INTERVAL"
        );
    }
}

fn open_spool(settings: &Settings, clock: &Clock, metrics: &Arc<AgentMetrics>) -> Result<Box<dyn Spool>, DiskError> {
    let memory = Memory::new(settings.queue_limits(), Arc::clone(metrics));
    Ok(match &settings.spool_dir {
        Some(folder) => Box::new(Disk::open(folder, settings.disk_limits(), memory, settings.key.clone(), clock, Arc::clone(metrics))?),
        None => Box::new(memory),
    })
}

fn log_unsent(unsent: Unsent, metrics: &AgentMetrics) {
    if unsent.lost_batches > 0 || unsent.lost_polls > 0 {
        metrics.dropped(DropReason::Shutdown, unsent.lost_batches);
        tracing::warn!(
            batches = unsent.lost_batches,
            polls = unsent.lost_polls,
            "the server did not take these before the end: they are lost"
        );
    }
    if unsent.kept_batches > 0 {
        tracing::info!(batches = unsent.kept_batches, polls = unsent.kept_polls, "these stay in SPOOL_DIR: the next agent sends them");
    }
    if unsent == Unsent::default() {
        tracing::info!(polls = metrics.polls(), "every poll was reported");
    }
}

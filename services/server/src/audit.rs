//! The audit trail: which client wrote which metrics and when, delivered to each sink.
//!
//! A write makes a [`Draft`]. An outbox, in memory or in the database, stores its event until each sink has it. A write never
//! waits for a sink; while a sink is down, its events stay in the outbox.

mod backoff;
mod delivery;
mod draft;
mod metrics;
mod names;
mod outbox;
mod sinks;
#[cfg(test)]
mod tests;

pub use draft::Draft;
#[cfg(test)]
pub use names::NameList;
pub use outbox::postgres::{Connections, Hook};

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::{LogLimiter, WebhookKey, trace};
use golectra_protocol::Metrics;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::delivery::DeliveryWorker;
use self::metrics::{AuditMetrics, SinkMetrics};
use self::names::NameListCache;
use self::outbox::Outbox;
use self::outbox::memory::{MemoryOutbox, QueuedEvent};
use self::outbox::postgres::{Bounds, PostgresOutbox, Swept, sweep};
use self::sinks::Sink;
use self::sinks::file::FileSink;
use self::sinks::webhook::{Webhook, WebhookError};
use crate::clock::Clock;

/// An event that can't be delivered is given up at this age.
const RETENTION: Duration = Duration::from_hours(48);

/// The sweep gives events up a little later, so that a server that claimed one can still deliver it.
const SWEEP_RETENTION: Duration = Duration::from_hours(49);

/// How long dead letters are kept.
const DEAD_LETTER_RETENTION: Duration = Duration::from_hours(7 * 24);

/// How often backlogs are measured, and how often the audit tables are swept.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// The size limit of the events in one sink's queue in memory, in bytes.
const QUEUE_BYTES: usize = 128 << 20;

/// Log lines about full queues, by sink.
static QUEUE_FULL_LOG: LogLimiter = LogLimiter::new();

/// The sinks, and the limits of events.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// `AUDIT_FILE`: a file of events as NDJSON.
    pub file: Option<PathBuf>,
    /// `AUDIT_URL`: the address to which events are posted.
    pub url: Option<String>,
    /// `AUDIT_KEY`: the key that requests of the webhook are signed with.
    pub key: Option<WebhookKey>,
    /// `AUDIT_QUEUE`: the number of events in memory for each sink, without a database.
    pub queue: usize,
    /// `AUDIT_DATABASE_MAX_BYTES`: the size limit of waiting events and dead letters in the database.
    pub database_max_bytes: u64,
    /// Distinguishes this server's file from those of other servers on the same database; the host's name by default.
    pub instance: String,
}

/// The outbox of events until they are delivered.
#[derive(Debug, Clone)]
pub enum Backend {
    /// In this process's memory.
    Memory,
    /// In the database.
    Postgres {
        /// The store's connections.
        connections: Connections,
        /// True once the schema exists. Before that no query is sent.
        ready: watch::Receiver<bool>,
    },
}

/// Why the audit trail can't be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The webhook can't be used.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The metrics can't be registered.
    #[error("the audit trail's metrics can't be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The audit trail of this server. Clones share it.
#[derive(Clone)]
pub struct Trail(Arc<Inner>);

struct Inner {
    queues: Vec<(Arc<MemoryOutbox>, SinkMetrics)>,
    hook: Option<Hook>,
    names: NameListCache,
    stop: CancellationToken,
    /// Aborts deliveries that have not ended in time.
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Trail {
    /// Starts delivering events; None if there is no sink. Then a database is still swept of the events of a time when there was
    /// one. Must be called inside a runtime.
    pub fn start(config: AuditConfig, backend: Backend, registry: &prometheus::Registry, clock: Clock) -> Result<Option<Self>, AuditError> {
        let mut sinks: Vec<(String, Arc<dyn Sink>)> = Vec::new();
        // The original's flag is empty where there is no file.
        if let Some(path) = config.file.filter(|path| !path.as_os_str().is_empty()) {
            sinks.push((format!("file:{}", config.instance), Arc::new(FileSink::new(path))));
        }
        if let Some(url) = config.url {
            let secret = config.key.map(|key| key.secret().clone());
            sinks.push(("webhook".to_owned(), Arc::new(Webhook::new(&url, secret, clock)?)));
        }
        if sinks.is_empty() {
            if let Backend::Postgres { connections, ready } = backend {
                keep_swept_without_sinks(connections, ready, config.database_max_bytes, AuditMetrics::register(registry)?);
            }
            return Ok(None);
        }
        let mut start = Start {
            metrics: AuditMetrics::register(registry)?,
            queues: Vec::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let hook = match backend {
            Backend::Memory => {
                start.with_queues(sinks, config.queue);
                None
            }
            Backend::Postgres { connections, ready } => Some(start.with_database(sinks, &connections, &ready, config.database_max_bytes)),
        };
        let Start { queues, stop, abort, tasks, .. } = start;
        Ok(Some(Self(Arc::new(Inner { queues, hook, names: NameListCache::default(), stop, abort, tasks }))))
    }

    /// The event of a write by this client at this time.
    pub fn draft(&self, metrics: &Metrics, ip_address: IpAddr, unix_seconds: i64) -> Draft {
        let (names, repeated) = self.0.names.get(metrics);
        Draft { ts: unix_seconds, ip_address, names, repeated, traceparent: trace::traceparent() }
    }

    /// The event of a deletion of a source by this client.
    #[expect(clippy::unused_self, reason = "a trail drafts all events, and only where there is one are they drafted")]
    pub fn draft_source_deleted(&self, ip_address: IpAddr, unix_seconds: i64) -> Draft {
        Draft::source_deleted(ip_address, unix_seconds, trace::traceparent())
    }

    /// Queues the event of a write if there is no database; with one, the [`hook`](Self::hook) inserts it. Never waits: if a
    /// queue is full, the event is dropped and counted.
    pub fn queue(&self, draft: &Draft) {
        if self.0.queues.is_empty() {
            return;
        }
        for content in draft.contents() {
            let event = QueuedEvent { id: Uuid::now_v7(), content, traceparent: draft.traceparent.clone() };
            for (queue, metrics) in &self.0.queues {
                if !queue.push(event.clone()) {
                    metrics.dropped.inc();
                    let sink = metrics.sink();
                    QUEUE_FULL_LOG.log(sink, move |count| {
                        tracing::error!(count, sink, "audit events are dropped: too many wait (AUDIT_QUEUE)");
                    });
                }
            }
        }
    }

    /// The hook that the database store calls in each write's transaction; None without a database.
    pub fn hook(&self) -> Option<Hook> {
        self.0.hook.clone()
    }

    /// Must be called after the last write: delivers the events that would be lost with the process, and ends. Takes at most
    /// `limit`; the remaining events are counted as dropped, or stay in the database.
    pub async fn finish(&self, limit: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if timeout(limit, self.0.tasks.wait()).await.is_err() {
            self.0.abort.cancel();
            self.0.tasks.wait().await;
        }
        for (queue, metrics) in &self.0.queues {
            let left = queue.len();
            if left > 0 {
                metrics.dropped.inc_by(left as u64);
                tracing::error!(events = left, sink = metrics.sink(), "audit events were not delivered before the server ended");
            }
        }
    }
}

/// The parts of a trail that is being started.
struct Start {
    metrics: AuditMetrics,
    queues: Vec<(Arc<MemoryOutbox>, SinkMetrics)>,
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Start {
    fn with_queues(&mut self, sinks: Vec<(String, Arc<dyn Sink>)>, max_events: usize) {
        for (_, sink) in sinks {
            let queue = MemoryOutbox::new(max_events, QUEUE_BYTES);
            let metrics = self.deliver(Arc::<MemoryOutbox>::clone(&queue), sink);
            self.queues.push((queue, metrics));
        }
    }

    fn with_database(
        &mut self,
        sinks: Vec<(String, Arc<dyn Sink>)>,
        connections: &Connections,
        ready: &watch::Receiver<bool>,
        max_bytes: u64,
    ) -> Hook {
        let (mut names, mut wakes) = (Vec::new(), Vec::new());
        for (name, sink) in sinks {
            let wake = Arc::new(Notify::new());
            let outbox = PostgresOutbox::new(connections.clone(), ready.clone(), name.clone(), Arc::clone(&wake));
            self.deliver(Arc::new(outbox), sink);
            names.push(name);
            wakes.push(wake);
        }
        let hook = Hook::new(names, wakes);
        self.background(keep_swept(connections.clone(), ready.clone(), max_bytes, hook.clone(), self.metrics.clone()));
        hook
    }

    fn deliver(&self, outbox: Arc<dyn Outbox>, sink: Arc<dyn Sink>) -> SinkMetrics {
        let metrics = self.metrics.of(sink.name());
        let worker = DeliveryWorker::new(Arc::clone(&outbox), sink, metrics.clone(), RETENTION);
        let (stop, abort) = (self.stop.clone(), self.abort.clone());
        self.tasks.spawn(async move { abort.run_until_cancelled(worker.run(stop)).await });
        self.background(keep_measured(outbox, metrics.clone()));
        metrics
    }

    /// Runs a task that ends with the trail.
    fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await });
    }
}

async fn keep_measured(outbox: Arc<dyn Outbox>, metrics: SinkMetrics) {
    let mut ticks = interval(MEASURE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // While the outbox is unavailable the last known backlog is exported, and the worker logs the error.
        if let Ok(backlog) = outbox.backlog().await {
            metrics.show(backlog);
        }
    }
}

/// Sweeps until the pool is closed: a server without sinks has no trail that could end it.
fn keep_swept_without_sinks(connections: Connections, ready: watch::Receiver<bool>, max_bytes: u64, metrics: AuditMetrics) {
    let mut closed = connections.pool.close_event();
    let swept = keep_swept(connections, ready, max_bytes, Hook::new(Vec::new(), Vec::new()), metrics);
    tokio::spawn(async move {
        // Ok means that the schema never came, an error that the pool was closed. Nothing is left to do after either.
        let _ = closed.do_until(swept).await;
    });
}

async fn keep_swept(connections: Connections, mut ready: watch::Receiver<bool>, max_bytes: u64, hook: Hook, metrics: AuditMetrics) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    let bounds = Bounds { retention: SWEEP_RETENTION, dead_letter_retention: DEAD_LETTER_RETENTION, max_bytes };
    loop {
        match sweep(&connections, &bounds).await {
            Ok(swept) => {
                if let Some(room) = swept.room_for_name_lists {
                    hook.share_name_lists(room);
                }
                report(swept, &metrics);
            }
            Err(error) => tracing::debug!(%error, "the audit tables could not be swept"),
        }
        // With jitter, so that the servers of a database do not all sweep at the same time.
        tokio::time::sleep(SWEEP_EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

/// Counts and logs what a sweep removed.
fn report(swept: Swept, metrics: &AuditMetrics) {
    /// The other sinks in a database's outbox are files, each with the name of its server.
    fn name(sink: &str) -> &'static str {
        if sink == "webhook" { "webhook" } else { "file" }
    }
    metrics.show_database_bytes(swept.disk.waiting, swept.disk.dead_letters);
    if swept.room_for_name_lists == Some(false) {
        tracing::warn!(
            "audit events are stored with all their names: the lists of names have used up their share of AUDIT_DATABASE_MAX_BYTES"
        );
    }
    for (sink, events) in swept.given_up {
        metrics.of(name(&sink)).dead.inc_by(events);
        tracing::error!(sink, events, "audit events are given up: their sink did not accept them in time");
    }
    for (sink, events) in swept.dropped {
        metrics.of(name(&sink)).dropped.inc_by(events);
        tracing::error!(sink, events, "the oldest audit events are dropped: too many wait (AUDIT_DATABASE_MAX_BYTES)");
    }
    for (sink, letters) in swept.dead_letters_dropped {
        metrics.of(name(&sink)).dead_letters_dropped.inc_by(letters);
        tracing::error!(sink, letters, "the oldest dead letters are dropped: there are too many (AUDIT_DATABASE_MAX_BYTES)");
    }
}

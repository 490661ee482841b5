//! The audit trail: who wrote which metrics when, delivered to each sink.
//!
//! A write leaves a [`Draft`]; an outbox keeps it (in memory, or in the database by the write's own transaction) until each
//! sink has it. No write ever waits for a sink, and a sink that is down costs nothing but the room its events take.

mod delivery;
mod draft;
mod figures;
mod health;
mod lists;
mod outbox;
mod sinks;
#[cfg(test)]
mod tests;

pub use draft::Draft;
#[cfg(test)]
pub use lists::IdList;
pub use outbox::postgres::Hook;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::{WebhookKey, trace};
use golectra_protocol::Metrics;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::delivery::Courier;
use self::figures::{Families, Figures};
use self::lists::Lists;
use self::outbox::Outbox;
use self::outbox::memory::{Entry, Queue};
use self::outbox::postgres::{Lane, sweep};
use self::sinks::Sink;
use self::sinks::file::FileSink;
use self::sinks::webhook::{Webhook, WebhookError};
use crate::clock::Clock;

/// An event that can't be delivered is given up at this age.
const RETENTION: Duration = Duration::from_hours(48);

/// What nobody claims any more is given up a little later, so that its own server has the last try.
const ABANDONED: Duration = Duration::from_hours(49);

/// Dead letters are kept for so long.
const DEAD_RETENTION: Duration = Duration::from_hours(7 * 24);

/// How often backlogs are looked at, and how often the database's outbox is swept.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Which sinks there are.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// `AUDIT_FILE`: a file of NDJSON.
    pub file: Option<PathBuf>,
    /// `AUDIT_URL`: where events are posted.
    pub url: Option<String>,
    /// `AUDIT_KEY`: signs what is posted.
    pub key: Option<WebhookKey>,
    /// Events kept in memory for each sink when there is no database.
    pub queue: usize,
    /// Tells this server's file from those of others on the same database: the host's name, say.
    pub instance: String,
}

/// Where events are kept until they are delivered.
#[derive(Debug, Clone)]
pub enum Backend {
    /// In this process.
    Memory,
    /// In the database's outbox.
    Postgres {
        /// Connections; a few are used now and then.
        pool: PgPool,
        /// True once the schema is there. Nothing is asked of the database before.
        ready: watch::Receiver<bool>,
    },
}

/// Why there is no audit trail.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The webhook can't be used.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The metrics can't be registered.
    #[error("the audit trail's metrics can't be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The audit trail of this server. Clones are the same trail.
#[derive(Clone)]
pub struct Trail(Arc<Inner>);

struct Inner {
    queues: Vec<(Arc<Queue>, Figures)>,
    hook: Option<Hook>,
    /// The lists of ids that agents send each time.
    lists: Lists,
    stop: CancellationToken,
    /// Ends what did not end by itself.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Trail {
    /// Starts delivering; none when there is no sink. Must be called inside a runtime.
    pub fn start(config: AuditConfig, backend: Backend, registry: &prometheus::Registry, clock: Clock) -> Result<Option<Self>, AuditError> {
        let mut sinks: Vec<(String, Arc<dyn Sink>)> = Vec::new();
        if let Some(path) = config.file {
            sinks.push((format!("file:{}", config.instance), Arc::new(FileSink::new(path))));
        }
        if let Some(url) = config.url {
            let secret = config.key.map(|key| key.secret().clone());
            sinks.push(("webhook".to_owned(), Arc::new(Webhook::new(&url, secret, clock)?)));
        }
        if sinks.is_empty() {
            return Ok(None);
        }
        let mut start = Start {
            families: Families::register(registry)?,
            queues: Vec::new(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let hook = match backend {
            Backend::Memory => {
                start.with_queues(sinks, config.queue);
                None
            }
            Backend::Postgres { pool, ready } => Some(start.with_database(sinks, &pool, &ready)),
        };
        let Start { queues, stop, cut, tasks, .. } = start;
        Ok(Some(Self(Arc::new(Inner { queues, hook, lists: Lists::default(), stop, cut, tasks }))))
    }

    /// The event of a write that this peer made at this time.
    pub fn draft(&self, metrics: &Metrics, ip_address: IpAddr, unix_seconds: i64) -> Draft {
        Draft { ts: unix_seconds, ip_address, ids: self.0.lists.of(metrics), traceparent: trace::traceparent() }
    }

    /// Takes the event of a write when there is no database; with one, the [`hook`](Self::hook) does. Never waits: where a
    /// queue is full, the event is counted as dropped.
    pub fn queue(&self, draft: &Draft) {
        if self.0.queues.is_empty() {
            return;
        }
        let entry = Entry { id: Uuid::now_v7(), body: draft.body().into(), traceparent: draft.traceparent.clone() };
        for (queue, figures) in &self.0.queues {
            if !queue.push(entry.clone()) {
                figures.dropped.inc();
            }
        }
    }

    /// What the database store calls in each write's transaction; none without a database.
    pub fn hook(&self) -> Option<Hook> {
        self.0.hook.clone()
    }

    /// To be called when no write will come any more: delivers what would be lost with the process, and ends. Takes `limit`
    /// at most; what is left then is counted as dropped, or waits in the database.
    pub async fn finish(&self, limit: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if timeout(limit, self.0.tasks.wait()).await.is_err() {
            self.0.cut.cancel();
            self.0.tasks.wait().await;
        }
        for (queue, figures) in &self.0.queues {
            let left = queue.len();
            if left > 0 {
                figures.dropped.inc_by(left as u64);
                tracing::error!(events = left, "audit events were not delivered before the server ended");
            }
        }
    }
}

/// What a trail is made of.
struct Start {
    families: Families,
    queues: Vec<(Arc<Queue>, Figures)>,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Start {
    fn with_queues(&mut self, sinks: Vec<(String, Arc<dyn Sink>)>, capacity: usize) {
        for (_, sink) in sinks {
            let queue = Queue::new(capacity);
            let figures = self.deliver(Arc::<Queue>::clone(&queue), sink);
            self.queues.push((queue, figures));
        }
    }

    fn with_database(&mut self, sinks: Vec<(String, Arc<dyn Sink>)>, pool: &PgPool, ready: &watch::Receiver<bool>) -> Hook {
        let (mut names, mut news, mut figures) = (Vec::new(), Vec::new(), Vec::new());
        for (name, sink) in sinks {
            let bell = Arc::new(Notify::new());
            let lane = Lane::new(pool.clone(), ready.clone(), name.clone(), Arc::clone(&bell));
            figures.push(self.deliver(Arc::new(lane), sink));
            names.push(name);
            news.push(bell);
        }
        let sweeping = keep_swept(pool.clone(), ready.clone(), self.families.clone());
        self.background(sweeping);
        Hook::new(names, news)
    }

    fn deliver(&self, outbox: Arc<dyn Outbox>, sink: Arc<dyn Sink>) -> Figures {
        let figures = self.families.of(sink.name());
        let courier = Courier::new(Arc::clone(&outbox), sink, figures.clone(), RETENTION);
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        self.tasks.spawn(async move { cut.run_until_cancelled(courier.run(stop)).await });
        self.background(keep_shown(outbox, figures.clone()));
        figures
    }

    /// Runs a task that ends with the trail.
    fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await });
    }
}

async fn keep_shown(outbox: Arc<dyn Outbox>, figures: Figures) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // What it looked like before is the best that is known while the outbox is unavailable, and its courier says that.
        if let Ok(backlog) = outbox.backlog().await {
            figures.show(backlog);
        }
    }
}

async fn keep_swept(pool: PgPool, mut ready: watch::Receiver<bool>, families: Families) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    loop {
        match sweep(&pool, ABANDONED, DEAD_RETENTION).await {
            Ok(given_up) => {
                for (sink, events) in given_up {
                    let name = if sink.starts_with("file:") { "file" } else { "webhook" };
                    families.of(name).dead.inc_by(events);
                    tracing::error!(sink, events, "audit events are given up: their sink did not take them in time");
                }
            }
            Err(error) => tracing::debug!(%error, "the audit outbox could not be swept"),
        }
        // Servers on one database needn't all sweep at the same moment.
        tokio::time::sleep(SWEEP_EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

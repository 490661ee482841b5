//! Senders: each takes a batch, sends it, and removes it from the queue once the server has it.

mod backoff;
mod client;
mod outcome;
mod probe;
mod server_clock;
mod signer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golectra_process::LogLimiter;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::backoff::{Backoff, Permit};
pub use self::client::Client;
pub(crate) use self::client::with_causes;
use self::outcome::{Outcome, Retry, RetryReason};
pub(crate) use self::probe::Probe;
pub use self::signer::{Signer, SignerError};
use crate::batch::{Batch, Failure};
use crate::clock::Clock;
use crate::metrics::AgentMetrics;
use crate::spool::Queue;

/// The longest pause between two reports of a backlog.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A batch is sealed again only when that moves its time back at least this far; otherwise the server would refuse it again.
const MIN_CORRECTION: Duration = Duration::from_mins(1);

static FAILURES: LogLimiter<RetryReason> = LogLimiter::new();
static REJECTIONS: LogLimiter = LogLimiter::new();
static CORRECTIONS: LogLimiter = LogLimiter::new();
static RECOVERIES: LogLimiter = LogLimiter::new();

/// The running senders.
pub struct Senders {
    tasks: JoinSet<()>,
    backoff: Arc<Backoff>,
}

impl Senders {
    /// Ends the current pause, unless the server asked for it, because the agent is about to end.
    pub fn hurry(&self) {
        self.backoff.end_pause();
    }

    /// Waits until all senders have ended, which they do when the queue is closed and empty, or stops them after the limit.
    pub async fn finish(mut self, limit: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(limit, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// Starts this many senders. `clock` is the one that batches got their times from.
pub fn start(client: Client, queue: Queue, clock: Clock, metrics: &Arc<AgentMetrics>, senders: usize) -> Senders {
    let backoff = Arc::new(Backoff::default());
    let metrics = Arc::clone(metrics);
    let shared = Arc::new(Sender { client, queue, clock, backoff: Arc::clone(&backoff), metrics, outage: Mutex::default() });
    let mut tasks = JoinSet::new();
    for _ in 0..senders {
        let sender = Arc::clone(&shared);
        tasks.spawn(async move { sender.run().await });
    }
    Senders { tasks, backoff }
}

struct Sender {
    client: Client,
    queue: Queue,
    clock: Clock,
    backoff: Arc<Backoff>,
    metrics: Arc<AgentMetrics>,
    outage: Mutex<Outage>,
}

/// A sender with a backlog pauses about as long as the server took to answer, so that after an outage many agents together
/// send less to a server the slower it gets.
fn pause_after(took: Duration) -> Duration {
    took.mul_f64(0.5 + fastrand::f64()).min(MAX_PAUSE)
}

/// Failed tries since the server last settled a batch.
#[derive(Default)]
struct Outage {
    tries: u64,
    since: Option<Instant>,
}

impl Sender {
    async fn run(&self) {
        // The batch is taken only when it may be sent, so that it can still be dropped for newer ones while the sender waits.
        while self.queue.ready().await {
            let permit = self.backoff.permit().await;
            let Some(mut batch) = self.queue.take() else { continue };
            let start = Instant::now();
            let outcome = self.client.send(&batch).await;
            let took = start.elapsed();
            self.metrics.tried(took);
            match outcome {
                Outcome::Acknowledged { replayed } => {
                    permit.succeeded();
                    self.metrics.acknowledged(replayed);
                    self.queue.acknowledge(&batch);
                    self.outage_ends();
                    if self.queue.has_backlog() {
                        sleep(pause_after(took)).await;
                    }
                }
                Outcome::Rejected { reason, error } => {
                    permit.succeeded();
                    let (key, reason_word) = (batch.key(), reason.as_str());
                    REJECTIONS.log(reason_word, move |count| {
                        tracing::error!(count, %key, reason = reason_word, error, "the server rejected a report for good: it is dropped");
                    });
                    batch.record(Failure::Refused);
                    self.queue.reject(&batch, reason);
                    self.outage_ends();
                }
                Outcome::Retry(retry) => self.retry(permit, batch, retry),
            }
        }
    }

    fn retry(&self, permit: Permit, mut batch: Batch, retry: Retry) {
        self.metrics.retried(retry.reason.as_str());
        batch.record(retry.failure);
        if retry.failure == Failure::TooNew
            && batch.attempts().may_be_sealed_again()
            && let Some(unix_millis) = self.corrected_time(&batch)
        {
            let key = batch.key();
            if self.queue.seal_again(batch, unix_millis) {
                permit.succeeded();
                self.metrics.sealed_again();
                let ahead_seconds = (key.unix_millis() - unix_millis) / 1000;
                CORRECTIONS.log("too_new", move |count| {
                    tracing::warn!(count, %key, ahead_seconds, "a report was ahead of the server's clock: it is sent again with its time corrected; check the clock of this host");
                });
                return;
            }
            permit.failed(retry.after);
        } else {
            permit.failed(retry.after);
            self.queue.put_back(batch);
        }
        self.outage_goes_on(retry.reason, retry.error);
    }

    /// When a batch was sealed by the server's clock, or by this host's where the server does not tell the time. None when
    /// that is not clearly before the time that the batch has.
    fn corrected_time(&self, batch: &Batch) -> Option<u64> {
        let now = self.client.server_clock().unix_millis().unwrap_or_else(|| self.clock.unix_millis());
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let sealed = now.saturating_sub(millis(batch.age().total()));
        (sealed.saturating_add(millis(MIN_CORRECTION)) <= batch.key().unix_millis()).then_some(sealed)
    }

    fn outage_goes_on(&self, reason: RetryReason, error: String) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        outage.tries += 1;
        outage.since.get_or_insert_with(Instant::now);
        drop(outage);
        FAILURES.log(reason, move |count| {
            tracing::warn!(count, reason = reason.as_str(), error, "a report could not be delivered: it is kept and tried again");
        });
    }

    fn outage_ends(&self) {
        let outage = std::mem::take(&mut *self.outage.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(since) = outage.since {
            let seconds = since.elapsed().as_secs_f64();
            RECOVERIES.log("recovered", move |count| {
                tracing::info!(count, failed_tries = outage.tries, seconds, "the server takes reports again");
            });
        }
    }
}

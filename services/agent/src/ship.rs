//! Senders: take a batch, send it, and forget it once the server has answered for it.

mod client;
mod gate;
mod sign;
mod verdict;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use self::client::Client;
use self::gate::Gate;
pub use self::sign::{Signer, SignerError};
use self::verdict::{Retry, Verdict};
use crate::spool::Queue;
use crate::stats::Stats;

/// The longest rest between two reports of a backlog.
const MAX_REST: Duration = Duration::from_secs(1);

/// The senders at work.
pub struct Senders {
    tasks: JoinSet<()>,
    gate: Arc<Gate>,
}

impl Senders {
    /// Lets the next try be made at once, unless the server asked for patience: the agent is about to end.
    pub fn hurry(&self) {
        self.gate.open_now();
    }

    /// Waits until all senders have ended, which they do when the queue is closed and empty, or until the limit; then they are cut off.
    pub async fn finish(mut self, limit: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(limit, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// Starts as many senders as may send at once.
pub fn start(client: Client, queue: Queue, stats: &Arc<Stats>, senders: usize) -> Senders {
    let gate = Arc::new(Gate::default());
    let shared = Arc::new(Sender { client, queue, gate: Arc::clone(&gate), stats: Arc::clone(stats), outage: Mutex::default() });
    let mut tasks = JoinSet::new();
    for _ in 0..senders {
        let sender = Arc::clone(&shared);
        tasks.spawn(async move { sender.run().await });
    }
    Senders { tasks, gate }
}

struct Sender {
    client: Client,
    queue: Queue,
    gate: Arc<Gate>,
    stats: Arc<Stats>,
    outage: Mutex<Outage>,
}

/// A sender with a backlog rests about as long as the server took to answer, so that after an outage many agents together
/// ask no more of a server the slower it gets.
fn rest_after(took: Duration) -> Duration {
    took.mul_f64(0.5 + fastrand::f64()).min(MAX_REST)
}

/// What went wrong since the server last answered for a batch.
#[derive(Default)]
struct Outage {
    tries: u64,
    since: Option<Instant>,
    logged: BTreeSet<&'static str>,
}

impl Sender {
    async fn run(&self) {
        // The batch is chosen only when it may be sent, so that what waits meanwhile can still make room.
        while self.queue.ready().await {
            let pass = self.gate.pass().await;
            let Some(mut batch) = self.queue.take() else { continue };
            let start = Instant::now();
            let verdict = self.client.send(&batch).await;
            let took = start.elapsed();
            self.stats.tried(took);
            match verdict {
                Verdict::Acknowledged { replayed } => {
                    pass.succeeded();
                    self.stats.acknowledged(replayed);
                    self.queue.settled(&batch);
                    self.over();
                    if self.queue.has_backlog() {
                        sleep(rest_after(took)).await;
                    }
                }
                Verdict::Refused { reason, error } => {
                    pass.succeeded();
                    tracing::error!(
                        key = %batch.key(), reason = reason.as_str(), error,
                        "the server refused a report for good: it is dropped"
                    );
                    batch.tried(false);
                    self.queue.refused(&batch, reason);
                    self.over();
                }
                Verdict::Retry(retry) => {
                    pass.failed(retry.after);
                    self.stats.retried(retry.reason);
                    if retry.reached {
                        batch.tried(retry.may_be_applied);
                    }
                    self.failed(&retry);
                    self.queue.put_back(batch);
                }
            }
        }
    }

    /// Logs each kind of failure once an outage, not every try.
    fn failed(&self, retry: &Retry) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        outage.tries += 1;
        outage.since.get_or_insert_with(Instant::now);
        if outage.logged.insert(retry.reason) {
            tracing::warn!(reason = retry.reason, error = retry.error, "a report could not be delivered: it is kept and tried again");
        }
    }

    fn over(&self) {
        let outage = std::mem::take(&mut *self.outage.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(since) = outage.since {
            tracing::info!(failed_tries = outage.tries, seconds = since.elapsed().as_secs_f64(), "the server answers again");
        }
    }
}

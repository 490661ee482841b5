//! Delivers what waits: one task a receiver, so that a slow one delays no other.
//!
//! A receiver gets its notifications one after the other, in the order in which they were made, whichever server delivers them.

use std::sync::Arc;
use std::time::Duration;

use golectra_process::LogLimiter;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{DeliveryError, Receiver, ReceiverBook, Sender};
use crate::alerts::store::{AlertStore, Claimed, Settled};
use crate::clock::Clock;
use crate::metrics::alerts::AlertMetrics;

/// How often a receiver's task looks for notifications that another server made.
const POLL: Duration = Duration::from_secs(2);
/// The first pause after a failure; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A notification that its receiver refuses is given up after this many tries.
const TRIES_OF_A_REFUSED: u32 = 5;

/// Log lines about receivers, by name.
static LOG: LogLimiter<String> = LogLimiter::new();

/// See the module's documentation.
#[derive(Clone)]
pub struct Deliveries {
    /// What waits.
    pub states: Arc<dyn AlertStore>,
    /// Whom for.
    pub receivers: ReceiverBook,
    /// What this counts.
    pub metrics: AlertMetrics,
    /// Wakes the tasks when something new waits.
    pub wake: Arc<Notify>,
    /// Tells the time of signatures.
    pub clock: Clock,
}

impl Deliveries {
    /// Delivers until it is to stop. A delivery that is under way then, or whose receiver is no longer there, comes to its end: one that is cut off is
    /// delivered again.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.receivers.changes();
        loop {
            let receivers = Arc::clone(&changes.borrow_and_update());
            let ended = CancellationToken::new();
            let mut tasks = JoinSet::new();
            for receiver in receivers.iter() {
                let (deliveries, receiver, ended) = (self.clone(), receiver.clone(), ended.clone());
                tasks.spawn(async move { deliveries.deliver_to(receiver, ended).await });
            }
            let is_over = tokio::select! {
                result = changes.changed() => result.is_err(),
                () = stop.cancelled() => true,
            };
            ended.cancel();
            while tasks.join_next().await.is_some() {}
            if is_over {
                return;
            }
        }
    }

    async fn deliver_to(&self, receiver: Receiver, ended: CancellationToken) {
        let name = receiver.name.clone();
        let sender = match Sender::new(receiver, self.clock.clone()) {
            Ok(sender) => sender,
            Err(problem) => {
                tracing::error!(receiver = name, problem, "a receiver can't be used");
                return;
            }
        };
        while !ended.is_cancelled() {
            match self.states.claim(&name).await {
                Ok(Some(claimed)) => self.try_once(&sender, &name, &claimed).await,
                Ok(None) => {
                    let pause = timeout(POLL.mul_f64(0.75 + fastrand::f64() / 2.0), self.wake.notified());
                    let _ = ended.run_until_cancelled(pause).await;
                }
                Err(error) => {
                    let receiver = name.clone();
                    LOG.log(
                        format!("store {name}"),
                        move |count| tracing::warn!(count, receiver, %error, "what waits for a receiver can't be read"),
                    );
                    let _ = ended.run_until_cancelled(sleep(POLL.mul_f64(1.0 + fastrand::f64()))).await;
                }
            }
        }
    }

    async fn try_once(&self, sender: &Sender, name: &str, claimed: &Claimed) {
        let settled = match sender.send(&claimed.notification).await {
            Ok(()) => {
                self.metrics.delivered(name);
                Settled::Done
            }
            Err(error) => {
                self.metrics.failed(name);
                let (receiver, reason, attempts) = (name.to_owned(), error.to_string(), claimed.attempts + 1);
                let is_over = self.states.now_ms() >= claimed.notification.expires_ms;
                let is_refused = matches!(error, DeliveryError::Refused { .. }) && attempts >= TRIES_OF_A_REFUSED;
                if is_over || is_refused {
                    self.metrics.dropped(name);
                    LOG.log(format!("dropped {name}"), move |count| tracing::error!(count, receiver, reason, "notifications are given up"));
                    Settled::Done
                } else {
                    LOG.log(format!("failed {name}"), move |count| {
                        tracing::warn!(count, receiver, reason, attempts, "a notification was not delivered, trying again");
                    });
                    let asked = if let DeliveryError::Failed { retry_after, .. } = error { retry_after } else { None };
                    Settled::Retry(asked.unwrap_or_default().max(pause(attempts)))
                }
            }
        };
        if let Err(error) = self.states.settle(claimed, settled).await {
            let receiver = name.to_owned();
            LOG.log(format!("settle {name}"), move |count| {
                tracing::warn!(count, receiver, %error, "what became of a notification could not be recorded: it may be delivered again");
            });
            sleep(POLL.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    }
}

/// The pause after this many failures: a random part of up to a half of it is left out.
fn pause(failures: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LONGEST_PAUSE);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use uuid::Uuid;

    use super::*;
    use crate::alerts::notification::Notification;
    use crate::alerts::state::Texts;
    use crate::alerts::store::Commit;
    use crate::alerts::store::memory::MemoryAlertStore;

    #[tokio::test]
    async fn a_delivery_that_is_under_way_comes_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let receivers = format!("receivers:\n- name: r\n  webhook: {{url: 'http://{}/'}}\n", listener.local_addr().unwrap());
        std::fs::write(file.path(), receivers).unwrap();
        let states = Arc::new(MemoryAlertStore::open(None, false, Clock::System).unwrap());
        let now_ms = states.now_ms();
        let (group, expires_ms) = (Texts::new(), now_ms + 60_000);
        let one = Notification {
            id: Uuid::now_v7(),
            receiver: "r".into(),
            created_ms: now_ms,
            expires_ms,
            group,
            alerts: Vec::new(),
            external_url: String::new(),
        };
        assert!(states.commit(Commit { at_ms: now_ms, notifications: vec![one], ..Commit::default() }).await.unwrap());
        let deliveries = Deliveries {
            states: Arc::<MemoryAlertStore>::clone(&states),
            receivers: ReceiverBook::open(Some(file.path())).unwrap(),
            metrics: AlertMetrics::register(&Registry::new()).unwrap(),
            wake: Arc::default(),
            clock: Clock::System,
        };
        let stop = CancellationToken::new();
        let run = tokio::spawn(deliveries.run(stop.clone()));
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(connection.read(&mut request).await.unwrap() > 0);
        stop.cancel();
        tokio::task::yield_now().await;
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        timeout(Duration::from_secs(30), run).await.unwrap().unwrap();
        assert!(states.waiting().await.unwrap().is_empty(), "it was delivered, and does not come again");
    }

    #[test]
    fn pauses_grow_up_to_a_minute() {
        for (failures, longest) in [(1, 1), (2, 2), (3, 4), (7, 60), (100, 60)] {
            let pause = pause(failures).as_secs_f64();
            assert!((f64::from(longest) / 2.0..=f64::from(longest)).contains(&pause), "{failures}: {pause}");
        }
    }
}

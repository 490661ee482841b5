//! Delivers what waits: one task a receiver, so that a slow one delays no other.
//!
//! Of each group a receiver gets its notifications one after the other, in the order in which they were made, whichever server delivers them. While one
//! can't be delivered, later ones of its group wait and those of other groups don't.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::LogLimiter;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{DeliveryError, Receiver, ReceiverBook, Sender};
use crate::alerts::notification::Notification;
use crate::alerts::store::{AlertStore, Claimed, Settled};
use crate::clock::Clock;
use crate::metrics::alerts::AlertMetrics;

/// How often a receiver's task looks for notifications that another server made.
const POLL: Duration = Duration::from_secs(2);
/// The first pause of a notification after a failure; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A notification that its receiver refuses is given up after this many tries, and not before [`REFUSED_FOR_MS`].
const TRIES_OF_A_REFUSED: u32 = 5;
/// The age at which a refused notification is given up, where the receiver took another one meanwhile. Else the mistake may be in the receiver's settings, and
/// all that it is told is refused: then it waits, and NotificationsFailing fires.
const REFUSED_FOR_MS: i64 = 5 * 60 * 1000;
/// The same for one at which the receiver fails: it may be the receiver's fault or that of the notification.
const BROKEN_FOR_MS: i64 = 30 * 60 * 1000;
/// The age at which a notification at which an Alertmanager fails is given up: until then all else for it waits, and from then on another one replaces it. What
/// it refuses twice is given up at once: it has taken the alerts that it accepts.
const REPLACED_AFTER_MS: i64 = 60 * 1000;

/// Log lines about receivers, by name.
static LOG: LogLimiter<String> = LogLimiter::new();

/// What became of a try.
#[derive(Debug, PartialEq, Eq)]
enum Tried {
    Delivered,
    /// The receiver does not take this one; perhaps it takes others.
    NotTaken,
    /// The receiver takes none, for so long if it said so.
    Away {
        retry_after: Option<Duration>,
    },
}

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
        // Rules see what is dropped as an increase, from 0 on.
        self.metrics.dropped(&name, 0);
        let sender = match Sender::new(receiver, self.clock.clone()) {
            Ok(sender) => sender,
            Err(problem) => {
                tracing::error!(receiver = name, problem, "a receiver can't be used");
                return;
            }
        };
        // When it took something last, and how often in a row it took nothing at all since.
        let (mut taken_ms, mut away) = (None, 0);
        let mut refused = BTreeMap::new();
        while !ended.is_cancelled() {
            match self.states.claim(&name).await {
                Ok(Some(claimed)) => {
                    let wait = match self.try_once(&sender, &name, &claimed, taken_ms, &mut refused).await {
                        Tried::Delivered => {
                            (taken_ms, away) = (Some(self.states.now_ms()), 0);
                            continue;
                        }
                        Tried::NotTaken => {
                            away = 0;
                            FIRST_PAUSE
                        }
                        // The next one is of another group: a receiver that is away is not asked for each group by itself.
                        Tried::Away { retry_after } => {
                            away += 1;
                            retry_after.unwrap_or_default().min(LONGEST_PAUSE).max(pause(away))
                        }
                    };
                    let _ = ended.run_until_cancelled(sleep(wait)).await;
                }
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

    /// Tries to deliver one. `taken_ms` is when its receiver took one last. `refused` has those that it refused, if it is an Alertmanager, and when they expire.
    async fn try_once(
        &self,
        sender: &Sender,
        name: &str,
        claimed: &Claimed,
        taken_ms: Option<i64>,
        refused: &mut BTreeMap<Uuid, i64>,
    ) -> Tried {
        let (settled, tried) = match sender.send(&claimed.notification).await {
            Ok(()) => {
                self.metrics.delivered(name);
                (Settled::Done, Tried::Delivered)
            }
            Err(error) => {
                self.metrics.failed(name);
                let (receiver, reason, attempts) = (name.to_owned(), error.to_string(), claimed.attempts + 1);
                let now_ms = self.states.now_ms();
                let (given_up_after_ms, retry_after, tried) = match error {
                    DeliveryError::Failed { retry_after, .. } => (None, retry_after, Tried::Away { retry_after }),
                    DeliveryError::Broken { retry_after, .. } => (Some(BROKEN_FOR_MS), retry_after, Tried::NotTaken),
                    DeliveryError::Refused { .. } => (Some(REFUSED_FOR_MS), None, Tried::NotTaken),
                };
                let Notification { id, created_ms, expires_ms, .. } = claimed.notification;
                let age_ms = now_ms - created_ms;
                let is_old = given_up_after_ms.is_some_and(|after_ms| age_ms >= after_ms);
                let is_the_cause = taken_ms.is_some_and(|taken_ms| taken_ms > created_ms);
                let is_given_up = match error {
                    _ if !sender.tells_again() => attempts >= TRIES_OF_A_REFUSED && is_old && is_the_cause,
                    DeliveryError::Failed { .. } => false,
                    DeliveryError::Broken { .. } => age_ms >= REPLACED_AFTER_MS,
                    // The tries at which it was away say nothing about this one.
                    DeliveryError::Refused { .. } => {
                        refused.retain(|_, expires_ms| *expires_ms > now_ms);
                        refused.insert(id, expires_ms).is_some()
                    }
                };
                let settled = if now_ms >= expires_ms || is_given_up {
                    self.metrics.dropped(name, 1);
                    LOG.log(format!("dropped {name}"), move |count| tracing::error!(count, receiver, reason, "notifications are given up"));
                    Settled::Done
                } else {
                    LOG.log(format!("failed {name}"), move |count| {
                        tracing::warn!(count, receiver, reason, attempts, "a notification was not delivered, trying again");
                    });
                    Settled::Retry(retry_after.unwrap_or_default().max(pause(attempts)))
                };
                (settled, tried)
            }
        };
        if let Err(error) = self.states.settle(claimed, settled).await {
            let receiver = name.to_owned();
            LOG.log(format!("settle {name}"), move |count| {
                tracing::warn!(count, receiver, %error, "what became of a notification could not be recorded: it may be delivered again");
            });
            sleep(POLL.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
        tried
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

    use super::*;
    use crate::alerts::state::Texts;
    use crate::alerts::store::Commit;
    use crate::alerts::store::memory::MemoryAlertStore;

    /// One notification that waits for a receiver of this kind at this listener, and what delivers it. The file is of the receivers.
    async fn waiting(
        kind: &str,
        listener: &TcpListener,
        clock: Clock,
        lasts_ms: i64,
    ) -> (Arc<MemoryAlertStore>, Deliveries, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let receivers = format!("receivers:\n- name: r\n  {kind}: {{url: 'http://{}/'}}\n", listener.local_addr().unwrap());
        std::fs::write(file.path(), receivers).unwrap();
        let states = Arc::new(MemoryAlertStore::open(None, false, clock.clone()).unwrap());
        let now_ms = states.now_ms();
        let one = Notification {
            id: Uuid::now_v7(),
            receiver: "r".into(),
            created_ms: now_ms,
            expires_ms: now_ms + lasts_ms,
            external_url: String::new(),
            group: Texts::new(),
            alerts: Vec::new(),
            others_firing: 0,
        };
        assert!(states.commit(Commit { at_ms: now_ms, notifications: vec![one], ..Commit::default() }).await.unwrap());
        let deliveries = Deliveries {
            states: Arc::<MemoryAlertStore>::clone(&states),
            receivers: ReceiverBook::open(Some(file.path())).unwrap(),
            metrics: AlertMetrics::register(&Registry::new()).unwrap(),
            wake: Arc::default(),
            clock,
        };
        (states, deliveries, file)
    }

    #[tokio::test]
    async fn a_delivery_that_is_under_way_comes_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (states, deliveries, _file) = waiting("webhook", &listener, Clock::System, 60_000).await;
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

    /// Answers each request with the next of these, one connection after the other.
    async fn answer_all(listener: TcpListener, statuses: impl Iterator<Item = &'static str>) {
        for status in statuses {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
            // With something unread the connection would be reset, and the answer might be lost.
            while connection.read(&mut request).await.is_ok_and(|read| read > 0) {}
        }
    }

    #[tokio::test]
    async fn what_is_refused_waits_for_some_minutes_before_it_is_given_up() {
        const START_MS: i64 = 1_800_000_000_000;
        for (status, minutes) in [
            ("400 Bad Request", Some(5)),
            ("500 Internal Server Error", Some(30)),
            ("503 Service Unavailable", None),
            ("401 Unauthorized", None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let clock = Clock::at(START_MS.unsigned_abs());
            let (states, deliveries, _file) = waiting("webhook", &listener, clock.clone(), 24 * 3_600_000).await;
            let server = tokio::spawn(answer_all(listener, std::iter::repeat(status)));
            let sender = Sender::new(deliveries.receivers.current()[0].clone(), clock.clone()).unwrap();
            let try_at = async |after_ms: i64, taken_ms: Option<i64>| {
                clock.set((START_MS + after_ms).unsigned_abs());
                let claimed = states.claim("r").await.unwrap().expect("it is due");
                let tried = deliveries.try_once(&sender, "r", &claimed, taken_ms, &mut BTreeMap::new()).await;
                assert_eq!(tried, if minutes.is_some() { Tried::NotTaken } else { Tried::Away { retry_after: None } }, "{status}");
                states.waiting().await.unwrap().get("r").map(|waiting| waiting.oldest_ms)
            };
            let other = Some(START_MS + 1);
            // More often than it is given up after, within a minute.
            for seconds in [0, 10, 20, 30, 50] {
                assert_eq!(try_at(seconds * 1000, other).await, Some(START_MS), "{status} after {seconds} s");
            }
            let minutes_ms = minutes.unwrap_or(30) * 60_000;
            assert_eq!(try_at(minutes_ms - 1, other).await, Some(START_MS), "{status}");
            let late_ms = minutes_ms + 2 * 60_000;
            for (minute, taken_ms) in [(0, None), (2, Some(START_MS - 1))] {
                let left = try_at(late_ms + minute * 60_000, taken_ms).await;
                assert_eq!(left, Some(START_MS), "{status}: nothing else was taken since, so that it may not be the cause");
            }
            let left = if minutes.is_some() { None } else { Some(START_MS) };
            assert_eq!(try_at(late_ms + 4 * 60_000, other).await, left, "{status}");
            server.abort();
        }
    }

    #[tokio::test]
    async fn what_an_alertmanager_refuses_or_fails_at_is_given_up_soon() {
        const START_MS: i64 = 1_800_000_000_000;
        const REFUSED: &str = "400 Bad Request";
        const BROKEN: &str = "500 Internal Server Error";
        const AWAY: &str = "503 Service Unavailable";
        for (tries, is_given_up) in [
            (vec![(0_i64, REFUSED)], false),
            (vec![(0, REFUSED), (2, REFUSED)], true),
            (vec![(0, AWAY), (2, AWAY), (10, REFUSED)], false),
            (vec![(0, AWAY), (2, REFUSED), (10, AWAY), (20, REFUSED)], true),
            (vec![(0, BROKEN), (2, BROKEN), (10, BROKEN), (59, BROKEN)], false),
            (vec![(0, BROKEN), (60, BROKEN)], true),
            (vec![(0, AWAY), (2, AWAY), (60, AWAY)], false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let clock = Clock::at(START_MS.unsigned_abs());
            let (states, mut deliveries, _file) = waiting("alertmanager", &listener, clock.clone(), 240_000).await;
            let registry = Registry::new();
            deliveries.metrics = AlertMetrics::register(&registry).unwrap();
            let statuses: Vec<&'static str> = tries.iter().map(|(_, status)| *status).collect();
            let server = tokio::spawn(answer_all(listener, statuses.into_iter()));
            let sender = Sender::new(deliveries.receivers.current()[0].clone(), clock.clone()).unwrap();
            let (mut first, mut refused) = (None, BTreeMap::new());
            for &(seconds, _) in &tries {
                clock.set((START_MS + seconds * 1000).unsigned_abs());
                let claimed = states.claim("r").await.unwrap().expect("it is due");
                let id = claimed.notification.id;
                if first.is_none() {
                    let next = Notification { id: Uuid::now_v7(), ..claimed.notification.clone() };
                    assert!(states.commit(Commit { at_ms: START_MS + 1, notifications: vec![next], ..Commit::default() }).await.unwrap());
                }
                assert_eq!(*first.get_or_insert(id), id, "{tries:?}: all of them are one group");
                deliveries.try_once(&sender, "r", &claimed, None, &mut refused).await;
            }
            clock.set((START_MS + 90_000).unsigned_abs());
            let claimed = states.claim("r").await.unwrap().expect("one is due");
            assert_eq!(first != Some(claimed.notification.id), is_given_up, "{tries:?}");
            let families = registry.gather();
            let dropped = families.iter().find(|family| family.name() == "golectra_alerts_notifications_dropped_total");
            let count = dropped.map(|family| family.get_metric()[0].get_counter().get_value().to_string());
            assert_eq!(count.as_deref(), is_given_up.then_some("1"), "{tries:?}");
            server.abort();
        }
    }

    #[test]
    fn pauses_grow_up_to_a_minute() {
        for (failures, longest) in [(1, 1), (2, 2), (3, 4), (7, 60), (100, 60)] {
            let pause = pause(failures).as_secs_f64();
            assert!((f64::from(longest) / 2.0..=f64::from(longest)).contains(&pause), "{failures}: {pause}");
        }
    }
}

//! The outbox of a server without a database: a bounded queue a sink.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{Backlog, Delivery, LEASE, Outbox, OutboxError, Settlement, Verdict};

/// How often a waiting reader looks without being told.
const POLL: Duration = Duration::from_secs(1);

/// The longest pause between two tries once the process is ending.
const LAST_CALL_PAUSE: Duration = Duration::from_millis(250);

/// One event, shared by the queues of all sinks.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The event's id.
    pub id: Uuid,
    /// The event's JSON.
    pub body: Bytes,
    /// The W3C trace context of the write.
    pub traceparent: Option<String>,
}

/// One sink's queue. When it is full, new events are refused: what stands already is older.
#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: i64,
    events: BTreeMap<i64, Waiting>,
    last_call: bool,
}

#[derive(Debug)]
struct Waiting {
    entry: Entry,
    since: Instant,
    /// When it may be claimed; while it is claimed, the end of the lease.
    due: Instant,
    claimed: bool,
    attempts: u32,
}

impl Queue {
    /// A queue of at most this many events.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, state: Mutex::default(), news: Notify::new() })
    }

    /// Takes an event, unless the queue is full. Never waits.
    pub fn push(&self, entry: Entry) -> bool {
        let mut state = self.state();
        if state.events.len() >= self.capacity {
            return false;
        }
        let ticket = state.next;
        state.next += 1;
        let now = Instant::now();
        state.events.insert(ticket, Waiting { entry, since: now, due: now, claimed: false, attempts: 0 });
        drop(state);
        self.news.notify_one();
        true
    }

    /// Events that wait or are being delivered.
    pub fn len(&self) -> usize {
        self.state().events.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Outbox for Queue {
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, OutboxError> {
        let now = Instant::now();
        let mut claimed = Vec::new();
        for (ticket, waiting) in self.state().events.iter_mut().filter(|(_, waiting)| waiting.due <= now).take(limit) {
            waiting.claimed = true;
            waiting.due = now + LEASE;
            claimed.push(Delivery {
                ticket: *ticket,
                id: waiting.entry.id,
                body: waiting.entry.body.clone(),
                traceparent: waiting.entry.traceparent.clone(),
                age: now - waiting.since,
                attempts: waiting.attempts,
            });
        }
        Ok(claimed)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), OutboxError> {
        let mut state = self.state();
        for Settlement { ticket, verdict } in settlements {
            let longest = if state.last_call { LAST_CALL_PAUSE } else { Duration::MAX };
            let (failed, after) = match verdict {
                Verdict::Delivered | Verdict::Dead(_) => {
                    state.events.remove(ticket);
                    continue;
                }
                Verdict::Retry(after) => (1, (*after).min(longest)),
                Verdict::Return => (0, Duration::ZERO),
            };
            if let Some(waiting) = state.events.get_mut(ticket) {
                waiting.claimed = false;
                waiting.attempts += failed;
                waiting.due = Instant::now() + after;
            }
        }
        Ok(())
    }

    async fn wait(&self) {
        let latest = Instant::now() + POLL;
        let due = self.state().events.values().filter(|waiting| !waiting.claimed).map(|waiting| waiting.due).min();
        tokio::select! {
            () = self.news.notified() => {}
            () = sleep_until(due.map_or(latest, |due| due.min(latest))) => {}
        }
    }

    async fn backlog(&self) -> Result<Backlog, OutboxError> {
        let state = self.state();
        let oldest = state.events.first_key_value().map_or(0.0, |(_, waiting)| waiting.since.elapsed().as_secs_f64());
        Ok(Backlog { events: state.events.len() as u64, oldest_seconds: oldest })
    }

    fn last_call(&self) -> bool {
        let mut state = self.state();
        state.last_call = true;
        let now = Instant::now();
        for waiting in state.events.values_mut().filter(|waiting| !waiting.claimed) {
            waiting.due = now;
        }
        drop(state);
        self.news.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &'static str) -> Entry {
        Entry { id: Uuid::now_v7(), body: Bytes::from_static(body.as_bytes()), traceparent: None }
    }

    async fn bodies(queue: &Queue, limit: usize) -> Vec<Bytes> {
        queue.claim(limit).await.unwrap().into_iter().map(|delivery| delivery.body).collect()
    }

    async fn settle(queue: &Queue, ticket: i64, verdict: Verdict) {
        queue.settle(&[Settlement { ticket, verdict }]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_and_a_delivered_event_makes_room() {
        let queue = Queue::new(2);
        assert!(queue.push(entry("a")) && queue.push(entry("b")));
        assert!(!queue.push(entry("c")));
        let claimed = queue.claim(1).await.unwrap();
        assert!(!queue.push(entry("c")), "an event in delivery still has its place");
        settle(&queue, claimed[0].ticket, Verdict::Delivered).await;
        assert!(queue.push(entry("d")));
        assert_eq!(bodies(&queue, 9).await, ["b", "d"]);
        assert!(bodies(&queue, 9).await.is_empty(), "claimed events are claimed once");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_for_their_time_and_leases_run_out() {
        let queue = Queue::new(9);
        queue.push(entry("a"));
        queue.push(entry("b"));
        let claimed = queue.claim(9).await.unwrap();
        settle(&queue, claimed[0].ticket, Verdict::Retry(Duration::from_millis(700))).await;
        assert!(queue.claim(9).await.unwrap().is_empty());
        let before = Instant::now();
        queue.wait().await; // "a" woke it when it was pushed
        queue.wait().await;
        assert_eq!(before.elapsed(), Duration::from_millis(700));
        let again = queue.claim(9).await.unwrap();
        assert_eq!((again.len(), again[0].attempts, again[0].age), (1, 1, Duration::from_millis(700)));
        tokio::time::advance(LEASE).await;
        assert_eq!(bodies(&queue, 9).await, ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_call_makes_everything_due_but_what_is_on_its_way() {
        let queue = Queue::new(9);
        for body in ["a", "b", "c"] {
            queue.push(entry(body));
        }
        let claimed = queue.claim(2).await.unwrap();
        settle(&queue, claimed[0].ticket, Verdict::Retry(Duration::from_mins(1))).await;
        assert!(queue.last_call());
        assert_eq!(bodies(&queue, 9).await, ["a", "c"]);
        settle(&queue, claimed[0].ticket, Verdict::Retry(Duration::from_mins(1))).await;
        tokio::time::advance(LAST_CALL_PAUSE).await;
        assert_eq!(bodies(&queue, 9).await, ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_counts_what_is_not_delivered() {
        let queue = Queue::new(9);
        assert_eq!(queue.backlog().await.unwrap(), Backlog::default());
        queue.push(entry("a"));
        tokio::time::advance(Duration::from_secs(5)).await;
        queue.push(entry("b"));
        queue.claim(1).await.unwrap();
        assert_eq!(queue.backlog().await.unwrap(), Backlog { events: 2, oldest_seconds: 5.0 });
    }
}

//! The outbox of a server without a database: a bounded queue for each sink.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{Backlog, CLAIM_BYTES, Delivery, DeliveryOutcome, LEASE, Outbox, OutboxError, Settlement};
use crate::audit::draft::EventContent;

/// How often a waiting reader looks for events without being woken.
const POLL: Duration = Duration::from_secs(1);

/// The longest pause between two tries during a shutdown.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(250);

/// One event, shared by the queues of all sinks.
#[derive(Debug, Clone)]
pub struct QueuedEvent {
    /// The event's id.
    pub id: Uuid,
    /// The event's content.
    pub content: EventContent,
    /// The W3C trace context of the write.
    pub traceparent: Option<String>,
}

/// The queue of one sink. When it is full, new events are refused; those in the queue stay.
#[derive(Debug)]
pub struct MemoryOutbox {
    max_events: usize,
    max_bytes: usize,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    next_ticket: i64,
    events: BTreeMap<i64, Waiting>,
    /// The sum of the events' [`EventContent::bytes`].
    bytes: usize,
    shutdown: bool,
}

#[derive(Debug)]
struct Waiting {
    event: QueuedEvent,
    since: Instant,
    /// When the event may be claimed; while it is claimed, the end of the lease.
    due: Instant,
    claimed: bool,
    attempts: u32,
}

impl MemoryOutbox {
    /// A queue with these limits of events and of bytes of JSON. The events take less memory than that, because they share
    /// their names.
    pub fn new(max_events: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_events, max_bytes, state: Mutex::default(), wake: Notify::new() })
    }

    /// Adds an event, unless the queue is full. Never waits.
    pub fn push(&self, event: QueuedEvent) -> bool {
        let mut state = self.state();
        let bytes = state.bytes + event.content.bytes();
        if state.events.len() >= self.max_events || (bytes > self.max_bytes && !state.events.is_empty()) {
            return false;
        }
        state.bytes = bytes;
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let now = Instant::now();
        state.events.insert(ticket, Waiting { event, since: now, due: now, claimed: false, attempts: 0 });
        drop(state);
        self.wake.notify_one();
        true
    }

    /// The number of events that wait or are being delivered.
    pub fn len(&self) -> usize {
        self.state().events.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code between related changes can panic, so the data behind a poisoned lock is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, OutboxError> {
        let now = Instant::now();
        let (mut claimed, mut bytes) = (Vec::new(), 0);
        for (ticket, waiting) in self.state().events.iter_mut().filter(|(_, waiting)| waiting.due <= now).take(limit) {
            if bytes >= CLAIM_BYTES {
                break;
            }
            bytes += waiting.event.content.bytes();
            waiting.claimed = true;
            waiting.due = now + LEASE;
            claimed.push(Delivery {
                ticket: *ticket,
                id: waiting.event.id,
                content: waiting.event.content.clone(),
                traceparent: waiting.event.traceparent.clone(),
                age: now - waiting.since,
                attempts: waiting.attempts,
            });
        }
        Ok(claimed)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), OutboxError> {
        let mut state = self.state();
        for Settlement { ticket, outcome } in settlements {
            let longest = if state.shutdown { SHUTDOWN_PAUSE } else { Duration::MAX };
            let (failed, after) = match outcome {
                DeliveryOutcome::Delivered | DeliveryOutcome::GivenUp(_) => {
                    if let Some(gone) = state.events.remove(ticket) {
                        state.bytes -= gone.event.content.bytes();
                    }
                    continue;
                }
                DeliveryOutcome::Retry(after) => (1, (*after).min(longest)),
                DeliveryOutcome::NotTried => (0, Duration::ZERO),
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
            () = self.wake.notified() => {}
            () = sleep_until(due.map_or(latest, |due| due.min(latest))) => {}
        }
    }

    async fn backlog(&self) -> Result<Backlog, OutboxError> {
        let state = self.state();
        let oldest = state.events.first_key_value().map_or(0.0, |(_, waiting)| waiting.since.elapsed().as_secs_f64());
        Ok(Backlog { events: state.events.len() as u64, oldest_seconds: oldest })
    }

    fn begin_shutdown(&self) -> bool {
        let mut state = self.state();
        state.shutdown = true;
        let now = Instant::now();
        for waiting in state.events.values_mut().filter(|waiting| !waiting.claimed) {
            waiting.due = now;
        }
        drop(state);
        self.wake.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: i64, names: &str) -> QueuedEvent {
        let content = EventContent { ts: number, names: names.into(), ip_address: "::1".into() };
        QueuedEvent { id: Uuid::now_v7(), content, traceparent: None }
    }

    fn small(number: i64) -> QueuedEvent {
        event(number, "[]")
    }

    fn queue() -> Arc<MemoryOutbox> {
        MemoryOutbox::new(9, usize::MAX)
    }

    async fn numbers(queue: &MemoryOutbox, limit: usize) -> Vec<i64> {
        queue.claim(limit).await.unwrap().into_iter().map(|delivery| delivery.content.ts).collect()
    }

    async fn settle(queue: &MemoryOutbox, ticket: i64, outcome: DeliveryOutcome) {
        queue.settle(&[Settlement { ticket, outcome }]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_and_a_delivered_event_makes_room() {
        let queue = MemoryOutbox::new(2, usize::MAX);
        assert!(queue.push(small(1)) && queue.push(small(2)));
        assert!(!queue.push(small(3)));
        let claimed = queue.claim(1).await.unwrap();
        assert!(!queue.push(small(3)), "an event that is being delivered still takes up room");
        settle(&queue, claimed[0].ticket, DeliveryOutcome::Delivered).await;
        assert!(queue.push(small(4)));
        assert_eq!(numbers(&queue, 9).await, [2, 4]);
        assert!(numbers(&queue, 9).await.is_empty(), "claimed events are not claimed again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_full_by_bytes_too() {
        let queue = MemoryOutbox::new(1000, 1000);
        let names = format!("[\"{}\"]", "x".repeat(396));
        assert!(queue.push(event(1, &names)) && queue.push(event(2, &names)) && !queue.push(event(3, &names)));
        assert!(queue.push(small(4)), "there is room for a smaller event");
        let claimed = queue.claim(9).await.unwrap();
        settle(&queue, claimed[0].ticket, DeliveryOutcome::GivenUp("age".into())).await;
        assert!(queue.push(event(5, &names)));
        let large = MemoryOutbox::new(2, 10);
        assert!(large.push(event(1, &names)) && !large.push(small(2)), "one event is accepted however long it is");
        assert_eq!(numbers(&large, 9).await, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_few_large_events_are_claimed_at_a_time() {
        let queue = queue();
        let names = "x".repeat(CLAIM_BYTES / 2 + 1);
        for number in 0..5 {
            queue.push(event(number, &names));
        }
        assert_eq!(numbers(&queue, 9).await, [0, 1]);
        assert_eq!(numbers(&queue, 9).await, [2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_until_they_are_due_and_leases_expire() {
        let queue = queue();
        queue.push(small(1));
        queue.push(small(2));
        let claimed = queue.claim(9).await.unwrap();
        settle(&queue, claimed[0].ticket, DeliveryOutcome::Retry(Duration::from_millis(700))).await;
        assert!(queue.claim(9).await.unwrap().is_empty());
        let before = Instant::now();
        queue.wait().await; // the first event woke it when it was pushed
        queue.wait().await;
        assert_eq!(before.elapsed(), Duration::from_millis(700));
        let again = queue.claim(9).await.unwrap();
        assert_eq!((again.len(), again[0].attempts, again[0].age), (1, 1, Duration::from_millis(700)));
        tokio::time::advance(LEASE).await;
        assert_eq!(numbers(&queue, 9).await, [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_shutdown_all_events_are_due_except_those_being_delivered() {
        let queue = queue();
        for number in 1..=3 {
            queue.push(small(number));
        }
        let claimed = queue.claim(2).await.unwrap();
        settle(&queue, claimed[0].ticket, DeliveryOutcome::Retry(Duration::from_mins(1))).await;
        assert!(queue.begin_shutdown());
        assert_eq!(numbers(&queue, 9).await, [1, 3]);
        settle(&queue, claimed[0].ticket, DeliveryOutcome::Retry(Duration::from_mins(1))).await;
        tokio::time::advance(SHUTDOWN_PAUSE).await;
        assert_eq!(numbers(&queue, 9).await, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_counts_undelivered_events() {
        let queue = queue();
        assert_eq!(queue.backlog().await.unwrap(), Backlog::default());
        queue.push(small(1));
        tokio::time::advance(Duration::from_secs(5)).await;
        queue.push(small(2));
        queue.claim(1).await.unwrap();
        assert_eq!(queue.backlog().await.unwrap(), Backlog { events: 2, oldest_seconds: 5.0 });
    }
}

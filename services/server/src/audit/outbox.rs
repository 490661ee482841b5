//! Outboxes: the events that are still to be delivered to one sink. There are two kinds: [`memory`], which is lost with the
//! process, and [`postgres`].

pub mod memory;
pub mod postgres;

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::draft::EventContent;

/// How long a claimed event is reserved for this server. Longer than a delivery may take.
pub const LEASE: Duration = Duration::from_secs(30);

/// A claim ends with the event that reaches this many bytes, so that only a few large events are held in memory.
pub const CLAIM_BYTES: usize = 8 << 20;

/// An event that was claimed for delivery to one sink.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Identifies the event in the outbox.
    pub ticket: i64,
    /// The event's id, the same for every try: the webhook-id.
    pub id: Uuid,
    /// The event's content.
    pub content: EventContent,
    /// The W3C trace context of the write.
    pub traceparent: Option<String>,
    /// The time since the write, when the event was claimed.
    pub age: Duration,
    /// Failed tries so far.
    pub attempts: u32,
}

/// The outcome of one claimed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The ticket of its [`Delivery`].
    pub ticket: i64,
    /// The outcome.
    pub outcome: DeliveryOutcome,
}

/// The outcome of a claimed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The sink accepted it.
    Delivered,
    /// A try failed; the event is due again after this time.
    Retry(Duration),
    /// It was not tried and is due again at once.
    NotTried,
    /// It is given up for this reason.
    GivenUp(String),
}

/// The events that wait for a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    /// The number of events, including those that are being delivered.
    pub events: u64,
    /// The age of the oldest event in seconds; 0 when there is none.
    pub oldest_seconds: f64,
}

/// The outbox is unavailable. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("the audit outbox is unavailable: {0}")]
pub struct OutboxError(pub String);

/// One sink's outbox. No call takes longer than a few seconds.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Claims due events for [`LEASE`], oldest first: at most `limit`, and about [`CLAIM_BYTES`].
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, OutboxError>;

    /// Records the outcomes of claimed events: all of them, or none with an error.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), OutboxError>;

    /// Resolves when there may be events to claim, and after about a second in any case.
    async fn wait(&self);

    /// The events that wait. Counting them may take a while: call it from a background task, not from a scrape.
    async fn backlog(&self) -> Result<Backlog, OutboxError>;

    /// The process is about to end. An outbox that is lost with the process makes all events due at once and returns `true`; an
    /// outbox that is not lost returns `false`, and no more events are claimed from it.
    fn begin_shutdown(&self) -> bool;
}

//! Events that are still to be delivered to one sink. Two kinds of outbox: [`memory`], which is lost with the process, and
//! [`postgres`].

pub mod memory;
pub mod postgres;

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::draft::EventContent;

/// How long a claimed event is kept from other servers. Longer than a try may take.
pub const LEASE: Duration = Duration::from_secs(30);

/// A claim ends with the event that reaches this many bytes, so that large events are held in memory few at a time.
pub const CLAIM_BYTES: usize = 8 << 20;

/// One event on its way to one sink.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Identifies it in the outbox.
    pub ticket: i64,
    /// The same on every try: the webhook-id.
    pub id: Uuid,
    /// What it says.
    pub content: EventContent,
    /// The W3C trace context of the write.
    pub traceparent: Option<String>,
    /// How long ago the write was, when this was claimed.
    pub age: Duration,
    /// Tries that failed so far.
    pub attempts: u32,
}

/// The outcome of one claimed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Which event.
    pub ticket: i64,
    /// What became of it.
    pub outcome: DeliveryOutcome,
}

/// What became of a claimed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The sink has it.
    Delivered,
    /// A try failed; it is due again after this time.
    Retry(Duration),
    /// It was not tried and is due again at once.
    NotTried,
    /// It is given up, for this reason.
    GivenUp(String),
}

/// How much waits for a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    /// Events, including those that are being delivered.
    pub events: u64,
    /// The age of the oldest, in seconds; 0 when there is none.
    pub oldest_seconds: f64,
}

/// The outbox can't be asked now. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("the audit outbox is unavailable: {0}")]
pub struct OutboxError(pub String);

/// One sink's outbox. No call takes longer than a few seconds.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Takes up to `limit` due events and about [`CLAIM_BYTES`], oldest first, for [`LEASE`].
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, OutboxError>;

    /// Records the outcome of claimed events: all of them, or with an error none.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), OutboxError>;

    /// Resolves when there may be something to claim, and after about a second in any case.
    async fn wait(&self);

    /// How much waits. May take a while: for a background task, not for a scrape.
    async fn backlog(&self) -> Result<Backlog, OutboxError>;

    /// The process is about to end. An outbox that is lost with the process answers `true` and makes everything due at once;
    /// one that is not answers `false`, and nothing more is claimed from it.
    fn begin_shutdown(&self) -> bool;
}

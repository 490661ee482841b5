//! What is still to be delivered to one sink. Two kinds: [`memory`] forgets with the process, [`postgres`] does not.

pub mod memory;
pub mod postgres;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

/// How long a claimed event is kept from others. Several times longer than a try may take.
pub const LEASE: Duration = Duration::from_secs(30);

/// One event on its way to one sink.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What the outbox calls it.
    pub ticket: i64,
    /// The same on every try: the webhook-id.
    pub id: Uuid,
    /// The event's JSON.
    pub body: Bytes,
    /// The W3C trace context of the write.
    pub traceparent: Option<String>,
    /// How long ago the write was, when this was claimed.
    pub age: Duration,
    /// Tries that failed so far.
    pub attempts: u32,
}

/// What became of a claimed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Which one.
    pub ticket: i64,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a claimed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The sink has it.
    Delivered,
    /// It was tried in vain and is due again after this time.
    Retry(Duration),
    /// It was not tried and is due again at once.
    Return,
    /// It is given up, for this reason.
    Dead(String),
}

/// How much waits for a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    /// Events, those being delivered included.
    pub events: u64,
    /// The age of the oldest, in seconds; 0 when there is none.
    pub oldest_seconds: f64,
}

/// The outbox can't be asked now. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("the audit outbox is unavailable: {0}")]
pub struct OutboxError(pub String);

/// One sink's side of the outbox. Nothing here takes longer than a few seconds.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Takes up to `limit` due events, oldest first, for [`LEASE`].
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, OutboxError>;

    /// Says what became of claimed events: all of it is noted, or none.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), OutboxError>;

    /// Resolves when there may be something to claim; after about a second in any case.
    async fn wait(&self);

    /// How much waits. May take a while: for a background task, not for a scrape.
    async fn backlog(&self) -> Result<Backlog, OutboxError>;

    /// The process is about to end. An outbox that outlives it answers `false`, and is left alone from now on; one that
    /// does not answers `true` and makes everything due at once.
    fn last_call(&self) -> bool;
}

//! Where metrics are kept: the promises that both stores make.
//!
//! - A batch is applied whole or not at all, and once: a repeat of its key changes nothing.
//! - What [`Store::apply`] answered `Ok` is there for every later read, and outlives what the store promises to outlive.
//! - A gauge's newest value is that of the batch with the latest time, then of the latest arrival. A counter only adds.
//! - A refused batch leaves no trace: no series, no source, no key.
//!
//! `conformance` holds both stores to these words.

#[cfg(test)]
mod conformance;
pub mod memory;
pub mod postgres;
pub mod timed;

use std::collections::BTreeMap;

use async_trait::async_trait;
use golectra_protocol::{IdempotencyKey, Kind, MetricId, Metrics, Selector, Source, Value, WindowError};

use crate::audit::Draft;

/// A validated batch of one source, ready to be applied.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The node that measured.
    pub source: Source,
    /// The batch's key, whose time is the batch's time.
    pub key: IdempotencyKey,
    /// Whether the client sent the key. A key that the server made for itself can't be repeated and needs no memory of its own.
    pub keyed: bool,
    /// SHA-256 of the request as it was sent, which tells a repeat from another batch under the same key.
    pub digest: [u8; 32],
    /// One metric a series, not empty.
    pub metrics: Metrics,
    /// What the audit trail is to say of this write, where there is one.
    pub audit: Option<Draft>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was applied now.
    New,
    /// It had been applied before; nothing changed.
    Repeat,
}

/// Why a store refuses or fails. Every refusal leaves the store as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key was used for another batch.
    #[error("Idempotency-Key was used before for another body")]
    KeyReused,
    /// The batch's time lies outside of what is remembered.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The counter's total would no longer fit.
    #[error("counter {id:?} would exceed 9223372036854775807")]
    Overflow {
        /// The counter.
        id: MetricId,
    },
    /// The store holds as many series as it may.
    #[error("the server holds its maximum of {limit} series (MAX_SERIES), new ones are refused")]
    TooManySeries {
        /// The cap.
        limit: usize,
    },
    /// The source has as many series as it may.
    #[error("the source holds its maximum of {limit} series (MAX_SERIES_PER_SOURCE), new ones are refused")]
    TooManySeriesOfSource {
        /// The cap.
        limit: usize,
    },
    /// The store has no room for now: try again later.
    #[error("the store is overloaded")]
    Overloaded,
    /// The store did not answer; whether a write was applied is not known. The text is for the log, not for clients.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// How many series there may be.
#[derive(Debug, Clone, Copy)]
pub struct SeriesLimits {
    /// In all.
    pub total: usize,
    /// Of one source.
    pub per_source: usize,
}

/// The view over all sources.
#[derive(Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Each gauge's newest value.
    pub gauges: BTreeMap<String, f64>,
    /// Each counter's sum.
    pub counters: BTreeMap<String, i64>,
}

/// A source and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceInfo {
    /// Its name; empty for the unnamed one.
    pub name: Source,
    /// The time of its first batch by arrival at the server, in unix milliseconds.
    pub first_seen_millis: u64,
    /// The time of its last batch by arrival at the server, in unix milliseconds.
    pub last_seen_millis: u64,
    /// How many series it has.
    pub series: usize,
}

/// Which series are asked for; `None` asks for all.
#[derive(Debug, Clone, Default)]
pub struct SeriesFilter {
    /// Of this source only.
    pub source: Option<Source>,
    /// With this name (the id without its labels, or the whole id) only.
    pub name: Option<String>,
    /// At most this many, in the order of (source, id, kind).
    pub limit: usize,
}

/// One series of one source with its newest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The node that measured.
    pub source: Source,
    /// The metric's id.
    pub id: MetricId,
    /// Its newest value or its total.
    pub value: Value,
    /// The time of the batch that set it last, in unix milliseconds.
    pub at_millis: u64,
}

impl Series {
    /// The order of listings.
    pub fn order(&self) -> (&str, &str, Kind) {
        (self.source.as_str(), self.id.as_str(), self.value.kind())
    }
}

/// What a store is called and how much it holds, for /metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreStats {
    /// Series held, as far as it is known without asking a database.
    pub series: Option<u64>,
    /// Connections to the database in use and idle.
    pub pool: Option<(u32, u32)>,
    /// Writes that wait for the store (its queue).
    pub queue_depth: u64,
}

/// The promises stand at the top of this module.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies a batch once, and answers when it is as durable as the store promises. Bounded at 3 s.
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError>;

    /// One metric over all sources: a gauge's newest value, a counter's sum (at most `i64::MAX`).
    async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError>;

    /// All metrics over all sources.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// All sources, sorted by name.
    async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError>;

    /// Series with their newest values, in the order of [`Series::order`].
    async fn series(&self, filter: &SeriesFilter) -> Result<Vec<Series>, StoreError>;

    /// Whether the store can take a write now.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Figures for /metrics; never waits.
    fn stats(&self) -> StoreStats;

    /// Saves what must be saved and lets go of files and connections. Nothing is applied afterwards.
    async fn close(&self) -> Result<(), StoreError>;
}

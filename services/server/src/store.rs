//! Where metrics are kept: the promises that both stores make.
//!
//! - A batch is applied whole or not at all, and once: a repeat of its key changes nothing.
//! - What [`Write::apply`] answered `Ok` is there for every later read, and outlives what the store promises to outlive.
//! - A gauge's newest value is that of the batch with the latest time, then of the latest arrival. A batch's time is never later than
//!   its arrival. A value whose time is more than a minute ahead of the clock is from before the clock went back: the next one takes its place.
//!   In the memory store a batch without a key, which is sent once, takes the place of any value whose time is ahead of the clock.
//!   A counter only adds.
//! - A refused batch leaves no trace: no series, no source, no key.
//! - A series that its source no longer reports, and a source that no longer reports, leave the newest state as [`lifetime`] says. The total
//!   of an unlabelled counter that leaves goes on counting in [`Newest::value`] and [`Newest::snapshot`].
//!
//! The traits are small: [`Write`], [`Newest`], [`History`], [`Health`]. `conformance` holds both stores to these words.

#[cfg(test)]
mod conformance;
mod expiry_clock;
pub mod health;
pub mod history;
pub mod lifetime;
pub mod load;
pub mod memory;
mod metadata;
pub mod newest;
pub mod postgres;
pub mod timed;
pub mod write;

use golectra_protocol::{MetricId, WindowError};

pub use self::health::{Health, StoreMetrics};
pub use self::history::History;
pub use self::lifetime::Lifetimes;
pub use self::load::{QueryUnderWay, WriterLoad};
pub use self::newest::{LatestFilter, LatestPages, Newest, Series, Snapshot, SourceInfo};
pub use self::write::{Applied, Batch, Refusal, RefusedSamples, SampleName, Write};

/// Everything that a server asks of its store.
pub trait Store: Write + Newest + History + Health {}

impl<S: Write + Newest + History + Health> Store for S {}

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

/// How many live series there may be.
#[derive(Debug, Clone, Copy)]
pub struct SeriesLimits {
    /// In all.
    pub total: usize,
    /// Of one source.
    pub per_source: usize,
}

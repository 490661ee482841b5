//! Where the samples come from.

mod memory;

use std::error::Error;
use std::sync::Arc;

pub use memory::MemoryStore;

use crate::labels::Labels;
use crate::limits::{Interrupted, MemoryExceeded};
use crate::matcher::Matcher;
use crate::parse::ast::{AggregateOperator, Grouping};

/// Gives the samples that a query selects.
///
/// The evaluation calls it from the thread that evaluates and takes one series at a time, so a store may read and decode
/// while the query is under way. A store that has to wait for its data can fetch it before: [`crate::Engine::selections`]
/// tells what an evaluation is going to select.
pub trait Store {
    /// Starts to select. The matchers are constant over the query's time; all of them have to be met.
    fn select<'a>(&'a self, selection: &Selection) -> Result<Box<dyn SeriesSet + 'a>, StoreError>;
}

/// The selected series, one after the other.
///
/// The labels of each are different. Series that come in the order of their labels make results of equal rank, such as
/// those of `topk`, the same every time.
pub trait SeriesSet {
    /// The next series, if there is one. A series without samples in the selected time may be left out.
    fn next(&mut self) -> Result<Option<StoredSeries<'_>>, StoreError>;
}

/// One series with its samples, oldest first, at most one for a time; stale markers are samples.
#[derive(Clone, Copy, Debug)]
pub struct StoredSeries<'a> {
    /// The labels, the metric's name among them.
    pub labels: &'a Labels,
    /// The samples' times.
    pub timestamps_ms: &'a [i64],
    /// The samples' values, as many as there are times.
    pub values: &'a [f64],
}

/// What a selector asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// What the labels must be.
    pub matchers: Arc<[Matcher]>,
    /// The first time of interest. Samples before it are ignored.
    pub start_ms: i64,
    /// The last time of interest. Samples after it are ignored.
    pub end_ms: i64,
    /// What is done with the samples.
    pub hints: Hints,
}

/// What is done with selected samples. A store may use it to select less or to answer from aggregates, and may ignore it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// The function of the range vector, such as `rate`; `None` for an instant vector and a bare range vector.
    pub function: Option<&'static str>,
    /// How long the range is; for an instant vector how far back the newest sample is looked for.
    pub range_ms: i64,
    /// The time between two steps.
    pub step_ms: i64,
    /// How many steps there are.
    pub steps: usize,
    /// The aggregation that the values of these series alone go into next, if there is one.
    pub aggregation: Option<(AggregateOperator, Option<Grouping>)>,
}

/// Why a store can't give what was selected.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The samples themselves are gone and what is left of them, such as rollups, does not suffice.
    #[error("the samples are not kept that long")]
    RawSamplesGone,
    /// The query has to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// There is no memory left.
    #[error(transparent)]
    Memory(#[from] MemoryExceeded),
    /// Reading failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

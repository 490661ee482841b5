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

/// One series with its samples, or with what is left of them.
#[derive(Clone, Copy, Debug)]
pub struct StoredSeries<'a> {
    /// The labels, the metric's name among them.
    pub labels: &'a Labels,
    /// Its samples.
    pub samples: StoredSamples<'a>,
}

/// The samples of a series, or what is left of them.
#[derive(Clone, Copy, Debug)]
pub enum StoredSamples<'a> {
    /// The samples, oldest first, at most one for a time; stale markers are samples.
    Raw {
        /// Their times.
        timestamps_ms: &'a [i64],
        /// Their values, as many as there are times.
        values: &'a [f64],
    },
    /// What is left of them: only where [`Hints::rollup_span_ms`] says that it suffices.
    Rollup(Rollup<'a>),
}

impl StoredSamples<'_> {
    /// How many samples or buckets there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Raw { values, .. } => values.len(),
            Self::Rollup(rollup) => rollup.buckets.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Samples that were rolled up: each bucket stands for those from a multiple of its length up to, not including, the next.
///
/// Selectors and ranges end at the last such multiple that is not after their end, and begin at the last one that is not after their start.
/// There they have the values that they have for the samples. So the first step of a selector may need a bucket that ends before
/// [`Selection::start_ms`].
#[derive(Clone, Copy, Debug)]
pub struct Rollup<'a> {
    /// How long a bucket is.
    pub bucket_ms: i64,
    /// The buckets that have samples, oldest first.
    pub buckets: &'a [Bucket],
}

/// What is left of the samples of some time. Stale markers were left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The time of the first sample.
    pub first_ms: i64,
    /// The time of the last sample.
    pub last_ms: i64,
    /// How many samples there were; at least one.
    pub count: u32,
    /// The sum of the values.
    pub sum: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The first value.
    pub first: f64,
    /// The last value.
    pub last: f64,
    /// The sum of the values that are followed by a smaller one: what a counter lost by resets.
    pub lost: f64,
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
    /// Where a store may answer from rollups: the time that each value is about, in which there should be two buckets or more. It is the range of a
    /// function that rollups can answer, and for an instant vector the time between two steps.
    pub rollup_span_ms: Option<i64>,
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

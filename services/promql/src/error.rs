//! Why a query has no result.

use std::error::Error;

use crate::limits::{Interrupted, MemoryExceeded};
use crate::parse::ParseError;

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// It can't be read.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It is read but can't be evaluated on this data.
    #[error("{0}")]
    Execution(String),
    /// A range query has to give numbers at each step.
    #[error("invalid expression type {found:?} for range query, must be Scalar or instant Vector")]
    RangeOfRanges {
        /// What the query gives.
        found: String,
    },
    /// The times make no range.
    #[error(
        "the range from {start_ms} to {end_ms} in steps of {step_ms} ms is none: the step has to be positive and the end not before the start"
    )]
    InvalidRange {
        /// The start.
        start_ms: i64,
        /// The end.
        end_ms: i64,
        /// The step.
        step_ms: i64,
    },
    /// There are too many steps.
    #[error("{what} has {steps} steps, more than the {limit} that are allowed; use a longer step or a shorter time range")]
    TooManySteps {
        /// The query or a subquery.
        what: &'static str,
        /// How many there are.
        steps: usize,
        /// How many there may be.
        limit: usize,
    },
    /// There are too many series.
    #[error("the query selects more than {limit} series; add matchers that select fewer")]
    TooManySeries {
        /// How many there may be.
        limit: usize,
    },
    /// It takes too much memory.
    #[error(transparent)]
    Memory(#[from] MemoryExceeded),
    /// It had to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The samples that the function needs are gone; what is left of them does not suffice.
    #[error(
        "{function} needs samples that are not kept any more; ask for a later time, or for a function that rollups can answer over ten minutes or more"
    )]
    NeedsRawSamples {
        /// The function, or `a selector`.
        function: String,
    },
    /// The store failed.
    #[error("reading the samples failed: {0}")]
    Store(#[source] Box<dyn Error + Send + Sync>),
}

impl EvalError {
    /// The samples that this function, or a selector, needs are gone.
    pub fn needs_raw_samples(function: Option<&str>) -> Self {
        Self::NeedsRawSamples { function: function.map_or_else(|| "a selector".to_owned(), |function| format!("{function}()")) }
    }
}

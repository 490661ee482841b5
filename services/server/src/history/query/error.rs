//! Why a query has no answer.

use std::time::Duration;

use golectra_promql::parse::ParseError;
use golectra_promql::{EvalError, Interrupted, MemoryExceeded};

use super::admission::NotAdmitted;
use crate::history::export::ExportError;
use crate::store::StoreError;
use crate::store::history::{CorruptHistory, HistoryError};

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The query, or a parameter of it, can't be read.
    #[error("invalid parameter {parameter:?}: {error}")]
    Parameter {
        /// Which one.
        parameter: &'static str,
        /// What is wrong with it.
        error: String,
    },
    /// It can be read, but not evaluated: its own fault, or that of the data it is about.
    #[error("{0}")]
    Execution(String),
    /// It asks for more series than it may.
    #[error("the query selects more than {limit} series (QUERY_MAX_SERIES); add matchers that select fewer")]
    TooManySeries {
        /// How many it may.
        limit: usize,
    },
    /// It alone takes more memory than queries may have.
    #[error(
        "the query needs more than {limit_bytes} bytes of memory (QUERY_MAX_BYTES); ask for fewer series, a shorter time range or a longer step"
    )]
    TooMuchMemory {
        /// What they may have.
        limit_bytes: usize,
    },
    /// The queries under way take all the memory that there is for them.
    #[error("the queries under way need more than {limit_bytes} bytes of memory together (QUERY_MAX_BYTES); try again later")]
    MemoryTaken {
        /// What they may have.
        limit_bytes: usize,
    },
    /// Too many wait.
    #[error("too many queries are under way or wait (QUERY_CONCURRENCY); try again later")]
    QueueFull,
    /// Too many exports are under way.
    #[error("{limit} exports are under way, which is as many as may be; try again later")]
    TooManyExports {
        /// How many may be.
        limit: usize,
    },
    /// Its time is over.
    #[error("the query took longer than {} s, its waiting time included (QUERY_TIMEOUT, or the parameter timeout); ask for a shorter time range, a longer step or fewer series", .limit.as_secs_f64())]
    Timeout {
        /// The time it had.
        limit: Duration,
    },
    /// Nobody waits for it any more.
    #[error("the query was canceled")]
    Canceled,
    /// The store does not answer. The text is for the log.
    #[error("the store is unavailable, try again later")]
    Unavailable(String),
    /// A bug of the server, or stored data that can't be read. The text is for the log.
    #[error("internal error")]
    Internal(String),
}

impl QueryError {
    /// A query that can't be read.
    pub fn bad_query(error: &ParseError) -> Self {
        Self::Parameter { parameter: "query", error: error.to_string() }
    }

    /// One word for metrics and the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Parameter { .. } => "bad_data",
            Self::Execution(_) => "execution",
            Self::TooManySeries { .. } => "too_many_series",
            Self::TooMuchMemory { .. } => "too_much_memory",
            Self::MemoryTaken { .. } => "memory_taken",
            Self::QueueFull | Self::TooManyExports { .. } => "queue_full",
            Self::Timeout { .. } => "timeout",
            Self::Canceled => "canceled",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }

    /// Every word of [`Self::reason`].
    pub const REASONS: [&str; 10] = [
        "bad_data",
        "execution",
        "too_many_series",
        "too_much_memory",
        "memory_taken",
        "queue_full",
        "timeout",
        "canceled",
        "unavailable",
        "internal",
    ];
}

/// What a query's own limits are, to which errors from below are brought.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long it may take.
    pub timeout: Duration,
    /// How many series it may select.
    pub max_series: usize,
    /// How much memory all queries may take.
    pub max_bytes: usize,
}

impl Bounds {
    /// The refusal of a query that was not let in.
    pub fn not_admitted(&self, reason: NotAdmitted) -> QueryError {
        match reason {
            NotAdmitted::QueueFull => QueryError::QueueFull,
            NotAdmitted::Timeout => QueryError::Timeout { limit: self.timeout },
        }
    }

    /// The error of memory that is not there.
    pub fn memory(&self, error: MemoryExceeded) -> QueryError {
        match error {
            // A query's own limit is what is left of the one for all.
            MemoryExceeded::Query { .. } => QueryError::TooMuchMemory { limit_bytes: self.max_bytes },
            MemoryExceeded::AllQueries { limit_bytes } => QueryError::MemoryTaken { limit_bytes },
        }
    }

    /// The error of a query that had to end.
    pub fn interrupted(&self, error: Interrupted) -> QueryError {
        match error {
            Interrupted::Cancelled => QueryError::Canceled,
            Interrupted::DeadlineExceeded => QueryError::Timeout { limit: self.timeout },
        }
    }

    /// The error of reading from the store.
    pub fn history(&self, error: HistoryError, function: Option<&str>) -> QueryError {
        match error {
            HistoryError::Store(StoreError::Unavailable(cause)) => QueryError::Unavailable(cause),
            HistoryError::Store(error @ StoreError::Overloaded) => QueryError::Unavailable(error.to_string()),
            HistoryError::Store(error) => QueryError::Internal(error.to_string()),
            HistoryError::Memory(error) => self.memory(error),
            HistoryError::TooManySeries { .. } => QueryError::TooManySeries { limit: self.max_series },
            HistoryError::RawSamplesGone => self.evaluation(EvalError::needs_raw_samples(function)),
            HistoryError::Corrupt(error) => QueryError::Internal(error.to_string()),
        }
    }

    /// The error of an export.
    pub fn export(&self, error: ExportError) -> QueryError {
        match error {
            ExportError::History(error) => self.history(error, None),
            ExportError::Timeout(limit) => QueryError::Timeout { limit },
            ExportError::Gone(_) => QueryError::Canceled,
        }
    }

    /// The error of the evaluation.
    pub fn evaluation(&self, error: EvalError) -> QueryError {
        match error {
            EvalError::Parse(error) => QueryError::bad_query(&error),
            error @ EvalError::RangeOfRanges { .. } => QueryError::Parameter { parameter: "query", error: error.to_string() },
            error @ EvalError::InvalidRange { .. } => QueryError::Parameter { parameter: "time", error: error.to_string() },
            EvalError::TooManySeries { .. } => QueryError::TooManySeries { limit: self.max_series },
            EvalError::Memory(error) => self.memory(error),
            EvalError::Interrupted(error) => self.interrupted(error),
            error @ (EvalError::Execution(_) | EvalError::TooManySteps { .. } | EvalError::NeedsRawSamples { .. }) => {
                QueryError::Execution(error.to_string())
            }
            EvalError::Store(error) => match error.downcast::<CorruptHistory>() {
                Ok(corrupt) => QueryError::Internal(corrupt.to_string()),
                Err(error) => QueryError::Internal(error.to_string()),
            },
        }
    }
}

//! What the handlers share.

use std::sync::Arc;
use std::time::Duration;

use golectra_protocol::webhook::Secret;
use tokio::sync::Semaphore;

use crate::inflight::Inflight;
use crate::journal::Journal;
use crate::metrics::SinkMetrics;

/// Downloads of all events at the same time. Each holds a file open for as long as its client takes.
pub(crate) const DOWNLOADS: usize = 8;

/// Answers with the newest events at the same time. Each takes their bytes twice while it is made, and once until its client has it.
pub(crate) const NEWEST: usize = 2;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct SinkState {
    pub(crate) journal: Journal,
    pub(crate) metrics: SinkMetrics,
    /// The key of the signatures; without it events need not be signed.
    pub(crate) secret: Option<Arc<Secret>>,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_limit: Duration,
    pub(crate) inflight: Inflight,
    /// Now, in unix seconds.
    pub(crate) clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    pub(crate) downloads: Arc<Semaphore>,
    pub(crate) newest: Arc<Semaphore>,
}

//! The steps from a validated request to an applied batch: fold it, give it a key, draft its audit event, apply it.

pub mod fold;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::LogLimiter;
use golectra_protocol::remote_write::Metadata;
use golectra_protocol::{IdempotencyKey, Metrics, Source, WindowError};
use tokio::time::timeout;

use crate::audit::Trail;
use crate::clock::Clock;
use crate::metrics::ServerMetrics;
use crate::store::{Applied, Batch, Store, StoreError};

/// How long the answer to a write waits for the metadata that came with it.
const METADATA_LIMIT: Duration = Duration::from_millis(500);

/// Log lines about metadata that is lost.
static METADATA_LOG: LogLimiter<()> = LogLimiter::new();

/// A write request.
#[derive(Debug)]
pub struct Write {
    /// The node that sent the metrics.
    pub source: Source,
    /// The client's key, if it sent one.
    pub key: Option<IdempotencyKey>,
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// The metrics in the order of the request, at least one.
    pub metrics: Metrics,
    /// The client's address.
    pub peer: IpAddr,
}

/// Why a write is refused.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Two deltas of one counter in the batch add up to too large a number.
    #[error("item {index}: the counter's deltas add up to more than 9223372036854775807")]
    Overflow {
        /// The index of the delta in the batch, from 0.
        index: usize,
    },
    /// The batch is too far ahead of the store's clock.
    #[error("{}", WindowError::TooNew)]
    TooNew {
        /// What that clock shows, in unix milliseconds.
        now_millis: u64,
    },
    /// The store refuses the write or fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Applies writes. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    store: Arc<dyn Store>,
    /// Drafts the events; None if there is no sink.
    trail: Option<Trail>,
    metrics: ServerMetrics,
    clock: Clock,
}

impl Ingest {
    /// Writes go to this store, which passes their events to the trail.
    pub fn new(store: Arc<dyn Store>, trail: Option<Trail>, metrics: ServerMetrics, clock: Clock) -> Self {
        Self { store, trail, metrics, clock }
    }

    /// A unique key. It is never sent to anybody and so need not be unpredictable, which saves a system call for randomness.
    /// A store that goes by another clock than this server's makes one of its own.
    fn own_key(&self) -> IdempotencyKey {
        IdempotencyKey::with_random(self.clock.unix_millis(), fastrand::u128(..))
    }

    /// Applies a write once and answers when the store has. The store makes the event of an applied write, because only the
    /// store knows the outcome if the client disconnects earlier.
    pub async fn write(&self, write: Write) -> Result<Applied, IngestError> {
        let sent = write.metrics.len();
        let audit = self.trail.as_ref().map(|trail| trail.draft(&write.metrics, write.peer, self.clock.unix_seconds()));
        let batch = Batch {
            source: write.source,
            key: write.key.unwrap_or_else(|| self.own_key()),
            keyed: write.key.is_some(),
            digest: write.digest,
            metrics: fold::fold(write.metrics).map_err(|overflow| IngestError::Overflow { index: overflow.index })?,
            audit,
        };
        let applied = self.store.apply(batch).await.map_err(|error| match error {
            StoreError::Window(WindowError::TooNew) => IngestError::TooNew { now_millis: self.store.unix_millis() },
            error => error.into(),
        })?;
        self.metrics.applied(&applied, sent);
        Ok(applied)
    }

    /// Stores samples with times of their own, each once for its series and time, as far as they can be stored. Not empty.
    pub async fn write_samples(&self, source: Source, digest: [u8; 32], metrics: Metrics, peer: IpAddr) -> Result<Applied, StoreError> {
        let sent = metrics.len();
        let audit = self.trail.as_ref().map(|trail| trail.draft(&metrics, peer, self.clock.unix_seconds()));
        // The store gives it a key that suits the times of its samples.
        let batch = Batch { source, key: self.own_key(), keyed: false, digest, metrics, audit };
        let applied = self.store.apply(batch).await?;
        self.metrics.applied(&applied, sent);
        Ok(applied)
    }

    /// Keeps what is said about metrics. What can't be kept is said again by its sender.
    pub async fn write_metadata(&self, metadata: Vec<Metadata>) {
        let late = |_| Err(StoreError::Unavailable(format!("it took longer than {} ms", METADATA_LIMIT.as_millis())));
        if let Err(error) = timeout(METADATA_LIMIT, self.store.keep_metadata(metadata)).await.unwrap_or_else(late) {
            METADATA_LOG.log((), move |count| tracing::warn!(count, %error, "metadata of metrics could not be stored"));
        }
    }

    /// Deletes a named source; false if it does not exist. The deletion has one event, without metrics.
    pub async fn forget_source(&self, source: &Source, peer: IpAddr) -> Result<bool, StoreError> {
        let audit = self.trail.as_ref().map(|trail| trail.draft_source_deleted(peer, self.clock.unix_seconds()));
        self.store.forget_source(source, audit).await
    }
}

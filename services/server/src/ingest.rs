//! From a validated request to an applied batch: fold, give it a key, draft its audit event, apply.

pub mod fold;

use std::net::IpAddr;
use std::sync::Arc;

use golectra_protocol::{IdempotencyKey, Metrics, Source};

use crate::audit::Trail;
use crate::clock::Clock;
use crate::metrics::ServerMetrics;
use crate::store::{Applied, Batch, Store, StoreError};

/// What a client wants written.
#[derive(Debug)]
pub struct Write {
    /// The node that measured.
    pub source: Source,
    /// The client's key, where it sent one.
    pub key: Option<IdempotencyKey>,
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// The metrics as they were sent, not empty.
    pub metrics: Metrics,
    /// Who sent them.
    pub peer: IpAddr,
}

/// Why a write is refused.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Two deltas of one counter in the batch don't fit together.
    #[error("item {index}: the counter's deltas add up to more than 9223372036854775807")]
    Overflow {
        /// Where the delta stands in the batch, from 0.
        index: usize,
    },
    /// The store refuses or fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes writes. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    store: Arc<dyn Store>,
    /// Drafts the events; none where there is no sink.
    trail: Option<Trail>,
    metrics: ServerMetrics,
    clock: Clock,
}

impl Ingest {
    /// Writes go to this store, which hands their events to the trail.
    pub fn new(store: Arc<dyn Store>, trail: Option<Trail>, metrics: ServerMetrics, clock: Clock) -> Self {
        Self { store, trail, metrics, clock }
    }

    /// A key that no one else has. It is never sent, so nobody gains by guessing it, and it need not ask the system for randomness.
    fn own_key(&self) -> IdempotencyKey {
        IdempotencyKey::with_random(self.clock.unix_millis(), fastrand::u128(..))
    }

    /// Applies a write once and answers when the store did. The store makes the event of a write that was applied, since only it knows
    /// what becomes of one whose client does not wait for the answer.
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
        let applied = self.store.apply(batch).await?;
        self.metrics.applied(applied, sent);
        Ok(applied)
    }

    /// Forgets a named source; false when there is none. A source that was forgotten has one event, without metrics.
    pub async fn forget_source(&self, source: &Source, peer: IpAddr) -> Result<bool, StoreError> {
        let audit = self.trail.as_ref().map(|trail| trail.draft_source_deleted(peer, self.clock.unix_seconds()));
        self.store.forget_source(source, audit).await
    }
}

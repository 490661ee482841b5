//! From a validated request to an applied batch: fold, give it a key, apply, audit.

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
    /// Where events go; none where nobody listens.
    trail: Option<Trail>,
    metrics: ServerMetrics,
    clock: Clock,
}

impl Ingest {
    /// Writes go to this store and are told to this trail.
    pub fn new(store: Arc<dyn Store>, trail: Option<Trail>, metrics: ServerMetrics, clock: Clock) -> Self {
        Self { store, trail, metrics, clock }
    }

    /// A key that no one else has. It is never sent, so nobody gains by guessing it, and it need not ask the system for randomness.
    fn own_key(&self) -> IdempotencyKey {
        IdempotencyKey::with_random(self.clock.unix_millis(), fastrand::u128(..))
    }

    /// Applies a write once and answers when the store did. A write that changed something is audited once.
    pub async fn write(&self, write: Write) -> Result<Applied, IngestError> {
        let sent = write.metrics.len();
        let draft = self.trail.as_ref().map(|trail| trail.draft(&write.metrics, write.peer, self.clock.unix_seconds()));
        // A database takes the event in the write's own transaction; otherwise it is queued behind the write.
        let in_database = self.trail.as_ref().is_some_and(|trail| trail.hook().is_some());
        let (inside, behind) = if in_database { (draft, None) } else { (None, draft) };
        let batch = Batch {
            source: write.source,
            key: write.key.unwrap_or_else(|| self.own_key()),
            keyed: write.key.is_some(),
            digest: write.digest,
            metrics: fold::fold(write.metrics).map_err(|overflow| IngestError::Overflow { index: overflow.index })?,
            audit: inside,
        };
        let applied = self.store.apply(batch).await?;
        self.metrics.applied(applied, sent);
        if let (Applied::New, Some(trail), Some(draft)) = (applied, &self.trail, behind) {
            trail.queue(&draft);
        }
        Ok(applied)
    }

    /// Forgets a named source; false when there is none. A source that was forgotten is audited once, as an event without metrics.
    pub async fn forget_source(&self, source: &Source, peer: IpAddr) -> Result<bool, StoreError> {
        let draft = self.trail.as_ref().map(|trail| trail.draft(&Metrics::default(), peer, self.clock.unix_seconds()));
        let in_database = self.trail.as_ref().is_some_and(|trail| trail.hook().is_some());
        let (inside, behind) = if in_database { (draft, None) } else { (None, draft) };
        let forgotten = self.store.forget_source(source, inside).await?;
        if let (true, Some(trail), Some(draft)) = (forgotten, &self.trail, behind) {
            trail.queue(&draft);
        }
        Ok(forgotten)
    }
}

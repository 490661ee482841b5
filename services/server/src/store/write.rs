//! Writing: batches, and sources that are to be forgotten.

use async_trait::async_trait;
use golectra_protocol::{IdempotencyKey, Metrics, Source};

use super::StoreError;
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
    /// Not empty. Without times of their own, one metric a series; samples with times may name a series more than once.
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

/// Changes what the store holds.
#[async_trait]
pub trait Write: Send + Sync + 'static {
    /// Applies a batch once, and answers when it is as durable as the store promises. Bounded at 3 s.
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError>;

    /// Forgets a named source: its series leave the newest state and the caps at once, as those of a source that was silent for too long do.
    /// Its keys and its history stay. Answers whether there was such a source. Bounded at 3 s.
    async fn forget_source(&self, source: &Source, audit: Option<Draft>) -> Result<bool, StoreError>;
}

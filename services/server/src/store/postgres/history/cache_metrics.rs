//! What a cache of the history did and holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a cache did and holds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CacheMetrics(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes: AtomicUsize,
}

impl CacheMetrics {
    /// How often it had what was asked for.
    pub fn hits(&self) -> u64 {
        self.0.hits.load(Ordering::Relaxed)
    }

    /// How often that was read from the database.
    pub fn misses(&self) -> u64 {
        self.0.misses.load(Ordering::Relaxed)
    }

    /// The memory of what it holds.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, is_hit: bool, times: usize) {
        let counter = if is_hit { &self.0.hits } else { &self.0.misses };
        counter.fetch_add(times as u64, Ordering::Relaxed);
    }

    pub(super) fn set_bytes(&self, bytes: usize) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }
}

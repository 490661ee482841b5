//! Whether a store works, what it holds, and its end.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;

/// What /metrics tells of any store.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreMetrics {
    /// Live series; none while that is not known.
    pub series: Option<u64>,
    /// Connections to the database in use and idle.
    pub pool: Option<(u32, u32)>,
    /// Writes that wait for the store.
    pub queue_depth: u64,
    /// For how long the oldest write has been in memory alone; none where writes are not kept in memory, or never saved.
    pub unsaved_for: Option<Duration>,
}

/// Tells of a store's state.
#[async_trait]
pub trait Health: Send + Sync + 'static {
    /// Whether the store can take a write now. Bounded at 1 s.
    async fn ping(&self) -> Result<(), StoreError>;

    /// What /metrics tells; never waits.
    fn metrics(&self) -> StoreMetrics;

    /// Waits until what was applied is as durable as it gets and its audit events are queued, 3 s at most. For the end, when nothing is
    /// applied any more.
    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Saves what must be saved and lets go of files and connections. Nothing is applied afterwards.
    async fn close(&self) -> Result<(), StoreError>;
}

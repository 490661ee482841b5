//! Who writes next in this process. Batches of one source would wait for each other in the database anyway, each holding a
//! connection; here they wait without one, so that a burst of retries never starves the other sources.

use std::hash::{BuildHasher, RandomState};

use golectra_protocol::Source;
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

/// How many sources can be told apart; two that fall together only wait a little longer.
const LANES: usize = 256;

/// A lane a source, and as many turns as there are connections for writing.
pub(in super::super) struct Turns {
    hasher: RandomState,
    lanes: Vec<Mutex<()>>,
    connections: Semaphore,
}

/// Held while a batch is written.
pub(super) struct Turn<'a> {
    _connection: Option<SemaphorePermit<'a>>,
    _lane: MutexGuard<'a, ()>,
}

impl Turns {
    /// For this many writes at once.
    pub(in super::super) fn new(connections: usize) -> Self {
        let lanes = std::iter::repeat_with(Mutex::default).take(LANES).collect();
        Self { hasher: RandomState::new(), lanes, connections: Semaphore::new(connections.max(1)) }
    }

    /// Waits for the source's turn, first come first served. The caller bounds the wait.
    pub(super) async fn take(&self, source: &Source) -> Turn<'_> {
        let lane = self.hasher.hash_one(source) % LANES as u64;
        let lane = self.lanes[usize::try_from(lane).unwrap_or(0)].lock().await;
        // The semaphore is never closed.
        Turn { _connection: self.connections.acquire().await.ok(), _lane: lane }
    }
}

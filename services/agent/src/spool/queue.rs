//! The spool as the rest of the agent uses it: the schedule adds batches, senders wait for one to send.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use tokio::sync::Notify;

use super::queue_metrics::QueueMetrics;
use super::sync::SyncResult;
use super::{Spool, Unsent, Usage};
use crate::batch::{Batch, Deltas};
use crate::clock::Clock;
use crate::metrics::DropReason;
use crate::sealer::Sealer;

/// How often new batches are synced to the disk, which is how much a power failure can lose.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// A handle to the spool; clones share it.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    spool: Mutex<Box<dyn Spool>>,
    clock: Clock,
    changed: Notify,
    closed: AtomicBool,
}

impl Queue {
    /// A queue over a spool. `clock` gives batches their times.
    pub fn new(spool: Box<dyn Spool>, clock: Clock) -> Self {
        let (changed, closed) = (Notify::new(), AtomicBool::new(false));
        Self(Arc::new(Shared { spool: Mutex::new(spool), clock, changed, closed }))
    }

    /// Seals the polls, together with the deltas that dropped batches returned, and adds the batch; more than one where the host has more
    /// series than fit into it.
    pub fn seal(&self, sealer: &mut Sealer) {
        loop {
            self.seal_with(|unix_millis, returned| sealer.seal(unix_millis, returned));
            if !sealer.has_more() {
                break;
            }
        }
    }

    /// Adds the batch that `seal` makes of the current time and the deltas that dropped batches returned, all of which the batch
    /// must contain.
    pub fn seal_with(&self, seal: impl FnOnce(u64, Deltas) -> Batch) {
        let mut spool = self.spool();
        let returned = spool.make_room();
        let batch = seal(self.0.clock.unix_millis(), returned);
        let (key, polls, items) = (batch.key(), batch.polls(), batch.items());
        spool.push(batch);
        drop(spool);
        tracing::debug!(%key, polls, items, "a batch is sealed");
        self.0.changed.notify_waiters();
    }

    /// Waits until a batch can be taken. False when the queue is closed and empty.
    pub async fn ready(&self) -> bool {
        loop {
            // Created before the check, so that a change in between is not missed.
            let changed = self.0.changed.notified();
            if self.spool().waiting() > 0 {
                return true;
            }
            if self.0.closed.load(Relaxed) {
                return false;
            }
            changed.await;
        }
    }

    /// The batch to try next; the caller must return it with one of the four methods below. None when another sender took it.
    pub fn take(&self) -> Option<Batch> {
        self.spool().take()
    }

    /// Takes back a batch that is to be tried again.
    pub fn put_back(&self, batch: Batch) {
        self.spool().put_back(batch);
        self.0.changed.notify_waiters();
    }

    /// Takes back a batch whose every try was refused because of the clock, under a new key with this time. False when it
    /// stays as it is for now.
    pub fn seal_again(&self, batch: Batch, unix_millis: u64) -> bool {
        let sealed = self.spool().seal_again(batch, unix_millis);
        self.0.changed.notify_waiters();
        sealed
    }

    /// Removes a batch that the server has taken.
    pub fn acknowledge(&self, batch: &Batch) {
        self.spool().acknowledge(batch.key());
    }

    /// Drops a batch that the server will never accept. The next batch adds its counters unless it may have been applied.
    pub fn reject(&self, batch: &Batch, reason: DropReason) {
        self.spool().reject(batch, reason);
    }

    /// Whether more than one batch waits although the agent goes on, as after an outage.
    pub fn has_backlog(&self) -> bool {
        !self.0.closed.load(Relaxed) && self.spool().waiting() > 1
    }

    /// No more batches will be added; senders end when the queue is empty.
    pub fn close(&self) {
        self.0.closed.store(true, Relaxed);
        self.0.changed.notify_waiters();
    }

    /// Ends the spool: what is lost and what stays on disk.
    pub fn close_spool(&self) -> Unsent {
        self.spool().close()
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        self.spool().usage()
    }

    /// Syncs new batches to the disk every second, on another thread, and has what could not be read tried again in its time. Never ends.
    pub async fn keep_synced(&self) {
        loop {
            tokio::time::sleep(SYNC_INTERVAL).await;
            if self.spool().read_again() {
                self.0.changed.notify_waiters();
            }
            self.sync().await;
        }
    }

    /// Syncs new batches to the disk once.
    pub async fn sync(&self) {
        let Some(work) = self.spool().begin_sync() else { return };
        let result = tokio::task::spawn_blocking(move || work.run()).await;
        self.spool().end_sync(result.unwrap_or_else(|error| SyncResult::failed(error.into())));
    }

    /// Its metrics, read at each scrape.
    pub fn metrics(&self) -> prometheus::Result<impl Collector + use<>> {
        let queue = self.clone();
        QueueMetrics::new(Box::new(move || queue.usage()))
    }

    fn spool(&self) -> MutexGuard<'_, Box<dyn Spool>> {
        self.0.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

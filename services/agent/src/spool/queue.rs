//! The spool as the rest of the agent sees it: the schedule pushes, senders wait for something to send.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge};
use tokio::sync::Notify;

use super::disk::SyncDone;
use super::{Fill, Left, Spool};
use crate::batch::{Batch, Sealer};
use crate::stats::DropReason;

/// How often what was pushed is written through to the disk: what a power cut can lose.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// A handle on the spool; clones share it.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    spool: Mutex<Box<dyn Spool>>,
    changed: Notify,
    closed: AtomicBool,
}

impl Queue {
    /// A queue over a spool.
    pub fn new(spool: Box<dyn Spool>) -> Self {
        let (changed, closed) = (Notify::new(), AtomicBool::new(false));
        Self(Arc::new(Shared { spool: Mutex::new(spool), changed, closed }))
    }

    /// Seals what was gathered, together with what dropped batches gave back, and adds it.
    pub fn seal(&self, sealer: &mut Sealer) {
        // A clock before 1970 makes keys of 1970, which a server refuses with a reason.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut spool = self.spool();
        let given_back = spool.make_room(now);
        let batch = sealer.seal(now, given_back);
        let (key, polls) = (batch.key(), batch.polls());
        spool.push(batch);
        drop(spool);
        tracing::debug!(%key, polls, "a report is sealed");
        self.0.changed.notify_waiters();
    }

    /// Waits until a batch waits. False when the queue is closed and nothing waits any more.
    pub async fn ready(&self) -> bool {
        loop {
            // Made before looking, so that no change in between is missed.
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

    /// The batch to try next, which must be [settled](Self::settled) or [put back](Self::put_back). None when another sender was faster.
    pub fn take(&self) -> Option<Batch> {
        self.spool().take()
    }

    /// Takes back a batch that is to be tried again.
    pub fn put_back(&self, batch: Batch) {
        self.spool().put_back(batch);
        self.0.changed.notify_waiters();
    }

    /// The server has taken the batch.
    pub fn settled(&self, batch: &Batch) {
        self.spool().forget(batch.key());
    }

    /// The server will never take the batch: it is dropped, and what it certainly did not count is counted by the next one.
    pub fn refused(&self, batch: &Batch, reason: DropReason) {
        self.spool().refuse(batch, reason);
    }

    /// Whether more than one batch waits although the agent goes on: what an outage leaves behind.
    pub fn has_backlog(&self) -> bool {
        !self.0.closed.load(Relaxed) && self.spool().waiting() > 1
    }

    /// No batch comes any more; senders end when nothing waits.
    pub fn close(&self) {
        self.0.closed.store(true, Relaxed);
        self.0.changed.notify_waiters();
    }

    /// Ends the spool: what is lost and what stays on disk.
    pub fn leave(&self) -> Left {
        self.spool().leave()
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        self.spool().fill()
    }

    /// Writes what was pushed through to the disk every second, off this thread, for as long as it is polled.
    pub async fn keep_synced(&self) {
        loop {
            tokio::time::sleep(SYNC_INTERVAL).await;
            self.sync().await;
        }
    }

    /// Does so once.
    pub async fn sync(&self) {
        let Some(work) = self.spool().unsynced() else { return };
        let done = tokio::task::spawn_blocking(move || work.run()).await;
        self.spool().synced(done.unwrap_or_else(|error| SyncDone::failed(error.into())));
    }

    /// Its length, size and age for /metrics, read at each scrape.
    pub fn figures(&self) -> prometheus::Result<impl Collector + use<>> {
        let whole = |name: &str, help: &str| IntGauge::new(name, help);
        Ok(Figures {
            queue: self.clone(),
            batches: whole("golectra_agent_queue_batches", "Reports that the server has not taken yet, in memory and on disk.")?,
            bytes: whole("golectra_agent_queue_bytes", "Memory that those in memory take, in bytes.")?,
            age: Gauge::new(
                "golectra_agent_queue_oldest_age_seconds",
                "How long the oldest of them has waited, in seconds; 0 when none does.",
            )?,
            disk_batches: whole("golectra_agent_spool_batches", "Of the reports that the server has not taken yet, those on disk.")?,
            disk_polls: whole("golectra_agent_spool_polls", "Polls that the reports on disk tell of.")?,
            disk_bytes: whole("golectra_agent_spool_bytes", "Disk that the spool's files take, in bytes.")?,
            disk_age: Gauge::new(
                "golectra_agent_spool_oldest_age_seconds",
                "How long the oldest report on disk has waited, in seconds; 0 when there is none.",
            )?,
        })
    }

    fn spool(&self) -> MutexGuard<'_, Box<dyn Spool>> {
        self.0.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Figures {
    queue: Queue,
    batches: IntGauge,
    bytes: IntGauge,
    age: Gauge,
    disk_batches: IntGauge,
    disk_polls: IntGauge,
    disk_bytes: IntGauge,
    disk_age: Gauge,
}

impl Figures {
    fn all(&self) -> [&dyn Collector; 7] {
        [&self.batches, &self.bytes, &self.age, &self.disk_batches, &self.disk_polls, &self.disk_bytes, &self.disk_age]
    }
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Fill { batches, bytes, oldest_unix_millis, disk } = self.queue.fill();
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.batches.set(whole(batches as u64));
        self.bytes.set(whole(bytes as u64));
        self.age.set(age_seconds(oldest_unix_millis));
        self.disk_batches.set(whole(disk.batches as u64));
        self.disk_polls.set(whole(disk.polls));
        self.disk_bytes.set(whole(disk.bytes));
        self.disk_age.set(age_seconds(disk.oldest_unix_millis));
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

fn age_seconds(unix_millis: Option<u64>) -> f64 {
    let age = unix_millis.and_then(|at| SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_millis(at)).ok());
    age.unwrap_or_default().as_secs_f64()
}

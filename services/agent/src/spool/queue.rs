//! The spool as the rest of the agent sees it: the schedule pushes, senders wait for something to send.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge};
use tokio::sync::Notify;

use super::{Fill, Spool};
use crate::batch::{Batch, Carry};
use crate::stats::{DropReason, Stats};

/// What was not sent when the agent ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Batches.
    pub batches: u64,
    /// Polls they and the counts between batches told of.
    pub polls: i64,
}

/// A handle on the spool; clones share it.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    spool: Mutex<Box<dyn Spool>>,
    changed: Notify,
    closed: AtomicBool,
    carry: Carry,
    stats: Arc<Stats>,
}

impl Queue {
    /// A queue over a spool.
    pub fn new(spool: Box<dyn Spool>, stats: Arc<Stats>) -> Self {
        let (changed, closed, carry) = (Notify::new(), AtomicBool::new(false), Carry::default());
        Self(Arc::new(Shared { spool: Mutex::new(spool), changed, closed, carry, stats }))
    }

    /// Where the counts of dropped batches go.
    pub fn carry(&self) -> Carry {
        self.0.carry.clone()
    }

    /// Adds a sealed batch.
    pub fn push(&self, batch: Batch) {
        let made_room = self.spool().push(batch);
        self.made_room(&made_room);
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
        let made_room = self.spool().put_back(batch);
        self.made_room(&made_room);
        self.0.changed.notify_waiters();
    }

    /// The server has taken the batch.
    pub fn settled(&self, batch: &Batch) {
        self.spool().forget(batch.key());
    }

    /// The server will never take the batch: it is dropped, and what it certainly did not count is counted by the next one.
    pub fn refused(&self, batch: &Batch, reason: DropReason) {
        self.spool().forget(batch.key());
        self.0.stats.dropped(reason, 1);
        self.0.carry.take_back(batch);
    }

    /// No batch comes any more; senders end when nothing waits.
    pub fn close(&self) {
        self.0.closed.store(true, Relaxed);
        self.0.changed.notify_waiters();
    }

    /// Gives up what is left, counts between batches included.
    pub fn abandon(&self) -> Left {
        let left = self.spool().abandon();
        Left { polls: left.polls + self.0.carry.polls(), ..left }
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        self.spool().fill()
    }

    /// Its length, size and age for /metrics, read at each scrape.
    pub fn figures(&self) -> prometheus::Result<impl Collector + use<>> {
        Ok(Figures {
            queue: self.clone(),
            batches: IntGauge::new("golectra_agent_queue_batches", "Reports that the server has not taken yet.")?,
            bytes: IntGauge::new("golectra_agent_queue_bytes", "Memory these reports take, in bytes.")?,
            age: Gauge::new(
                "golectra_agent_queue_oldest_age_seconds",
                "How long the oldest of them has waited, in seconds; 0 when none does.",
            )?,
        })
    }

    fn made_room(&self, dropped: &[Batch]) {
        for batch in dropped {
            self.0.carry.take_back(batch);
            self.0.stats.dropped(DropReason::QueueFull, 1);
            tracing::warn!(key = %batch.key(), "the queue is full: the oldest report is dropped; its counts go into the next one");
        }
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
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        [self.batches.desc(), self.bytes.desc(), self.age.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let fill = self.queue.fill();
        self.batches.set(i64::try_from(fill.batches).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(fill.bytes).unwrap_or(i64::MAX));
        let age = fill.oldest_unix_millis.and_then(|at| {
            let sealed = UNIX_EPOCH + std::time::Duration::from_millis(at);
            SystemTime::now().duration_since(sealed).ok()
        });
        self.age.set(age.unwrap_or_default().as_secs_f64());
        [self.batches.collect(), self.bytes.collect(), self.age.collect()].concat()
    }
}

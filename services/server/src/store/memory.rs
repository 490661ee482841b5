//! The memory store: series in shards, a snapshot file, and a journal beside it.
//!
//! `table.rs` keeps a source's series in few bytes and finds most of them without hashing; `chunks.rs` lets saves and
//! reads of everything share them with writers.
//!
//! - STORE_INTERVAL above 0: a snapshot every interval in which something changed. A crash loses at most one interval.
//! - STORE_INTERVAL=0: a write is in the journal and synced before it is answered. A crash loses nothing.
//! - Without a file: everything is gone with the process.
//!
//! What series were is in `history.rs`, within HISTORY_MAX_BYTES, and in a folder beside the snapshot.
//!
//! Remembered keys are in the journal, so a repeat is recognised after a restart too; so is which series were reported when, by
//! which they expire (`expiry.rs`). `journal.rs` says what a crash within a save leaves behind and how it is read.

mod chunks;
mod copy;
mod disk;
mod disk_writer;
mod expiry;
mod framing;
mod history;
mod journal;
mod keys;
mod listing;
mod load;
mod metrics;
mod open;
mod plan;
mod record;
mod retired;
mod samples;
mod save;
mod shard;
mod shards;
mod snapshot;
mod source;
mod start_clock;
mod table;
mod value_cache;
mod view;

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use golectra_protocol::remote_write::Metadata;
use golectra_protocol::{Metrics, Selector, Source, Value};
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::disk_writer::{Command, DiskWriterHandle, Durable};
#[cfg(test)]
use self::expiry::Sweeper;
#[cfg(test)]
use self::history::Keeper;
use self::listing::Listing;
pub use self::metrics::MemoryMetrics;
pub use self::open::{AuditHook, MemoryConfig, OpenError};
use self::shards::Shards;
use super::metadata::MetadataTable;
use super::{
    Applied, Batch, Health, LatestFilter, LatestPages, Lifetimes, Newest, SeriesLimits, Snapshot, SourceInfo, StoreError, StoreMetrics,
    Write, WriterLoad,
};
use crate::audit::Draft;
use crate::clock::Clock;

/// How long a write waits for the disk.
const WRITE_WAIT: Duration = Duration::from_secs(3);

/// The promises are those of [`crate::store`].
pub struct MemoryStore {
    shards: Arc<Shards>,
    clock: Clock,
    metrics: Arc<MemoryMetrics>,
    audit: Option<AuditHook>,
    /// Not in the files: who says it says it again after a restart.
    metadata: MetadataTable,
    files: Option<Files>,
    #[cfg(test)]
    sweeper: Arc<Sweeper>,
    #[cfg(test)]
    keeper: Arc<Keeper>,
    /// End the threads that sweep and that keep history when they are dropped.
    _threads: Option<[std::sync::mpsc::Sender<()>; 2]>,
    /// The lock of files that are read and not written.
    _read_only: Option<File>,
}

/// The store's files.
struct Files {
    writer: Arc<DiskWriterHandle>,
    /// STORE_INTERVAL.
    interval: Duration,
    /// Whether each write waits for the disk.
    journaled: bool,
    /// While it is open the files are this process's; closed when the store is.
    lock: Mutex<Option<File>>,
    #[cfg(test)]
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl MemoryStore {
    /// The store's own metrics.
    pub fn memory_metrics(&self) -> &MemoryMetrics {
        let keys = self.shards.each().map(|shard| shard.keys.len() as u64).sum();
        metrics::set(&self.metrics.keys_remembered, keys);
        let history = &self.shards.history;
        metrics::set(&self.metrics.history_bytes, history.used_bytes() as u64);
        metrics::set(&self.metrics.history_max_bytes, history.max_bytes() as u64);
        metrics::set(&self.metrics.history_rollup_bytes, history.rollup_bytes() as u64);
        metrics::set(&self.metrics.history_dropped_rollup_days, history.rollup_days_dropped());
        metrics::set(&self.metrics.history_dropped_samples, history.samples_dropped());
        metrics::set(&self.metrics.history_too_old_samples, history.samples_too_old());
        metrics::set(&self.metrics.history_corrupt_columns, history.corrupt_columns());
        metrics::set(&self.metrics.history_damaged_files, history.damaged_files());
        &self.metrics
    }

    /// STORE_INTERVAL; none where nothing is saved.
    pub fn store_interval(&self) -> Option<Duration> {
        self.files.as_ref().map(|files| files.interval)
    }

    /// For how long the oldest write has been in memory alone, at most. Zero where all are saved, none where nothing ever is.
    pub fn unsaved_for(&self) -> Option<Duration> {
        let files = self.files.as_ref()?;
        Some(if files.journaled { files.writer.unjournaled_for() } else { files.writer.unsaved_for(self.shards.writes()) })
    }

    /// The disk writer, where each write waits for the disk.
    fn journal(&self) -> Option<&DiskWriterHandle> {
        self.files.as_ref().filter(|files| files.journaled).map(|files| &*files.writer)
    }

    /// Applies a batch, queues it for the journal under the same lock, and waits until it is on disk.
    async fn apply_journaled(&self, journal: &DiskWriterHandle, mut batch: Batch) -> Result<Applied, StoreError> {
        journal.admit()?;
        let now_millis = self.clock.unix_millis();
        let (mut frame, audit) = (Vec::new(), batch.audit.take());
        record::encode_write(&mut frame, &batch, now_millis);
        let queue = journal.queue()?;
        let (answer, durable) = oneshot::channel();
        let mut change = Some((frame, audit, answer));
        let applied = self.shards.apply(&batch, now_millis, |epoch| {
            let Some((frame, audit, answer)) = change.take() else { return };
            journal.append_to(&queue, epoch, frame, audit, Some(answer));
        })?;
        if let Some((.., answer)) = change {
            // A repeat is acknowledged when the first one is on disk.
            let _ = queue.send(Command::Barrier { answer });
        }
        // What waits for the disk is the frame; the batch would be as large again.
        drop((queue, batch));
        wait(durable, WRITE_WAIT).await.map(|()| applied)
    }

    /// Applies a batch whose samples are stored once for each time. What is journaled is what is new of it.
    async fn apply_samples(&self, batch: &mut Batch) -> Result<Applied, StoreError> {
        let (now_millis, mut audit, sent) = (self.clock.unix_millis(), batch.audit.take(), batch.metrics.len());
        let Some(journal) = self.journal() else {
            let mut is_new = false;
            let applied = self.shards.apply_samples(batch, now_millis, |_, _| is_new = true)?;
            if is_new {
                // The event names the metrics that are stored now.
                let is_whole = batch.metrics.len() == sent;
                self.audit(audit.map(|draft| if is_whole { draft } else { draft.only(&batch.metrics) }).as_ref());
            }
            return Ok(applied);
        };
        journal.admit()?;
        let queue = journal.queue()?;
        let (answer, durable) = oneshot::channel();
        let mut change = Some(answer);
        let applied = self.shards.apply_samples(batch, now_millis, |epoch, batch| {
            let Some(answer) = change.take() else { return };
            let mut frame = Vec::new();
            record::encode_write(&mut frame, batch, now_millis);
            let of_whole = audit.take_if(|_| batch.metrics.len() == sent);
            journal.append_to(&queue, epoch, frame, of_whole, Some(answer));
        })?;
        match (change, audit) {
            // What was there before may not be on disk yet.
            (Some(answer), _) => drop(queue.send(Command::Barrier { answer })),
            // Made without the lock: it takes a while for a large batch.
            (None, Some(draft)) => drop(queue.send(Command::Event { draft: draft.only(&batch.metrics) })),
            (None, None) => {}
        }
        drop(queue);
        batch.metrics = Metrics::default();
        wait(durable, WRITE_WAIT).await.map(|()| applied)
    }

    /// Forgets a source, queues that for the journal under the same lock, and waits until it is on disk.
    async fn forget_journaled(&self, journal: &DiskWriterHandle, source: &Source, audit: Option<Draft>) -> Result<bool, StoreError> {
        journal.admit()?;
        let mut frame = Vec::new();
        record::encode_forget(&mut frame, source);
        let queue = journal.queue()?;
        let (answer, durable) = oneshot::channel();
        let mut change = Some((frame, audit, answer));
        let forgotten = self.shards.forget(
            source,
            |_| false,
            |epoch| {
                let Some((frame, audit, answer)) = change.take() else { return };
                journal.append_to(&queue, epoch, frame, audit, Some(answer));
            },
        )?;
        if let Some((.., answer)) = change {
            // Someone else may have forgotten it, and that may not be on disk yet.
            let _ = queue.send(Command::Barrier { answer });
        }
        drop(queue);
        wait(durable, WRITE_WAIT).await.map(|()| forgotten)
    }

    /// Hands over the event of a change that is as durable as it gets.
    fn audit(&self, draft: Option<&Draft>) {
        if let (Some(hook), Some(draft)) = (&self.audit, draft) {
            hook(draft);
        }
    }

    /// Expires what is to expire, now, and seals all history.
    #[cfg(test)]
    fn sweep(&self) {
        self.sweeper.sweep(self.clock.unix_millis());
        self.keeper.maintain_all();
    }
}

/// Waits for the disk writer's answer.
async fn answered(durable: oneshot::Receiver<Durable>) -> Result<(), StoreError> {
    let answer = durable.await.map_err(|_| StoreError::Unavailable("the store was closed meanwhile".into()))?;
    answer.map_err(StoreError::Unavailable)
}

/// As [`answered`], but not for longer than this.
async fn wait(durable: oneshot::Receiver<Durable>, at_most: Duration) -> Result<(), StoreError> {
    let too_long = |_| StoreError::Unavailable(format!("the disk did not answer within {} s", at_most.as_secs()));
    timeout(at_most, answered(durable)).await.map_err(too_long)?
}

#[async_trait]
impl Write for MemoryStore {
    async fn apply(&self, mut batch: Batch) -> Result<Applied, StoreError> {
        if batch.is_once_per_time() {
            return self.apply_samples(&mut batch).await;
        }
        if let Some(journal) = self.journal() {
            return self.apply_journaled(journal, batch).await;
        }
        let applied = self.shards.apply(&batch, self.clock.unix_millis(), |_| {})?;
        if applied == Applied::New {
            self.audit(batch.audit.as_ref());
        }
        Ok(applied)
    }

    async fn keep_metadata(&self, metadata: Vec<Metadata>) -> Result<(), StoreError> {
        self.metadata.put(metadata);
        Ok(())
    }

    async fn forget_source(&self, source: &Source, audit: Option<Draft>) -> Result<bool, StoreError> {
        if let Some(journal) = self.journal() {
            return self.forget_journaled(journal, source, audit).await;
        }
        let forgotten = self.shards.forget(source, |_| false, |_| {})?;
        if forgotten {
            self.audit(audit.as_ref());
        }
        Ok(forgotten)
    }

    fn unix_millis(&self) -> u64 {
        self.clock.unix_millis()
    }

    fn writer_load(&self) -> WriterLoad {
        // Batches are applied where they arrive, in microseconds each.
        WriterLoad::default()
    }
}

#[async_trait]
impl Newest for MemoryStore {
    async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError> {
        Ok(view::value(&self.shards, selector))
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let shards = Arc::clone(&self.shards);
        // Reading a million series takes longer than a task should.
        let read = tokio::task::spawn_blocking(move || view::snapshot(&shards));
        read.await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError> {
        Ok(view::sources(&self.shards))
    }

    async fn latest(&self, filter: LatestFilter) -> Result<Box<dyn LatestPages>, StoreError> {
        Ok(Box::new(Listing::new(Arc::clone(&self.shards), filter)))
    }
}

#[async_trait]
impl Health for MemoryStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.journal().map_or(Ok(()), DiskWriterHandle::admit)
    }

    fn metrics(&self) -> StoreMetrics {
        let queue_depth = self.files.as_ref().map_or(0, |files| files.writer.queued_changes());
        StoreMetrics { series: Some(self.shards.series() as u64), pool: None, queue_depth, unsaved_for: self.unsaved_for() }
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let Some(queue) = self.journal().map(DiskWriterHandle::queue).transpose()? else { return Ok(()) };
        let (answer, durable) = oneshot::channel();
        let _ = queue.send(Command::Barrier { answer });
        drop(queue);
        wait(durable, WRITE_WAIT).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        for mut shard in self.shards.each() {
            shard.closed = true;
        }
        let Some(files) = &self.files else { return Ok(()) };
        let Some(queue) = files.writer.take_queue() else { return Ok(()) };
        let (answer, saved) = oneshot::channel();
        let _ = queue.send(Command::Close { answer });
        // The disk writer takes what comes until nobody has the queue.
        drop(queue);
        // Without a limit: SHUTDOWN_TIMEOUT limits the whole process, and giving up earlier would only lose the save.
        let closed = answered(saved).await;
        drop(files.lock.lock().expect("nothing panics while it holds the lock").take());
        closed
    }
}

#[cfg(test)]
mod tests;

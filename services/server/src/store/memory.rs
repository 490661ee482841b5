//! The memory store: series in shards, a snapshot file, and a journal beside it.
//!
//! `table.rs` keeps a source's series in few bytes and finds them mostly without a hash; `chunks.rs` lets saves and
//! reads of everything share them with writers.
//!
//! - STORE_INTERVAL above 0: a snapshot every interval in which something changed. A crash loses at most one interval.
//! - STORE_INTERVAL=0: a write is in the journal and synced before it is answered. A crash loses nothing.
//! - Without a file: everything is gone with the process.
//!
//! Remembered keys stand in the journal, so a repeat is recognised after a restart too. What a save's crash leaves behind
//! and how it is read is told in `journal.rs`.

mod chunks;
mod copy;
mod disk;
mod journal;
mod keeper;
mod keys;
mod load;
mod recent;
mod record;
mod save;
mod series;
mod shard;
mod snapshot;
mod stats;
mod table;
mod view;

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use golectra_protocol::{Selector, Source, Value};
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::disk::{Disk, Paths};
use self::journal::Journal;
use self::keeper::{Command, DiskHealth, Durable, Keeper, Progress};
use self::shard::Shards;
pub use self::stats::MemoryStats;
use super::{
    Applied, Batch, Health, LatestFilter, LatestPages, Lifetimes, Newest, SeriesLimits, Snapshot, SourceInfo, StoreError, StoreMetrics,
    Write,
};
use crate::audit::Draft;
use crate::clock::Clock;

/// How long a start waits for the process before it to let go of the files.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long a write waits for the disk.
const WRITE_WAIT: Duration = Duration::from_secs(3);
/// How long the end waits for the last snapshot; the process has 20 s in all.
const CLOSE_WAIT: Duration = Duration::from_secs(15);
/// How many bytes may wait for the journal before writes are refused.
const MAX_QUEUED_BYTES: u64 = 64 * 1024 * 1024;
/// A journal smaller than this is not worth folding into its snapshot.
const FOLD_JOURNAL_AT_BYTES: u64 = 16 * 1024 * 1024;

/// How a memory store is to be.
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// The snapshot file; without one (or with an empty path) nothing is kept beyond the process.
    pub path: Option<PathBuf>,
    /// How often to save; zero: every write is on disk before its answer.
    pub store_interval: Duration,
    /// Whether to load what the last run saved.
    pub restore: bool,
    /// How long keys, series and sources live.
    pub lifetimes: Lifetimes,
    /// How many keys are remembered in all; when there are more, the oldest accepted time rises.
    pub max_keys: usize,
    /// How many series there may be.
    pub limits: SeriesLimits,
}

/// Why a memory store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder of the snapshot file is missing or no folder.
    #[error("the folder {path:?} of the snapshot file can't be used ({source}): create it or change FILE_STORAGE_PATH")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The snapshot file is there but can't be read.
    #[error(
        "the snapshot file {path:?} can't be read ({source}): fix that, change FILE_STORAGE_PATH, or start with RESTORE=false, which replaces the file at the first save"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The snapshot file is no snapshot.
    #[error(
        "the snapshot file {path:?} is damaged ({reason}): repair it, move it away, or start with RESTORE=false, which replaces the file at the first save"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The journal is there but can't be read or repaired.
    #[error("the journal {path:?} can't be read ({source}): fix that, change FILE_STORAGE_PATH, or start with RESTORE=false")]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has the file.
    #[error("another golectra-server uses the snapshot file (it holds {path:?}): stop it, or change FILE_STORAGE_PATH")]
    InUse {
        /// The lock.
        path: PathBuf,
    },
    /// The lock can't be made.
    #[error("the lock {path:?} of the snapshot file can't be taken ({source}): make its folder writable or change FILE_STORAGE_PATH")]
    Lock {
        /// The lock.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("the memory store can't start its thread: {0}")]
    Thread(io::Error),
}

/// The promises stand at the top of [`crate::store`].
pub struct MemoryStore {
    shards: Arc<Shards>,
    clock: Clock,
    stats: Arc<MemoryStats>,
    keeper: Option<KeeperHandle>,
}

/// The way to the thread that owns the files.
struct KeeperHandle {
    /// Taken by the first close.
    queue: Mutex<Option<Sender<Command>>>,
    health: Arc<DiskHealth>,
    /// Whether each write waits for the disk.
    journaled: bool,
    /// While it is open the files are this process's; closed when the store is.
    lock: Mutex<Option<File>>,
    #[cfg(test)]
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Takes the files for this process. The system gives them back when it ends, however it ends.
fn lock(paths: &Paths) -> Result<File, OpenError> {
    let failed = |source| OpenError::Lock { path: paths.lock.clone(), source };
    let file = File::options().create(true).append(true).open(&paths.lock).map_err(failed)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // The system's lock has no time limit of its own.
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: paths.lock.clone() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

impl MemoryStore {
    /// Opens a store, with what the last run saved where that is asked for. Reads files: call it before serving.
    pub fn open(config: MemoryConfig, clock: Clock) -> Result<Arc<Self>, OpenError> {
        Self::open_on(config, clock, Disk::default(), FOLD_JOURNAL_AT_BYTES)
    }

    fn open_on(config: MemoryConfig, clock: Clock, disk: Disk, fold_journal_at_bytes: u64) -> Result<Arc<Self>, OpenError> {
        let history_millis = config.lifetimes.dedup_window_millis();
        let shards = Arc::new(Shards::new(config.limits, history_millis, config.max_keys));
        let stats = Arc::new(MemoryStats::default());
        let Some(path) = config.path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Arc::new(Self { shards, clock, stats, keeper: None }));
        };
        let paths = Paths::of(&path);
        // Where the path is a link, the file behind it is replaced and the link stays.
        let paths = std::fs::canonicalize(&path).map_or(paths, |real| Paths::of(&real));
        std::fs::read_dir(&paths.folder).map_err(|source| OpenError::Folder { path: paths.folder.clone(), source })?;
        if paths.snapshot.is_dir() {
            return Err(OpenError::Unreadable { path: paths.snapshot, source: io::ErrorKind::IsADirectory.into() });
        }

        let lock = lock(&paths)?;
        let mut file = None;
        if config.restore {
            file = load::restore(&shards, &disk, &paths, &stats, clock.unix_millis())?;
        } else if load::holds_something(&paths) {
            tracing::warn!(path = %paths.snapshot.display(), "RESTORE is off: the store starts empty and the file is replaced at the first save");
        }
        // What was replayed is not in the snapshot file yet.
        let saved_writes = shards.writes().saturating_sub(stats::get(&stats.journal_replayed));
        let progress = Progress::new(saved_writes, config.store_interval);
        let health = Arc::new(DiskHealth::default());
        let keeper = Keeper {
            shards: shards.clone(),
            clock: clock.clone(),
            journal: Journal::new(disk.clone(), paths.clone(), file),
            disk,
            paths,
            health: health.clone(),
            stats: stats.clone(),
            interval: config.store_interval,
            fold_journal_at_bytes,
            progress,
        };
        let (queue, commands) = mpsc::channel();
        let thread = std::thread::Builder::new().name("memory-keeper".into());
        let thread = thread.spawn(move || keeper.run(&commands)).map_err(OpenError::Thread)?;
        let keeper = KeeperHandle {
            queue: Mutex::new(Some(queue)),
            health,
            journaled: config.store_interval.is_zero(),
            lock: Mutex::new(Some(lock)),
            #[cfg(test)]
            thread: Mutex::new(Some(thread)),
        };
        // Outside of tests nobody joins it: a close waits for its answer, and the end of the queue ends it.
        #[cfg(not(test))]
        drop(thread);
        Ok(Arc::new(Self { shards, clock, stats, keeper: Some(keeper) }))
    }

    /// The store's own figures.
    pub fn memory_stats(&self) -> &MemoryStats {
        let keys = self.shards.each().map(|shard| shard.keys.len() as u64).sum();
        stats::set(&self.stats.keys_remembered, keys);
        &self.stats
    }

    /// Applies a batch, queues it for the journal in the same breath, and waits until it is on disk.
    async fn apply_journaled(&self, keeper: &KeeperHandle, batch: Batch) -> Result<Applied, StoreError> {
        keeper.admit()?;
        let now_millis = self.clock.unix_millis();
        let mut frame = Vec::new();
        record::encode_write(&mut frame, &batch, now_millis);
        let queue = keeper.queue()?;
        let (answer, durable) = oneshot::channel();
        let mut answer = Some(answer);
        let applied = self.shards.apply(&batch, now_millis, |epoch| {
            let Some(answer) = answer.take() else { return };
            keeper.health.queued_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            keeper.health.queued_writes.fetch_add(1, Ordering::Relaxed);
            // A keeper that is gone drops the answer, which is seen below.
            let _ = queue.send(Command::Write { epoch, frame, answer });
        })?;
        if let Some(answer) = answer {
            // A repeat is acknowledged when the first one is on disk.
            let _ = queue.send(Command::Barrier { answer });
        }
        // What waits for the disk is the frame; the batch would be as large again.
        drop((queue, batch));
        wait(durable, WRITE_WAIT).await.map(|()| applied)
    }
}

impl KeeperHandle {
    fn queue(&self) -> Result<Sender<Command>, StoreError> {
        let queue = self.queue.lock().expect("nothing panics while it holds the queue");
        queue.clone().ok_or_else(|| StoreError::Unavailable("the store is closed".into()))
    }

    /// Refuses before anything is applied when the disk fails or falls behind.
    fn admit(&self) -> Result<(), StoreError> {
        if self.health.failed.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the journal can't be written".into()));
        }
        if self.health.queued_bytes.load(Ordering::Relaxed) > MAX_QUEUED_BYTES { Err(StoreError::Overloaded) } else { Ok(()) }
    }
}

/// Waits for the keeper's answer.
async fn wait(durable: oneshot::Receiver<Durable>, at_most: Duration) -> Result<(), StoreError> {
    match timeout(at_most, durable).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(reason))) => Err(StoreError::Unavailable(reason)),
        Ok(Err(_)) => Err(StoreError::Unavailable("the store was closed meanwhile".into())),
        Err(_) => Err(StoreError::Unavailable(format!("the disk did not answer within {} s", at_most.as_secs()))),
    }
}

#[async_trait]
impl Write for MemoryStore {
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError> {
        match &self.keeper {
            Some(keeper) if keeper.journaled => self.apply_journaled(keeper, batch).await,
            _ => self.shards.apply(&batch, self.clock.unix_millis(), |_| {}),
        }
    }

    async fn forget_source(&self, _source: &Source, _audit: Option<Draft>) -> Result<bool, StoreError> {
        Err(StoreError::Unavailable("sources can't be forgotten yet".into()))
    }
}

#[async_trait]
impl Newest for MemoryStore {
    async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError> {
        Ok(view::value(&self.shards, selector))
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(view::snapshot(&self.shards))
    }

    async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError> {
        Ok(view::sources(&self.shards))
    }

    async fn latest(&self, filter: LatestFilter) -> Result<Box<dyn LatestPages>, StoreError> {
        Ok(Box::new(view::Pages(view::series(&self.shards, &filter))))
    }
}

#[async_trait]
impl Health for MemoryStore {
    async fn ping(&self) -> Result<(), StoreError> {
        match &self.keeper {
            Some(keeper) if keeper.journaled => keeper.admit(),
            _ => Ok(()),
        }
    }

    fn metrics(&self) -> StoreMetrics {
        let queued = |keeper: &KeeperHandle| keeper.health.queued_writes.load(Ordering::Relaxed);
        StoreMetrics { series: Some(self.shards.series() as u64), pool: None, queue_depth: self.keeper.as_ref().map_or(0, queued) }
    }

    async fn close(&self) -> Result<(), StoreError> {
        for mut shard in self.shards.each() {
            shard.closed = true;
        }
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let queue = keeper.queue.lock().expect("nothing panics while it holds the queue").take();
        let Some(queue) = queue else { return Ok(()) };
        let (answer, saved) = oneshot::channel();
        let _ = queue.send(Command::Close { answer });
        let closed = wait(saved, CLOSE_WAIT).await;
        drop(keeper.lock.lock().expect("nothing panics while it holds the lock").take());
        closed
    }
}

#[cfg(test)]
mod tests;

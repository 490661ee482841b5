//! Opening a store: its settings, its files, and why they can't be used.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::disk::{Disk, Paths, is_full};
use super::disk_writer::{DiskHealth, DiskWriter, DiskWriterHandle, SaveProgress};
use super::expiry::Sweeper;
use super::history::{self, Keeper};
use super::journal::Journal;
use super::metrics::{self, MemoryMetrics};
use super::{Files, Lifetimes, MemoryStore, SeriesLimits, Shards, load};
use crate::audit::Draft;
use crate::clock::Clock;
use crate::store::metadata::MetadataTable;

/// How long a start waits for the process before it to let go of the files.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// A journal smaller than this is not worth folding into its snapshot.
pub(super) const FOLD_JOURNAL_AT_BYTES: u64 = 16 * 1024 * 1024;

/// Takes the audit event of a change, once it is as durable as the store promises. Never waits.
pub type AuditHook = Arc<dyn Fn(&Draft) + Send + Sync>;

/// How a memory store is to be.
#[derive(Clone)]
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
    /// How many bytes of memory history may take; zero: none is kept.
    pub history_max_bytes: usize,
    /// Where audit events go.
    pub audit: Option<AuditHook>,
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
    /// The history's files are there but can't be read.
    #[error("the history in {path:?} can't be read ({source}): fix that, change FILE_STORAGE_PATH, or start with RESTORE=false")]
    History {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No save could put its files in place.
    #[error(
        "the file {path:?} can't be replaced ({source}), which every save does: mount its folder instead of the file, make the folder writable, or change FILE_STORAGE_PATH"
    )]
    NotReplaceable {
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
    #[error("the memory store can't start its threads: {0}")]
    Thread(io::Error),
}

impl MemoryStore {
    /// Opens a store, with what the last run saved where that is asked for. Reads files: call it before serving.
    pub fn open(config: MemoryConfig, clock: Clock) -> Result<Arc<Self>, OpenError> {
        Self::open_on(config, clock, Disk::default(), FOLD_JOURNAL_AT_BYTES)
    }

    /// Opens what a server saved, to read it and nothing else: nothing of it expires, nothing is saved, and the files stay as they are. They are this
    /// process's as long as the store is there, as far as they can be locked.
    pub fn open_to_read(path: &Path, lifetimes: Lifetimes, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let paths = Paths::of(&std::fs::canonicalize(path).map_err(|source| OpenError::Unreadable { path: path.to_owned(), source })?);
        let limits = SeriesLimits { total: usize::MAX, per_source: usize::MAX };
        // What was saved fits, whatever the limits are. How long the server keeps samples is not in the files: those of the journal are read however old they are.
        let lifetimes = Lifetimes { retention_raw: Duration::MAX, ..lifetimes };
        let shards = Arc::new(Shards::new(limits, lifetimes, usize::MAX, usize::MAX));
        let metrics = Arc::new(MemoryMetrics::default());
        let lock = lock_to_read(&paths)?;
        load::restore(&shards, None, &paths, &metrics, clock.unix_millis())?;
        Ok(Arc::new(Self {
            #[cfg(test)]
            sweeper: Arc::new(Sweeper::new(Arc::clone(&shards), clock.clone(), None)),
            #[cfg(test)]
            keeper: Arc::new(Keeper::new(Arc::clone(&shards), clock.clone())),
            shards,
            clock,
            metrics,
            audit: None,
            metadata: MetadataTable::default(),
            files: None,
            _read_only: lock,
            _threads: None,
        }))
    }

    pub(super) fn open_on(config: MemoryConfig, clock: Clock, disk: Disk, fold_journal_at_bytes: u64) -> Result<Arc<Self>, OpenError> {
        let shards = Arc::new(Shards::new(config.limits, config.lifetimes, config.max_keys, config.history_max_bytes));
        let metrics = Arc::new(MemoryMetrics::default());
        let files = open_files(&config, &clock, &shards, &metrics, disk, fold_journal_at_bytes)?;

        let journal = files.as_ref().filter(|files| files.journaled).map(|files| Arc::clone(&files.writer));
        let sweeper = Arc::new(Sweeper::new(Arc::clone(&shards), clock.clone(), journal));
        let (sweeping, stop) = mpsc::channel();
        let (sweeps, every) = (Arc::clone(&sweeper), config.lifetimes.sweep_every());
        let thread = std::thread::Builder::new().name("memory-sweep".into());
        thread.spawn(move || sweeps.run(every, &stop)).map_err(OpenError::Thread)?;
        let keeper = Arc::new(Keeper::new(Arc::clone(&shards), clock.clone()));
        // HISTORY_MAX_BYTES and RETENTION_RAW may be less than they were.
        keeper.begin();
        let (keeping, stop) = mpsc::channel();
        let thread = std::thread::Builder::new().name("memory-history".into());
        let keeps = Arc::clone(&keeper);
        thread.spawn(move || keeps.run(&stop)).map_err(OpenError::Thread)?;
        Ok(Arc::new(Self {
            shards,
            clock,
            metrics,
            audit: config.audit,
            metadata: MetadataTable::default(),
            files,
            #[cfg(test)]
            sweeper,
            #[cfg(test)]
            keeper,
            _read_only: None,
            _threads: Some([sweeping, keeping]),
        }))
    }
}

/// Fills the store from its files, where it has any, and starts their writer.
fn open_files(
    config: &MemoryConfig,
    clock: &Clock,
    shards: &Arc<Shards>,
    metrics: &Arc<MemoryMetrics>,
    disk: Disk,
    fold_journal_at_bytes: u64,
) -> Result<Option<Files>, OpenError> {
    let Some(path) = config.path.as_ref().filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
    // Where the path is a link, the file behind it is replaced and the link stays.
    let paths = std::fs::canonicalize(path).map_or_else(|_| Paths::of(path), |real| Paths::of(&real));
    std::fs::read_dir(&paths.folder).map_err(|source| OpenError::Folder { path: paths.folder.clone(), source })?;
    if paths.snapshot.is_dir() {
        return Err(OpenError::Unreadable { path: paths.snapshot, source: io::ErrorKind::IsADirectory.into() });
    }

    let lock = lock(&paths)?;
    try_replacing(&disk, &paths)?;
    history::note_segments(shards, &paths.history);
    let mut file = None;
    if config.restore {
        file = load::restore(shards, Some(&disk), &paths, metrics, clock.unix_millis())?;
        shards.start_clock.restored(shards.last_write_millis());
    } else if load::holds_something(&paths) {
        tracing::warn!(path = %paths.snapshot.display(), "RESTORE is off: the store starts empty and the file is replaced at the first save");
    }
    // What was replayed is not in the snapshot file yet.
    let saved_writes = shards.writes().saturating_sub(metrics::get(&metrics.journal_replayed));
    let health = Arc::new(DiskHealth::new(shards.writes()));
    let writer = DiskWriter {
        shards: Arc::clone(shards),
        clock: clock.clone(),
        journal: Journal::new(disk.clone(), paths.clone(), file),
        disk,
        paths,
        health: Arc::clone(&health),
        metrics: Arc::clone(metrics),
        audit: config.audit.clone(),
        interval: config.store_interval,
        fold_journal_at_bytes,
        progress: SaveProgress::new(saved_writes, config.store_interval),
    };
    let (queue, commands) = mpsc::channel();
    let thread = std::thread::Builder::new().name("memory-disk".into());
    let thread = thread.spawn(move || writer.run(&commands)).map_err(OpenError::Thread)?;
    // Outside of tests nobody joins it: a close waits for its answer, and the end of the queue ends it.
    #[cfg(not(test))]
    drop(thread);
    Ok(Some(Files {
        writer: Arc::new(DiskWriterHandle::new(queue, health)),
        interval: config.store_interval,
        journaled: config.store_interval.is_zero(),
        lock: Mutex::new(Some(lock)),
        #[cfg(test)]
        thread: Mutex::new(Some(thread)),
    }))
}

/// Takes the files for this process. The system gives them back when it ends, however it ends.
fn lock(paths: &Paths) -> Result<File, OpenError> {
    let failed = |source| OpenError::Lock { path: paths.lock.clone(), source };
    let file = File::options().create(true).append(true).open(&paths.lock).map_err(failed)?;
    match wait_for(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: paths.lock.clone() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Takes files that are only read. Where nothing can be written, a lock that is there is taken; where that can't be taken either, no server can use the
/// files from here.
fn lock_to_read(paths: &Paths) -> Result<Option<File>, OpenError> {
    match lock(paths) {
        Err(OpenError::Lock { source, .. })
            if matches!(source.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {}
        locked => return locked.map(Some),
    }
    let Ok(file) = File::open(&paths.lock) else { return Ok(None) };
    match wait_for(&file) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: paths.lock.clone() }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Waits for a lock. The system's has no time limit of its own.
fn wait_for(file: &File) -> Result<(), TryLockError> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_PAUSE),
            locked => return locked,
        }
    }
}

/// Finds out now what would otherwise fail at every save. A full disk is none of it: it may have room again by then.
fn try_replacing(disk: &Disk, paths: &Paths) -> Result<(), OpenError> {
    for path in [&paths.snapshot, &paths.journal] {
        match disk.try_replace(path) {
            Err(source) if !is_full(&source) => {
                return Err(OpenError::NotReplaceable { path: path.clone(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

//! The events on disk: `audit-SEQUENCE.ndjson`, each event once, synced before its sender gets an answer. When a file is closed it is
//! compressed to `audit-SEQUENCE.ndjson.gz`.
//!
//! `audit-SEQUENCE.ids` has the end and the id of each event. An event is acknowledged when it is in both files on disk. After a
//! crash, an event that is only in one of them was not acknowledged, and its sender will send it again.

mod closed;
mod compress;
pub(crate) mod id;
mod read;
mod recent_ids;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::writer::{Command, Writer};
use crate::inflight::InflightShare;
use crate::metrics::SinkMetrics;

/// Most events that wait for the writer; the senders of more are told to try again.
const QUEUE: usize = 1024;

/// How long a sender waits for the disk. The event may be stored later all the same; then its next try is a repeat.
const LIMIT: Duration = Duration::from_secs(10);

/// The time limit of a ping, which is to be answered within a second.
const PING_LIMIT: Duration = Duration::from_millis(900);

/// What the journal keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A file that would grow beyond this is closed, and a new one is begun.
    pub(crate) rotate_bytes: u64,
    /// Files of events kept; 0 keeps all.
    pub(crate) retain_files: usize,
    /// What all files may take together, in bytes. Only the active segment is never removed.
    pub(crate) retain_bytes: u64,
    /// Most ids remembered.
    pub(crate) remember_ids: usize,
    /// How long an id is remembered.
    pub(crate) remember: Duration,
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be made, read or written.
    #[error("the folder {} (DATA_DIR) can't be used: {error}", folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another sink writes there.
    #[error("the folder {} (DATA_DIR) is in use by another audit sink: give each its own", .0.display())]
    InUse(PathBuf),
}

/// The result of storing an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is on disk now.
    Stored,
    /// It was on disk already.
    Repeat,
}

/// How far readers may read: the active segment, and the acknowledged length of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReadLimit {
    sequence: u64,
    bytes: u64,
}

/// The journal of this process. Clones are the same journal.
#[derive(Clone)]
pub(crate) struct Journal {
    folder: Arc<Path>,
    commands: mpsc::Sender<Command>,
    read_limit: Arc<Mutex<ReadLimit>>,
    healthy: Arc<AtomicBool>,
}

/// The writer's thread.
pub(crate) struct WriterHandle {
    ended: oneshot::Receiver<()>,
}

impl WriterHandle {
    /// Waits until everything is written; every [`Journal`] must be gone by then.
    pub(crate) async fn finish(self, limit: Duration) {
        if timeout(limit, self.ended).await.is_err() {
            tracing::error!("the disk did not take the last events in time");
        }
    }
}

impl Journal {
    /// Opens the folder, repairs what a crash left, and starts the writer.
    pub(crate) fn open(folder: &Path, limits: Limits, metrics: SinkMetrics, now: i64) -> Result<(Self, WriterHandle), OpenError> {
        let unusable = |error| OpenError::Folder { folder: folder.to_owned(), error };
        fs::create_dir_all(folder).map_err(unusable)?;
        let lock = File::create(folder.join(".lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let writer = Writer::open(folder, limits, metrics, now).map_err(unusable)?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let (read_limit, healthy) = (writer.read_limit(), writer.health());
        let (ending, ended) = oneshot::channel();
        let work = move || {
            writer.run(queue);
            // Closing it would not suffice: a program that another thread is starting has a copy of each open file for a moment.
            if let Err(error) = lock.unlock() {
                tracing::warn!(%error, "the lock of DATA_DIR could not be released");
            }
            drop((lock, ending));
        };
        std::thread::Builder::new().name("journal".to_owned()).spawn(work).map_err(unusable)?;
        Ok((Self { folder: folder.into(), commands, read_limit, healthy }, WriterHandle { ended }))
    }

    /// Stores an event, a line of JSON without its newline, whose memory this share counts. The error is a sentence for the sender, who is to try again.
    pub(crate) async fn append(&self, id: String, line: Vec<u8>, now: i64, share: InflightShare) -> Result<Appended, &'static str> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Append { id, line, now, share, reply };
        self.commands.try_send(command).map_err(|_| "more events wait for the disk than are allowed: try again later")?;
        match timeout(LIMIT, answer).await {
            Ok(Ok(Ok(appended))) => Ok(appended),
            Ok(_) => Err("the event could not be written to disk: try again later"),
            Err(_) => {
                // So that a ping tries the disk; the next event that is written says that it works again.
                self.healthy.store(false, Ordering::Relaxed);
                Err("the disk did not take the event in time: try again later")
            }
        }
    }

    /// Whether an event could be stored now. After a failure this tries the disk again.
    pub(crate) async fn ping(&self) -> bool {
        if self.commands.is_closed() {
            return false;
        }
        if self.healthy.load(Ordering::Relaxed) {
            return true;
        }
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Command::Probe { reply }).is_ok() && timeout(PING_LIMIT, answer).await.is_ok_and(|answer| answer == Ok(true))
    }

    fn read_limit(&self) -> ReadLimit {
        *self.read_limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

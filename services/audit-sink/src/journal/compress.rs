//! The thread that compresses closed segments, one after the other.
//!
//! A compressed file is written under another name, synced, renamed, and only then is the plain file removed: after a crash at
//! any point there is the whole plain file or the whole compressed one, and the next start goes on from there.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use flate2::{Compression, GzBuilder};
use golectra_process::LogLimiter;

use super::closed::ClosedSegments;
use super::segment;

/// Events compress well even quickly: one resembles the other.
const LEVEL: u32 = 6;

const BLOCK: usize = 64 << 10;

/// When a compression that failed is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(30);

static LOG: LogLimiter = LogLimiter::new();

/// The compressing thread.
pub(super) struct Compressor {
    wake: Option<SyncSender<()>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Starts with the segments that are there.
    pub(super) fn start(folder: &Path, closed: ClosedSegments) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work { folder: folder.to_owned(), closed, stop: Arc::clone(&stop) };
        let run = move || {
            loop {
                work.compress_all();
                match woken.recv_timeout(RETRY_EVERY) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("compressor".to_owned()).spawn(run)?;
        Ok(Self { wake: Some(wake), stop, thread: Some(thread) })
    }

    /// There is another closed segment.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            match wake.try_send(()) {
                // When it is full the thread is about to look anyway.
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }
}

impl Drop for Compressor {
    /// Ends the thread. A compression that is under way is given up, and done again by the next start.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

struct Work {
    folder: PathBuf,
    closed: ClosedSegments,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn compress_all(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let result = match self.closed.begin_compression() {
                Ok(None) => return,
                Ok(Some(sequence)) => self.compress(sequence).inspect_err(|_| self.closed.abort_compression(sequence)),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                if !self.stop.load(Ordering::Relaxed) {
                    LOG.log(
                        "compression",
                        move |count| tracing::warn!(count, %error, "a file of events could not be compressed: trying again"),
                    );
                }
                return;
            }
        }
    }

    fn compress(&self, sequence: u64) -> io::Result<()> {
        let plain = segment::events(&self.folder, sequence);
        let events = match self.closed.events_of(sequence) {
            Some(events) => events,
            None => segment::count_lines(BufReader::new(File::open(&plain)?)).map_err(|(_, error)| error)?,
        };
        let partial = BufWriter::new(File::create(segment::partial(&self.folder, sequence))?);
        let mut encoder = GzBuilder::new().comment(segment::comment(events)).write(partial, Compression::new(LEVEL));
        let mut plain = BufReader::with_capacity(BLOCK, File::open(plain)?);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let block = plain.fill_buf()?;
            if block.is_empty() {
                break;
            }
            encoder.write_all(block)?;
            let bytes = block.len();
            plain.consume(bytes);
        }
        let partial = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        partial.sync_all()?;
        self.closed.finish_compression(sequence, events)
    }
}

//! The thread that owns the files.
//!
//! At STORE_INTERVAL=0 it takes all changes that queued while its last sync ran, appends them, syncs once and answers
//! each. It decides when to save: after an interval in which something changed, or when the journal has outgrown its
//! snapshot. A thread of its own writes a save's new files meanwhile; only their renames stop the journal.
//!
//! The audit event of a change is handed over when the change is on disk, whether or not its client still waits: a client may have
//! left, and a change that the disk refused at first is written later.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::disk::{Disk, Paths};
use super::journal::Journal;
use super::metrics::{self, MemoryMetrics, add, set};
use super::save::{self, Prepared};
use super::shards::{Shards, closed};
use super::{AuditHook, StoreError};
use crate::audit::Draft;
use crate::clock::Clock;

/// How much of the queue goes into one write and sync.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// How often a save under way is looked at.
const SAVE_POLL: Duration = Duration::from_millis(10);
/// How long the end waits for calls that are under way.
const LAST_WAIT: Duration = if cfg!(test) { Duration::from_secs(10) } else { Duration::from_millis(500) };
/// How long a failed disk or a failed save is left alone; jitter is added.
const RETRY: Duration = if cfg!(test) { Duration::from_millis(2) } else { Duration::from_millis(500) };
const SAVE_RETRY: Duration = if cfg!(test) { Duration::from_millis(5) } else { Duration::from_secs(10) };

/// How many bytes may wait for the journal before writes are refused.
const MAX_QUEUED_BYTES: u64 = 64 * 1024 * 1024;

/// The answer to a change: whether it is on disk.
pub(super) type Durable = Result<(), String>;

pub(super) enum Command {
    /// A change that was applied.
    Append { epoch: u64, frame: Vec<u8>, audit: Option<Draft>, answer: Option<oneshot::Sender<Durable>> },
    /// The audit event of a change that was queued before without one: of a batch that was stored in part.
    Event { draft: Draft },
    /// Answers when everything before it is on disk.
    Barrier { answer: oneshot::Sender<Durable> },
    /// Saves and answers.
    #[cfg(test)]
    Save { answer: oneshot::Sender<Durable> },
    /// Saves what changed and ends.
    Close { answer: oneshot::Sender<Durable> },
}

/// What the store sees of its disk writer.
#[derive(Debug)]
pub(super) struct DiskHealth {
    /// The disk refuses: nothing new is taken until what waits is on disk.
    failed: AtomicBool,
    /// Bytes and changes that wait in the queue.
    queued_bytes: AtomicU64,
    queued_changes: AtomicU64,
    on_disk: Mutex<OnDisk>,
}

/// What is known to be on disk.
#[derive(Debug, Clone, Copy)]
struct OnDisk {
    /// How many writes there were when all of them were known to be in a snapshot, and when that was.
    writes: u64,
    at: Instant,
    /// Since when the journal has been tried to be written that it has not taken.
    unjournaled_since: Option<Instant>,
}

impl DiskHealth {
    /// Of files that have so many writes.
    pub(super) fn new(writes: u64) -> Self {
        Self {
            failed: AtomicBool::new(false),
            queued_bytes: AtomicU64::new(0),
            queued_changes: AtomicU64::new(0),
            on_disk: Mutex::new(OnDisk { writes, at: Instant::now(), unjournaled_since: None }),
        }
    }

    fn on_disk(&self) -> MutexGuard<'_, OnDisk> {
        self.on_disk.lock().expect("nothing panics while it holds this")
    }

    /// All of so many writes were in a snapshot at this time.
    fn note_saved(&self, writes: u64, at: Instant) {
        let mut on_disk = self.on_disk();
        (on_disk.writes, on_disk.at) = (writes, at);
    }
}

/// The way to the disk writer.
pub(super) struct DiskWriterHandle {
    /// Taken by the first close.
    queue: Mutex<Option<Sender<Command>>>,
    health: Arc<DiskHealth>,
}

impl DiskWriterHandle {
    pub(super) fn new(queue: Sender<Command>, health: Arc<DiskHealth>) -> Self {
        Self { queue: Mutex::new(Some(queue)), health }
    }

    pub(super) fn queue(&self) -> Result<Sender<Command>, StoreError> {
        self.queue.lock().expect("nothing panics while it holds the queue").clone().ok_or_else(closed)
    }

    /// The queue, for the last time.
    pub(super) fn take_queue(&self) -> Option<Sender<Command>> {
        self.queue.lock().expect("nothing panics while it holds the queue").take()
    }

    /// Refuses before anything is applied when the disk fails or falls behind.
    pub(super) fn admit(&self) -> Result<(), StoreError> {
        if self.health.failed.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the journal can't be written".into()));
        }
        if self.queued_bytes() > MAX_QUEUED_BYTES { Err(StoreError::Overloaded) } else { Ok(()) }
    }

    /// Queues a change. A writer that is gone drops its answer.
    pub(super) fn append(&self, epoch: u64, frame: Vec<u8>, audit: Option<Draft>, answer: Option<oneshot::Sender<Durable>>) {
        let Ok(queue) = self.queue() else { return };
        self.append_to(&queue, epoch, frame, audit, answer);
    }

    /// As [`Self::append`], with the queue at hand.
    pub(super) fn append_to(
        &self,
        queue: &Sender<Command>,
        epoch: u64,
        frame: Vec<u8>,
        audit: Option<Draft>,
        answer: Option<oneshot::Sender<Durable>>,
    ) {
        self.health.queued_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        self.health.queued_changes.fetch_add(1, Ordering::Relaxed);
        let _ = queue.send(Command::Append { epoch, frame, audit, answer });
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        self.health.queued_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn queued_changes(&self) -> u64 {
        self.health.queued_changes.load(Ordering::Relaxed)
    }

    /// For how long the oldest write is in no snapshot at most, where so many were applied. Saves look only now and then: it is up to STORE_INTERVAL less.
    pub(super) fn unsaved_for(&self, writes: u64) -> Duration {
        let OnDisk { writes: saved, at, .. } = *self.health.on_disk();
        if writes == saved { Duration::ZERO } else { at.elapsed() }
    }

    /// For how long the oldest change waits for the journal.
    pub(super) fn unjournaled_for(&self) -> Duration {
        let since = self.health.on_disk().unjournaled_since;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The parts of a disk writer.
pub(super) struct DiskWriter {
    pub(super) shards: Arc<Shards>,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    pub(super) paths: Paths,
    pub(super) journal: Journal,
    pub(super) health: Arc<DiskHealth>,
    pub(super) metrics: Arc<MemoryMetrics>,
    pub(super) audit: Option<AuditHook>,
    /// Zero: every change is journaled.
    pub(super) interval: Duration,
    /// How large a journal may grow at the least before it is folded into its snapshot.
    pub(super) fold_journal_at_bytes: u64,
    pub(super) progress: SaveProgress,
}

/// What was saved, and what is to be saved when.
pub(super) struct SaveProgress {
    /// How many writes the last save had seen.
    saved_writes: u64,
    /// The journal's length right after the last save.
    folded_bytes: u64,
    next_save: Instant,
    next_repair: Instant,
    epoch: u64,
    saving: Option<(JoinHandle<io::Result<Prepared>>, Instant)>,
}

impl SaveProgress {
    pub(super) fn new(saved_writes: u64, interval: Duration) -> Self {
        let now = Instant::now();
        Self { saved_writes, folded_bytes: 0, next_save: now + interval, next_repair: now, epoch: 0, saving: None }
    }
}

impl DiskWriter {
    /// Works until it is closed, or until the store is gone.
    pub(super) fn run(mut self, queue: &Receiver<Command>) {
        let mut answers = Vec::new();
        loop {
            let mut last = None;
            let mut next = match queue.recv_timeout(self.patience()) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut bytes = 0;
            while let Some(command) = next {
                if let Command::Append { frame, .. } = &command {
                    bytes += frame.len();
                }
                last = self.take(command, &mut answers);
                next = if last.is_none() && bytes < GROUP_BYTES { queue.try_recv().ok() } else { None };
            }
            self.settle(&mut answers);
            self.manage_saves();
            self.audit();
            match last {
                #[cfg(test)]
                Some(Command::Save { answer }) => drop(answer.send(self.save_now())),
                Some(Command::Close { answer }) => {
                    self.take_last(queue, &mut answers);
                    let _ = answer.send(self.close());
                    return;
                }
                _ => {}
            }
        }
        self.abandon_save();
    }

    /// Takes a command. One that everything before it has to be on disk for comes back.
    fn take(&mut self, command: Command, answers: &mut Vec<oneshot::Sender<Durable>>) -> Option<Command> {
        match command {
            Command::Append { epoch, frame, audit, answer } => {
                self.health.queued_bytes.fetch_sub(frame.len() as u64, Ordering::Relaxed);
                self.health.queued_changes.fetch_sub(1, Ordering::Relaxed);
                self.journal.push(epoch, frame, audit);
                answers.extend(answer);
            }
            Command::Event { draft } => self.journal.push_event(draft),
            Command::Barrier { answer } => answers.push(answer),
            #[cfg(test)]
            save @ Command::Save { .. } => return Some(save),
            close @ Command::Close { .. } => return Some(close),
        }
        None
    }

    /// Takes what comes behind the close: the event of a batch that was applied before is queued without the shard's lock. Only calls under way have
    /// the queue now, and it ends with the last of them.
    fn take_last(&mut self, queue: &Receiver<Command>, answers: &mut Vec<oneshot::Sender<Durable>>) {
        let until = Instant::now() + LAST_WAIT;
        while let Ok(command) = queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
            drop(self.take(command, answers));
        }
        self.settle(answers);
    }

    /// How long to wait for a command.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        if self.progress.saving.is_some() {
            SAVE_POLL
        } else if self.health.failed.load(Ordering::Relaxed) {
            self.progress.next_repair.saturating_duration_since(now)
        } else if self.interval.is_zero() {
            // The journal grows only by commands.
            Duration::from_mins(1)
        } else {
            self.progress.next_save.saturating_duration_since(now)
        }
    }

    /// Brings what was taken to the disk, hands over the audit events, and answers.
    fn settle(&mut self, answers: &mut Vec<oneshot::Sender<Durable>>) {
        let behind = self.journal.is_behind() || self.health.failed.load(Ordering::SeqCst);
        let due = !answers.is_empty() || (behind && Instant::now() >= self.progress.next_repair);
        if !due {
            return;
        }
        // Before it is tried, since the disk may hang.
        self.health.on_disk().unjournaled_since.get_or_insert_with(Instant::now);
        let durable = self.journal_now();
        if durable.is_ok() {
            self.health.on_disk().unjournaled_since = None;
        }
        if let Err(reason) = &durable {
            add(&self.metrics.journal_failures, 1);
            if !self.health.failed.swap(true, Ordering::SeqCst) {
                tracing::error!(path = %self.paths.journal.display(), reason, "the journal can't be written; at STORE_INTERVAL=0 writes are refused until it can");
            }
            self.progress.next_repair = Instant::now() + jitter(RETRY);
        } else if self.health.failed.swap(false, Ordering::SeqCst) {
            tracing::info!(path = %self.paths.journal.display(), "the journal can be written again");
        }
        set(&self.metrics.journal_bytes, self.journal.bytes());
        self.audit();
        for answer in answers.drain(..) {
            // The client may have left.
            let _ = answer.send(durable.clone());
        }
    }

    /// Hands over the events of changes that have come to the disk.
    fn audit(&mut self) {
        let drafts = self.journal.take_audit();
        if let Some(hook) = &self.audit {
            for draft in &drafts {
                hook(draft);
            }
        }
    }

    fn journal_now(&mut self) -> Durable {
        if !self.journal.is_open() && self.journal.is_behind() {
            // The first write of a store whose journal does not continue its snapshot: a save makes one that does.
            return self.save_now();
        }
        self.journal.flush().map_err(|error| error.to_string())
    }

    /// Starts a save that is due, and finishes one that has prepared its files.
    fn manage_saves(&mut self) {
        if self.progress.saving.as_ref().is_some_and(|(thread, _)| thread.is_finished()) {
            let _ = self.finish_save();
        }
        if self.progress.saving.is_none() && Instant::now() >= self.progress.next_save && self.save_is_due() {
            self.start_save();
        }
    }

    fn save_is_due(&mut self) -> bool {
        if self.interval.is_zero() {
            let snapshot_bytes = metrics::get(&self.metrics.last_snapshot_bytes);
            let grown = self.journal.bytes().saturating_sub(self.progress.folded_bytes);
            return self.journal.is_open() && grown > self.fold_journal_at_bytes.max(2 * (snapshot_bytes + self.progress.folded_bytes));
        }
        let now = Instant::now();
        self.progress.next_save = now + self.interval;
        let is_due = self.shards.writes() != self.progress.saved_writes;
        if !is_due {
            self.health.note_saved(self.progress.saved_writes, now);
        }
        is_due
    }

    fn start_save(&mut self) {
        let started = Instant::now();
        let epoch = self.progress.epoch + 1;
        if let Err(error) = self.journal.begin(epoch) {
            let _ = self.saved(started, Err(error));
            return;
        }
        self.progress.epoch = epoch;
        let (shards, clock, disk, paths) = (self.shards.clone(), self.clock.clone(), self.disk.clone(), self.paths.clone());
        let thread = std::thread::Builder::new().name("memory-save".into());
        match thread.spawn(move || save::prepare(&shards, &clock, &disk, &paths, epoch)) {
            Ok(thread) => self.progress.saving = Some((thread, started)),
            Err(error) => drop(self.saved(started, Err(error))),
        }
    }

    /// Waits for the save under way and puts its files in place.
    fn finish_save(&mut self) -> Durable {
        let Some((thread, started)) = self.progress.saving.take() else { return Ok(()) };
        let prepared = thread.join().unwrap_or_else(|_| Err(io::Error::other("the save panicked")));
        let put = prepared.and_then(|prepared| self.put(prepared));
        self.saved(started, put)
    }

    /// A whole save, here and now.
    fn save_now(&mut self) -> Durable {
        self.finish_save()?;
        self.start_save();
        if self.progress.saving.is_none() {
            return Err("the save could not be started".into());
        }
        self.finish_save()
    }

    fn put(&mut self, mut prepared: Prepared) -> io::Result<(u64, u64)> {
        let (writes, snapshot_bytes) = (prepared.writes, prepared.snapshot_bytes);
        set(&self.metrics.longest_pause_micros, u64::try_from(prepared.longest_pause.as_micros()).unwrap_or(u64::MAX));
        let head_bytes = prepared.journal_bytes;
        let history = prepared.history.take();
        let switched = self.journal.switch(prepared);
        if let Some(history) = history {
            if switched.is_ok() {
                history.in_place(&self.shards, &self.disk, &self.paths);
            } else if self.journal.is_switching() {
                history.note(&self.shards);
            } else {
                history.abandon(&self.shards, &self.paths.history);
            }
        }
        switched?;
        self.progress.folded_bytes = head_bytes;
        Ok((writes, snapshot_bytes))
    }

    /// Counts and logs how a save ended.
    fn saved(&mut self, started: Instant, put: io::Result<(u64, u64)>) -> Durable {
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        set(&self.metrics.last_snapshot_millis, took);
        match put {
            Ok((writes, bytes)) => {
                self.progress.saved_writes = writes;
                self.health.note_saved(writes, started);
                add(&self.metrics.snapshots_written, 1);
                set(&self.metrics.last_snapshot_bytes, bytes);
                set(&self.metrics.journal_bytes, self.journal.bytes());
                tracing::debug!(path = %self.paths.snapshot.display(), bytes, took_millis = took, "snapshot saved");
                Ok(())
            }
            Err(error) => {
                add(&self.metrics.snapshot_failures, 1);
                // Without what it wrote once more, the same save may find room.
                let soon = self.interval.is_zero() || self.shards.history.has_failed_to_move();
                self.progress.next_save = Instant::now() + if soon { jitter(SAVE_RETRY) } else { self.interval };
                tracing::error!(path = %self.paths.snapshot.display(), %error, "the snapshot could not be saved; the last one stays and it is tried again");
                Err(format!("the snapshot could not be saved: {error}"))
            }
        }
    }

    fn close(&mut self) -> Durable {
        let journaled = self.journal_now();
        // There may be little time and little room, and nobody tries again.
        self.shards.history.move_nothing();
        let _ = self.finish_save();
        // The save that was under way may have ended that.
        self.shards.history.move_nothing();
        let unsaved = self.shards.writes() != self.progress.saved_writes;
        let saved = if unsaved { self.save_now() } else { journaled.clone() };
        self.audit();
        match saved {
            // Every write is in the journal, so nothing is lost.
            Err(reason) if unsaved && self.interval.is_zero() && journaled.is_ok() => {
                tracing::warn!(reason, "the last snapshot could not be saved; the journal has every write");
                Ok(())
            }
            saved => saved,
        }
    }

    /// The store is gone without a close: nothing is put in place, and nothing writes any more.
    fn abandon_save(&mut self) {
        if let Some((thread, _)) = self.progress.saving.take() {
            let _ = thread.join();
        }
    }
}

fn jitter(base: Duration) -> Duration {
    base + base.mul_f64(fastrand::f64() / 2.0)
}

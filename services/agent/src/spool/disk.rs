//! The spool on disk, whose contents the next process finds, with memory as the fallback while the disk takes nothing.
//!
//! Batches are appended to files that take a fraction of the limit each; only the newest file is written to. That a batch is
//! settled is appended to its own file, and a file without any other batch is removed after the next sync. One that could not be
//! read to its end stays until its room is needed, because a later process may be able to. Nothing is rewritten, so that a
//! process that is killed at any point leaves files that can be read up to the record it was writing.
//! What was written survives the process at once, and a power failure after the next sync. That the server has a batch is
//! not synced: without that note the batch is sent again with its key, which is harmless. That a batch was replaced by another one is.
//!
//! `append` writes batches, `settle` writes notes about them, `evict` drops what waited too long or no longer fits. `load`
//! reads what an earlier process left, and `read_again` tries again what could not be read. `folder`, `segment`, `codec` and `sending` are what these use.

mod append;
mod codec;
mod evict;
mod folder;
mod load;
mod read_again;
mod segment;
mod sending;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use golectra_process::{LogLimiter, Secret};
use golectra_protocol::IdempotencyKey;
use tokio::time::Instant;

use self::codec::Record;
pub use self::folder::DiskError;
use self::folder::Folder;
use self::load::Context;
use self::read_again::{READ_TRIES, Round};
use self::segment::{Entry, Place, Segment, State, Sums};
use self::sending::Sending;
use super::send_order::{PATIENCE_TRIES, Pick, SendOrder};
use super::sync::{SyncResult, SyncWork};
use super::{DiskUsage, Memory, Spool, Unsent, Usage};
use crate::batch::{Batch, Deltas, RestoreError, StoredBatch};
use crate::clock::Clock;
use crate::metrics::{AgentMetrics, DropReason};

static READ_ERRORS: LogLimiter = LogLimiter::new();
static SYNC_ERRORS: LogLimiter = LogLimiter::new();

/// Bounds of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// What its files take on disk.
    pub bytes: u64,
    /// How long a batch may wait.
    pub age: Duration,
}

/// Batches on disk.
pub struct Disk {
    folder: Folder,
    limits: DiskLimits,
    hash_key: Option<Secret>,
    metrics: Arc<AgentMetrics>,
    /// When the spool was opened; the times in the index are relative to it.
    start: Instant,
    /// For indexing the files of earlier processes.
    context: Context,
    /// The files by their numbers, in the order in which they were written.
    segments: BTreeMap<u64, Segment>,
    /// The file that is written to, the last of them.
    active: Option<Active>,
    next_number: u64,
    handed_out: BTreeMap<IdempotencyKey, Place>,
    sending: Sending,
    /// Waiting batches that were tried often.
    failing: Vec<Place>,
    /// When what could not be read is tried again; none where nothing is.
    next_reading: Option<Round>,
    order: SendOrder,
    /// What the disk did not take.
    memory: Memory,
    writes_fail: bool,
    /// Dropped batches, and the deltas of those that were not applied, until the next batch contains them.
    dropped: Vec<Place>,
    returned: Deltas,
    /// Settled batches whose notes could not be written.
    unwritten: Vec<Place>,
    /// Files with notes of replaced batches that are not synced yet.
    replaced: BTreeSet<u64>,
    /// Files that are not written to any more and are not synced yet.
    rolled: Vec<Arc<File>>,
    folder_changed: bool,
    /// Files to remove, and what they and those that are being removed take on disk.
    removals: Vec<(PathBuf, u64)>,
    removal_bytes: u64,
}

struct Active {
    number: u64,
    file: Arc<File>,
    /// The length up to which the file is synced.
    synced_bytes: u64,
    /// The length up to which it will be synced by the sync in progress.
    syncing_bytes: u64,
}

/// Why a batch could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the record is damaged")]
    Damaged,
    #[error("the record is damaged: {0}")]
    Restore(#[from] RestoreError),
}

impl ReadError {
    /// Whether the batch may be there all the same: the file was neither removed nor cut off, and its bytes were not read.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Io(error) if is_passing(error))
    }
}

/// Whether reading a file may succeed later, as after an error of the disk or with too many open files: it was neither removed nor cut off.
fn is_passing(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

impl Disk {
    /// Opens the folder, with what an earlier process left in it. Blocks while it reads files.
    ///
    /// `memory` takes what the disk does not. `hash_key` makes the HashSHA256 of batches that are read. `clock` tells how old
    /// the batches of an earlier process are, for the metrics only.
    pub fn open(
        path: &Path,
        limits: DiskLimits,
        memory: Memory,
        hash_key: Option<Secret>,
        clock: &Clock,
        metrics: Arc<AgentMetrics>,
    ) -> Result<Self, DiskError> {
        let folder = Folder::open(path)?;
        let sending = Sending::open(&folder.sending());
        let mut context = Context { start_unix_millis: clock.unix_millis(), newest_unix_millis: 0, sending: sending.keys() };
        let loaded = load::load(&folder, &mut context)?;
        metrics.spool_corrupt(loaded.corrupt);
        let mut disk = Self {
            folder,
            limits,
            hash_key,
            metrics,
            start: Instant::now(),
            context,
            segments: loaded.segments,
            active: None,
            next_number: loaded.next_number,
            handed_out: BTreeMap::new(),
            sending,
            failing: Vec::new(),
            next_reading: None,
            order: SendOrder::default(),
            memory,
            writes_fail: false,
            dropped: Vec::new(),
            returned: Deltas::default(),
            unwritten: Vec::new(),
            replaced: BTreeSet::new(),
            rolled: Vec::new(),
            folder_changed: false,
            removals: Vec::new(),
            removal_bytes: 0,
        };
        disk.note_sending_before(&loaded.sending);
        disk.settle_replaced_before(&loaded.replaced);
        for (number, disk_bytes) in loaded.empty {
            disk.remove_file(number, disk_bytes);
        }
        let DiskUsage { batches, polls, bytes, .. } = disk.usage().disk;
        if batches > 0 {
            tracing::info!(batches, polls, bytes, "the spool holds reports of an earlier run: they are sent now");
        }
        Ok(disk)
    }

    /// Moves what an earlier process was sending from the small file into notes, which last until the batches are settled.
    fn note_sending_before(&mut self, found: &[(u64, u32, IdempotencyKey)]) {
        for key in self.context.sending.clone() {
            let noted = found.iter().find(|(_, _, found)| *found == key).is_none_or(|(number, offset, _)| self.note_sent(*number, *offset));
            if noted {
                self.not_sending(key);
            }
        }
    }

    fn not_sending(&mut self, key: IdempotencyKey) {
        if self.sending.remove(key).is_err() {
            self.metrics.spool_write_failed();
        }
    }

    /// Indexes a file of an earlier process when its batches are needed, so that the index of a full spool takes no more
    /// memory at the start than that of an empty one.
    /// A file that cannot be read now stays without an index, and none of its batches waits until it is tried again.
    fn warm(&mut self, number: u64) {
        let is_last_try = self.segments.get(&number).is_some_and(|segment| segment.read_failures + 1 >= READ_TRIES);
        self.warm_at_last(number, is_last_try);
    }

    /// As [`Self::warm`]. After the last try the part that can be read is taken. The file stays for the next process, which may be able to read
    /// the rest of it or, where nothing can be read, all of it.
    fn warm_at_last(&mut self, number: u64, is_last_try: bool) {
        let Some(segment) = self.segments.get_mut(&number).filter(|segment| segment.is_cold()) else { return };
        let expected = segment.live();
        match load::entries(&self.folder, number, &self.context, is_last_try) {
            Ok((entries, is_cut_off)) => {
                // Damage that was there at the start is already counted.
                self.metrics.spool_corrupt(expected.saturating_sub(entries.len()) as u64);
                segment.warm(entries, is_cut_off);
                self.release(number);
            }
            Err(error) if is_passing(&error) && !is_last_try => {
                let failures = segment.leave();
                self.schedule_reading(failures);
                let path = self.folder.segment(number);
                READ_ERRORS.log("a file is tried again", move |count| {
                    tracing::warn!(count, path = %path.display(), %error, "a file of the spool cannot be read: it is tried again");
                });
            }
            Err(error) => {
                let path = self.folder.segment(number);
                tracing::error!(path = %path.display(), %error, "a file of the spool cannot be read: this process does not send the reports in it");
                self.metrics.spool_corrupt(expected as u64);
                if is_passing(&error) {
                    segment.warm(Vec::new(), true);
                } else {
                    self.segments.remove(&number);
                }
            }
        }
    }

    fn entry(&self, place: Place) -> Entry {
        self.segments[&place.segment].entries[place.index]
    }

    fn entry_mut(&mut self, place: Place) -> Option<&mut Entry> {
        self.segments.get_mut(&place.segment).map(|segment| &mut segment.entries[place.index])
    }

    fn set_state(&mut self, place: Place, state: State) {
        self.segments.get_mut(&place.segment).expect("a place is in a file of the index").set_state(place.index, state);
    }

    /// Reads a batch back as it was sealed.
    fn read(&self, place: Place) -> Result<Batch, ReadError> {
        let entry = self.entry(place);
        let payload = self.folder.read(place.segment, u64::from(entry.offset))?.ok_or(ReadError::Damaged)?;
        let Some(Record::Batch { key, deltas, body, .. }) = codec::decode(&payload) else { return Err(ReadError::Damaged) };
        let body = bytes::Bytes::copy_from_slice(body);
        let stored = StoredBatch { key, body, deltas, age: entry.sealed.age(self.start), attempts: entry.attempts };
        Ok(Batch::restored(stored, self.hash_key.as_ref())?)
    }

    /// Settles a batch that cannot be read.
    fn skip(&mut self, place: Place, error: ReadError) {
        self.metrics.spool_corrupt(1);
        self.log_unreadable(place, error, "it is skipped");
        self.settle(&[place]);
    }

    /// Leaves a batch that cannot be read now: for a while, and after several tries to the next process.
    fn leave(&mut self, place: Place, error: ReadError) {
        self.failing.retain(|failing| *failing != place);
        self.set_state(place, State::Left);
        let failures = self.entry(place).read_failures.saturating_add(1);
        if let Some(entry) = self.entry_mut(place) {
            entry.read_failures = failures;
        }
        if failures < READ_TRIES {
            self.log_unreadable(place, error, "it is tried again");
            self.schedule_reading(failures);
        } else {
            self.metrics.spool_corrupt(1);
            self.log_unreadable(place, error, "it is left to the next agent");
        }
    }

    /// Logs a batch that cannot be read.
    fn log_unreadable(&self, place: Place, error: ReadError, consequence: &'static str) {
        let (path, offset) = (self.folder.segment(place.segment), self.entry(place).offset);
        READ_ERRORS.log(consequence, move |count| {
            tracing::error!(count, path = %path.display(), offset, %error, "a report cannot be read from the spool: {consequence}");
        });
    }

    fn find(&mut self, pick: Pick) -> Option<Place> {
        loop {
            let mut with_fresh = self.segments.iter().filter(|(_, segment)| segment.has_fresh());
            let (number, segment) = match pick {
                Pick::Oldest => with_fresh.next()?,
                Pick::Newest => with_fresh.next_back()?,
                Pick::Failing => return self.failing.iter().copied().min_by_key(|place| self.entry(*place).attempts.count()),
            };
            let number = *number;
            if segment.is_cold() {
                self.warm(number);
                continue;
            }
            let mut entries = segment.entries.iter();
            let index = if pick == Pick::Oldest { entries.position(Entry::is_fresh) } else { entries.rposition(Entry::is_fresh) };
            return index.map(|index| Place { segment: number, index });
        }
    }

    fn waiting_on_disk(&self) -> usize {
        self.segments.values().map(Segment::waiting_count).sum()
    }

    /// Takes over what a sender learned about a batch, and notes what the next process has to know of it.
    fn learn(&mut self, place: Place, batch: &Batch) {
        let sent_before = !self.entry(place).attempts.may_be_sealed_again();
        if let Some(entry) = self.entry_mut(place) {
            entry.attempts = batch.attempts();
        }
        let noted = batch.attempts().may_be_sealed_again() || sent_before || self.note_sent(place.segment, self.entry(place).offset);
        if noted {
            self.not_sending(batch.key());
        }
    }
}

impl Spool for Disk {
    fn make_room(&mut self) -> Deltas {
        self.expire();
        self.shrink();
        let mut returned = self.memory.make_room();
        // While the disk takes nothing, dropped batches stay as they are: a note that a report in memory replaces them could
        // not be written either, and after a crash they would be counted twice.
        if !self.writes_fail {
            returned.add_all(&std::mem::take(&mut self.returned));
        }
        returned
    }

    fn push(&mut self, batch: Batch) {
        self.note_unwritten();
        // What is in memory is older. Where it is more than there is room for, the rest follows when the oldest files have made room.
        while let Some(earlier) = self.memory.pop_oldest() {
            if !self.has_room(self.used_bytes()) || !self.try_append(&earlier, &[]) {
                self.memory.push(earlier);
                break;
            }
        }
        // Batches whose deltas were not handed out yet stay as they are.
        let dropped = if self.returned == Deltas::default() { std::mem::take(&mut self.dropped) } else { Vec::new() };
        if self.memory.waiting() > 0 || !self.try_append(&batch, &dropped) {
            self.memory.push(batch);
        }
        // Also when the batch is in memory: it contains the deltas of the dropped ones, which must not be sent any more.
        self.settle_replaced(&dropped);
    }

    fn take(&mut self) -> Option<Batch> {
        loop {
            let failing = self.find(Pick::Failing);
            let fresh_on_disk = self.waiting_on_disk() - self.failing.len();
            let others = fresh_on_disk + self.memory.waiting() > 0;
            let pick = self.order.next(failing.map(|place| self.entry(place).attempts.count()), others)?;
            // What is in memory is newer than what is on disk.
            let from_memory = match pick {
                Pick::Oldest => fresh_on_disk == 0,
                Pick::Newest => self.memory.waiting() > 0,
                Pick::Failing => false,
            };
            if from_memory {
                return self.memory.take_pick(pick);
            }
            // None when a file turned out to be damaged; then another one is picked.
            let Some(place) = self.find(pick) else { continue };
            match self.read(place) {
                Ok(mut batch) => {
                    self.set_state(place, State::HandedOut);
                    if let Some(entry) = self.entry_mut(place) {
                        entry.read_failures = 0;
                    }
                    self.failing.retain(|failing| *failing != place);
                    self.handed_out.insert(batch.key(), place);
                    // Where it cannot be noted that the batch is being sent, it is marked as sent.
                    if self.sending.add(batch.key()).is_err() && batch.attempts().may_be_sealed_again() {
                        self.metrics.spool_write_failed();
                        self.note_sent(place.segment, self.entry(place).offset);
                        batch.assume_sent();
                    }
                    return Some(batch);
                }
                Err(error) if error.may_pass() => self.leave(place, error),
                Err(error) => self.skip(place, error),
            }
        }
    }

    fn put_back(&mut self, batch: Batch) {
        self.order.failed();
        let Some(place) = self.handed_out.remove(&batch.key()) else { return self.memory.put_back(batch) };
        self.learn(place, &batch);
        self.set_state(place, State::Waiting);
        if batch.attempts().count() >= PATIENCE_TRIES {
            self.failing.push(place);
        }
    }

    fn seal_again(&mut self, batch: Batch, unix_millis: u64) -> bool {
        let Some(place) = self.handed_out.get(&batch.key()).copied() else { return self.memory.seal_again(batch, unix_millis) };
        let key = batch.key();
        // One record holds the new batch and removes the old one, so that never both are found. Where the disk does not take
        // that, the batch stays as it is.
        if !self.has_room(self.used_bytes()) || !self.try_append(&batch.clone().sealed_again(unix_millis), &[place]) {
            self.put_back(batch);
            return false;
        }
        self.handed_out.remove(&key);
        self.settle_replaced(&[place]);
        self.not_sending(key);
        true
    }

    fn acknowledge(&mut self, key: IdempotencyKey) {
        self.order.settled();
        let Some(place) = self.handed_out.remove(&key) else { return self.memory.acknowledge(key) };
        self.settle(&[place]);
        self.not_sending(key);
    }

    fn reject(&mut self, batch: &Batch, reason: DropReason) {
        self.order.settled();
        let Some(place) = self.handed_out.remove(&batch.key()) else { return self.memory.reject(batch, reason) };
        self.learn(place, batch);
        self.drop_batch(place, reason);
    }

    fn waiting(&self) -> usize {
        self.waiting_on_disk() + self.memory.waiting()
    }

    fn usage(&self) -> Usage {
        let mut sums = Sums::default();
        for segment in self.segments.values() {
            sums.add(segment.sums());
        }
        let oldest_age_seconds = sums.oldest.map(|oldest| oldest.age(self.start).total().as_secs_f64());
        let disk = DiskUsage { batches: sums.batches, polls: sums.polls, bytes: self.used_bytes(), oldest_age_seconds };
        let memory = self.memory.usage();
        let oldest_age_seconds = oldest_age_seconds.into_iter().chain(memory.oldest_age_seconds).reduce(f64::max);
        Usage { batches: disk.batches + memory.batches, bytes: memory.bytes, oldest_age_seconds, disk }
    }

    fn close(&mut self) -> Unsent {
        self.note_unwritten();
        let disk = self.usage().disk;
        Unsent { kept_batches: disk.batches as u64, kept_polls: disk.polls, ..self.memory.close() }
    }

    fn read_again(&mut self) -> bool {
        self.wait_again()
    }

    fn begin_sync(&mut self) -> Option<SyncWork> {
        let mut files = std::mem::take(&mut self.rolled);
        if let Some(active) = &mut self.active {
            let segment = &self.segments[&active.number];
            let unsynced = segment.entries.iter().rev().take_while(|entry| u64::from(entry.offset) >= active.synced_bytes);
            // What the server has by now need not survive a power failure. While all goes well, nothing is ever synced. A
            // batch that replaces others has to: without it the others would be sent as well.
            let wanted = !self.removals.is_empty() || !files.is_empty() || !self.replaced.is_empty();
            if unsynced.clone().any(|entry| entry.state != State::Settled) || wanted && unsynced.count() > 0 {
                active.syncing_bytes = segment.bytes;
                files.push(Arc::clone(&active.file));
            }
        }
        let folder = (!files.is_empty() && std::mem::take(&mut self.folder_changed)).then(|| self.folder.handle());
        let removals = std::mem::take(&mut self.removals);
        let replaced = std::mem::take(&mut self.replaced).into_iter().filter(|number| self.segments.contains_key(number));
        files.extend(replaced.filter_map(|number| File::open(self.folder.segment(number)).ok()).map(Arc::new));
        (!files.is_empty() || !removals.is_empty()).then_some(SyncWork { files, folder, removals })
    }

    fn end_sync(&mut self, SyncResult { result, not_removed }: SyncResult) {
        self.removal_bytes = self.removals.iter().chain(&not_removed).map(|(_, bytes)| bytes).sum();
        self.removals.extend(not_removed);
        match result {
            Ok(()) => {
                if let Some(active) = &mut self.active {
                    active.synced_bytes = active.syncing_bytes;
                }
            }
            Err(error) => {
                self.metrics.spool_sync_failed();
                let path = self.folder.path().display().to_string();
                SYNC_ERRORS.log("failed", move |count| {
                    tracing::warn!(count, path, %error, "the spool could not be synced to the disk: a power failure may lose reports");
                });
                // After a failed sync the system may report later ones as successful although data is missing: what follows goes
                // into another file.
                self.roll();
                self.rolled.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests;

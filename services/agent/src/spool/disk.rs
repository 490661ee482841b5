//! The spool on disk: what is in it is found again by the next process, with memory behind it for when the disk is full.
//!
//! Batches are appended to files of a fraction of the limit each; only the newest is written to. That a batch is done with is
//! appended to its own file; a file without any other batch is removed after the next sync. So nothing is ever rewritten, and a process that dies
//! anywhere leaves files that can be read up to the record it was writing. What was written outlives the process at once, and
//! a power cut after the next sync. That a batch is done with is never synced: if that is lost, the batch is sent again under
//! its key, which is harmless.
//!
//! `append` writes batches, `settle` notes that they are done with, `room` gives up what has waited for too long or no longer
//! fits. `load` reads what an earlier process left; `folder`, `segment`, `codec` and `sync` are what these stand on.

mod append;
mod codec;
mod folder;
mod load;
mod room;
mod segment;
mod settle;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use golectra_process::Secret;
use golectra_protocol::IdempotencyKey;

use self::codec::Record;
pub use self::folder::DiskError;
use self::folder::Folder;
use self::segment::{Entry, Place, Segment, State, Sums};
pub use self::sync::{SyncDone, SyncWork};
use super::turns::{PATIENCE_TRIES, Turn, Turns};
use super::{DiskFill, Fill, Left, Memory, Spool};
use crate::batch::{Batch, Deltas};
use crate::stats::{DropReason, Stats};

/// Bounds of the spool's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// What they take on the disk.
    pub bytes: u64,
    /// How long a batch may wait.
    pub age: Duration,
}

/// Batches on disk.
pub struct Disk {
    folder: Folder,
    limits: DiskLimits,
    hash_key: Option<Secret>,
    stats: Arc<Stats>,
    /// By their numbers, which is the order of their times.
    segments: BTreeMap<u64, Segment>,
    /// The one that is written to, the last of them.
    active: Option<Active>,
    next_number: u64,
    handed_out: BTreeMap<IdempotencyKey, Place>,
    /// Those that wait and have failed often.
    failing: Vec<Place>,
    turns: Turns,
    /// What the disk did not take.
    memory: Memory,
    writes_fail: bool,
    /// Batches that are never sent again, and the deltas that the next one takes over from them.
    given_up: Vec<Place>,
    given_back: Deltas,
    /// Batches that are done with, which could not be written down.
    unwritten: Vec<Place>,
    /// Files with notes of batches that others replace, not synced yet.
    replaced: BTreeSet<u64>,
    /// Files that were written to and are not any more, not synced yet.
    rolled: Vec<Arc<File>>,
    folder_changed: bool,
    /// Files to remove, and what they and those being removed take.
    leaving: Vec<(PathBuf, u64)>,
    leaving_bytes: u64,
}

struct Active {
    number: u64,
    file: Arc<File>,
    /// Up to where the disk has confirmed it.
    synced_bytes: u64,
    /// Up to where it will have when the sync that is under way is done.
    syncing_bytes: u64,
}

/// Why a batch could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the record is damaged")]
    Damaged,
}

impl Disk {
    /// Opens the folder, with what an earlier process left in it. Reads files: call it before anything has to be on time.
    ///
    /// `memory` takes what the disk does not; `hash_key` makes the hashes of batches read back.
    pub fn open(path: &Path, limits: DiskLimits, memory: Memory, hash_key: Option<Secret>, stats: Arc<Stats>) -> Result<Self, DiskError> {
        let folder = Folder::open(path)?;
        let loaded = load::load(&folder)?;
        stats.spool_corrupt(loaded.corrupt);
        let mut disk = Self {
            folder,
            limits,
            hash_key,
            stats,
            segments: loaded.segments,
            active: None,
            next_number: loaded.next_number,
            handed_out: BTreeMap::new(),
            failing: Vec::new(),
            turns: Turns::default(),
            memory,
            writes_fail: false,
            given_up: Vec::new(),
            given_back: Deltas::default(),
            unwritten: Vec::new(),
            replaced: BTreeSet::new(),
            rolled: Vec::new(),
            folder_changed: false,
            leaving: Vec::new(),
            leaving_bytes: 0,
        };
        disk.settle_replaced_before(&loaded.replaced);
        for (number, disk_bytes) in loaded.empty {
            disk.leave_file(number, disk_bytes);
        }
        let DiskFill { batches, polls, bytes, .. } = disk.fill().disk;
        if batches > 0 {
            tracing::info!(batches, polls, bytes, "the spool holds reports of an earlier run: they are sent now");
        }
        Ok(disk)
    }

    /// Reads which batches a file holds that an earlier process left, when it is its turn: so the index of a full spool
    /// takes no more memory than that of an empty one.
    fn warm(&mut self, number: u64) {
        let Some(segment) = self.segments.get_mut(&number).filter(|segment| segment.is_cold()) else { return };
        let expected = segment.live();
        match load::entries(&self.folder, number) {
            Ok(entries) => {
                // Damage that was there at the start is counted already.
                self.stats.spool_corrupt(expected.saturating_sub(entries.len()) as u64);
                segment.warm(entries);
                self.let_go(number);
            }
            Err(error) => {
                let path = self.folder.segment(number);
                tracing::error!(path = %path.display(), %error, "a file of the spool cannot be read: what is in it is not sent by this process");
                self.stats.spool_corrupt(expected as u64);
                self.segments.remove(&number);
            }
        }
    }

    fn entry(&self, place: Place) -> Entry {
        self.segments[&place.segment].entries[place.index]
    }

    fn set_state(&mut self, place: Place, state: State) {
        self.segments.get_mut(&place.segment).expect("a place is in a file that is there").set_state(place.index, state);
    }

    /// Reads a batch back, whole and as it was.
    fn read(&self, place: Place) -> Result<Batch, ReadError> {
        let entry = self.entry(place);
        let payload = self.folder.read(place.segment, u64::from(entry.offset))?.ok_or(ReadError::Damaged)?;
        let Some(Record::Batch { key, deltas, body, .. }) = codec::decode(&payload) else { return Err(ReadError::Damaged) };
        let body = bytes::Bytes::copy_from_slice(body);
        Batch::restored(key, body, deltas, self.hash_key.as_ref(), (u32::from(entry.tries), entry.may_be_applied))
            .map_err(|_| ReadError::Damaged)
    }

    /// Skips a batch that cannot be read.
    fn skip(&mut self, place: Place, error: &ReadError) {
        self.stats.spool_corrupt(1);
        let path = self.folder.segment(place.segment);
        tracing::error!(path = %path.display(), offset = self.entry(place).offset, %error, "a report cannot be read from the spool: it is skipped");
        self.settle(&[place]);
    }

    fn place_of(&mut self, turn: Turn) -> Option<Place> {
        loop {
            let mut with_fresh = self.segments.iter().filter(|(_, segment)| segment.has_fresh());
            let (number, segment) = match turn {
                Turn::Oldest => with_fresh.next()?,
                Turn::Newest => with_fresh.next_back()?,
                Turn::Failing => return self.failing.iter().copied().min_by_key(|place| self.entry(*place).tries),
            };
            let number = *number;
            if segment.is_cold() {
                self.warm(number);
                continue;
            }
            let mut entries = segment.entries.iter();
            let index = if turn == Turn::Oldest { entries.position(Entry::is_fresh) } else { entries.rposition(Entry::is_fresh) };
            return index.map(|index| Place { segment: number, index });
        }
    }

    fn waiting_on_disk(&self) -> usize {
        self.segments.values().map(Segment::waiting).sum()
    }
}

impl Spool for Disk {
    fn make_room(&mut self, now_unix_millis: u64) -> Deltas {
        self.expire(now_unix_millis);
        self.shrink();
        let mut given_back = self.memory.make_room(now_unix_millis);
        // While the disk takes nothing, what was given up stays as it is: a note that a report in memory replaces it could
        // not be written either, and a crash would count it twice.
        if !self.writes_fail {
            given_back.add_all(&std::mem::take(&mut self.given_back));
        }
        given_back
    }

    fn push(&mut self, batch: Batch) {
        self.note_unwritten();
        // What waits in memory came before.
        while let Some(earlier) = self.memory.pop_oldest() {
            if !self.try_append(&earlier, &[]) {
                self.memory.push(earlier);
                break;
            }
        }
        // Those whose deltas were not handed out yet stay given up.
        let given_up = if self.given_back == Deltas::default() { std::mem::take(&mut self.given_up) } else { Vec::new() };
        if self.memory.waiting() > 0 || !self.try_append(&batch, &given_up) {
            self.memory.push(batch);
        }
        // Also when the batch is in memory: it holds what was given back, so what that came from may not be sent any more.
        self.settle_replaced(&given_up);
    }

    fn take(&mut self) -> Option<Batch> {
        loop {
            let failing = self.place_of(Turn::Failing);
            let fresh_on_disk = self.waiting_on_disk() - self.failing.len();
            let others = fresh_on_disk + self.memory.waiting() > 0;
            let turn = self.turns.next(failing.map(|place| u32::from(self.entry(place).tries)), others)?;
            // What is in memory is newer than what is on disk.
            let from_memory = match turn {
                Turn::Oldest => fresh_on_disk == 0,
                Turn::Newest => self.memory.waiting() > 0,
                Turn::Failing => false,
            };
            if from_memory {
                return self.memory.take_turn(turn);
            }
            // None when a file turned out to be damaged: the turn is another's.
            let Some(place) = self.place_of(turn) else { continue };
            match self.read(place) {
                Ok(batch) => {
                    self.set_state(place, State::HandedOut);
                    self.failing.retain(|failing| *failing != place);
                    self.handed_out.insert(batch.key(), place);
                    return Some(batch);
                }
                Err(error) => self.skip(place, &error),
            }
        }
    }

    fn put_back(&mut self, batch: Batch) {
        self.turns.failed();
        let Some(place) = self.handed_out.remove(&batch.key()) else { return self.memory.put_back(batch) };
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.entries[place.index].learn(&batch);
        }
        self.set_state(place, State::Waiting);
        if batch.tries() >= PATIENCE_TRIES {
            self.failing.push(place);
        }
    }

    fn forget(&mut self, key: IdempotencyKey) {
        self.turns.settled();
        match self.handed_out.remove(&key) {
            Some(place) => self.settle(&[place]),
            None => self.memory.forget(key),
        }
    }

    fn refuse(&mut self, batch: &Batch, reason: DropReason) {
        self.turns.settled();
        let Some(place) = self.handed_out.remove(&batch.key()) else { return self.memory.refuse(batch, reason) };
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.entries[place.index].learn(batch);
        }
        self.give_up(place, reason);
    }

    fn waiting(&self) -> usize {
        self.waiting_on_disk() + self.memory.waiting()
    }

    fn fill(&self) -> Fill {
        let mut sums = Sums::default();
        for segment in self.segments.values() {
            sums.add(segment.sums());
        }
        let Sums { batches, polls, oldest_unix_seconds } = sums;
        let oldest_unix_millis = oldest_unix_seconds.map(|seconds| u64::from(seconds) * 1000);
        let disk = DiskFill { batches, polls, bytes: self.used_bytes(), oldest_unix_millis };
        let memory = self.memory.fill();
        let oldest_unix_millis = disk.oldest_unix_millis.into_iter().chain(memory.oldest_unix_millis).min();
        Fill { batches: disk.batches + memory.batches, bytes: memory.bytes, oldest_unix_millis, disk }
    }

    fn leave(&mut self) -> Left {
        self.note_unwritten();
        let disk = self.fill().disk;
        Left { kept_batches: disk.batches as u64, kept_polls: disk.polls, ..self.memory.leave() }
    }

    fn unsynced(&mut self) -> Option<SyncWork> {
        let mut files = std::mem::take(&mut self.rolled);
        if let Some(active) = &mut self.active {
            let segment = &self.segments[&active.number];
            let unsynced = segment.entries.iter().rev().take_while(|entry| u64::from(entry.offset) >= active.synced_bytes);
            // What the server has by now need not outlive a power cut: while all goes well, nothing is ever synced.
            let wanted = !self.leaving.is_empty() || !files.is_empty();
            if unsynced.clone().any(|entry| entry.state != State::Settled) || wanted && unsynced.count() > 0 {
                active.syncing_bytes = segment.bytes;
                files.push(Arc::clone(&active.file));
            }
        }
        let folder = (!files.is_empty() && std::mem::take(&mut self.folder_changed)).then(|| self.folder.handle());
        let leaving = std::mem::take(&mut self.leaving);
        if !leaving.is_empty() {
            let replaced = std::mem::take(&mut self.replaced).into_iter().filter(|number| self.segments.contains_key(number));
            files.extend(replaced.filter_map(|number| File::open(self.folder.segment(number)).ok()).map(Arc::new));
        }
        (!files.is_empty() || !leaving.is_empty()).then_some(SyncWork { files, folder, leaving })
    }

    fn synced(&mut self, SyncDone { result, staying }: SyncDone) {
        let still_to_go = self.leaving.iter().chain(&staying).map(|(_, bytes)| bytes).sum();
        self.leaving_bytes = still_to_go;
        self.leaving.extend(staying);
        match result {
            Ok(()) => {
                if let Some(active) = &mut self.active {
                    active.synced_bytes = active.syncing_bytes;
                }
            }
            Err(error) => {
                self.stats.spool_sync_failed();
                tracing::warn!(path = %self.folder.path().display(), %error, "the disk did not confirm the spool: a power cut may lose reports");
                // After such an error a file says that it is synced when it is not: what comes goes into another one.
                self.roll();
                self.rolled.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The journal file: appended in groups, repaired after a failed write, replaced together with the snapshot.
//!
//! A save replaces two files, and the process may die between any two steps. The order is: both new files written and
//! synced; snapshot renamed; folder synced; journal renamed; folder synced. A journal names its snapshot by digest, so
//! the next start finds out which journal (the old one or the new one, still under its temporary name) continues the
//! snapshot that is there. Nothing is acknowledged between the two renames.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::disk::{Disk, Paths};
use super::save::Prepared;
use crate::audit::Draft;

const COPY_BYTES: u64 = 1024 * 1024;

/// A change that is applied but not yet on disk.
#[derive(Debug)]
struct UnsyncedChange {
    epoch: u64,
    frame: Vec<u8>,
    audit: Vec<Draft>,
}

/// The journal of one store, owned by its disk writer.
pub(super) struct Journal {
    disk: Disk,
    paths: Paths,
    /// Absent until a save makes one that continues the snapshot.
    file: Option<File>,
    /// Up to here everything is on disk.
    good_bytes: u64,
    /// Whether a failed write may have left bytes behind that.
    torn: bool,
    unsynced: Vec<UnsyncedChange>,
    /// Audit events of changes that are on disk, or will be as soon as nothing is left to do of a save.
    audit: Vec<Draft>,
    /// The epoch of the save that is in place: changes of earlier ones are in its snapshot.
    saved_epoch: u64,
    /// The save under way: changes of its epoch belong into the next journal too, and stand at these places of this one.
    saving_epoch: Option<u64>,
    behind: Vec<Range<u64>>,
    /// What is left to do after the new snapshot was renamed.
    next_step: Option<SaveStep>,
}

/// The steps that follow a snapshot's rename.
#[derive(Debug, Clone, Copy)]
enum SaveStep {
    SyncSnapshotName,
    RenameJournal,
    SyncJournalName,
}

impl Journal {
    /// Goes on with a file that is good up to `good_bytes`, or waits for the first save to make one.
    pub(super) fn new(disk: Disk, paths: Paths, file: Option<(File, u64)>) -> Self {
        let (file, good_bytes) = file.map_or((None, 0), |(file, good)| (Some(file), good));
        Self {
            disk,
            paths,
            file,
            good_bytes,
            torn: false,
            unsynced: Vec::new(),
            audit: Vec::new(),
            saved_epoch: 0,
            saving_epoch: None,
            behind: Vec::new(),
            next_step: None,
        }
    }

    /// Whether there is a file to append to.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// The length in bytes of what is on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.good_bytes
    }

    /// Whether something waits for the disk.
    pub(super) fn is_behind(&self) -> bool {
        self.next_step.is_some() || !self.unsynced.is_empty()
    }

    /// Takes a change; [`Self::flush`] brings it to the disk. One that is in the snapshot already, because it waited while a save ran, is
    /// not written again.
    pub(super) fn push(&mut self, epoch: u64, frame: Vec<u8>, audit: Option<Draft>) {
        if epoch >= self.saved_epoch {
            self.unsynced.push(UnsyncedChange { epoch, frame, audit: audit.into_iter().collect() });
        } else {
            self.audit.extend(audit);
        }
    }

    /// Takes the event of a change that was taken before. It is handed over when all changes so far are on disk.
    pub(super) fn push_event(&mut self, draft: Draft) {
        match self.unsynced.last_mut() {
            Some(last) => last.audit.push(draft),
            None => self.audit.push(draft),
        }
    }

    /// The audit events of changes that have come to the disk since the last call.
    pub(super) fn take_audit(&mut self) -> Vec<Draft> {
        if self.next_step.is_some() { Vec::new() } else { std::mem::take(&mut self.audit) }
    }

    /// Brings everything taken to the disk. What failed stays and is written with the next try.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.finish_renames()?;
        if self.unsynced.is_empty() {
            return Ok(());
        }
        let Some(file) = &self.file else { return Err(io::Error::other("no journal could be made yet")) };
        if self.torn {
            // A failed sync may have dropped the pages and yet succeed when it is asked again: the bytes are written anew.
            self.disk.cut(file, self.good_bytes)?;
        }
        self.torn = true;
        match self.unsynced.as_slice() {
            [only] => self.disk.write_at(file, &only.frame, self.good_bytes)?,
            group => {
                let frames: Vec<&[u8]> = group.iter().map(|change| change.frame.as_slice()).collect();
                self.disk.write_at(file, &frames.concat(), self.good_bytes)?;
            }
        }
        self.disk.sync(file)?;
        self.torn = false;
        for change in self.unsynced.drain(..) {
            let end = self.good_bytes + change.frame.len() as u64;
            self.audit.extend(change.audit);
            if self.saving_epoch.is_some_and(|saving| change.epoch >= saving) {
                match self.behind.last_mut() {
                    Some(last) if last.end == self.good_bytes => last.end = end,
                    _ => self.behind.push(self.good_bytes..end),
                }
            }
            self.good_bytes = end;
        }
        Ok(())
    }

    /// A save begins: from now on changes of this epoch are behind it. Refused while the last one is not wholly in place.
    pub(super) fn begin(&mut self, epoch: u64) -> io::Result<()> {
        self.finish_renames()?;
        self.saving_epoch = Some(epoch);
        self.behind.clear();
        Ok(())
    }

    /// Whether a snapshot was renamed and something is left to do of that.
    pub(super) fn is_switching(&self) -> bool {
        self.next_step.is_some()
    }

    /// Puts a save's files in place of the old ones, with the changes behind it. After an error before the first rename
    /// everything is as it was, and the new files are gone; after a later one the renames are tried again before anything else.
    pub(super) fn switch(&mut self, prepared: Prepared) -> io::Result<()> {
        let Prepared { journal, journal_bytes, epoch, .. } = prepared;
        let renamed = self.add_behind(&journal, journal_bytes, epoch).and_then(|bytes| {
            self.disk.sync(&journal)?;
            self.disk.rename(&self.paths.snapshot_new, &self.paths.snapshot)?;
            Ok(bytes)
        });
        let journal_bytes = renamed.inspect_err(|_| self.paths.remove_new())?;
        // What was not synced is in the snapshot or in the new journal.
        self.audit.extend(self.unsynced.drain(..).flat_map(|change| change.audit));
        self.behind.clear();
        (self.file, self.good_bytes, self.torn) = (Some(journal), journal_bytes, false);
        (self.saved_epoch, self.saving_epoch) = (epoch, None);
        self.next_step = Some(SaveStep::SyncSnapshotName);
        self.finish_renames()
    }

    /// Writes the changes behind a save to the end of its journal, and says how long that is then.
    fn add_behind(&self, journal: &File, mut journal_bytes: u64, epoch: u64) -> io::Result<u64> {
        if let Some(old) = &self.file {
            for range in &self.behind {
                journal_bytes = copy(&self.disk, old, range.clone(), journal, journal_bytes)?;
            }
        }
        for change in self.unsynced.iter().filter(|change| change.epoch >= epoch) {
            self.disk.write_at(journal, &change.frame, journal_bytes)?;
            journal_bytes += change.frame.len() as u64;
        }
        Ok(journal_bytes)
    }

    fn finish_renames(&mut self) -> io::Result<()> {
        while let Some(step) = self.next_step {
            self.next_step = match step {
                SaveStep::SyncSnapshotName => {
                    self.disk.sync_folder(&self.paths.folder)?;
                    Some(SaveStep::RenameJournal)
                }
                SaveStep::RenameJournal => {
                    self.disk.rename(&self.paths.journal_new, &self.paths.journal)?;
                    Some(SaveStep::SyncJournalName)
                }
                // Until this is done a crash may bring the temporary name back, where the next start looks too.
                SaveStep::SyncJournalName => {
                    self.disk.sync_folder(&self.paths.folder)?;
                    None
                }
            };
        }
        Ok(())
    }
}

/// Copies a range of one file to another, and says where that ends there.
fn copy(disk: &Disk, from: &File, range: Range<u64>, to: &File, mut at: u64) -> io::Result<u64> {
    let mut next = range.start;
    let mut bytes = Vec::new();
    while next < range.end {
        let length = (range.end - next).min(COPY_BYTES);
        bytes.resize(usize::try_from(length).unwrap_or(0), 0);
        from.read_exact_at(&mut bytes, next)?;
        disk.write_at(to, &bytes, at)?;
        next += length;
        at += length;
    }
    Ok(at)
}

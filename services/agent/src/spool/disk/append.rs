//! Appending batches, each with what it replaces, and going on in another file when one is long enough.

use std::io;
use std::sync::Arc;

use super::codec::{self, Offsets};
use super::segment::{Entry, Place, Segment};
use super::{Active, Disk, PATIENCE_TRIES};
use crate::batch::Batch;

impl Disk {
    /// Writes to the active file no more.
    pub(super) fn roll(&mut self) {
        let Some(active) = self.active.take() else { return };
        self.rolled.push(active.file);
        if let Some(segment) = self.segments.get_mut(&active.number) {
            segment.entries.shrink_to_fit();
        }
        self.let_go(active.number);
    }

    /// Appends a batch, as what replaces those that were given up: the disk has both or none of it.
    fn append(&mut self, batch: &Batch, given_up: &[Place]) -> io::Result<()> {
        let mut replaces = Vec::<Offsets>::new();
        for place in given_up {
            let offset = self.entry(*place).offset;
            match replaces.last_mut() {
                Some(last) if last.segment == place.segment => last.offsets.push(offset),
                _ => replaces.push(Offsets { segment: place.segment, offsets: vec![offset] }),
            }
        }
        let record = codec::encode_batch(batch.key(), batch.deltas(), &replaces, batch.body())
            .filter(|record| record.len() as u64 <= self.limits.bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "the report is larger than SPOOL_MAX_BYTES"))?;
        let full = |segment: &Segment| !segment.entries.is_empty() && segment.bytes + record.len() as u64 > self.segment_bytes();
        if self.active.as_ref().is_some_and(|active| full(&self.segments[&active.number])) {
            self.roll();
        }
        if self.active.is_none() {
            let number = self.next_number;
            let file = Arc::new(self.folder.create(number)?);
            self.next_number += 1;
            self.folder_changed = true;
            self.segments.insert(number, Segment::new());
            self.active = Some(Active { number, file, synced_bytes: 0, syncing_bytes: 0 });
        }
        let active = self.active.as_ref().expect("it was made if there was none");
        let segment = self.segments.get_mut(&active.number).expect("the active file is one of them");
        let offset = u32::try_from(segment.bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if let Err(error) = self.folder.append(&active.file, &record, segment.bytes) {
            // What stays of it where the file could not be cut off is damage in a file that is not written to any more.
            if active.file.metadata().is_ok_and(|file| file.len() != segment.bytes) {
                self.roll();
            }
            return Err(error);
        }
        let place = Place { segment: active.number, index: segment.entries.len() };
        segment.push(Entry::of(batch, offset));
        segment.bytes += record.len() as u64;
        if batch.tries() >= PATIENCE_TRIES {
            self.failing.push(place);
        }
        Ok(())
    }

    /// Appends, or says once that the disk does not take it.
    pub(super) fn try_append(&mut self, batch: &Batch, given_up: &[Place]) -> bool {
        match self.append(batch, given_up) {
            Ok(()) => {
                if std::mem::take(&mut self.writes_fail) {
                    tracing::info!(path = %self.folder.path().display(), "the spool can be written again");
                }
                true
            }
            Err(error) => {
                self.stats.spool_write_failed();
                if !std::mem::replace(&mut self.writes_fail, true) {
                    tracing::warn!(
                        path = %self.folder.path().display(), %error,
                        "the spool cannot be written: reports are kept in memory until it can"
                    );
                }
                false
            }
        }
    }
}

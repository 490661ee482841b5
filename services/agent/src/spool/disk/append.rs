//! Appending batches, each with the dropped ones that it replaces, and starting a new file when one is long enough.

use std::io;
use std::sync::Arc;

use golectra_process::LogLimiter;

use super::codec::{self, Offsets};
use super::segment::{Entry, Place, Segment};
use super::{Active, Disk, PATIENCE_TRIES};
use crate::batch::Batch;

static WRITE_ERRORS: LogLimiter = LogLimiter::new();

impl Disk {
    /// Stops writing to the active file.
    pub(super) fn roll(&mut self) {
        let Some(active) = self.active.take() else { return };
        self.rolled.push(active.file);
        if let Some(segment) = self.segments.get_mut(&active.number) {
            segment.entries.shrink_to_fit();
        }
        self.release(active.number);
    }

    /// After a failed write: where an incomplete record could not be cut off, the active file has damage at its end and no batch is
    /// written to it any more.
    pub(super) fn roll_if_damaged(&mut self) {
        let Some(active) = &self.active else { return };
        let Some(segment) = self.segments.get_mut(&active.number) else { return };
        if let Ok(file) = active.file.metadata()
            && file.len() != segment.bytes
        {
            segment.bytes = file.len();
            self.roll();
        }
    }

    /// Appends a batch in one record with the places of those that it replaces, so that the disk has both or neither.
    pub(super) fn append(&mut self, batch: &Batch, replaced: &[Place]) -> io::Result<()> {
        let mut offsets = Vec::<Offsets>::new();
        for place in replaced {
            let offset = self.entry(*place).offset;
            match offsets.last_mut() {
                Some(last) if last.segment == place.segment => last.offsets.push(offset),
                _ => offsets.push(Offsets { segment: place.segment, offsets: vec![offset] }),
            }
        }
        let record = codec::encode_batch(batch.key(), batch.deltas(), &offsets, batch.body())
            .filter(|record| record.len() as u64 <= self.limits.bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "the report is larger than SPOOL_MAX_BYTES"))?;
        let full = |segment: &Segment| !segment.entries.is_empty() && segment.bytes + record.len() as u64 > self.segment_bytes();
        if self.active.as_ref().is_some_and(|active| full(&self.segments[&active.number])) {
            self.roll();
        }
        if self.active.is_none() {
            let number = self.next_number;
            // Also where the file cannot be completed: one that cannot be removed again must not be in the way of the next.
            self.next_number += 1;
            let (file, bytes) = self.folder.create(number)?;
            self.folder_changed = true;
            self.segments.insert(number, Segment::new(bytes));
            self.active = Some(Active { number, file: Arc::new(file), synced_bytes: 0, syncing_bytes: 0 });
        }
        let active = self.active.as_ref().expect("it was created if there was none");
        let segment = self.segments.get_mut(&active.number).expect("the active file is in the index");
        let offset = u32::try_from(segment.bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if let Err(error) = self.folder.append(&active.file, &record, segment.bytes) {
            self.roll_if_damaged();
            return Err(error);
        }
        let place = Place { segment: active.number, index: segment.entries.len() };
        segment.push(Entry::of(batch, offset, self.start));
        segment.bytes += record.len() as u64;
        if batch.attempts().count() >= PATIENCE_TRIES {
            self.failing.push(place);
        }
        Ok(())
    }

    /// Appends a batch; false when the disk does not take it, which is logged.
    pub(super) fn try_append(&mut self, batch: &Batch, replaced: &[Place]) -> bool {
        let path = self.folder.path().display().to_string();
        match self.append(batch, replaced) {
            Ok(()) => {
                if std::mem::take(&mut self.writes_fail) {
                    WRITE_ERRORS.log("recovered", move |count| tracing::info!(count, path, "the spool can be written again"));
                }
                true
            }
            Err(error) => {
                self.metrics.spool_write_failed();
                self.writes_fail = true;
                WRITE_ERRORS.log("failed", move |count| {
                    tracing::warn!(count, path, %error, "the spool cannot be written: reports are kept in memory until it can");
                });
                false
            }
        }
    }
}

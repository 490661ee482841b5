//! Notes about batches in their own files: that one is settled, or that it may have been sent. Files without a batch that is
//! still needed are released.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use super::Disk;
use super::codec::{self, Offsets};
use super::segment::{Place, State};

impl Disk {
    /// Settles the batches that later ones replace, where an earlier process ended before it did so.
    pub(super) fn settle_replaced_before(&mut self, replaced: &[Offsets]) {
        for Offsets { segment, offsets } in replaced {
            // They must not be sent. Where nothing of their file can be read now, it is left to the next process as a whole.
            self.warm_at_last(*segment, true);
            let Some(known) = self.segments.get(segment) else { continue };
            let index = |offset: &u32| known.entries.iter().position(|entry| entry.offset == *offset && entry.state == State::Waiting);
            let places: Vec<Place> = offsets.iter().filter_map(index).map(|index| Place { segment: *segment, index }).collect();
            self.settle_replaced(&places);
        }
    }

    /// Notes that batches are settled, and releases files that contain no other.
    pub(super) fn settle(&mut self, places: &[Place]) {
        let mut by_segment = BTreeMap::<u64, Vec<Place>>::new();
        for place in places {
            self.failing.retain(|failing| failing != place);
            self.set_state(*place, State::Settled);
            by_segment.entry(place.segment).or_default().push(*place);
        }
        for (number, places) in by_segment {
            // Also in a file that is about to be removed, because the process may be killed before that.
            let offsets: Vec<u32> = places.iter().map(|place| self.entry(*place).offset).collect();
            let noted = self.note(number, codec::encode_settled(&offsets));
            if !self.release(number) && !noted {
                self.unwritten.extend(places);
            }
        }
    }

    /// Settles batches whose deltas are in another one. The file of that one must not be removed before these notes are
    /// synced, because it says the same.
    pub(super) fn settle_replaced(&mut self, replaced: &[Place]) {
        self.settle(replaced);
        self.replaced.extend(replaced.iter().map(|place| place.segment));
    }

    /// Notes that a batch may have been sent; whether that is on disk.
    pub(super) fn note_sent(&mut self, number: u64, offset: u32) -> bool {
        self.note(number, codec::encode_sent(&[offset]))
    }

    /// Appends a note to a file. One that the disk does not take is counted. If a note that a batch is settled is missing
    /// after a crash, the batch is sent again with its key, which is harmless.
    fn note(&mut self, number: u64, record: Option<Vec<u8>>) -> bool {
        let Some(segment) = self.segments.get_mut(&number) else { return true };
        let Some(record) = record else { return true };
        if segment.stays {
            // Without it the next process sends them again with their keys, as after a crash.
            let beside = File::options().create(true).append(true).open(self.folder.settled(number));
            if let Err(error) = beside.and_then(|mut file| file.write_all(&record)) {
                tracing::debug!(%error, "a note about a file of the spool could not be written beside it");
            }
        }
        let written = match &self.active {
            Some(active) if active.number == number => self.folder.append(&active.file, &record, segment.bytes),
            _ => self.folder.append_to(number, &record, segment.bytes),
        };
        if written.is_ok() {
            segment.bytes += record.len() as u64;
        } else {
            self.metrics.spool_write_failed();
            self.roll_if_damaged();
        }
        written.is_ok()
    }

    /// Tries again to note which batches are settled.
    pub(super) fn note_unwritten(&mut self) {
        let mut by_segment = BTreeMap::<u64, Vec<Place>>::new();
        for place in std::mem::take(&mut self.unwritten) {
            by_segment.entry(place.segment).or_default().push(place);
        }
        for (number, places) in by_segment {
            let Some(segment) = self.segments.get(&number) else { continue };
            let offsets: Vec<u32> = places.iter().map(|place| segment.entries[place.index].offset).collect();
            if !self.note(number, codec::encode_settled(&offsets)) {
                self.unwritten.extend(places);
            }
        }
    }

    /// Releases a file that is not active, was read to its end and in which every batch is settled; whether it was released.
    pub(super) fn release(&mut self, number: u64) -> bool {
        let is_active = self.active.as_ref().is_some_and(|active| active.number == number);
        if is_active || self.segments.get(&number).is_none_or(|segment| segment.live() > 0 || segment.stays) {
            return false;
        }
        if let Some(segment) = self.segments.remove(&number) {
            self.remove_file(number, segment.disk_bytes());
        }
        true
    }

    /// Has a file removed after the next sync.
    pub(super) fn remove_file(&mut self, number: u64, disk_bytes: u64) {
        self.removal_bytes += disk_bytes;
        self.removals.push((self.folder.segment(number), disk_bytes));
        let beside = self.folder.settled(number);
        if beside.exists() {
            self.removals.push((beside, 0));
        }
    }
}

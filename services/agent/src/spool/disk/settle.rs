//! Settling: noting in its file that a batch is done with, and letting go of files that hold no other.

use std::collections::BTreeMap;

use super::Disk;
use super::codec::{self, Offsets};
use super::segment::{Place, State};

impl Disk {
    /// Settles what a later batch replaces where the process before did not come to that.
    pub(super) fn settle_replaced_before(&mut self, replaced: &[Offsets]) {
        for Offsets { segment, offsets } in replaced {
            self.warm(*segment);
            let Some(known) = self.segments.get(segment) else { continue };
            let index = |offset: &u32| known.entries.iter().position(|entry| entry.offset == *offset && entry.state == State::Waiting);
            let places: Vec<Place> = offsets.iter().filter_map(index).map(|index| Place { segment: *segment, index }).collect();
            self.settle_replaced(&places);
        }
    }

    /// Notes that batches are done with, and lets go of files that hold no other.
    pub(super) fn settle(&mut self, places: &[Place]) {
        let mut by_segment = BTreeMap::<u64, Vec<Place>>::new();
        for place in places {
            self.failing.retain(|failing| failing != place);
            self.set_state(*place, State::Settled);
            by_segment.entry(place.segment).or_default().push(*place);
        }
        for (number, places) in by_segment {
            // Also in a file that is about to be removed: a crash may come before that.
            let offsets: Vec<u32> = places.iter().map(|place| self.entry(*place).offset).collect();
            let noted = self.note_settled(number, &offsets);
            if !self.let_go(number) && !noted {
                self.unwritten.extend(places);
            }
        }
    }

    /// Settles batches whose deltas another one holds. That one's file may not go before the notes of it stand: it says the same.
    pub(super) fn settle_replaced(&mut self, given_up: &[Place]) {
        self.settle(given_up);
        self.replaced.extend(given_up.iter().map(|place| place.segment));
    }

    /// Writes down that batches are done with. A disk that does not take that is asked again later; until then a crash has
    /// them sent again, under their keys.
    fn note_settled(&mut self, number: u64, offsets: &[u32]) -> bool {
        let Some(segment) = self.segments.get_mut(&number) else { return true };
        let Some(record) = codec::encode_settled(offsets) else { return true };
        let written = match &self.active {
            Some(active) if active.number == number => self.folder.append(&active.file, &record, segment.bytes),
            _ => self.folder.append_to(number, &record, segment.bytes),
        };
        match written {
            Ok(()) => segment.bytes += record.len() as u64,
            Err(_) => self.stats.spool_write_failed(),
        }
        written.is_ok()
    }

    pub(super) fn note_unwritten(&mut self) {
        let mut by_segment = BTreeMap::<u64, Vec<Place>>::new();
        for place in std::mem::take(&mut self.unwritten) {
            by_segment.entry(place.segment).or_default().push(place);
        }
        for (number, places) in by_segment {
            let Some(segment) = self.segments.get(&number) else { continue };
            let offsets: Vec<u32> = places.iter().map(|place| segment.entries[place.index].offset).collect();
            if !self.note_settled(number, &offsets) {
                self.unwritten.extend(places);
            }
        }
    }

    /// Lets go of a file that is not written to and holds no batch that is not done with; whether it was.
    pub(super) fn let_go(&mut self, number: u64) -> bool {
        let is_active = self.active.as_ref().is_some_and(|active| active.number == number);
        if is_active || self.segments.get(&number).is_none_or(|segment| segment.live() > 0) {
            return false;
        }
        if let Some(segment) = self.segments.remove(&number) {
            self.leave_file(number, segment.disk_bytes());
        }
        true
    }

    /// Has a file removed after the next sync.
    pub(super) fn leave_file(&mut self, number: u64, disk_bytes: u64) {
        self.leaving_bytes += disk_bytes;
        self.leaving.push((self.folder.segment(number), disk_bytes));
    }
}

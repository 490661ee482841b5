//! Room for new batches: those that waited too long and the oldest of a full spool are dropped.

use super::super::drop_log::log_dropped;
use super::segment::{Place, Segment, Ticks};
use super::{Disk, DropReason};

/// A file takes this part of the limit, which is the least that can be freed at once.
const SEGMENTS: u64 = 64;

/// The shortest and the longest file, in bytes.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 20;

impl Disk {
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.limits.bytes / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    /// What the files take on disk, including those that are about to be removed.
    pub(super) fn used_bytes(&self) -> u64 {
        self.segments.values().map(Segment::disk_bytes).sum::<u64>() + self.removal_bytes
    }

    /// Whether another batch can be appended without exceeding the limit. A file is removed only after its replacement is
    /// synced; one file's worth of room is kept for what is written until then.
    pub(super) fn has_room(&self, used_bytes: u64) -> bool {
        used_bytes.saturating_add(self.segment_bytes()) <= self.limits.bytes
    }

    /// Drops a batch that waits or was handed out. The next batch adds its deltas if it was certainly not applied.
    pub(super) fn drop_batch(&mut self, place: Place, reason: DropReason) {
        if !self.entry(place).attempts.may_be_applied() {
            match self.read(place) {
                Ok(batch) => self.returned.add_all(batch.deltas()),
                Err(error) => return self.skip(place, error),
            }
        }
        log_dropped(reason);
        self.metrics.dropped(reason, 1);
        self.failing.retain(|failing| *failing != place);
        self.set_state(place, super::State::Dropped);
        self.dropped.push(place);
    }

    /// Drops what has waited too long: by the time that this process has had it, because the wall clock may have been set since
    /// an earlier process sealed it. Whether an older batch is too old is the server's decision. A batch that the server
    /// calls too new and that waits for another key is not too old, whatever its age.
    pub(super) fn expire(&mut self) {
        let (start, limit) = (self.start, self.limits.age);
        let is_old = move |sealed: Ticks| sealed.age(start).in_this_process() > limit;
        // One that could not be read is tried again in its time.
        let is_readable = |segment: &Segment| segment.is_cold() && segment.waiting_count() > 0;
        let cold = self.segments.iter().filter(|(_, segment)| is_readable(segment) && segment.sums().oldest.is_some_and(is_old));
        for number in cold.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.warm(number);
        }
        let mut expired = Vec::new();
        for (number, segment) in &self.segments {
            // Up to the first that is not old: the batches of a file are in order, but for the few that were sealed again.
            let old = segment.waiting(*number).take_while(|(_, entry)| is_old(entry.sealed));
            expired.extend(old.filter(|(_, entry)| !entry.attempts.waits_for_another_key()).map(|(place, _)| place));
        }
        for place in expired {
            self.drop_batch(place, DropReason::Expired);
        }
    }

    /// Drops the batches of whole files, the oldest first, until there is room for another batch.
    pub(super) fn shrink(&mut self) {
        let mut used = self.used_bytes() - self.removal_bytes;
        while !self.has_room(used) {
            let Some((number, segment)) = self.segments.iter().find(|(_, segment)| segment.has_droppable()) else { break };
            let number = *number;
            if segment.is_cold() {
                let disk_bytes = segment.disk_bytes();
                self.warm(number);
                // The loop meets it again, unless it cannot be read now, or no batch was found in it and it is removed already.
                if self.segments.get(&number).is_none_or(Segment::is_cold) {
                    self.drop_unread(number);
                    used = used.saturating_sub(disk_bytes);
                }
                continue;
            }
            let droppable: Vec<Place> = segment.droppable(number).collect();
            used = used.saturating_sub(segment.disk_bytes());
            // The room is needed more than what a later process might read in it.
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.stays = false;
            }
            if self.active.as_ref().is_some_and(|active| active.number == number) {
                self.roll();
            }
            for place in droppable {
                self.drop_batch(place, DropReason::SpoolFull);
            }
            // One that only stayed has no batch to wait for.
            if self.release(number) {
                log_dropped(DropReason::SpoolFull);
            }
        }
    }

    /// Drops a file of an earlier process that cannot be indexed now. The deltas of such batches are not added to another one in any case.
    fn drop_unread(&mut self, number: u64) {
        let Some(segment) = self.segments.remove(&number) else { return };
        log_dropped(DropReason::SpoolFull);
        self.metrics.dropped(DropReason::SpoolFull, segment.live() as u64);
        self.remove_file(number, segment.disk_bytes());
    }
}

//! Room for what comes: batches that have waited for too long and the oldest of a full spool are given up.

use super::segment::{Place, Segment, State, seconds};
use super::{Disk, DropReason};

/// Of the limit, what a file takes: the least that can be dropped at once.
const SEGMENTS: u64 = 64;

/// A file is at least this long, and at most that.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 20;

impl Disk {
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.limits.bytes / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    /// What the files take, those that are about to be removed included.
    pub(super) fn used_bytes(&self) -> u64 {
        self.segments.values().map(Segment::disk_bytes).sum::<u64>() + self.leaving_bytes
    }

    /// Gives up a batch that waits or was handed out: it is not sent again, and the next one takes over what it certainly did not add.
    pub(super) fn give_up(&mut self, place: Place, reason: DropReason) {
        let entry = self.entry(place);
        if !entry.may_be_applied {
            match self.read(place) {
                Ok(batch) => self.given_back.add_all(batch.deltas()),
                Err(error) => return self.skip(place, &error),
            }
        }
        self.stats.dropped(reason, 1);
        self.failing.retain(|failing| *failing != place);
        self.set_state(place, State::GivenUp);
        self.given_up.push(place);
    }

    /// Gives up what has waited for too long. A file is looked at up to its first batch that has not.
    pub(super) fn expire(&mut self, now_unix_millis: u64) {
        let now = seconds(now_unix_millis);
        let age = u32::try_from(self.limits.age.as_secs()).unwrap_or(u32::MAX);
        let is_old = |at: u32| at.saturating_add(age) < now;
        let cold = self.segments.iter().filter(|(_, segment)| segment.is_cold() && segment.sums().oldest_unix_seconds.is_some_and(is_old));
        for number in cold.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.warm(number);
        }
        let mut expired = Vec::new();
        for (number, segment) in &self.segments {
            let waiting = segment.entries.iter().enumerate().filter(|(_, entry)| entry.state == State::Waiting);
            let old = waiting.take_while(|(_, entry)| is_old(entry.at_unix_seconds));
            expired.extend(old.map(|(index, _)| Place { segment: *number, index }));
        }
        if !expired.is_empty() {
            tracing::warn!(batches = expired.len(), "reports have waited for longer than SPOOL_MAX_AGE: they are dropped");
        }
        for place in expired {
            self.give_up(place, DropReason::Expired);
        }
    }

    /// Gives up whole files, the oldest first, until another batch fits.
    pub(super) fn shrink(&mut self) {
        // A file is removed only when what replaces it was synced; until then there is room for what comes meanwhile.
        let reserve = self.segment_bytes();
        let mut used = self.used_bytes() - self.leaving_bytes;
        let mut dropped = 0;
        while used.saturating_add(reserve) > self.limits.bytes {
            let Some((number, segment)) = self.segments.iter().find(|(_, segment)| segment.waiting() > 0) else { break };
            let number = *number;
            if segment.is_cold() {
                // It comes up again.
                self.warm(number);
                continue;
            }
            let waiting: Vec<usize> =
                segment.entries.iter().enumerate().filter(|(_, entry)| entry.state == State::Waiting).map(|(index, _)| index).collect();
            used = used.saturating_sub(segment.disk_bytes());
            dropped += waiting.len();
            if self.active.as_ref().is_some_and(|active| active.number == number) {
                self.roll();
            }
            for index in waiting {
                self.give_up(Place { segment: number, index }, DropReason::SpoolFull);
            }
        }
        if dropped > 0 {
            tracing::warn!(batches = dropped, limit_bytes = self.limits.bytes, "the spool is full: the oldest reports are dropped");
        }
    }
}

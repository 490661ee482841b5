//! What is dropped of history: what is older than its retention, and the oldest where HISTORY_MAX_BYTES does not suffice.
//!
//! Samples go first, then rollups of 5 minutes, then those of an hour, but for the newest day of each as long as that suffices. Samples are rolled up before
//! they are dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use golectra_chunks::rollup::Resolution;
use golectra_protocol::Source;

use super::seal::{Changing, Keeper, is_over};
use super::source::{SourceHistory, WINDOW_MILLIS, Window};
use crate::store::history::rollups::DAY_MILLIS;

/// How often a window is completed before it is dropped with what has come meanwhile.
const COMPLETE_ATTEMPTS: usize = 4;

/// A part of a source's history that is dropped as one, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Samples,
    FiveMinutes,
    Hours,
}

/// In which round a piece goes: the first takes what is older than a day, the second what is over, and the last the samples of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    Old,
    Over,
    Now,
}

impl Piece {
    fn round(self, start: i64, now_millis: u64) -> Round {
        let now = i64::try_from(now_millis).unwrap_or(i64::MAX);
        let end = start.saturating_add(if self == Self::Samples { WINDOW_MILLIS } else { DAY_MILLIS });
        if end <= now.saturating_sub(DAY_MILLIS) {
            Round::Old
        } else if self != Self::Samples || is_over(start, now_millis) {
            Round::Over
        } else {
            Round::Now
        }
    }
}

impl Keeper {
    /// Drops the oldest until there is room. Rollups that are too old at this time are not made of what is dropped.
    pub(super) fn drop_oldest(&self, changing: &Changing<'_>, drop_millis: u64) {
        let shared = &self.shards.history;
        if shared.used_bytes() <= shared.low_bytes() {
            return;
        }
        let now_millis = self.shards.start_clock.latest_millis(self.clock.unix_millis());
        let mut oldest: BinaryHeap<Reverse<(Round, Piece, i64, Source)>> = BinaryHeap::new();
        let mut put = |piece: Piece, start: i64, source: &Source| {
            oldest.push(Reverse((piece.round(start, now_millis), piece, start, source.clone())));
        };
        for shard in self.shards.each() {
            for (source, history) in shard.history.iter() {
                history.windows.keys().for_each(|start| put(Piece::Samples, *start, source));
                for (start, day) in &history.days {
                    day.each().for_each(|(resolution, _)| put(Piece::of(resolution), *start, source));
                }
                // Dropping samples makes rollups of those that were not rolled up yet.
                for start in history.unrolled_days() {
                    put(Piece::FiveMinutes, start, source);
                    put(Piece::Hours, start, source);
                }
            }
        }
        let (mut samples, mut days) = (0, 0);
        while shared.used_bytes() > shared.low_bytes()
            && let Some(Reverse((round, piece, start, source))) = oldest.pop()
        {
            match piece.resolution() {
                None if round == Round::Now => samples += self.take_window(changing, &source, start),
                None => samples += self.drop_window(changing, &source, start, drop_millis),
                Some(resolution) => days += u64::from(self.drop_rollups(changing, &source, start, resolution)),
            }
            // What is sampled now is taken even where there is no room for two hours of it.
            if round != Round::Now
                && piece == Piece::Samples
                && let Ok(end) = u64::try_from(start.saturating_add(WINDOW_MILLIS))
            {
                shared.dropped_until_millis.fetch_max(end, Ordering::Relaxed);
            }
        }
        shared.samples_dropped.fetch_add(samples, Ordering::Relaxed);
        shared.dropped.crowded_out_days.fetch_add(days, Ordering::Relaxed);
        if samples > 0 || days > 0 {
            shared.log.log("room", move |count| {
                tracing::warn!(
                    count,
                    samples,
                    rollup_days = days,
                    "the oldest history was dropped, since HISTORY_MAX_BYTES does not suffice"
                );
            });
        }
    }

    /// Drops what is older than its retention.
    pub(super) fn expire(&self, changing: &Changing<'_>, now_millis: u64) {
        let oldest = self.shards.history.oldest_millis(now_millis);
        for (source, start) in self.places(|_, start| start.saturating_add(WINDOW_MILLIS) <= oldest) {
            self.drop_window(changing, &source, start, now_millis);
        }
        let lifetimes = &self.shards.history.lifetimes;
        let kept = [
            (Resolution::FiveMinutes, super::days::oldest(now_millis, lifetimes.retention_5m_millis())),
            (Resolution::OneHour, super::days::oldest(now_millis, lifetimes.retention_1h_millis())),
        ];
        for (resolution, oldest) in kept {
            let mut old: Vec<(Source, i64)> = Vec::new();
            for shard in self.shards.each() {
                for (source, history) in shard.history.iter() {
                    let days = history.days.iter().take_while(|(start, _)| start.saturating_add(DAY_MILLIS) <= oldest);
                    old.extend(days.filter(|(_, day)| day.of(resolution).is_some()).map(|(start, _)| (source.clone(), *start)));
                }
            }
            for (source, start) in old {
                self.drop_rollups(changing, &source, start, resolution);
            }
        }
    }

    /// Drops a window that is over, once it is rolled up, and says how many samples it had.
    fn drop_window(&self, changing: &Changing<'_>, source: &Source, start: i64, drop_millis: u64) -> u64 {
        let end = start.saturating_add(WINDOW_MILLIS);
        // Said before it is so.
        self.shards.history.dropped.raw(end);
        for attempt in 1..=COMPLETE_ATTEMPTS {
            self.complete(changing, source, start, drop_millis);
            let drop = |history: &mut SourceHistory| {
                let has_late = history.windows.get(&start).is_some_and(|window| !window.open.is_empty());
                if has_late && attempt < COMPLETE_ATTEMPTS {
                    return None;
                }
                history.dropped_ms = history.dropped_ms.max(end);
                history.drop_window(self.shards.hasher(), start)
            };
            let dropped = self.shards.of(source).shard.history.change(&self.shards.history, source, drop).flatten();
            if let Some(window) = dropped {
                return self.dropped(&window);
            }
        }
        0
    }

    /// Drops a window that is not over, and says how many samples it had.
    fn take_window(&self, _changing: &Changing<'_>, source: &Source, start: i64) -> u64 {
        let drop = |history: &mut SourceHistory| history.drop_window(self.shards.hasher(), start);
        let dropped = self.shards.of(source).shard.history.change(&self.shards.history, source, drop).flatten();
        // Freed without the lock.
        dropped.map_or(0, |window| self.dropped(&window))
    }

    fn dropped(&self, window: &Window) -> u64 {
        if window.parts.iter().any(|part| part.stored.get().is_some()) {
            // The next save writes the files without it.
            self.shards.next_arrival();
        }
        window.samples()
    }

    /// Drops a day's rollups of one resolution, and says whether there were some.
    fn drop_rollups(&self, _changing: &Changing<'_>, source: &Source, start: i64, resolution: Resolution) -> bool {
        if resolution == Resolution::FiveMinutes {
            self.shards.history.dropped.five_minutes(start.saturating_add(DAY_MILLIS));
        }
        let drop = |history: &mut SourceHistory| history.drop_rollups(self.shards.hasher(), start, resolution);
        let dropped = self.shards.of(source).shard.history.change(&self.shards.history, source, drop).flatten();
        if dropped.as_ref().is_some_and(|rollups| rollups.stored.get().is_some()) {
            self.shards.next_arrival();
        }
        dropped.is_some()
    }
}

impl Piece {
    fn of(resolution: Resolution) -> Self {
        match resolution {
            Resolution::FiveMinutes => Self::FiveMinutes,
            Resolution::OneHour => Self::Hours,
        }
    }

    fn resolution(self) -> Option<Resolution> {
        match self {
            Self::Samples => None,
            Self::FiveMinutes => Some(Resolution::FiveMinutes),
            Self::Hours => Some(Resolution::OneHour),
        }
    }
}

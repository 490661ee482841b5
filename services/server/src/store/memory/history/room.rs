//! What of the files is left out at a start, where HISTORY_MAX_BYTES is less than they need: it may be much less than it was.
//!
//! What the keeper would drop right after the start (`retain.rs`) is left out while the files are read, in the same order. So what is read stays within
//! HISTORY_MAX_BYTES, as long as what is in front is rolled up, and as long as the series themselves take no more than a quarter of it: those are all read
//! first. Where the oldest window is not rolled up as it is, everything behind it is read: the keeper rolls it up and drops it before it drops anything newer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use golectra_chunks::rollup::Resolution;
use golectra_protocol::Source;

use super::super::shards::Shards;
use super::coding::IndexRecord;
use super::part::Part;
use super::restore::read_index;
use super::shared::HistoryShared;
use super::source::{SourceHistory, WINDOW_MILLIS, window_of};
use crate::store::history::rollups::{DAY_MILLIS, day_of};

/// What a window takes beside its part, and more than a day takes beside its rollups.
const PIECE_BYTES: usize = 512;

/// What is left out of the files.
pub(super) struct Room {
    now_millis: u64,
    /// The time that tells what goes first: the clock's, or that of the last write. By a clock that is behind, rollups would go before samples.
    order_millis: u64,
    /// Windows before this are left out, and days of rollups before these.
    samples_before: i64,
    five_minutes_before: i64,
    hours_before: i64,
    /// Windows of several parts, which are not rolled up as they are: the keeper drops them once it has done that.
    of_several_parts: HashMap<Source, HashSet<i64>>,
    /// What series take, without their samples and rollups.
    pub(super) series_bytes: usize,
    samples: u64,
    rollup_days: u64,
    /// An older window that can't be left out is in front of what could be. The keeper makes room right after the start.
    is_stuck: bool,
}

impl Room {
    /// What the keeper would drop of the samples right after the start, or a little less: as bytes in the files they take less than in memory, and what is
    /// younger than a day goes only when there are no older rollups any more. What more has to be left out is found while the files are read.
    pub(super) fn of(index: &Path, history: &HistoryShared, now_millis: u64, last_write_millis: u64) -> io::Result<Self> {
        // The series and the places take about as much as they do in memory.
        let mut bytes = std::fs::metadata(index)?.len();
        let mut of_windows: BTreeMap<i64, u64> = BTreeMap::new();
        let (lifetimes, mut of_expired_rollups) = (&history.lifetimes, 0_u64);
        // A day that begins before this is too old.
        let expired_before = |retention_millis: u64| super::days::oldest(now_millis, retention_millis).saturating_sub(DAY_MILLIS - 1);
        let mut room = Self {
            now_millis,
            order_millis: now_millis.max(last_write_millis),
            samples_before: i64::MIN,
            five_minutes_before: expired_before(lifetimes.retention_5m_millis()),
            hours_before: expired_before(lifetimes.retention_1h_millis()),
            of_several_parts: HashMap::new(),
            series_bytes: 0,
            samples: 0,
            rollup_days: 0,
            is_stuck: false,
        };
        let mut last: Option<(Source, i64)> = None;
        read_index(index, |record| {
            match record {
                IndexRecord::Parts { source, parts } => {
                    let mut last_start = last.take().filter(|(of, _)| *of == source).map(|(_, start)| start);
                    for (start, at) in parts {
                        bytes += u64::from(at.bytes);
                        *of_windows.entry(start).or_default() += u64::from(at.bytes);
                        if last_start.replace(start) == Some(start) {
                            room.of_several_parts.entry(source.clone()).or_default().insert(start);
                        }
                    }
                    last = last_start.map(|start| (source, start));
                }
                IndexRecord::Rollups { rollups, .. } => {
                    for (day, resolution, at) in rollups {
                        bytes += u64::from(at.bytes);
                        of_expired_rollups += if room.lacks_rollups(day, resolution) { u64::from(at.bytes) } else { 0 };
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        let (high_bytes, low_bytes) = (history.high_bytes() as u64, history.low_bytes() as u64);
        if bytes <= high_bytes {
            // All is read, and who only reads keeps what is too old.
            (room.five_minutes_before, room.hours_before) = (i64::MIN, i64::MIN);
            return Ok(room);
        }
        bytes -= of_expired_rollups;
        let today = i64::try_from(room.order_millis).unwrap_or(i64::MAX).saturating_sub(DAY_MILLIS);
        let end_of = |start: i64| start.saturating_add(WINDOW_MILLIS);
        let oldest = history.oldest_millis(now_millis);
        let expired: u64 = of_windows.iter().filter(|(start, _)| end_of(**start) <= oldest).map(|(_, bytes)| bytes).sum();
        // Where it suffices that what is too old goes, nothing else does.
        let kept_bytes = if bytes - expired > high_bytes { low_bytes } else { bytes - expired };
        for (start, of_window) in of_windows {
            bytes -= of_window;
            if end_of(start) > today || bytes < kept_bytes {
                break;
            }
            room.samples_before = end_of(start);
        }
        Ok(room)
    }

    /// Whether the samples of a window are left out, where that is possible.
    pub(super) fn lacks_samples(&self, source: &Source, start: i64) -> bool {
        start < self.samples_before && !self.has_several_parts(source, start)
    }

    fn has_several_parts(&self, source: &Source, start: i64) -> bool {
        self.of_several_parts.get(source).is_some_and(|starts| starts.contains(&start))
    }

    /// Whether the rollups of a day are left out.
    pub(super) fn lacks_rollups(&self, day: i64, resolution: Resolution) -> bool {
        match resolution {
            Resolution::FiveMinutes => day < self.five_minutes_before,
            Resolution::OneHour => day < self.hours_before,
        }
    }

    /// Whether those rollups that are not left out have a window's only part.
    pub(super) fn is_rolled_up(&self, history: &SourceHistory, start: i64, part: &Part) -> bool {
        let day_start = day_of(start);
        let day = history.days.get(&day_start);
        let is_in = |resolution| day.is_some_and(|day| day.has_window_in(resolution, start, part));
        [Resolution::FiveMinutes, Resolution::OneHour]
            .into_iter()
            .all(|resolution| self.lacks_rollups(day_start, resolution) || is_in(resolution))
    }

    /// Makes room for so many bytes of samples or rollups, where there is none: the oldest of those that were read go, and what is older is not read.
    pub(super) fn make(&mut self, shards: &Shards, bytes: usize) {
        let (shared, bytes) = (&shards.history, bytes.saturating_add(PIECE_BYTES));
        if self.is_stuck || shared.used_bytes().saturating_add(bytes) <= shared.max_bytes() {
            return;
        }
        let now = i64::try_from(self.order_millis).unwrap_or(i64::MAX);
        let today = now.saturating_sub(DAY_MILLIS);
        // The rounds of the keeper. None stands for samples.
        let rounds = [
            (None, window_of(today)),
            (Some(Resolution::FiveMinutes), day_of(today)),
            (Some(Resolution::OneHour), day_of(today)),
            (None, window_of(now)),
            (Some(Resolution::FiveMinutes), i64::MAX),
            (Some(Resolution::OneHour), i64::MAX),
        ];
        for (resolution, end) in rounds {
            loop {
                // Series of which nothing is left are only removed at the end: their room is not that of what is left.
                if shared.used_bytes().saturating_sub(self.series_bytes).saturating_add(bytes) <= shared.low_bytes() {
                    return;
                }
                let oldest = self.oldest_read(shards, resolution).filter(|start| *start < end);
                // The keeper rolls this up and drops it right after the start, before anything else goes.
                if resolution.is_none() && self.oldest_kept(shards).is_some_and(|kept| kept < oldest.unwrap_or(end)) {
                    self.is_stuck = true;
                    return;
                }
                let Some(start) = oldest else { break };
                self.leave_out(shards, resolution, start);
            }
            // None of these is left, and none is read any more.
            self.raise(resolution, end);
        }
    }

    fn raise(&mut self, resolution: Option<Resolution>, before: i64) {
        let bound = match resolution {
            None => &mut self.samples_before,
            Some(Resolution::FiveMinutes) => &mut self.five_minutes_before,
            Some(Resolution::OneHour) => &mut self.hours_before,
        };
        *bound = (*bound).max(before);
    }

    /// The beginning of the oldest window or day that was read and can be left out.
    fn oldest_read(&self, shards: &Shards, resolution: Option<Resolution>) -> Option<i64> {
        let of_source = |(source, history): (&Source, &SourceHistory)| match resolution {
            None => self.first_window(source, history),
            Some(resolution) => history.days.iter().find(|(_, day)| day.of(resolution).is_some()).map(|(start, _)| *start),
        };
        shards.each().filter_map(|shard| shard.history.iter().filter_map(of_source).min()).min()
    }

    /// The beginning of the oldest window that was read and can't be left out.
    fn oldest_kept(&self, shards: &Shards) -> Option<i64> {
        let of_source = |(source, history): (&Source, &SourceHistory)| {
            let (start, _) = history.windows.first_key_value()?;
            self.first_window(source, history).is_none().then_some(*start)
        };
        shards.each().filter_map(|shard| shard.history.iter().filter_map(of_source).min()).min()
    }

    /// A source's first window, where it can be left out.
    fn first_window(&self, source: &Source, history: &SourceHistory) -> Option<i64> {
        let (start, window) = history.windows.first_key_value()?;
        let [part] = window.parts.as_slice() else { return None };
        (!self.has_several_parts(source, *start) && self.is_rolled_up(history, *start, part)).then_some(*start)
    }

    /// Leaves out what begins at this time or before, of what was read and of what is still to be read.
    fn leave_out(&mut self, shards: &Shards, resolution: Option<Resolution>, start: i64) {
        let shared = &shards.history;
        let length = if resolution.is_none() { WINDOW_MILLIS } else { DAY_MILLIS };
        self.raise(resolution, start.saturating_add(length));
        for mut shard in shards.each() {
            shard.history.change_each(shared, |source, history| match resolution {
                None => self.leave_out_windows(shared, source, history),
                Some(resolution) => self.leave_out_days(shared, history, resolution),
            });
        }
    }

    fn leave_out_windows(&mut self, shared: &HistoryShared, source: &Source, history: &mut SourceHistory) {
        while let Some(start) = self.first_window(source, history).filter(|start| *start < self.samples_before)
            && let Some((window, _)) = history.remove_window(start)
        {
            history.note_dropped(shared, start);
            self.count_samples(shared, start, window.samples());
        }
    }

    fn leave_out_days(&mut self, shared: &HistoryShared, history: &mut SourceHistory, resolution: Resolution) {
        let is_left_out = |start: i64| self.lacks_rollups(start, resolution);
        let days = history.days.iter().take_while(|(start, _)| is_left_out(**start));
        let days: Vec<i64> = days.filter(|(_, day)| day.of(resolution).is_some()).map(|(start, _)| *start).collect();
        for start in days {
            history.remove_rollups(start, resolution);
            self.count_rollups(shared, start, resolution);
        }
    }

    /// Counts samples that are left out, but not those that are too old.
    pub(super) fn count_samples(&mut self, shared: &HistoryShared, start: i64, samples: u64) {
        let is_expired = start.saturating_add(WINDOW_MILLIS) <= shared.oldest_millis(self.now_millis);
        self.samples += if is_expired { 0 } else { samples };
    }

    /// Takes note of a day of rollups that is left out.
    pub(super) fn count_rollups(&mut self, shared: &HistoryShared, day: i64, resolution: Resolution) {
        let end = day.saturating_add(DAY_MILLIS);
        let retention_millis = match resolution {
            Resolution::FiveMinutes => {
                shared.dropped.five_minutes(end);
                shared.lifetimes.retention_5m_millis()
            }
            Resolution::OneHour => shared.lifetimes.retention_1h_millis(),
        };
        self.rollup_days += u64::from(end > super::days::oldest(self.now_millis, retention_millis));
    }

    /// Says how much was left out, in the log and in the metrics.
    pub(super) fn note(&self, shared: &HistoryShared) {
        let Self { samples, rollup_days, .. } = *self;
        if samples > 0 || rollup_days > 0 {
            shared.samples_dropped.fetch_add(samples, Ordering::Relaxed);
            shared.dropped.crowded_out_days.fetch_add(rollup_days, Ordering::Relaxed);
            tracing::info!(samples, rollup_days, "the oldest history was dropped, since HISTORY_MAX_BYTES does not suffice");
        }
    }
}

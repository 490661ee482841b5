//! The days of rollups that a source has, and what is known of what was dropped.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use golectra_chunks::rollup::Resolution;
use golectra_protocol::Source;

use super::super::table::IdHasher;
use super::rollups::{Day, DayRollups};
use super::shared::HistoryShared;
use super::source::{ShardHistory, SourceHistory};
use crate::store::history::rollups::{DAY_MILLIS, day_of};

/// The oldest time that is kept for so long.
pub(super) fn oldest(now_millis: u64, retention_millis: u64) -> i64 {
    let as_time = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    as_time(now_millis).saturating_sub(as_time(retention_millis))
}

/// What was dropped of all sources.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// No source lacks samples from this time on.
    raw_ms: AtomicI64,
    /// No source lacks rollups of 5 minutes from this time on.
    five_minutes_ms: AtomicI64,
    /// How often something was dropped.
    times: AtomicU64,
    /// Days of rollups that were dropped before their time for HISTORY_MAX_BYTES.
    pub(super) crowded_out_days: AtomicU64,
}

impl Dropped {
    /// Samples before this time are about to be dropped.
    pub(super) fn raw(&self, until_ms: i64) {
        self.raw_ms.fetch_max(until_ms, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
    }

    /// Rollups of 5 minutes before this time are about to be dropped.
    pub(super) fn five_minutes(&self, until_ms: i64) {
        self.five_minutes_ms.fetch_max(until_ms, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether samples from this time on may be gone.
    pub(super) fn may_lack_samples(&self, start_ms: i64) -> bool {
        start_ms < self.raw_ms.load(Ordering::SeqCst)
    }

    /// Whether rollups of 5 minutes from this time on may be gone.
    pub(super) fn may_lack_five_minutes(&self, start_ms: i64) -> bool {
        start_ms < self.five_minutes_ms.load(Ordering::SeqCst)
    }

    /// See [`Self::may_lack_samples`].
    #[cfg(test)]
    pub(super) fn raw_ms(&self) -> i64 {
        self.raw_ms.load(Ordering::SeqCst)
    }

    /// Changes whenever something is dropped.
    pub(super) fn times(&self) -> u64 {
        self.times.load(Ordering::SeqCst)
    }
}

impl ShardHistory {
    /// Takes back rollups of the files.
    pub(super) fn restore_rollups(
        &mut self,
        shared: &HistoryShared,
        source: &Source,
        day: i64,
        resolution: Resolution,
        rollups: DayRollups,
    ) {
        self.change(shared, source, |history| {
            let mut changed = history.days.get(&day).cloned().unwrap_or_default();
            *changed.slot(resolution) = Some(Arc::new(rollups));
            history.put_day(day, changed);
        });
    }
}

impl SourceHistory {
    /// The days of windows that are not rolled up, where there are no rollups yet.
    pub(super) fn unrolled_days(&self) -> BTreeSet<i64> {
        let windows = self.windows.iter().filter(|(_, window)| !window.rolled_up);
        windows.map(|(start, _)| day_of(*start)).filter(|day| !self.days.contains_key(day)).collect()
    }

    /// Puts a day's rollups in place of those that are there.
    pub(super) fn put_day(&mut self, start: i64, day: Day) {
        self.rollup_bytes += day.bytes();
        if let Some(before) = self.days.insert(start, day) {
            self.rollup_bytes -= before.bytes();
        }
    }

    /// Drops a day's rollups of one resolution, and the series of which nothing is left.
    pub(super) fn drop_rollups(&mut self, hasher: &IdHasher, start: i64, resolution: Resolution) -> Option<Arc<DayRollups>> {
        let dropped = self.remove_rollups(start, resolution);
        let blocks: HashSet<u32> = dropped.iter().flat_map(|rollups| rollups.blocks.iter().map(|block| block.block.number)).collect();
        // What is left of their samples is to be rolled up again.
        for (_, window) in self.windows.range_mut(start..start.saturating_add(DAY_MILLIS)) {
            window.rolled_up = false;
        }
        self.remove_unused(hasher, blocks);
        dropped
    }

    /// As [`Self::drop_rollups`], but their series stay.
    pub(super) fn remove_rollups(&mut self, start: i64, resolution: Resolution) -> Option<Arc<DayRollups>> {
        let mut day = self.days.remove(&start)?;
        self.rollup_bytes -= day.bytes();
        let dropped = day.slot(resolution).take();
        if !day.is_empty() {
            self.put_day(start, day);
        }
        dropped
    }

    /// Whether there are rollups of a window's only part, as it is or as it was.
    pub(super) fn is_rolled_up(&self, start: i64) -> bool {
        match (self.windows.get(&start).map(|window| window.parts.as_slice()), self.days.get(&day_of(start))) {
            (Some([part]), Some(day)) => day.has_window_of(start, part),
            _ => false,
        }
    }

    /// Finds out from what the files had up to where samples were dropped, and which windows are rolled up.
    pub(super) fn settle(&mut self, dropped: &Dropped) {
        let first = self.windows.keys().next().copied().unwrap_or(i64::MAX);
        let until = self.days.iter().filter_map(|(start, day)| day.end_before(*start, first)).next_back();
        if let Some(until) = until {
            self.dropped_ms = self.dropped_ms.max(until);
            dropped.raw(until);
        }
        for (start, _) in self.days.iter().filter(|(_, day)| day.five_minutes.is_none()) {
            dropped.five_minutes(start.saturating_add(DAY_MILLIS));
        }
        // A window's parts are made one and rolled up in one step, between two saves.
        let rolled_up: Vec<i64> = self.windows.keys().copied().filter(|start| self.is_rolled_up(*start)).collect();
        for start in rolled_up {
            self.change_window(start, |window| window.rolled_up = true);
        }
    }
}

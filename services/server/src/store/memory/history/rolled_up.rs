//! Answers from rollups: buckets of 5 minutes or an hour in place of samples.
//!
//! Windows whose rollups have all of their samples are read from these; of the others the samples are read and rolled up for the answer. So what is not
//! sealed or folded yet is in the answer all the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use golectra_chunks::Times;
use golectra_chunks::rollup::{CounterBucket, GaugeBucket, Resolution, roll_up_buckets, roll_up_counter, roll_up_gauge};
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Reservation};
use golectra_protocol::{Kind, Source as SourceName};

use super::read::SeriesSamples;
use super::rollups::Day;
use super::search::Search;
use super::series::place;
use super::source::{SourceHistory, window_of};
use super::{Asked, Found, FoundSource, Reading, SOURCE_COST, Turns};
use crate::store::history::rollups::{Buckets, DAY_MILLIS, Kept, ReadBuckets, day_of, first_bucket_ms, join_equal, most_buckets};
use crate::store::history::{CorruptHistory, HistoryError, HistorySeries, TimeRange};
use crate::store::memory::MemoryStore;

/// What a day takes while a query holds it.
const DAY_BYTES: usize = size_of::<(i64, Day)>();

/// What a query holds of a source's rollups, shared with the store.
pub(super) struct SourceRollups {
    /// None where any will do.
    resolution: Option<Resolution>,
    range: TimeRange,
    /// In order, and with those behind the range up to where samples were dropped, since counters are counted back from there.
    days: Vec<(i64, Day)>,
    /// Samples of windows before this were dropped.
    dropped_ms: i64,
    /// Windows that are read from samples, in order.
    unrolled: Vec<i64>,
    /// The times of blocks that several series are read of, by the beginning of their day.
    times: HashMap<(i64, u32), Times>,
}

impl SourceRollups {
    /// To be called under the lock of the source's shard.
    pub(super) fn new(source: &SourceHistory, range: TimeRange, resolution: Option<Resolution>) -> Self {
        let last = range.end_ms.max(source.dropped_ms.saturating_sub(1));
        let first = day_of(window_of(range.start_ms));
        let days =
            if first <= last { source.days.range(first..=last).map(|(start, day)| (*start, day.clone())).collect() } else { Vec::new() };
        Self { resolution, range, days, dropped_ms: source.dropped_ms, unrolled: Vec::new(), times: HashMap::new() }
    }

    /// Takes note of what else is read: series, which are sorted, and the windows that are read from samples. `take` is asked for the memory by which
    /// reading several series of a block is quicker, piece by piece; from where there is no more of it, times are decoded when they are read.
    pub(super) fn prepare(&mut self, numbers: &[u32], unrolled: Vec<i64>, mut take: impl FnMut(usize) -> bool) {
        self.unrolled = unrolled;
        let Some(resolution) = self.resolution else { return };
        for block in
            numbers.chunk_by(|one, next| place(*one).0 == place(*next).0).filter(|some| some.len() > 1).map(|some| place(some[0]).0)
        {
            for (start, day) in self.days.iter().filter(|(start, _)| *start <= self.range.end_ms) {
                let times = day.of(resolution).and_then(|rollups| Times::decode(&rollups.block(block)?.block.times).ok());
                let Some(times) = times else { continue };
                if !take(times.memory_bytes() + size_of::<((i64, u32), Times)>()) {
                    return;
                }
                self.times.insert((*start, block), times);
            }
        }
    }

    /// What it takes in memory beside what it shares.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.days.len() * DAY_BYTES + self.unrolled.len() * size_of::<i64>()
    }

    /// Whether a series may have buckets in the range; of any resolution only where its samples were dropped.
    pub(super) fn has(&self, number: u32) -> bool {
        let (block, _) = place(number);
        self.days.iter().any(|(start, day)| match self.resolution {
            Some(resolution) => *start <= self.range.end_ms && day.of(resolution).is_some_and(|rollups| rollups.has(number)),
            None => day.is_rolled_up(*start, block, self.range, self.dropped_ms) && day.each().any(|(_, rollups)| rollups.has(number)),
        })
    }
}

/// The rollups of one series.
struct SeriesRollups {
    source: Arc<SourceRollups>,
    resolution: Resolution,
    /// Of the windows that are not rolled up.
    samples: SeriesSamples,
}

impl SeriesRollups {
    fn decode(&self, day: i64, rollups: &Day) -> Result<Option<Buckets>, CorruptHistory> {
        let Some(rollups) = rollups.of(self.resolution) else { return Ok(None) };
        let times = self.source.times.get(&(day, place(self.samples.number).0));
        rollups.read(self.samples.number, times).map_err(|error| {
            CorruptHistory(format!(
                "series {} of a source, in the rollups of the day that begins at {day} (unix milliseconds): {error}",
                self.samples.number
            ))
        })
    }

    fn is_asked(&self, first_ms: i64) -> bool {
        (self.source.range.start_ms..=self.source.range.end_ms).contains(&first_ms)
    }

    fn is_unrolled(&self, first_ms: i64) -> bool {
        self.source.unrolled.binary_search(&window_of(first_ms)).is_ok()
    }

    fn of_gauge(&self) -> Result<Vec<GaugeBucket>, CorruptHistory> {
        let mut buckets = Vec::new();
        for (start, day) in self.source.days.iter().filter(|(start, _)| *start <= self.source.range.end_ms) {
            if let Some(Buckets::Gauge(of_day)) = self.decode(*start, day)? {
                buckets.extend(of_day.into_iter().filter(|bucket| self.is_asked(bucket.first_ms) && !self.is_unrolled(bucket.first_ms)));
            }
        }
        let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
        self.samples.read_gauge(&mut timestamps_ms, &mut values)?;
        let asked = asked(&timestamps_ms, self.source.range);
        let mut shorter = Vec::new();
        roll_up_gauge(&timestamps_ms[asked.clone()], &values[asked], Resolution::FiveMinutes, &mut shorter);
        roll_up_buckets(&shorter, self.resolution, &mut buckets);
        buckets.sort_by_key(|bucket| bucket.first_ms);
        Ok(buckets)
    }

    fn of_counter(&self) -> Result<Vec<GaugeBucket>, CorruptHistory> {
        let SourceRollups { range, dropped_ms, .. } = *self.source;
        let number = self.samples.number;
        let first_window = window_of(range.start_ms);
        let (mut buckets, mut dropped): (Vec<CounterBucket>, i64) = (Vec::new(), 0);
        for (start, day) in &self.source.days {
            if *start > range.end_ms && start.saturating_add(DAY_MILLIS) <= dropped_ms {
                let sum = day.of(self.resolution).or(day.hours.as_ref()).map_or(0, |rollups| rollups.sum(number));
                dropped = dropped.wrapping_add(sum);
                continue;
            }
            let Some(Buckets::Counter(of_day)) = self.decode(*start, day)? else { continue };
            for bucket in of_day {
                let window = window_of(bucket.first_ms);
                if window < first_window || self.is_unrolled(bucket.first_ms) {
                    continue;
                }
                if window < dropped_ms {
                    dropped = dropped.wrapping_add(bucket.delta);
                }
                buckets.push(bucket);
            }
        }
        let (mut timestamps_ms, mut deltas) = (Vec::new(), Vec::new());
        self.samples.read_deltas(&mut timestamps_ms, &mut deltas)?;
        let until = asked(&timestamps_ms, TimeRange { start_ms: i64::MIN, ..range });
        roll_up_counter(&timestamps_ms[until.clone()], &deltas[until], self.resolution, &mut buckets);
        buckets.sort_by_key(|bucket| bucket.first_ms);
        // The base is what was counted by the first window that is there, or by the end of those that were dropped.
        let mut total = self.samples.base.wrapping_sub(dropped);
        let totals = buckets.iter().map(|bucket| {
            let before = total;
            total = total.wrapping_add(bucket.delta);
            bucket.totals(before)
        });
        Ok(totals.filter(|bucket| self.is_asked(bucket.first_ms)).collect())
    }
}

/// Which of these times, in order, are in a range.
fn asked(timestamps_ms: &[i64], range: TimeRange) -> std::ops::Range<usize> {
    let start = timestamps_ms.partition_point(|at| *at < range.start_ms);
    start..timestamps_ms.partition_point(|at| *at <= range.end_ms).max(start)
}

impl ReadBuckets for SeriesRollups {
    fn buckets(&self) -> Result<Vec<GaugeBucket>, CorruptHistory> {
        match self.samples.kind {
            Kind::Gauge => self.of_gauge(),
            Kind::Counter => self.of_counter(),
        }
    }

    fn max_buckets(&self) -> usize {
        most_buckets(self.resolution, self.source.days.len(), self.samples.windows())
    }
}

impl MemoryStore {
    /// What is left of what a selection asks for.
    pub(super) async fn kept(&self, selection: &Selection) -> Kept {
        let mut kept = Kept::default();
        let dropped = &self.shards.history.dropped;
        let range = TimeRange { start_ms: selection.start_ms, end_ms: selection.end_ms };
        // Of rollups a bucket before is read as well.
        let of_rollups = TimeRange { start_ms: first_bucket_ms(selection, Resolution::FiveMinutes), ..range };
        if !dropped.may_lack_samples(range.start_ms) && !dropped.may_lack_five_minutes(of_rollups.start_ms) {
            return kept;
        }
        let search = Search::new(&selection.matchers);
        let mut turns = Turns::default();
        let sources: Vec<SourceName> = self.shards.each().flat_map(|shard| shard.history.names().cloned().collect::<Vec<_>>()).collect();
        for source in &sources {
            turns.look_at(SOURCE_COST).await;
            let (candidates, days, dropped_ms) = {
                let locked = self.shards.of(source);
                let Some(history) = locked.shard.history.get(source).filter(|history| of_rollups.start_ms < history.dropped_ms) else {
                    continue;
                };
                let Some(candidates) = search.candidates(source, &history.series, self.shards.hasher()) else { continue };
                (candidates, SourceRollups::new(history, of_rollups, None).days, history.dropped_ms)
            };
            let (mut raw, mut five_minutes): (HashSet<u32>, HashSet<u32>) = (HashSet::new(), HashSet::new());
            for (start, day) in &days {
                turns.look_at(1).await;
                raw.extend(day.blocks().filter(|block| day.is_rolled_up(*start, *block, range, dropped_ms)));
                five_minutes.extend(day.blocks().filter(|block| day.has_only_hours(*start, *block, of_rollups, dropped_ms)));
            }
            for (number, series) in candidates.iter() {
                turns.look_at(1).await;
                let (block, _) = place(number);
                let tells = (raw.contains(&block) && !kept.raw_is_gone) || (five_minutes.contains(&block) && !kept.five_minutes_are_gone);
                if tells && search.matches(source.as_str(), series) {
                    kept.five_minutes_are_gone |= five_minutes.contains(&block);
                    kept.raw_is_gone |= raw.contains(&block) || kept.five_minutes_are_gone;
                }
            }
            if kept.raw_is_gone && (kept.five_minutes_are_gone || !dropped.may_lack_five_minutes(of_rollups.start_ms)) {
                break;
            }
        }
        kept
    }

    /// Reads the rollups of the series that a selection asks for.
    pub(super) async fn select_rollups(
        &self,
        selection: &Selection,
        resolution: Resolution,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let range = TimeRange { start_ms: first_bucket_ms(selection, resolution), end_ms: selection.end_ms };
        let mut all: Vec<(Labels, SeriesRollups)> = Vec::new();
        let take = |reservation: &mut Reservation, bytes: usize| reservation.grow(bytes).is_ok();
        let charge = |reservation: &mut Reservation, bytes: usize| reservation.grow(bytes).map_err(HistoryError::from);
        let asked = Asked { range, reading: Reading::Rollups(resolution) };
        let found = self.find(&selection.matchers, asked, reservation, charge, take, |reservation, found| {
            let FoundSource { series, samples, rollups, .. } = found;
            if series.is_empty() {
                return Ok(());
            }
            if all.len() + series.len() > max_series {
                return Err(HistoryError::TooManySeries { limit: max_series });
            }
            let Some(rollups) = rollups else { return Ok(()) };
            reservation.grow(series.len() * size_of::<(Labels, SeriesRollups)>() + samples.bytes() + rollups.bytes())?;
            all.extend(series.into_iter().map(|Found { labels, number, kind, base }| {
                let samples = SeriesSamples { source: Arc::clone(&samples), number, kind, base };
                (labels, SeriesRollups { source: Arc::clone(&rollups), resolution, samples })
            }));
            Ok(())
        });
        found.await?;
        Ok(join_equal(resolution, all))
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::OpenWindow;
    use super::super::part::Part;
    use super::*;

    #[test]
    fn times_that_are_shared_are_charged_before_they_are_held() {
        let numbers: Vec<u32> = (0..3 * 64).collect();
        let values: Vec<u64> = numbers.iter().map(|number| f64::from(*number).to_bits()).collect();
        let mut open = OpenWindow::default();
        (0..60).for_each(|minute| open.push(minute * 60_000, &numbers, &values));
        let part = Part::seal(open.frames(), open.samples(), &[(0, 0), (1, 0), (2, 0)]);
        let (day, corrupt) = Day::default().with_window(0, &part, true);
        assert_eq!(corrupt, 0);
        let mut history = SourceHistory::default();
        history.put_day(0, day);
        let range = TimeRange { start_ms: 0, end_ms: DAY_MILLIS };
        for room in 0..=3 {
            let mut rollups = SourceRollups::new(&history, range, Some(Resolution::FiveMinutes));
            let mut asked = 0;
            rollups.prepare(&numbers, Vec::new(), |bytes| {
                assert!(bytes > 0);
                asked += 1;
                asked <= room
            });
            assert_eq!((rollups.times.len(), asked), (room, room.min(2) + 1), "no more is asked for once there is no room");
        }
    }
}

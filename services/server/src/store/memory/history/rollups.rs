//! What is kept of a source's samples beyond them: buckets of 5 minutes and of an hour, by the UTC day.
//!
//! They are made of a window's samples when these are folded into one part. What is late for a window is folded into it, and takes the place of what the
//! day had of it. The buckets of a counter have no totals, which a late delta would change in all later ones: a reader counts them on from the total
//! at the start of the samples that are kept, or back from there.

use std::collections::BTreeMap;
use std::sync::Arc;

use golectra_chunks::rollup::{
    CounterBucket, GaugeBucket, Resolution, RollupColumn, decode_counter_rollup, decode_gauge_rollup, encode_rollups, roll_up_buckets,
    roll_up_counter_buckets,
};
use golectra_chunks::{DecodeError, EncodedBlock, Times, decode_counter, decode_gauge};

use super::part::{Part, SealedBlock, Stored};
use super::series::place;
use super::source::WINDOW_MILLIS;
use crate::store::history::TimeRange;
use crate::store::history::rollups::{Buckets, DAY_MILLIS};

/// What a day and the rollups of one resolution take beside their blocks.
const DAY_BYTES: usize = 64;
const ROLLUPS_BYTES: usize = 96;
const BLOCK_BYTES: usize = 32;

/// The rollups of a block of series.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RollupBlock {
    /// Which windows of the day were rolled up: a bit each.
    pub(super) windows: u16,
    /// The buckets of its series. The sum of a counter is that of its deltas of the day.
    pub(super) block: SealedBlock,
}

/// The rollups of a source's series of one day, in one resolution.
#[derive(Debug)]
pub(super) struct DayRollups {
    /// Sorted by number.
    pub(super) blocks: Box<[Arc<RollupBlock>]>,
    bytes: usize,
    pub(super) stored: Stored,
}

/// Whether these windows of a day, a bit each, have one that overlaps a range and begins before this time.
fn has_window(windows: u16, day: i64, range: TimeRange, before: i64) -> bool {
    (0..u16::BITS).filter(|index| windows >> index & 1 == 1).any(|index| {
        let start = day.saturating_add(i64::from(index) * WINDOW_MILLIS);
        start < before && start <= range.end_ms && start.saturating_add(WINDOW_MILLIS) > range.start_ms
    })
}

impl DayRollups {
    pub(super) fn new(blocks: Vec<Arc<RollupBlock>>) -> Self {
        let bytes = ROLLUPS_BYTES + blocks.iter().map(|block| BLOCK_BYTES + block.block.bytes()).sum::<usize>();
        Self { blocks: blocks.into(), bytes, stored: Stored::default() }
    }

    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn block(&self, block: u32) -> Option<&RollupBlock> {
        self.blocks.binary_search_by_key(&block, |other| other.block.number).ok().map(|place| &*self.blocks[place])
    }

    /// Whether there are buckets of this series.
    pub(super) fn has(&self, number: u32) -> bool {
        let (block, slot) = place(number);
        self.block(block).is_some_and(|block| !block.block.column(slot).is_empty())
    }

    /// The sum of a counter's deltas.
    pub(super) fn sum(&self, number: u32) -> i64 {
        let (block, slot) = place(number);
        self.block(block).map_or(0, |block| block.block.sum(slot))
    }

    /// The buckets of a series, where it has some. `times` are its block's, where they are decoded already.
    pub(super) fn read(&self, number: u32, times: Option<&Times>) -> Result<Option<Buckets>, DecodeError> {
        let (block, slot) = place(number);
        let Some(block) = self.block(block).map(|block| &block.block).filter(|block| !block.column(slot).is_empty()) else {
            return Ok(None);
        };
        match times {
            Some(times) => decode_column(times, block, slot).map(Some),
            None => decode_column(&Times::decode(&block.times)?, block, slot).map(Some),
        }
    }

    /// Puts the buckets of one window in place of those that are there.
    fn with_window(old: Option<&Self>, window: i64, fresh: &[FreshBlock], corrupt: &mut u64) -> Self {
        let index = window.rem_euclid(DAY_MILLIS) / WINDOW_MILLIS;
        let mut blocks: BTreeMap<u32, Arc<RollupBlock>> =
            old.into_iter().flat_map(|old| old.blocks.iter()).map(|block| (block.block.number, Arc::clone(block))).collect();
        for FreshBlock { number, counters, series } in fresh {
            let old = blocks.get(number);
            let mut merged = old.map_or(Ok(BTreeMap::new()), |old| decode_block(&old.block)).unwrap_or_else(|_| {
                *corrupt += 1;
                BTreeMap::new()
            });
            for buckets in merged.values_mut() {
                buckets.replace(window, window + WINDOW_MILLIS, None);
            }
            for (slot, buckets) in series {
                match merged.get_mut(slot) {
                    Some(into) => into.replace(window, window + WINDOW_MILLIS, Some(buckets.clone())),
                    None => drop(merged.insert(*slot, buckets.clone())),
                }
            }
            merged.retain(|_, buckets| !buckets.is_empty());
            let windows = old.map_or(0, |old| old.windows) | 1 << index;
            let counters = counters | old.map_or(0, |old| old.block.counters);
            blocks.insert(*number, Arc::new(RollupBlock { windows, block: encode_block(*number, counters, &merged) }));
        }
        Self::new(blocks.into_values().collect())
    }
}

fn decode_column(times: &Times, block: &SealedBlock, slot: usize) -> Result<Buckets, DecodeError> {
    if block.counters & (1 << slot) == 0 {
        let mut buckets: Vec<GaugeBucket> = Vec::new();
        decode_gauge_rollup(times, block.column(slot), &mut buckets)?;
        Ok(Buckets::Gauge(buckets))
    } else {
        let mut buckets: Vec<CounterBucket> = Vec::new();
        decode_counter_rollup(times, block.column(slot), &mut buckets)?;
        Ok(Buckets::Counter(buckets))
    }
}

fn decode_block(block: &SealedBlock) -> Result<BTreeMap<usize, Buckets>, DecodeError> {
    let times = Times::decode(&block.times)?;
    block.slots().map(|slot| Ok((slot, decode_column(&times, block, slot)?))).collect()
}

fn encode_block(number: u32, counters: u64, series: &BTreeMap<usize, Buckets>) -> SealedBlock {
    let slots = series.keys().last().map_or(0, |last| last + 1);
    let mut columns = vec![RollupColumn::Gauge(&[]); slots];
    let mut sums = vec![0_i64; if counters == 0 { 0 } else { slots }];
    for (slot, buckets) in series {
        columns[*slot] = buckets.as_column();
        if let Buckets::Counter(buckets) = buckets {
            sums[*slot] = buckets.iter().fold(0, |sum, bucket| sum.wrapping_add(bucket.delta));
        }
    }
    let EncodedBlock { times, offsets, data } = encode_rollups(&columns);
    SealedBlock { number, counters, times: times.into(), offsets: offsets.into(), data: data.into(), sums: sums.into() }
}

/// The buckets of a block's series in one window.
struct FreshBlock {
    number: u32,
    counters: u64,
    series: Vec<(usize, Buckets)>,
}

impl FreshBlock {
    /// Of 5 minutes. What can't be decoded stays out, and is counted.
    fn of(block: &SealedBlock, corrupt: &mut u64) -> Self {
        let mut series = Vec::new();
        match Times::decode(&block.times) {
            Ok(times) => {
                for slot in block.slots() {
                    let (mut timestamps_ms, column) = (Vec::new(), block.column(slot));
                    let buckets = if block.counters & (1 << slot) == 0 {
                        let mut values = Vec::new();
                        decode_gauge(&times, column, &mut timestamps_ms, &mut values).map(|()| Buckets::of_gauge(&timestamps_ms, &values))
                    } else {
                        let mut deltas = Vec::new();
                        decode_counter(&times, column, &mut timestamps_ms, &mut deltas)
                            .map(|()| Buckets::of_counter(&timestamps_ms, &deltas))
                    };
                    match buckets {
                        Ok(buckets) => series.push((slot, buckets)),
                        Err(_) => *corrupt += 1,
                    }
                }
            }
            Err(_) => *corrupt += 1,
        }
        Self { number: block.number, counters: block.counters, series }
    }

    fn hours(&self) -> Self {
        let hours = |buckets: &Buckets| match buckets {
            Buckets::Gauge(buckets) => {
                let mut hours = Vec::new();
                roll_up_buckets(buckets, Resolution::OneHour, &mut hours);
                Buckets::Gauge(hours)
            }
            Buckets::Counter(buckets) => {
                let mut hours = Vec::new();
                roll_up_counter_buckets(buckets, Resolution::OneHour, &mut hours);
                Buckets::Counter(hours)
            }
        };
        let series = self.series.iter().map(|(slot, buckets)| (*slot, hours(buckets))).collect();
        Self { number: self.number, counters: self.counters, series }
    }
}

/// The rollups of a source's day. A copy is cheap, and stays as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Day {
    pub(super) five_minutes: Option<Arc<DayRollups>>,
    pub(super) hours: Option<Arc<DayRollups>>,
}

impl Day {
    /// With what a window's only part comes to. Columns that can't be decoded are counted.
    pub(super) fn with_window(&self, window: i64, part: &Part, keeps_five_minutes: bool) -> (Self, u64) {
        let mut corrupt = 0;
        let fresh: Vec<FreshBlock> = part.blocks.iter().map(|block| FreshBlock::of(block, &mut corrupt)).collect();
        let five_minutes = if keeps_five_minutes {
            Some(Arc::new(DayRollups::with_window(self.five_minutes.as_deref(), window, &fresh, &mut corrupt)))
        } else {
            self.five_minutes.clone()
        };
        let hours: Vec<FreshBlock> = fresh.iter().map(FreshBlock::hours).collect();
        let hours = Some(Arc::new(DayRollups::with_window(self.hours.as_deref(), window, &hours, &mut corrupt)));
        (Self { five_minutes, hours }, corrupt)
    }

    pub(super) fn of(&self, resolution: Resolution) -> Option<&Arc<DayRollups>> {
        match resolution {
            Resolution::FiveMinutes => self.five_minutes.as_ref(),
            Resolution::OneHour => self.hours.as_ref(),
        }
    }

    pub(super) fn slot(&mut self, resolution: Resolution) -> &mut Option<Arc<DayRollups>> {
        match resolution {
            Resolution::FiveMinutes => &mut self.five_minutes,
            Resolution::OneHour => &mut self.hours,
        }
    }

    /// Those of each resolution.
    pub(super) fn each(&self) -> impl Iterator<Item = (Resolution, &Arc<DayRollups>)> {
        [Resolution::FiveMinutes, Resolution::OneHour].into_iter().filter_map(|resolution| Some((resolution, self.of(resolution)?)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.five_minutes.is_none() && self.hours.is_none()
    }

    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        DAY_BYTES + self.each().map(|(_, rollups)| rollups.bytes()).sum::<usize>()
    }

    pub(super) fn has_block(&self, block: u32) -> bool {
        self.each().any(|(_, rollups)| rollups.block(block).is_some())
    }

    /// Which windows of a block were rolled up in each resolution, a bit each.
    fn windows_of(&self, block: u32) -> [u16; 2] {
        [Resolution::FiveMinutes, Resolution::OneHour]
            .map(|resolution| self.of(resolution).and_then(|rollups| rollups.block(block)).map_or(0, |block| block.windows))
    }

    /// Whether a window's only part is rolled up in both resolutions.
    pub(super) fn has_window_of(&self, window: i64, part: &Part) -> bool {
        let bit = 1 << (window.rem_euclid(DAY_MILLIS) / WINDOW_MILLIS);
        part.blocks.iter().all(|block| self.windows_of(block.number).iter().all(|windows| windows & bit != 0))
    }

    /// Whether a window's only part is rolled up in one resolution.
    pub(super) fn has_window_in(&self, resolution: Resolution, window: i64, part: &Part) -> bool {
        let bit = 1 << (window.rem_euclid(DAY_MILLIS) / WINDOW_MILLIS);
        let Some(rollups) = self.of(resolution) else { return false };
        part.blocks.iter().all(|block| rollups.block(block.number).is_some_and(|rolled_up| rolled_up.windows & bit != 0))
    }

    /// The end of the last window that is rolled up and begins before this time; nothing where there is none.
    pub(super) fn end_before(&self, start: i64, before: i64) -> Option<i64> {
        let windows = self.each().flat_map(|(_, rollups)| rollups.blocks.iter()).fold(0, |all, block| all | block.windows);
        let mut starts = (0..i64::from(u16::BITS)).filter(|index| windows >> index & 1 == 1).map(|index| start + index * WINDOW_MILLIS);
        starts.rfind(|window| *window < before).map(|window| window + WINDOW_MILLIS)
    }

    /// Whether a block has rollups of a range before this time.
    pub(super) fn is_rolled_up(&self, start: i64, block: u32, range: TimeRange, before: i64) -> bool {
        let [five_minutes, hours] = self.windows_of(block);
        has_window(five_minutes | hours, start, range, before)
    }

    /// Whether a block has rollups by the hour, but no longer those of 5 minutes, of a range before this time.
    pub(super) fn has_only_hours(&self, start: i64, block: u32, range: TimeRange, before: i64) -> bool {
        let [five_minutes, hours] = self.windows_of(block);
        has_window(hours & !five_minutes, start, range, before)
    }

    /// The blocks that there are.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u32> {
        self.each().flat_map(|(_, rollups)| rollups.blocks.iter().map(|block| block.block.number))
    }
}

const _: () = assert!(DAY_MILLIS == WINDOW_MILLIS * 12);

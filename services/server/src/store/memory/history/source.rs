//! The history of one source, and of all sources of a shard.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use golectra_protocol::{Kind, Metrics, Source, Value};

use super::super::plan::{BatchPlan, BatchTimes};
use super::super::source::SourceSeries;
use super::super::table::{IdHasher, NEW, Rows};
use super::coding::StoredSeries;
use super::open::OpenWindow;
use super::part::Part;
use super::rollups::Day;
use super::room::Room;
use super::series::{SeriesTable, place};
use super::shared::HistoryShared;

/// The length of a window; windows begin at multiples of it.
pub(super) const WINDOW_MILLIS: i64 = 2 * 60 * 60 * 1000;
/// What a source and a window take beside what is in them.
const SOURCE_BYTES: usize = 512;
const WINDOW_BYTES: usize = 512;
/// What a new sample and a new series may take at first, beside the series' id.
pub(super) const SAMPLE_BYTES: usize = 16;
const NEW_SERIES_BYTES: usize = 128;
/// A number that is not looked up yet.
const UNKNOWN: u32 = u32::MAX;

/// The beginning of the window that has this time.
pub(super) fn window_of(at_millis: i64) -> i64 {
    at_millis.div_euclid(WINDOW_MILLIS).saturating_mul(WINDOW_MILLIS)
}

/// The history of a shard's sources. It stays when a source leaves the newest state.
#[derive(Debug, Default)]
pub(in crate::store::memory) struct ShardHistory {
    sources: HashMap<Source, SourceHistory>,
    /// Their memory is used for every batch.
    numbers: Vec<u32>,
    values: Vec<u64>,
}

impl ShardHistory {
    pub(super) fn get(&self, source: &Source) -> Option<&SourceHistory> {
        self.sources.get(source)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Source> {
        self.sources.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Source, &SourceHistory)> {
        self.sources.iter()
    }

    /// Changes a source's history, which may be left empty and is removed then.
    pub(super) fn change<T>(&mut self, shared: &HistoryShared, source: &Source, change: impl FnOnce(&mut SourceHistory) -> T) -> Option<T> {
        let history = self.sources.get_mut(source)?;
        let (before, of_rollups) = (history.bytes(), history.rollup_bytes);
        let changed = change(history);
        let after = if history.windows.is_empty() && history.days.is_empty() { 0 } else { history.bytes() };
        shared.changed(before, after);
        shared.rollups_changed(of_rollups, history.rollup_bytes);
        if after == 0 {
            self.sources.remove(source);
        }
        Some(changed)
    }

    /// How many series of a source are known.
    #[cfg(test)]
    pub(in crate::store::memory) fn known_series(&self, source: &Source) -> usize {
        self.sources.get(source).map_or(0, |history| history.series.len())
    }

    /// Takes back series of the files.
    pub(super) fn restore_series(
        &mut self,
        shared: &HistoryShared,
        hasher: &IdHasher,
        source: &Source,
        next: u32,
        series: &[StoredSeries],
    ) {
        let history = self.sources.entry(source.clone()).or_insert_with(|| {
            shared.changed(0, SOURCE_BYTES);
            SourceHistory::default()
        });
        let before = history.bytes();
        for one in series {
            history.series.restore(hasher, one.number, &one.id, one.kind, one.base);
        }
        history.series.raise_next(next);
        shared.changed(before, history.bytes());
    }

    /// Takes back a part of the files, behind the others of its window.
    pub(super) fn restore_part(&mut self, shared: &HistoryShared, source: &Source, start: i64, part: Part) {
        let Some(history) = self.sources.get_mut(source) else { return };
        let before = history.bytes();
        history.window(start);
        history.change_window(start, |window| window.parts.push(Arc::new(part)));
        shared.changed(before, history.bytes());
    }

    /// Leaves a part of the files out, which has all samples of its window, as if it had been dropped after it was taken back: what its counters had counted
    /// goes on in their totals. Says whether it did; not where it is not rolled up, or an earlier window stays.
    pub(super) fn leave_out_part(&mut self, shared: &HistoryShared, source: &Source, start: i64, part: &Part, room: &Room) -> bool {
        let is_next = |history: &SourceHistory| history.windows.is_empty() && room.is_rolled_up(history, start, part);
        let Some(history) = self.sources.get_mut(source).filter(|history| is_next(history)) else { return false };
        part.sums().filter(|(_, sum)| *sum != 0).for_each(|(number, sum)| history.series.add_to_base(number, sum));
        history.note_dropped(shared, start);
        true
    }

    /// Changes the history of each source while files are read. One that is left empty stays, since more of it may follow.
    pub(super) fn change_each(&mut self, shared: &HistoryShared, mut change: impl FnMut(&Source, &mut SourceHistory)) {
        for (source, history) in &mut self.sources {
            let (before, of_rollups) = (history.bytes(), history.rollup_bytes);
            change(source, history);
            shared.changed(before, history.bytes());
            shared.rollups_changed(of_rollups, history.rollup_bytes);
        }
    }

    /// Adds to the totals of a source's counters what they have counted while there was no history.
    pub(super) fn catch_up(&mut self, hasher: &IdHasher, source: &Source, newest: &Rows) {
        let Some(history) = self.sources.get_mut(source) else { return };
        let mut totals: HashMap<u32, i64> = HashMap::new();
        for (number, sum) in history.windows.values().flat_map(|window| &window.parts).flat_map(|part| part.sums()) {
            let total = totals.entry(number).or_default();
            *total = total.saturating_add(sum);
        }
        for row in newest.iter() {
            let Value::Counter(newest_total) = row.value() else { continue };
            let Some(number) = history.series.find(hasher, newest.id(row), Kind::Counter) else { continue };
            let base = history.series.get(number).map_or(0, |series| series.base);
            let total = base.saturating_add(totals.get(&number).copied().unwrap_or(0));
            history.series.add_to_base(number, newest_total.saturating_sub(total));
        }
    }

    /// Ends taking back what the files had: removes what they left without samples, being damaged, and finds out what was dropped and what is rolled up.
    pub(super) fn settle(&mut self, shared: &HistoryShared, hasher: &IdHasher) {
        for source in self.sources.keys().cloned().collect::<Vec<_>>() {
            self.change(shared, &source, |history| {
                let blocks = history.series.blocks().keys().copied().collect();
                history.remove_unused(hasher, blocks);
                history.settle(&shared.dropped);
                if let Ok(until) = u64::try_from(history.dropped_ms) {
                    shared.dropped_until_millis.fetch_max(until, Ordering::Relaxed);
                }
            });
        }
    }

    /// Takes the samples of a batch that is about to be applied to the newest state of its source, where its series have these slots. Where they do
    /// not fit, they are left out and counted; totals go on with them all the same.
    pub(in crate::store::memory) fn record(
        &mut self,
        shared: &HistoryShared,
        hasher: &IdHasher,
        newest: &SourceSeries,
        plan: &BatchPlan,
        metrics: &Metrics,
        times: BatchTimes,
    ) {
        let of_new = plan.new.id_bytes + plan.new.series * NEW_SERIES_BYTES;
        if !shared.is_off() && !shared.admit(metrics.len() * SAMPLE_BYTES + of_new) {
            shared.samples_dropped.fetch_add(metrics.len() as u64, Ordering::Relaxed);
            if let Some(history) = self.sources.get_mut(&newest.name) {
                history.count_on(hasher, metrics);
            }
            return;
        }
        if !shared.is_off() {
            // Not those that a start reads back from the journal: they were counted when they came.
            let too_old = too_old(metrics, times, shared.oldest_millis(times.now_millis()));
            shared.samples_too_old.fetch_add(too_old as u64, Ordering::Relaxed);
        }
        self.record_always(shared, hasher, newest, plan, metrics, times);
    }

    /// As [`Self::record`], for samples that must not be left out: the oldest windows give them room, soon after.
    pub(in crate::store::memory) fn record_always(
        &mut self,
        shared: &HistoryShared,
        hasher: &IdHasher,
        newest: &SourceSeries,
        plan: &BatchPlan,
        metrics: &Metrics,
        times: BatchTimes,
    ) {
        if shared.is_off() {
            return;
        }
        let (now_millis, oldest) = (times.now_millis(), shared.oldest_millis(times.now_millis()));
        if !metrics.has_times() && times.of_history() < oldest {
            return;
        }
        if !self.sources.contains_key(&newest.name) {
            self.sources.insert(newest.name.clone(), SourceHistory::default());
            shared.changed(0, SOURCE_BYTES);
        }
        let source = self.sources.get_mut(&newest.name).expect("it was put there");
        // What is left of samples before this is their rollups, which are complete.
        let dropped = oldest..source.dropped_ms;
        let is_too_late = |index: usize| dropped.contains(&metrics.at_millis(index).unwrap_or_else(|| times.of_history()));
        if !dropped.is_empty() {
            let late = (0..metrics.len()).filter(|index| is_too_late(*index)).count();
            shared.samples_dropped.fetch_add(late as u64, Ordering::Relaxed);
            if late == metrics.len() {
                return;
            }
        }
        let oldest = oldest.max(dropped.end);
        let before = source.bytes();
        source.look_up(hasher, newest, plan.slots(), metrics, &mut self.numbers);
        if metrics.has_times() {
            source.push_samples(&self.numbers, metrics, oldest, now_millis);
        } else {
            self.values.clear();
            self.values.extend(metrics.iter().map(|metric| bits(metric.value)));
            source.push(times.of_history(), now_millis, &self.numbers, &self.values);
        }
        shared.changed(before, source.bytes());
    }
}

/// How many samples of a batch are from before this time.
fn too_old(metrics: &Metrics, times: BatchTimes, oldest: i64) -> usize {
    if metrics.has_times() {
        return (0..metrics.len()).filter(|index| metrics.at_millis(*index).is_some_and(|at_millis| at_millis < oldest)).count();
    }
    if times.of_history() < oldest { metrics.len() } else { 0 }
}

fn bits(value: Value) -> u64 {
    match value {
        Value::Gauge(value) => value.to_bits(),
        Value::Counter(delta) => delta.cast_unsigned(),
    }
}

/// The history of one source.
#[derive(Debug, Default)]
pub(super) struct SourceHistory {
    pub(super) series: SeriesTable,
    pub(super) windows: BTreeMap<i64, Window>,
    /// What the windows take.
    window_bytes: usize,
    /// The rollups, by the beginning of their day.
    pub(super) days: BTreeMap<i64, Day>,
    /// What they take.
    pub(super) rollup_bytes: usize,
    /// Samples of windows before this were dropped, or came too late. What counters had counted by then is their base.
    pub(super) dropped_ms: i64,
    /// The numbers of the newest state's slots, as of this generation of its table; [`UNKNOWN`] where that was not looked up.
    slot_numbers: Vec<u32>,
    generation: u64,
}

/// The samples of two hours: parts that are sealed, in the order of their arrival, and what has arrived since.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) parts: Vec<Arc<Part>>,
    pub(super) open: OpenWindow,
    /// When the first of the open samples arrived.
    pub(super) opened_millis: u64,
    /// Whether the rollups have what the sealed samples come to.
    pub(super) rolled_up: bool,
}

impl Window {
    pub(super) fn bytes(&self) -> usize {
        WINDOW_BYTES + self.open.bytes() + self.parts.iter().map(|part| part.bytes()).sum::<usize>()
    }

    pub(super) fn samples(&self) -> u64 {
        self.open.samples() as u64 + self.parts.iter().map(|part| part.samples).sum::<u64>()
    }

    /// Puts a part in place of the first open frames, which it has.
    pub(super) fn sealed(&mut self, part: Arc<Part>, frames: usize, now_millis: u64) {
        self.open = self.open.without(frames);
        self.opened_millis = now_millis;
        self.parts.push(part);
        self.rolled_up = false;
    }

    /// Whether the rollups have all of its samples.
    pub(super) fn is_clean(&self) -> bool {
        self.rolled_up && self.open.is_empty()
    }
}

impl SourceHistory {
    pub(super) fn bytes(&self) -> usize {
        SOURCE_BYTES + self.series.bytes() + self.window_bytes + self.rollup_bytes + self.slot_numbers.capacity() * size_of::<u32>()
    }

    /// Changes a window.
    pub(super) fn change_window<T>(&mut self, start: i64, change: impl FnOnce(&mut Window) -> T) -> Option<T> {
        let window = self.windows.get_mut(&start)?;
        let before = window.bytes();
        let changed = change(window);
        self.window_bytes = self.window_bytes - before + window.bytes();
        Some(changed)
    }

    /// The window that begins there, made where there is none.
    fn window(&mut self, start: i64) -> &mut Window {
        self.windows.entry(start).or_insert_with(|| {
            self.window_bytes += WINDOW_BYTES;
            Window::default()
        })
    }

    /// Takes note that a window was left out of what the files had.
    pub(super) fn note_dropped(&mut self, shared: &HistoryShared, start: i64) {
        let end = start.saturating_add(WINDOW_MILLIS);
        self.dropped_ms = self.dropped_ms.max(end);
        shared.dropped.raw(end);
    }

    /// Drops a window, and the series of which nothing is left. What counters had counted by its end goes on in their totals.
    pub(super) fn drop_window(&mut self, hasher: &IdHasher, start: i64) -> Option<Window> {
        let (window, blocks) = self.remove_window(start)?;
        self.remove_unused(hasher, blocks);
        Some(window)
    }

    /// As [`Self::drop_window`], but its series stay. Says in which blocks they are.
    pub(super) fn remove_window(&mut self, start: i64) -> Option<(Window, HashSet<u32>)> {
        let window = self.windows.remove(&start)?;
        self.window_bytes -= window.bytes();
        let mut blocks = HashSet::new();
        for part in &window.parts {
            part.sums().filter(|(_, sum)| *sum != 0).for_each(|(number, sum)| self.series.add_to_base(number, sum));
            blocks.extend(part.blocks.iter().map(|block| block.number));
        }
        for (_, numbers, values) in window.open.frames().iter_from(0) {
            for (number, bits) in numbers.iter().zip(values) {
                self.series.add_to_base(*number, bits.cast_signed());
                blocks.insert(place(*number).0);
            }
        }
        Some((window, blocks))
    }

    /// Removes those of some blocks of series that there are no samples and no rollups of.
    pub(super) fn remove_unused(&mut self, hasher: &IdHasher, mut blocks: HashSet<u32>) {
        for window in self.windows.values() {
            for number in window.open.frames().numbers() {
                blocks.remove(&place(number).0);
            }
        }
        let is_sealed = |block: u32| self.windows.values().rev().flat_map(|window| &window.parts).any(|part| part.block(block).is_some());
        let is_rolled_up = |block: u32| self.days.values().rev().any(|day| day.has_block(block));
        blocks.retain(|block| !is_sealed(*block) && !is_rolled_up(*block));
        self.series.remove_blocks(hasher, &blocks);
        if !blocks.is_empty() {
            // Some of the numbers are of series that are gone.
            self.slot_numbers = Vec::new();
        }
    }

    /// Finds the numbers of a batch's series, and adds the series that are not there.
    fn look_up(&mut self, hasher: &IdHasher, newest: &SourceSeries, slots: &[u32], metrics: &Metrics, numbers: &mut Vec<u32>) {
        if self.generation != newest.generation {
            self.generation = newest.generation;
            self.slot_numbers.clear();
        }
        if self.slot_numbers.len() < newest.len() {
            self.slot_numbers.reserve_exact(newest.len() - self.slot_numbers.len());
            self.slot_numbers.resize(newest.len(), UNKNOWN);
        }
        numbers.clear();
        numbers.reserve(slots.len());
        for (index, slot) in slots.iter().enumerate() {
            let known = if *slot == NEW { UNKNOWN } else { self.slot_numbers[*slot as usize] };
            if known != UNKNOWN {
                numbers.push(known);
                continue;
            }
            let metric = metrics.get(index);
            let total = || match newest.table.rows().row(*slot).value() {
                Value::Counter(total) => total,
                Value::Gauge(_) => 0,
            };
            let base = || if *slot == NEW { 0 } else { total() };
            let number = self.series.find_or_add(hasher, metric.id, metric.kind(), base);
            if *slot != NEW {
                self.slot_numbers[*slot as usize] = number;
            }
            numbers.push(number);
        }
    }

    /// Adds deltas whose samples are left out to the totals of the counters that are known. A counter that becomes known later begins with its newest total.
    fn count_on(&mut self, hasher: &IdHasher, metrics: &Metrics) {
        for metric in metrics {
            let Value::Counter(delta) = metric.value else { continue };
            if let Some(number) = self.series.find(hasher, metric.id, Kind::Counter) {
                self.series.add_to_base(number, delta);
            }
        }
    }

    fn push(&mut self, at_millis: i64, now_millis: u64, numbers: &[u32], values: &[u64]) {
        let window = self.window(window_of(at_millis));
        let before = window.open.bytes();
        if window.open.is_empty() {
            window.opened_millis = now_millis;
        }
        window.open.push(at_millis, numbers, values);
        let after = window.open.bytes();
        self.window_bytes = self.window_bytes - before + after;
    }

    /// Takes samples with times of their own. Of a gauge's at one time the last counts, of a counter's the sum.
    fn push_samples(&mut self, numbers: &[u32], metrics: &Metrics, oldest: i64, now_millis: u64) {
        let newest = i64::try_from(now_millis).unwrap_or(i64::MAX).saturating_add_unsigned(golectra_protocol::MAX_AHEAD_MILLIS);
        let mut samples: Vec<(i64, u32, Kind, u64)> = (0..metrics.len())
            .filter_map(|index| {
                let at_millis = metrics.at_millis(index).filter(|at_millis| (oldest..=newest).contains(at_millis))?;
                let metric = metrics.get(index);
                Some((at_millis, numbers[index], metric.kind(), bits(metric.value)))
            })
            .collect();
        samples.sort_by_key(|(at_millis, number, ..)| (*at_millis, *number));
        let (mut of_frame, mut values) = (Vec::new(), Vec::new());
        for frame in samples.chunk_by(|one, other| one.0 == other.0) {
            of_frame.clear();
            values.clear();
            for (_, number, kind, bits) in frame {
                match (of_frame.last() == Some(number), *kind, values.last_mut()) {
                    (true, Kind::Gauge, Some(last)) => *last = *bits,
                    (true, Kind::Counter, Some(last)) => *last = last.cast_signed().saturating_add(bits.cast_signed()).cast_unsigned(),
                    _ => {
                        of_frame.push(*number);
                        values.push(*bits);
                    }
                }
            }
            self.push(frame[0].0, now_millis, &of_frame, &values);
        }
    }
}

//! The history of one source, and of all sources of a shard.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use golectra_protocol::{Kind, Metrics, Source, Value};

use super::super::plan::{BatchPlan, BatchTimes};
use super::super::source::SourceSeries;
use super::super::table::{IdHasher, NEW};
use super::coding::StoredSeries;
use super::open::OpenWindow;
use super::part::Part;
use super::series::{SeriesTable, place};

/// The length of a window; windows begin at multiples of it.
pub(super) const WINDOW_MILLIS: i64 = 2 * 60 * 60 * 1000;
/// What a source and a window take beside what is in them.
const SOURCE_BYTES: usize = 512;
const WINDOW_BYTES: usize = 512;
/// What a new sample and a new series may take at first, beside the series' id.
const SAMPLE_BYTES: usize = 16;
const NEW_SERIES_BYTES: usize = 128;
/// A number that is not looked up yet.
const UNKNOWN: u32 = u32::MAX;

/// The beginning of the window that has this time.
pub(super) fn window_of(at_millis: i64) -> i64 {
    at_millis.div_euclid(WINDOW_MILLIS).saturating_mul(WINDOW_MILLIS)
}

/// What is the same for all shards.
#[derive(Debug)]
pub(in crate::store::memory) struct HistoryShared {
    /// What all history may take in memory; zero: there is none.
    max_bytes: usize,
    retention_millis: i64,
    used_bytes: AtomicUsize,
    /// Samples that left before their time, since there was no room.
    pub(super) samples_dropped: AtomicU64,
    /// The end of the newest window that was over and left before its time.
    pub(super) dropped_until_millis: AtomicU64,
    /// Sealed columns that could not be decoded.
    pub(super) corrupt_columns: AtomicU64,
    /// Held by whoever seals, folds or drops: only open samples change without it.
    pub(super) changing: Mutex<()>,
    /// The thread that makes room.
    pub(super) keeper: OnceLock<Thread>,
    /// The number of the next segment file.
    pub(super) next_segment: AtomicU32,
    /// The SHA-256 of the snapshot file that is in place, as far as is known.
    snapshot: Mutex<Option<[u8; 32]>>,
}

impl HistoryShared {
    pub(in crate::store::memory) fn new(max_bytes: usize, retention_millis: u64) -> Self {
        let retention_millis = i64::try_from(retention_millis).unwrap_or(i64::MAX);
        Self {
            max_bytes,
            retention_millis,
            used_bytes: AtomicUsize::new(0),
            samples_dropped: AtomicU64::new(0),
            dropped_until_millis: AtomicU64::new(0),
            corrupt_columns: AtomicU64::new(0),
            changing: Mutex::new(()),
            keeper: OnceLock::new(),
            next_segment: AtomicU32::new(1),
            snapshot: Mutex::new(None),
        }
    }

    pub(super) fn snapshot(&self) -> Option<[u8; 32]> {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_snapshot(&self, digest: [u8; 32]) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    }

    /// Whether no history is kept.
    pub(super) fn is_off(&self) -> bool {
        self.max_bytes == 0
    }

    /// The oldest time that is kept.
    pub(super) fn oldest_millis(&self, now_millis: u64) -> i64 {
        i64::try_from(now_millis).unwrap_or(i64::MAX).saturating_sub(self.retention_millis)
    }

    /// What history takes in memory.
    pub(in crate::store::memory) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What it may take; zero: no history is kept.
    pub(in crate::store::memory) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Samples that left before their time, since there was no room.
    pub(in crate::store::memory) fn samples_dropped(&self) -> u64 {
        self.samples_dropped.load(Ordering::Relaxed)
    }

    /// What comes for a time before this would be the next to be dropped.
    pub(in crate::store::memory) fn dropped_until_millis(&self) -> u64 {
        self.dropped_until_millis.load(Ordering::Relaxed)
    }

    /// Sealed columns that could not be decoded when parts were folded.
    pub(in crate::store::memory) fn corrupt_columns(&self) -> u64 {
        self.corrupt_columns.load(Ordering::Relaxed)
    }

    /// Beyond this room is made.
    fn high_bytes(&self) -> usize {
        self.max_bytes - self.max_bytes / 8
    }

    /// Room is made down to this.
    pub(super) fn low_bytes(&self) -> usize {
        self.max_bytes - self.max_bytes / 4
    }

    /// Whether room has to be made.
    pub(in crate::store::memory) fn is_crowded(&self) -> bool {
        self.used_bytes() > self.high_bytes()
    }

    /// Whether this many samples more fit.
    pub(in crate::store::memory) fn has_room_for(&self, samples: usize) -> bool {
        self.is_off() || self.admit(samples * SAMPLE_BYTES)
    }

    /// Whether so many bytes more fit. Where little is left, room is asked for.
    fn admit(&self, bytes: usize) -> bool {
        let used = self.used_bytes();
        if used > self.high_bytes()
            && let Some(keeper) = self.keeper.get()
        {
            keeper.unpark();
        }
        used.saturating_add(bytes) <= self.max_bytes
    }

    pub(super) fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.used_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
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
        let before = history.bytes();
        let changed = change(history);
        let after = if history.windows.is_empty() { 0 } else { history.bytes() };
        shared.changed(before, after);
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

    /// Removes what files left without samples, being damaged.
    pub(super) fn remove_unused(&mut self, shared: &HistoryShared, hasher: &IdHasher) {
        for source in self.sources.keys().cloned().collect::<Vec<_>>() {
            self.change(shared, &source, |history| {
                let blocks = history.series.blocks().keys().copied().collect();
                history.remove_unused(hasher, blocks);
            });
        }
    }

    /// Takes the samples of a batch that is about to be applied to the newest state of its source, where its series have these slots. Where they do
    /// not fit, they are left out and counted.
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
            return;
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
    }
}

impl SourceHistory {
    pub(super) fn bytes(&self) -> usize {
        SOURCE_BYTES + self.series.bytes() + self.window_bytes + self.slot_numbers.capacity() * size_of::<u32>()
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

    /// Drops a window, and the series of which nothing is left. What counters had counted by its end goes on in their totals.
    pub(super) fn drop_window(&mut self, hasher: &IdHasher, start: i64) -> Option<Window> {
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
        self.remove_unused(hasher, blocks);
        Some(window)
    }

    /// Removes those of some blocks of series that there are no samples of.
    fn remove_unused(&mut self, hasher: &IdHasher, mut blocks: HashSet<u32>) {
        for window in self.windows.values() {
            for number in window.open.frames().numbers() {
                blocks.remove(&place(number).0);
            }
        }
        let is_sealed = |block: u32| self.windows.values().rev().flat_map(|window| &window.parts).any(|part| part.block(block).is_some());
        blocks.retain(|block| !is_sealed(*block));
        for block in &blocks {
            self.series.remove_block(hasher, *block);
        }
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

//! The history of one source, and of all sources of a shard.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use golectra_protocol::{Kind, Metrics, Source, Value};

use super::super::plan::BatchTimes;
use super::super::source::SourceSeries;
use super::super::table::{IdHasher, NEW};
use super::open::OpenWindow;
use super::series::{SeriesTable, place};

/// The length of a window; windows begin at multiples of it.
pub(super) const WINDOW_MILLIS: i64 = 2 * 60 * 60 * 1000;
/// What a source and a window take beside what is in them.
const SOURCE_BYTES: usize = 512;
const WINDOW_BYTES: usize = 512;
/// A number that is not looked up yet.
const UNKNOWN: u32 = u32::MAX;

/// The beginning of the window that has this time.
pub(super) fn window_of(at_millis: i64) -> i64 {
    at_millis.div_euclid(WINDOW_MILLIS) * WINDOW_MILLIS
}

/// What is the same for all shards.
#[derive(Debug)]
pub(in crate::store::memory) struct HistoryLimits {
    /// What all history may take in memory; zero: there is none.
    max_bytes: usize,
    retention_millis: i64,
    used_bytes: AtomicUsize,
}

impl HistoryLimits {
    pub(in crate::store::memory) fn new(max_bytes: usize, retention_millis: u64) -> Self {
        let retention_millis = i64::try_from(retention_millis).unwrap_or(i64::MAX);
        Self { max_bytes, retention_millis, used_bytes: AtomicUsize::new(0) }
    }

    pub(super) fn is_off(&self) -> bool {
        self.max_bytes == 0
    }

    /// The oldest time that is kept.
    pub(super) fn oldest_millis(&self, now_millis: u64) -> i64 {
        i64::try_from(now_millis).unwrap_or(i64::MAX).saturating_sub(self.retention_millis)
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn changed(&self, before: usize, after: usize) {
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

    /// Drops the windows that are older than the retention. To be called from time to time.
    pub(in crate::store::memory) fn expire(&mut self, limits: &HistoryLimits, hasher: &IdHasher, now_millis: u64) {
        let oldest = limits.oldest_millis(now_millis);
        self.sources.retain(|_, source| {
            let before = source.bytes();
            while let Some((start, _)) = source.windows.first_key_value().filter(|(start, _)| start.saturating_add(WINDOW_MILLIS) <= oldest)
            {
                let start = *start;
                source.drop_window(hasher, start);
            }
            let after = if source.windows.is_empty() { 0 } else { source.bytes() };
            limits.changed(before, after);
            after > 0
        });
    }

    /// Takes the samples of a batch that is about to be applied to the newest state of its source, where its series have these slots.
    pub(in crate::store::memory) fn record(
        &mut self,
        limits: &HistoryLimits,
        hasher: &IdHasher,
        newest: &SourceSeries,
        slots: &[u32],
        metrics: &Metrics,
        times: BatchTimes,
    ) {
        if limits.is_off() {
            return;
        }
        let (now_millis, oldest) = (times.now_millis(), limits.oldest_millis(times.now_millis()));
        if !metrics.has_times() && times.of_history() < oldest {
            return;
        }
        if !self.sources.contains_key(&newest.name) {
            self.sources.insert(newest.name.clone(), SourceHistory::default());
            limits.changed(0, SOURCE_BYTES);
        }
        let source = self.sources.get_mut(&newest.name).expect("it was put there");
        let before = source.bytes();
        source.look_up(hasher, newest, slots, metrics, &mut self.numbers);
        if metrics.has_times() {
            source.push_samples(&self.numbers, metrics, oldest, now_millis, &mut self.values);
        } else {
            self.values.clear();
            self.values.extend(metrics.iter().map(|metric| bits(metric.value)));
            source.push(times.of_history(), &self.numbers, &self.values);
        }
        limits.changed(before, source.bytes());
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

/// The samples of two hours.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) open: OpenWindow,
}

impl Window {
    fn bytes(&self) -> usize {
        WINDOW_BYTES + self.open.bytes()
    }
}

impl SourceHistory {
    pub(super) fn bytes(&self) -> usize {
        SOURCE_BYTES + self.series.bytes() + self.window_bytes + self.slot_numbers.capacity() * size_of::<u32>()
    }

    /// Drops a window, and the series of which nothing is left. What counters had counted by its end goes on in their totals.
    fn drop_window(&mut self, hasher: &IdHasher, start: i64) {
        let Some(window) = self.windows.remove(&start) else { return };
        self.window_bytes -= window.bytes();
        for (_, numbers, values) in window.open.frames().iter_from(0) {
            for (number, bits) in numbers.iter().zip(values) {
                self.series.add_to_base(*number, bits.cast_signed());
            }
        }
        let mut used = HashSet::new();
        for window in self.windows.values() {
            used.extend(window.open.frames().iter_from(0).flat_map(|(_, numbers, _)| numbers).map(|number| place(*number).0));
        }
        let unused: Vec<u32> = self.series.blocks().keys().copied().filter(|block| !used.contains(block)).collect();
        for block in &unused {
            self.series.remove_block(hasher, *block);
        }
        if !unused.is_empty() {
            // Some of the numbers are of series that are gone.
            self.slot_numbers.clear();
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

    fn push(&mut self, at_millis: i64, numbers: &[u32], values: &[u64]) {
        let window = self.windows.entry(window_of(at_millis)).or_insert_with(|| {
            self.window_bytes += WINDOW_BYTES;
            Window::default()
        });
        let before = window.bytes();
        window.open.push(at_millis, numbers, values);
        self.window_bytes += window.bytes() - before;
    }

    /// Takes samples with times of their own. Of a gauge's at one time the last counts, of a counter's the sum.
    fn push_samples(&mut self, numbers: &[u32], metrics: &Metrics, oldest: i64, now_millis: u64, values: &mut Vec<u64>) {
        let newest = i64::try_from(now_millis).unwrap_or(i64::MAX).saturating_add_unsigned(golectra_protocol::MAX_AHEAD_MILLIS);
        let mut samples: Vec<(i64, u32, Kind, u64)> = (0..metrics.len())
            .filter_map(|index| {
                let at_millis = metrics.at_millis(index).filter(|at_millis| (oldest..=newest).contains(at_millis))?;
                let metric = metrics.get(index);
                Some((at_millis, numbers[index], metric.kind(), bits(metric.value)))
            })
            .collect();
        samples.sort_by_key(|(at_millis, number, ..)| (*at_millis, *number));
        let mut of_frame = Vec::new();
        for frame in samples.chunk_by(|one, other| one.0 == other.0) {
            (of_frame.clear(), values.clear());
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
            self.push(frame[0].0, &of_frame, values);
        }
    }
}

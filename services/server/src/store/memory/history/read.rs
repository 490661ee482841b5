//! Reading samples: what a query holds of a source, and the samples of one series in it.

use std::sync::Arc;

use golectra_chunks::rollup::Resolution;
use golectra_chunks::{merge_counter, merge_gauge};
use golectra_protocol::Kind;

use super::open::{FrameIndex, Frames};
use super::part::{Part, PartReader};
use super::series::place;
use super::source::{SourceHistory, WINDOW_MILLIS, Window, window_of};
use crate::store::history::rollups::day_of;
use crate::store::history::{CorruptHistory, ExactValues, ReadExact, ReadSamples, TimeRange};

/// A copy of a source's windows up to the end of a range. Those before the range are there for counters' totals.
pub(super) struct SourceCopy(Vec<(i64, Vec<Arc<Part>>, Frames)>);

impl SourceCopy {
    /// To be called under the lock of the source's shard.
    pub(super) fn new(source: &SourceHistory, range: TimeRange, with_counters: bool) -> Self {
        let start = if with_counters { i64::MIN } else { window_of(range.start_ms) };
        let last = window_of(range.end_ms).max(start);
        let copy = source.windows.range(start..=last).map(|(start, window)| (*start, window.parts.clone(), window.open.frames().clone()));
        Self(copy.collect())
    }

    /// Without the windows of the range that these rollups have all of.
    pub(super) fn without_rolled_up(source: &SourceHistory, range: TimeRange, with_counters: bool, resolution: Resolution) -> Self {
        let mut copy = Self::new(source, range, with_counters);
        let has = |start: i64| source.days.get(&day_of(start)).is_some_and(|day| day.of(resolution).is_some());
        let is_clean = |start: i64| source.windows.get(&start).is_some_and(Window::is_clean) && has(start);
        copy.0.retain(|(start, ..)| !overlaps(*start, range) || !is_clean(*start));
        copy
    }

    /// Takes out the windows before the range. Adds what they have of these counters, which are sorted by number, to their totals.
    pub(super) fn take_totals_before(&mut self, range: TimeRange, counters: &mut [(u32, &mut i64)]) {
        let before = self.0.partition_point(|(start, ..)| !overlaps(*start, range) && *start < range.start_ms);
        for (_, parts, frames) in self.0.drain(..before) {
            for of_block in counters.chunk_by_mut(|one, next| place(one.0).0 == place(next.0).0) {
                let number = place(of_block[0].0).0;
                for block in parts.iter().filter_map(|part| part.block(number)) {
                    for (number, total) in &mut *of_block {
                        **total = total.saturating_add(block.sum(place(*number).1));
                    }
                }
            }
            for (_, numbers, values) in frames.iter_from(0) {
                for (number, bits) in numbers.iter().zip(values) {
                    if let Ok(at) = counters.binary_search_by_key(number, |(number, _)| *number) {
                        *counters[at].1 = counters[at].1.saturating_add(bits.cast_signed());
                    }
                }
            }
        }
    }
}

/// What a query holds of one source, shared with the store.
pub(super) struct SourceSamples {
    /// In the order of their times.
    windows: Vec<WindowSamples>,
    bytes: usize,
}

struct WindowSamples {
    start_millis: i64,
    parts: Vec<PartReader>,
    frames: Frames,
    index: FrameIndex,
}

impl SourceSamples {
    /// Makes a copy ready for these series, which are sorted, to be read. `take` is asked for the memory by which reading several series of a
    /// block is quicker.
    pub(super) fn new(copy: SourceCopy, wanted: &[u32], take: impl FnOnce(usize) -> bool) -> Self {
        let mut shared: Vec<u32> = wanted
            .chunk_by(|one, next| place(*one).0 == place(*next).0)
            .filter(|some| some.len() > 1)
            .map(|some| place(some[0]).0)
            .collect();
        let all_parts = || copy.0.iter().flat_map(|(_, parts, _)| parts);
        let sharing: usize = if shared.is_empty() { 0 } else { all_parts().map(|part| PartReader::sharing_bytes(part, &shared)).sum() };
        if sharing == 0 || !take(sharing) {
            shared.clear();
        }
        let windows = copy.0.into_iter().map(|(start_millis, parts, frames)| WindowSamples {
            start_millis,
            parts: parts.into_iter().map(|part| PartReader::new(part, &shared)).collect(),
            index: frames.index(|number| wanted.binary_search(&number).is_ok()),
            frames,
        });
        let windows: Vec<_> = windows.collect();
        let of_window =
            |window: &WindowSamples| size_of::<WindowSamples>() + window.index.bytes() + window.parts.len() * size_of::<PartReader>();
        let bytes = windows.iter().map(of_window).sum();
        Self { windows, bytes }
    }

    /// What it takes in memory beside what it shares, without what it has asked for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The beginnings of the windows, in order.
    pub(super) fn windows(&self) -> Vec<i64> {
        self.windows.iter().map(|window| window.start_millis).collect()
    }

    /// Whether a series may have samples in this time.
    pub(super) fn has(&self, number: u32) -> bool {
        self.windows.iter().any(|window| window.has(number))
    }
}

fn overlaps(window_start: i64, range: TimeRange) -> bool {
    window_start <= range.end_ms && window_start.saturating_add(WINDOW_MILLIS) > range.start_ms
}

impl WindowSamples {
    fn has(&self, number: u32) -> bool {
        self.parts.iter().any(|reader| reader.part().has(number)) || self.index.has(number)
    }

    /// How many samples a series has here at most. What can't be decoded has none.
    fn max_samples(&self, number: u32) -> usize {
        self.parts.iter().map(|reader| reader.max_samples(number)).sum::<usize>() + self.index.samples_of(number)
    }
}

/// The samples of one series.
pub(super) struct SeriesSamples {
    pub(super) source: Arc<SourceSamples>,
    pub(super) number: u32,
    pub(super) kind: Kind,
    /// What the counter had counted before the first window.
    pub(super) base: i64,
}

impl SeriesSamples {
    fn corrupt(&self, window: &WindowSamples, error: golectra_chunks::DecodeError) -> CorruptHistory {
        CorruptHistory(format!(
            "series {} of a source, in the window that begins at {} (unix milliseconds): {error}",
            self.number, window.start_millis
        ))
    }

    /// Puts a gauge's samples at the end of both lists, in order.
    /// How many windows of its source may have samples.
    pub(super) fn windows(&self) -> usize {
        self.source.windows.len()
    }

    pub(super) fn read_gauge(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        let (mut open, mut times, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for window in &self.source.windows {
            open.clear();
            window.frames.read(&window.index, self.number, &mut open);
            if let ([only], true) = (window.parts.as_slice(), open.is_empty()) {
                only.read_gauge(self.number, timestamps_ms, values).map_err(|error| self.corrupt(window, error))?;
                continue;
            }
            for reader in &window.parts {
                reader.read_gauge(self.number, &mut times, &mut all).map_err(|error| self.corrupt(window, error))?;
            }
            open.sort_unstable_by_key(|(at_millis, arrival, _)| (*at_millis, *arrival));
            times.extend(open.iter().map(|(at_millis, ..)| at_millis));
            all.extend(open.iter().map(|(.., bits)| f64::from_bits(*bits)));
            merge_gauge(&mut times, &mut all);
            timestamps_ms.append(&mut times);
            values.append(&mut all);
        }
        Ok(())
    }

    fn read_counter<T>(
        &self,
        timestamps_ms: &mut Vec<i64>,
        values: &mut Vec<T>,
        value_of: impl Fn(i64) -> T,
    ) -> Result<(), CorruptHistory> {
        let (mut total, mut deltas) = (self.base, Vec::new());
        self.read_deltas(timestamps_ms, &mut deltas)?;
        values.extend(deltas.iter().map(|delta| {
            total = total.saturating_add(*delta);
            value_of(total)
        }));
        Ok(())
    }

    /// Puts the times of a counter's samples and what each added at the end of both lists, in order.
    pub(super) fn read_deltas(&self, timestamps_ms: &mut Vec<i64>, all: &mut Vec<i64>) -> Result<(), CorruptHistory> {
        let (mut open, mut times, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
        for window in &self.source.windows {
            open.clear();
            window.frames.read(&window.index, self.number, &mut open);
            for reader in &window.parts {
                reader.read_counter(self.number, &mut times, &mut deltas).map_err(|error| self.corrupt(window, error))?;
            }
            open.sort_unstable_by_key(|(at_millis, arrival, _)| (*at_millis, *arrival));
            times.extend(open.iter().map(|(at_millis, ..)| at_millis));
            deltas.extend(open.iter().map(|(.., bits)| bits.cast_signed()));
            merge_counter(&mut times, &mut deltas);
            timestamps_ms.append(&mut times);
            all.append(&mut deltas);
        }
        Ok(())
    }
}

impl ReadSamples for SeriesSamples {
    fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        match self.kind {
            Kind::Gauge => self.read_gauge(timestamps_ms, values),
            Kind::Counter => self.read_counter(timestamps_ms, values, as_double),
        }
    }

    fn max_samples(&self) -> usize {
        self.source.windows.iter().map(|window| window.max_samples(self.number)).sum()
    }
}

impl ReadExact for SeriesSamples {
    fn read_exact(&self, timestamps_ms: &mut Vec<i64>) -> Result<ExactValues, CorruptHistory> {
        match self.kind {
            Kind::Gauge => {
                let mut values = Vec::new();
                self.read_gauge(timestamps_ms, &mut values)?;
                Ok(ExactValues::Gauge(values))
            }
            Kind::Counter => {
                let mut totals = Vec::new();
                self.read_counter(timestamps_ms, &mut totals, |total| total)?;
                Ok(ExactValues::Counter(totals))
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "PromQL's values are doubles")]
fn as_double(total: i64) -> f64 {
    total as f64
}

/// The samples of several series that have the same labels, such as those of an id with a label `instance` and of the source with that name.
pub(super) struct MergedSamples(pub(super) Vec<Box<dyn ReadSamples>>);

impl ReadSamples for MergedSamples {
    fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        let (mut times, mut all) = (Vec::new(), Vec::new());
        for series in &self.0 {
            series.read(&mut times, &mut all)?;
        }
        merge_gauge(&mut times, &mut all);
        timestamps_ms.append(&mut times);
        values.append(&mut all);
        Ok(())
    }

    fn max_samples(&self) -> usize {
        self.0.iter().map(|series| series.max_samples()).sum()
    }
}

//! Reading samples: what a query holds of a source, and the samples of one series in it.

use std::sync::Arc;

use golectra_protocol::Kind;

use super::open::{FrameIndex, Frames, OpenSample};
use super::source::{SourceHistory, WINDOW_MILLIS, window_of};
use crate::store::history::{CorruptHistory, ReadSamples, TimeRange};

/// What a query holds of one source: its windows in a time, shared with the store.
#[derive(Debug)]
pub(super) struct SourceSamples {
    /// In the order of their times. Those before the time that was asked for are there for counters' totals.
    windows: Vec<WindowSamples>,
}

#[derive(Debug)]
struct WindowSamples {
    start_millis: i64,
    frames: Frames,
    index: FrameIndex,
}

impl SourceSamples {
    /// Shares a source's windows; `wanted` tells of which series. To be called under the lock of its shard.
    pub(super) fn copy(source: &SourceHistory, range: TimeRange) -> Vec<(i64, Frames)> {
        let last = window_of(range.end_ms);
        source
            .windows
            .range(..=last)
            .filter(|(_, window)| !window.open.is_empty())
            .map(|(start, window)| (*start, window.open.frames().clone()))
            .collect()
    }

    /// Makes a copy ready to be read. `wanted` tells which series will be.
    pub(super) fn new(copy: Vec<(i64, Frames)>, wanted: impl Fn(u32) -> bool) -> Self {
        let windows = copy.into_iter().map(|(start_millis, frames)| WindowSamples { start_millis, index: frames.index(&wanted), frames });
        Self { windows: windows.collect() }
    }

    /// What it takes in memory beside what it shares.
    pub(super) fn bytes(&self) -> usize {
        self.windows.iter().map(|window| window.index.bytes() + size_of::<WindowSamples>()).sum()
    }

    /// Whether a series may have samples in this time.
    pub(super) fn has(&self, number: u32, range: TimeRange) -> bool {
        self.windows.iter().any(|window| window.overlaps(range) && window.index.has(number))
    }
}

impl WindowSamples {
    fn overlaps(&self, range: TimeRange) -> bool {
        self.start_millis <= range.end_ms && self.start_millis.saturating_add(WINDOW_MILLIS) > range.start_ms
    }
}

/// The samples of one series.
pub(super) struct SeriesSamples {
    pub(super) source: Arc<SourceSamples>,
    pub(super) number: u32,
    pub(super) kind: Kind,
    /// What the counter had counted before its first sample.
    pub(super) base: i64,
    pub(super) range: TimeRange,
}

impl ReadSamples for SeriesSamples {
    fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        let mut samples: Vec<OpenSample> = Vec::new();
        let mut total = self.base;
        for window in &self.source.windows {
            samples.clear();
            match self.kind {
                Kind::Gauge if !window.overlaps(self.range) => continue,
                Kind::Gauge | Kind::Counter => window.frames.read(&window.index, self.number, &mut samples),
            }
            samples.sort_unstable_by_key(|(at_millis, arrival, _)| (*at_millis, *arrival));
            for same_time in samples.chunk_by(|one, other| one.0 == other.0) {
                let value = match self.kind {
                    Kind::Gauge => same_time.last().map_or(f64::NAN, |(.., bits)| f64::from_bits(*bits)),
                    Kind::Counter => {
                        total = same_time.iter().fold(total, |total, (.., bits)| total.saturating_add(bits.cast_signed()));
                        as_double(total)
                    }
                };
                if window.overlaps(self.range) {
                    timestamps_ms.push(same_time[0].0);
                    values.push(value);
                }
            }
        }
        Ok(())
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
        let mut samples: Vec<(i64, f64)> = times.into_iter().zip(all).collect();
        samples.sort_by_key(|(at_millis, _)| *at_millis);
        samples.dedup_by_key(|(at_millis, _)| *at_millis);
        timestamps_ms.extend(samples.iter().map(|(at_millis, _)| at_millis));
        values.extend(samples.iter().map(|(_, value)| value));
        Ok(())
    }
}

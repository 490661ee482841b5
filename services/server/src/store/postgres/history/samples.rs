//! The samples of one series as a query reads them: sealed columns, which are decoded then, and what is not sealed.

use golectra_chunks::{DecodeError, decode_counter, decode_gauge, merge_counter, merge_gauge};
use golectra_promql::Labels;

use super::chunks::SealedColumn;
use super::frames::UnsealedSample;
use crate::store::history::{CorruptHistory, ExactValues, HistorySeries, ReadExact, ReadSamples, TimeRange, group_by_labels};

/// A series' samples.
pub(super) struct StoredSamples {
    range: TimeRange,
    /// Sorted by window, then by part.
    sealed: Vec<SealedColumn>,
    unsealed: Unsealed,
}

/// Samples that are not sealed, in order, one for each time.
enum Unsealed {
    Gauge(Vec<(i64, f64)>),
    Counter {
        /// What was sealed, where no column tells.
        sealed_total: i64,
        /// What was added before the range and is not sealed.
        before: i64,
        deltas: Vec<(i64, i64)>,
    },
}

/// Collects the samples of one series.
pub(super) struct SamplesBuilder {
    range: TimeRange,
    is_counter: bool,
    sealed: Vec<SealedColumn>,
    sealed_total: i64,
    before: i64,
    unsealed: Vec<UnsealedSample>,
}

impl SamplesBuilder {
    pub(super) fn new(range: TimeRange, is_counter: bool) -> Self {
        Self { range, is_counter, sealed: Vec::new(), sealed_total: 0, before: 0, unsealed: Vec::new() }
    }

    /// Whether there is a sample that counts.
    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.unsealed.is_empty()
    }

    /// Whether no column tells what was sealed of a counter whose total is wanted.
    pub(super) fn needs_sealed_total(&self) -> bool {
        self.is_counter && self.sealed.is_empty() && !self.unsealed.is_empty()
    }

    /// Adds what was sealed.
    pub(super) fn push_sealed(&mut self, column: SealedColumn) {
        self.sealed.push(column);
    }

    /// Sets what was sealed of a counter before the range.
    pub(super) fn set_sealed_total(&mut self, total: i64) {
        self.sealed_total = total;
    }

    /// Adds a sample; answers how much memory it takes.
    pub(super) fn push(&mut self, sample: UnsealedSample) -> usize {
        if sample.at_ms > self.range.end_ms {
            return 0;
        }
        if sample.at_ms < self.range.start_ms {
            self.before = self.before.saturating_add(sample.delta);
            return 0;
        }
        self.unsealed.push(sample);
        size_of::<UnsealedSample>()
    }

    /// The samples; none where there are none.
    pub(super) fn build(mut self) -> Option<StoredSamples> {
        if self.is_empty() {
            return None;
        }
        self.sealed.sort_unstable_by_key(|column| (column.window_start_ms, column.part));
        self.unsealed.sort_by_key(|sample| (sample.at_ms, sample.arrival));
        let unsealed = if self.is_counter {
            let mut deltas: Vec<(i64, i64)> = self.unsealed.iter().map(|sample| (sample.at_ms, sample.delta)).collect();
            deltas.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    kept.1 = kept.1.saturating_add(next.1);
                }
                same
            });
            Unsealed::Counter { sealed_total: self.sealed_total, before: self.before, deltas }
        } else {
            let mut values: Vec<(i64, f64)> = self.unsealed.iter().map(|sample| (sample.at_ms, sample.value)).collect();
            // Of one time the last arrival counts.
            values.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    *kept = *next;
                }
                same
            });
            Unsealed::Gauge(values)
        };
        Some(StoredSamples { range: self.range, sealed: self.sealed, unsealed })
    }
}

impl ReadSamples for StoredSamples {
    fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        if !timestamps_ms.is_empty() {
            // What stands there already takes no part in the merge.
            let (mut own_timestamps_ms, mut own_values) = (Vec::new(), Vec::new());
            self.read(&mut own_timestamps_ms, &mut own_values)?;
            timestamps_ms.append(&mut own_timestamps_ms);
            values.append(&mut own_values);
            return Ok(());
        }
        match &self.unsealed {
            Unsealed::Gauge(samples) => self.read_gauge(samples, timestamps_ms, values)?,
            Unsealed::Counter { sealed_total, before, deltas } => {
                self.read_counter((*sealed_total, *before), deltas, timestamps_ms, values, as_double)?;
            }
        }
        let end = timestamps_ms.partition_point(|at_ms| *at_ms <= self.range.end_ms);
        let start = timestamps_ms.partition_point(|at_ms| *at_ms < self.range.start_ms).min(end);
        timestamps_ms.truncate(end);
        timestamps_ms.drain(..start);
        values.truncate(end);
        values.drain(..start);
        Ok(())
    }

    fn max_samples(&self) -> usize {
        let unsealed = match &self.unsealed {
            Unsealed::Gauge(samples) => samples.len(),
            Unsealed::Counter { deltas, .. } => deltas.len(),
        };
        self.sealed.iter().map(|column| column.times.longest()).sum::<usize>() + unsealed
    }
}

impl StoredSamples {
    fn read_gauge(&self, unsealed: &[(i64, f64)], timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        // Each column is in order; only where one begins it may overlap what came before.
        let mut overlap = false;
        let mut begins = |timestamps_ms: &[i64], at: usize| {
            overlap |= at.checked_sub(1).zip(timestamps_ms.get(at)).is_some_and(|(before, first)| timestamps_ms[before] >= *first);
        };
        for column in &self.sealed {
            let at = timestamps_ms.len();
            decode_gauge(&column.times, &column.data, timestamps_ms, values).map_err(|error| column.corrupt(&error))?;
            begins(timestamps_ms, at);
        }
        let at = timestamps_ms.len();
        timestamps_ms.extend(unsealed.iter().map(|(at_ms, _)| at_ms));
        values.extend(unsealed.iter().map(|(_, value)| value));
        begins(timestamps_ms, at);
        if overlap {
            merge_gauge(timestamps_ms, values);
        }
        Ok(())
    }

    /// A total is what is sealed up to its time, and what is not. The first two are what was sealed, where no column tells, and what was added before.
    fn read_counter<T>(
        &self,
        (sealed_total, before): (i64, i64),
        unsealed: &[(i64, i64)],
        timestamps_ms: &mut Vec<i64>,
        values: &mut Vec<T>,
        value_of: impl Fn(i64) -> T,
    ) -> Result<(), CorruptHistory> {
        let mut sealed = self.sealed.first().map_or(sealed_total, |column| column.base);
        let mut added = before;
        let mut unsealed = unsealed.iter().copied().peekable();
        let (mut window_timestamps_ms, mut deltas) = (Vec::new(), Vec::new());
        for window in self.sealed.chunk_by(|one, other| one.window_start_ms == other.window_start_ms) {
            window_timestamps_ms.clear();
            deltas.clear();
            for column in window {
                decode_counter(&column.times, &column.data, &mut window_timestamps_ms, &mut deltas)
                    .map_err(|error: DecodeError| column.corrupt(&error))?;
            }
            if window.len() > 1 {
                merge_counter(&mut window_timestamps_ms, &mut deltas);
            }
            let mut total = window.first().map_or(sealed, |column| column.base);
            for (at_ms, delta) in window_timestamps_ms.iter().zip(&deltas) {
                while let Some((earlier_ms, delta)) = unsealed.next_if(|(unsealed_ms, _)| unsealed_ms < at_ms) {
                    added = added.saturating_add(delta);
                    timestamps_ms.push(earlier_ms);
                    values.push(value_of(sealed.saturating_add(added)));
                }
                if let Some((_, delta)) = unsealed.next_if(|(unsealed_ms, _)| unsealed_ms == at_ms) {
                    added = added.saturating_add(delta);
                }
                total = total.saturating_add(*delta);
                sealed = total;
                timestamps_ms.push(*at_ms);
                values.push(value_of(total.saturating_add(added)));
            }
        }
        for (at_ms, delta) in unsealed {
            added = added.saturating_add(delta);
            timestamps_ms.push(at_ms);
            values.push(value_of(sealed.saturating_add(added)));
        }
        Ok(())
    }
}

impl ReadExact for StoredSamples {
    fn read_exact(&self, timestamps_ms: &mut Vec<i64>) -> Result<ExactValues, CorruptHistory> {
        match &self.unsealed {
            Unsealed::Gauge(samples) => {
                let mut values = Vec::new();
                self.read_gauge(samples, timestamps_ms, &mut values)?;
                Ok(ExactValues::Gauge(values))
            }
            Unsealed::Counter { sealed_total, before, deltas } => {
                let mut totals = Vec::new();
                self.read_counter((*sealed_total, *before), deltas, timestamps_ms, &mut totals, |total| total)?;
                Ok(ExactValues::Counter(totals))
            }
        }
    }
}

/// Series of several sources whose labels are the same: where an id has an instance of its own, or a source has none. To PromQL they are one.
pub(super) struct EqualSeries(Vec<StoredSamples>);

impl EqualSeries {
    /// Makes one of those that stand side by side with the same labels.
    pub(super) fn join(series: Vec<(Labels, StoredSamples)>) -> Vec<HistorySeries> {
        let one = |(labels, mut all): (Labels, Vec<StoredSamples>)| {
            let samples: Box<dyn ReadSamples> = match all.pop() {
                Some(only) if all.is_empty() => Box::new(only),
                last => {
                    all.extend(last);
                    Box::new(Self(all))
                }
            };
            HistorySeries { labels, samples }
        };
        group_by_labels(series).into_iter().map(one).collect()
    }
}

impl ReadSamples for EqualSeries {
    fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        let (mut own_timestamps_ms, mut own_values) = (Vec::new(), Vec::new());
        for samples in &self.0 {
            // It puts its samples at the end.
            samples.read(&mut own_timestamps_ms, &mut own_values)?;
        }
        merge_gauge(&mut own_timestamps_ms, &mut own_values);
        timestamps_ms.append(&mut own_timestamps_ms);
        values.append(&mut own_values);
        Ok(())
    }

    fn max_samples(&self) -> usize {
        self.0.iter().map(ReadSamples::max_samples).sum()
    }
}

/// A counter's total as PromQL sees it.
#[expect(clippy::cast_precision_loss, reason = "PromQL computes with doubles")]
fn as_double(total: i64) -> f64 {
    total as f64
}

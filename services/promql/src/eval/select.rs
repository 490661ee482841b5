//! Selectors.

use super::{Evaluator, Sink, store_error};
use crate::column::{ABSENT, Series};
use crate::error::EvalError;
use crate::functions::rollup;
use crate::functions::windows::{TimesBefore, first_after};
use crate::plan::Select;
use crate::position::Span;
use crate::staleness::is_stale;
use crate::steps::Steps;
use crate::store::{Rollup, Selection, StoredSamples, StoredSeries};

impl Evaluator<'_> {
    /// Calls `take` for each selected series that has samples.
    pub(crate) fn selected(
        &self,
        selection: &Selection,
        span: Span,
        take: &mut dyn FnMut(StoredSeries<'_>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let function = selection.hints.function;
        self.check_interrupt()?;
        let mut set = self.store.select(selection).map_err(|error| store_error(error, function))?;
        while let Some(series) = set.next().map_err(|error| store_error(error, function))? {
            match series.samples {
                StoredSamples::Raw { timestamps_ms, values } => {
                    debug_assert_eq!(timestamps_ms.len(), values.len(), "a store gives as many values as times");
                    debug_assert!(timestamps_ms.is_sorted_by(|left, right| left < right), "a store gives samples by time, oldest first");
                }
                StoredSamples::Rollup(rollup) => {
                    debug_assert!(selection.hints.rollup_span_ms.is_some(), "a store gives rollups where they suffice");
                    self.inform(rollup::answered_from(rollup.bucket_ms), span);
                }
            }
            self.count_series(series.samples.len())?;
            if !series.samples.is_empty() {
                take(series)?;
            }
        }
        Ok(())
    }

    /// The newest sample of each series at each step.
    pub(super) fn select_instant(&self, select: &Select, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        self.select_newest(select, steps, sink, |_, value| value)
    }

    /// The time of the newest sample of each series at each step, in seconds.
    pub(super) fn select_times(&self, select: &Select, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        self.select_newest(
            select,
            steps,
            &mut |series| {
                series.drop_name = true;
                sink(series)
            },
            |timestamp_ms, _| timestamp_ms as f64 / 1000.0,
        )
    }

    fn select_newest(&self, select: &Select, steps: &Steps, sink: &mut Sink<'_>, value: impl Fn(i64, f64) -> f64) -> Result<(), EvalError> {
        let _buffer = self.charge_column(steps)?;
        let _ends = self.ledger.charge(steps.len().saturating_mul(size_of::<usize>()))?;
        let times_charge = self.ledger.charge(0)?;
        let mut series = Series::default();
        // Where the samples up to each step end; 0 where the newest one is too old.
        let (mut before, mut ends) = (TimesBefore::default(), Vec::new());
        let window = select.window;
        self.selected(&select.selection, select.span, &mut |stored| {
            let mut end = 0;
            series.values.clear();
            match stored.samples {
                StoredSamples::Raw { timestamps_ms, values } => {
                    if !before.are(timestamps_ms) {
                        times_charge.cover(before.memory_bytes())?;
                        ends.clear();
                        ends.extend(steps.times_ms().map(|time_ms| {
                            // With a fixed time the end is the same at every step.
                            end = first_after(timestamps_ms, end, window.end_ms(time_ms));
                            if end > 0 && timestamps_ms[end - 1] > window.start_ms(time_ms) { end } else { 0 }
                        }));
                    }
                    series.values.extend(ends.iter().map(|end| match end.checked_sub(1) {
                        Some(newest) if !is_stale(values[newest]) => value(timestamps_ms[newest], values[newest]),
                        _ => ABSENT,
                    }));
                }
                StoredSamples::Rollup(Rollup { bucket_ms, buckets }) => series.values.extend(steps.times_ms().map(|time_ms| {
                    let end_ms = rollup::boundary_ms(window.end_ms(time_ms), bucket_ms);
                    end += buckets[end..].iter().take_while(|bucket| bucket.first_ms < end_ms).count();
                    let newest = end.checked_sub(1).map(|newest| &buckets[newest]);
                    newest
                        // As the end, the start belongs to the bucket that begins there.
                        .filter(|bucket| bucket.last_ms >= end_ms - window.range_ms)
                        .map_or(ABSENT, |bucket| value(bucket.last_ms, bucket.last))
                })),
            }
            if !series.has_values() {
                return Ok(());
            }
            series.labels = stored.labels.clone();
            series.drop_name = false;
            sink(&mut series)
        })
    }
}

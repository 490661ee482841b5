//! Selectors.

use super::{Evaluator, Sink, store_error};
use crate::column::{ABSENT, Series};
use crate::error::EvalError;
use crate::functions::windows::first_after;
use crate::plan::Select;
use crate::staleness::is_stale;
use crate::steps::Steps;
use crate::store::{Selection, StoredSeries};

impl Evaluator<'_> {
    /// Calls `take` for each selected series that has samples.
    pub(crate) fn selected(
        &self,
        selection: &Selection,
        take: &mut dyn FnMut(StoredSeries<'_>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let function = selection.hints.function;
        self.check_interrupt()?;
        let mut set = self.store.select(selection).map_err(|error| store_error(error, function))?;
        while let Some(series) = set.next().map_err(|error| store_error(error, function))? {
            debug_assert_eq!(series.timestamps_ms.len(), series.values.len(), "a store gives as many values as times");
            debug_assert!(series.timestamps_ms.is_sorted_by(|left, right| left < right), "a store gives samples by time, oldest first");
            self.count_series(series.values.len())?;
            if !series.values.is_empty() {
                take(series)?;
            }
        }
        Ok(())
    }

    /// The newest sample of each series at each step.
    pub(super) fn select_instant(&self, select: &Select, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        self.select_newest(select, steps, sink, |stored, index| stored.values[index])
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
            |stored, index| stored.timestamps_ms[index] as f64 / 1000.0,
        )
    }

    fn select_newest(
        &self,
        select: &Select,
        steps: &Steps,
        sink: &mut Sink<'_>,
        value: impl Fn(&StoredSeries<'_>, usize) -> f64,
    ) -> Result<(), EvalError> {
        let _buffer = self.charge_column(steps)?;
        let mut series = Series::default();
        let window = select.window;
        self.selected(&select.selection, &mut |stored| {
            let mut end = 0;
            series.values.clear();
            series.values.extend(steps.times_ms().map(|time_ms| {
                // With a fixed time the end is the same at every step.
                end = first_after(stored.timestamps_ms, end, window.end_ms(time_ms));
                let newest = end.checked_sub(1).filter(|newest| stored.timestamps_ms[*newest] > window.start_ms(time_ms));
                match newest {
                    Some(newest) if !is_stale(stored.values[newest]) => value(&stored, newest),
                    _ => ABSENT,
                }
            }));
            if !series.has_values() {
                return Ok(());
            }
            series.labels = stored.labels.clone();
            series.drop_name = false;
            sink(&mut series)
        })
    }
}

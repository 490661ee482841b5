//! Functions of range vectors, over stored series and subqueries.

use super::{Evaluator, Sink, store_error};
use crate::column::{Series, is_absent};
use crate::error::EvalError;
use crate::functions::OverTime;
use crate::functions::extrapolate::Stretch;
use crate::functions::over_time::{Ranges, stretches};
use crate::functions::rollup::{self, RolledUpRanges};
use crate::functions::windows::{Bounds, Samples, TimesBefore, Window};
use crate::labels::Labels;
use crate::plan::{RangeNode, RangeSource, ScalarNode};
use crate::position::Span;
use crate::staleness::without_stale;
use crate::steps::Steps;
use crate::store::{Rollup, StoreError, StoredSamples};

/// A series of a range vector: all samples that any step may look at.
pub(crate) struct RangeSeries<'a> {
    pub(crate) labels: &'a Labels,
    pub(crate) drop_name: bool,
    pub(crate) samples: RangeSamples<'a>,
}

/// Samples without stale markers, or what is left of them.
pub(crate) enum RangeSamples<'a> {
    Raw(Samples<'a>),
    Rollup(Rollup<'a>),
}

impl RangeSamples<'_> {
    /// The samples or buckets that each step's window covers.
    pub(crate) fn bounds(&self, window: &Window, steps: &Steps, bounds: &mut Vec<Bounds>) {
        match self {
            Self::Raw(samples) => window.bounds(samples.timestamps_ms, steps, bounds),
            Self::Rollup(rollup) => rollup::bounds(rollup, window, steps, bounds),
        }
    }
}

impl Evaluator<'_> {
    /// Calls `take` for each series of a range vector. Stale markers are left out.
    pub(crate) fn range_series(
        &self,
        range: &RangeNode,
        take: &mut dyn FnMut(RangeSeries<'_>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        match &range.source {
            RangeSource::Stored(selection) => {
                let mut buffers = Default::default();
                self.selected(selection, range.span, &mut |stored| {
                    let samples = match stored.samples {
                        StoredSamples::Raw { timestamps_ms, values } => {
                            let (timestamps_ms, values) = without_stale(timestamps_ms, values, &mut buffers);
                            RangeSamples::Raw(Samples { timestamps_ms, values })
                        }
                        StoredSamples::Rollup(rollup) => RangeSamples::Rollup(rollup),
                    };
                    take(RangeSeries { labels: stored.labels, drop_name: false, samples })
                })
            }
            RangeSource::Subquery(None) => Ok(()),
            RangeSource::Subquery(Some((expr, steps))) => {
                let buffers_charge = self.charge_column(steps)?;
                buffers_charge.add(steps.len() * size_of::<i64>())?;
                let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
                let mut take_series = |series: &Series| {
                    timestamps_ms.clear();
                    values.clear();
                    for (time_ms, value) in steps.times_ms().zip(&series.values) {
                        if !is_absent(*value) {
                            timestamps_ms.push(time_ms);
                            values.push(*value);
                        }
                    }
                    let samples = RangeSamples::Raw(Samples { timestamps_ms: &timestamps_ms, values: &values });
                    take(RangeSeries { labels: &series.labels, drop_name: series.drop_name, samples })
                };
                if expr.gives_each_series_once() {
                    return self.stream(expr, steps, &mut |series| take_series(series));
                }
                let collected = self.collect_merged(expr, steps)?;
                collected.series.iter().try_for_each(take_series)
            }
        }
    }

    pub(super) fn over_time(
        &self,
        function: OverTime,
        range: &RangeNode,
        parameter: &ScalarNode,
        span: Span,
        steps: &Steps,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        let parameter = self.scalar(parameter, steps)?;
        let _buffer = self.charge_column(steps)?;
        let extrapolation = function.extrapolation();
        let bytes_a_step = size_of::<Bounds>() + extrapolation.map_or(0, |_| size_of::<Stretch>());
        let _per_step = self.ledger.charge(steps.len().saturating_mul(bytes_a_step))?;
        let times_charge = self.ledger.charge(0)?;
        let mut series = Series::default();
        let (mut before, mut bounds, mut stretched) = (TimesBefore::default(), Vec::new(), Vec::new());
        let mut any = false;
        self.range_series(range, &mut |ranged| {
            let interrupt = self.interrupt;
            match ranged.samples {
                RangeSamples::Raw(samples) => {
                    if !before.are(samples.timestamps_ms) {
                        times_charge.cover(before.memory_bytes())?;
                        range.window.bounds(samples.timestamps_ms, steps, &mut bounds);
                        if let Some(extrapolation) = extrapolation {
                            stretches(extrapolation, samples.timestamps_ms, &bounds, &range.window, steps, &mut stretched);
                        }
                    }
                    let ranges = Ranges { samples, bounds: &bounds, stretches: &stretched, steps, parameter: &parameter, interrupt };
                    function.evaluate(&ranges, &mut series.values)?;
                }
                RangeSamples::Rollup(rollup) => {
                    before.forget();
                    rollup::bounds(&rollup, &range.window, steps, &mut bounds);
                    let ranges = RolledUpRanges { rollup, bounds: &bounds, window: range.window, steps };
                    if !ranges.evaluate(function, &mut series.values) {
                        return Err(store_error(StoreError::RawSamplesGone, Some(function.as_str())));
                    }
                }
            }
            if !series.has_values() {
                return Ok(());
            }
            any = true;
            if function.is_for_counters() {
                self.inform_if_no_counter(ranged.labels.metric_name(), span);
            }
            series.labels = ranged.labels.clone();
            series.drop_name = ranged.drop_name || !function.keeps_name();
            sink(&mut series)
        })?;
        if any && function == OverTime::Quantile {
            self.warn_of_quantiles(parameter.values(), span);
        }
        Ok(())
    }

    fn inform_if_no_counter(&self, metric: &str, span: Span) {
        let is_counter = ["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| metric.ends_with(suffix));
        if !metric.is_empty() && !is_counter {
            let message = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket:";
            self.inform(format_args!("{message} {metric:?}"), span);
        }
    }

    /// Warns of quantiles that are none.
    pub(crate) fn warn_of_quantiles(&self, quantiles: &[f64], span: Span) {
        for quantile in quantiles.iter().filter(|quantile| !(0.0..=1.0).contains(*quantile)) {
            let quantile = crate::parse::number::DisplayNumber(*quantile);
            self.warn(format_args!("quantile value should be between 0 and 1, got {quantile}"), span);
        }
    }
}

//! Evaluates a plan and makes a result of it.

use std::cell::{Cell, RefCell};

use super::collect::SAME_LABELS;
use super::range::RangeSamples;
use super::{Charge, Evaluator, Ledger, store_error};
use crate::annotations::Annotations;
use crate::column::is_absent;
use crate::error::EvalError;
use crate::labels::Labels;
use crate::limits::{Interrupt, Limits, Reservation};
use crate::plan::{Plan, RangeNode, VectorNode};
use crate::steps::Steps;
use crate::store::{Store, StoreError};
use crate::value::{Matrix, MatrixSeries, Outcome, RangeVector, Statistics, Value, VectorSample};

/// Evaluates a plan. An instant query has one step.
pub(crate) fn evaluate(
    plan: &Plan,
    steps: &Steps,
    is_range: bool,
    store: &dyn Store,
    interrupt: &dyn Interrupt,
    limits: Limits,
    reservation: Reservation,
) -> Result<Outcome, EvalError> {
    let evaluator = Evaluator {
        store,
        interrupt,
        limits,
        ledger: Ledger::new(reservation),
        annotations: RefCell::new(Annotations::default()),
        is_range,
        series: Cell::new(0),
        samples: Cell::new(0),
    };
    let value = evaluator.value(plan, steps, is_range)?;
    let (series, samples) = (evaluator.series.get(), evaluator.samples.get());
    let memory = evaluator.ledger.into_reservation();
    let statistics = Statistics { series, samples, peak_bytes: memory.peak_bytes() };
    Ok(Outcome { value, annotations: evaluator.annotations.into_inner(), statistics, memory })
}

impl Evaluator<'_> {
    fn value(&self, plan: &Plan, steps: &Steps, is_range: bool) -> Result<Value, EvalError> {
        match plan {
            Plan::Text(text) => Ok(Value::Text { time_ms: steps.start_ms(), text: text.clone() }),
            Plan::Range(range) => self.range_vector(range, steps),
            Plan::Scalar(scalar) => {
                let (values, charge) = self.scalar_values(scalar, steps)?;
                charge.keep();
                if !is_range {
                    return Ok(Value::Scalar { time_ms: steps.start_ms(), value: values[0] });
                }
                Ok(Value::Matrix(Matrix { steps: *steps, series: vec![MatrixSeries { labels: Labels::empty(), values }] }))
            }
            Plan::Vector(vector) => self.vector_value(vector, steps, is_range),
        }
    }

    fn vector_value(&self, vector: &VectorNode, steps: &Steps, is_range: bool) -> Result<Value, EvalError> {
        let mut collected = self.collect(vector, steps)?;
        for series in &mut collected.series {
            if std::mem::take(&mut series.drop_name) {
                series.labels = series.labels.without_name();
            }
        }
        collected.merge(SAME_LABELS)?;
        if is_range || !vector.is_ordered() {
            collected.series.sort_by(|left, right| left.labels.cmp(&right.labels));
        }
        collected.charge.keep();
        if is_range {
            let series = collected.series.into_iter().map(|series| MatrixSeries { labels: series.labels, values: series.values });
            return Ok(Value::Matrix(Matrix { steps: *steps, series: series.collect() }));
        }
        let samples = collected.series.into_iter().map(|series| VectorSample { labels: series.labels, value: series.values[0] });
        Ok(Value::Vector { time_ms: steps.start_ms(), samples: samples.collect() })
    }

    /// The samples themselves; only an instant query can ask for them.
    fn range_vector(&self, range: &RangeNode, steps: &Steps) -> Result<Value, EvalError> {
        let charge: Charge<'_> = self.ledger.charge(0)?;
        let (first, last) = range.window.covered_ms(steps);
        let mut series = Vec::new();
        self.range_series(range, &mut |ranged| {
            let RangeSamples::Raw(samples) = ranged.samples else {
                return Err(store_error(StoreError::RawSamplesGone, None));
            };
            let start = samples.timestamps_ms.partition_point(|timestamp_ms| *timestamp_ms < first);
            let end = samples.timestamps_ms.partition_point(|timestamp_ms| *timestamp_ms <= last).max(start);
            if start == end {
                return Ok(());
            }
            charge.add(ranged.labels.memory_bytes() + (end - start) * 16)?;
            let labels = if ranged.drop_name { ranged.labels.without_name() } else { ranged.labels.clone() };
            series.push(RangeVector {
                labels,
                timestamps_ms: samples.timestamps_ms[start..end].to_vec(),
                values: samples.values[start..end].to_vec(),
            });
            Ok(())
        })?;
        series.sort_by(|left, right| left.labels.cmp(&right.labels));
        if series.windows(2).any(|pair| pair[0].labels == pair[1].labels) {
            return Err(EvalError::Execution(SAME_LABELS.to_owned()));
        }
        debug_assert!(series.iter().all(|series| !series.values.iter().any(|value| is_absent(*value))), "stale markers are left out");
        charge.keep();
        Ok(Value::RangeVector(series))
    }
}

//! `absent` and `absent_over_time`.

use super::{Evaluator, Sink};
use crate::column::{ABSENT, Series, is_absent};
use crate::error::EvalError;
use crate::functions::windows::Bounds;
use crate::labels::Labels;
use crate::plan::{RangeNode, VectorNode};
use crate::steps::Steps;

impl Evaluator<'_> {
    pub(super) fn absent(&self, expr: &VectorNode, labels: &Labels, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let _buffer = self.charge_column(steps)?;
        let mut values = vec![1.0; steps.len()];
        self.stream(expr, steps, &mut |series| {
            for (absent, value) in values.iter_mut().zip(&series.values) {
                if !is_absent(*value) {
                    *absent = ABSENT;
                }
            }
            Ok(())
        })?;
        give(labels, values, sink)
    }

    pub(super) fn absent_over_time(&self, range: &RangeNode, labels: &Labels, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let _buffer = self.charge_column(steps)?;
        let _bounds = self.ledger.charge(steps.len().saturating_mul(size_of::<Bounds>()))?;
        let mut values = vec![1.0; steps.len()];
        let mut bounds = Vec::new();
        self.range_series(range, &mut |ranged| {
            ranged.samples.bounds(&range.window, steps, &mut bounds);
            for (absent, bounds) in values.iter_mut().zip(&bounds) {
                if bounds.len() > 0 {
                    *absent = ABSENT;
                }
            }
            Ok(())
        })?;
        give(labels, values, sink)
    }
}

fn give(labels: &Labels, values: Vec<f64>, sink: &mut Sink<'_>) -> Result<(), EvalError> {
    let mut series = Series { labels: labels.clone(), drop_name: false, values };
    if series.has_values() { sink(&mut series) } else { Ok(()) }
}

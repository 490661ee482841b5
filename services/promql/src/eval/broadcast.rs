//! What is the same at every step.

use super::{Evaluator, Sink};
use crate::error::EvalError;
use crate::plan::VectorNode;
use crate::steps::Steps;

impl Evaluator<'_> {
    /// Evaluates once and repeats the value.
    pub(super) fn broadcast(&self, expr: &VectorNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let _buffer = self.charge_column(steps)?;
        self.stream(expr, &steps.first(), &mut |series| {
            let value = series.values[0];
            series.values.resize(steps.len(), value);
            sink(series)
        })
    }
}

//! What is the same at every step.

use super::{Evaluator, Sink};
use crate::column::Series;
use crate::error::EvalError;
use crate::plan::VectorNode;
use crate::steps::Steps;

impl Evaluator<'_> {
    /// Evaluates once and repeats the value.
    pub(super) fn broadcast(&self, expr: &VectorNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let _buffer = self.charge_column(steps)?;
        // Not in the series that comes: it may stay in a list, which is charged for one value of each series.
        let mut repeated = Series::default();
        self.stream(expr, &steps.first(), &mut |series| {
            repeated.labels = series.labels.clone();
            repeated.drop_name = series.drop_name;
            repeated.values.clear();
            repeated.values.resize(steps.len(), series.values[0]);
            sink(&mut repeated)
        })
    }
}

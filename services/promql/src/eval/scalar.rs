//! Scalars, and vectors made of them.

use super::{Evaluator, Sink};
use crate::binary::operate;
use crate::column::{ABSENT, ScalarColumn, Series, is_absent};
use crate::error::EvalError;
use crate::labels::Labels;
use crate::parse::ast::BinaryOperator;
use crate::plan::{ScalarNode, VectorNode};
use crate::steps::Steps;

impl Evaluator<'_> {
    /// The values of a scalar at all steps.
    pub(crate) fn scalar(&self, node: &ScalarNode, steps: &Steps) -> Result<ScalarColumn, EvalError> {
        Ok(match node {
            ScalarNode::Constant(value) => ScalarColumn::Constant(*value),
            ScalarNode::Time => ScalarColumn::PerStep(steps.times_ms().map(|time_ms| time_ms as f64 / 1000.0).collect()),
            ScalarNode::Of(vector) => self.only_value(vector, steps)?,
            ScalarNode::Negated(scalar) => match self.scalar(scalar, steps)? {
                ScalarColumn::Constant(value) => ScalarColumn::Constant(-value),
                ScalarColumn::PerStep(values) => ScalarColumn::PerStep(values.into_iter().map(|value| -value).collect()),
            },
            ScalarNode::Binary { operator, left, right } => {
                let (left, right) = (self.scalar(left, steps)?, self.scalar(right, steps)?);
                match (&left, &right) {
                    (ScalarColumn::Constant(left), ScalarColumn::Constant(right)) => {
                        ScalarColumn::Constant(operate_scalars(*operator, *left, *right))
                    }
                    _ => ScalarColumn::PerStep(
                        (0..steps.len()).map(|step| operate_scalars(*operator, left.at(step), right.at(step))).collect(),
                    ),
                }
            }
        })
    }

    /// The value of a vector with one element, NaN if there are none or several.
    fn only_value(&self, vector: &VectorNode, steps: &Steps) -> Result<ScalarColumn, EvalError> {
        let mut values = vec![ABSENT; steps.len()];
        self.stream(vector, steps, &mut |series| {
            for (only, value) in values.iter_mut().zip(&series.values) {
                if !is_absent(*value) {
                    *only = if is_absent(*only) { *value } else { f64::NAN };
                }
            }
            Ok(())
        })?;
        for value in &mut values {
            if is_absent(*value) {
                *value = f64::NAN;
            }
        }
        Ok(ScalarColumn::PerStep(values))
    }

    pub(super) fn scalar_as_vector(&self, node: &ScalarNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let _buffer = self.charge_column(steps)?;
        let values = match self.scalar(node, steps)? {
            ScalarColumn::Constant(value) => vec![value; steps.len()],
            ScalarColumn::PerStep(values) => values,
        };
        sink(&mut Series { labels: Labels::empty(), drop_name: false, values })
    }
}

fn operate_scalars(operator: BinaryOperator, left: f64, right: f64) -> f64 {
    if operator.is_comparison() {
        f64::from(u8::from(operate::compare(operator, left, right)))
    } else {
        operate::arithmetic(operator)(left, right)
    }
}

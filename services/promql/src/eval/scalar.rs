//! Scalars, and vectors made of them.

use super::{Charge, Evaluator, Sink};
use crate::binary::operate;
use crate::column::{ABSENT, ScalarColumn, Series, is_absent};
use crate::error::EvalError;
use crate::labels::Labels;
use crate::parse::ast::BinaryOperator;
use crate::plan::{ScalarNode, VectorNode};
use crate::steps::Steps;

impl Evaluator<'_> {
    /// The values of a scalar at all steps.
    pub(crate) fn scalar(&self, node: &ScalarNode, steps: &Steps) -> Result<ScalarColumn<'_>, EvalError> {
        self.check_interrupt()?;
        Ok(match node {
            ScalarNode::Constant(value) => ScalarColumn::Constant(*value),
            ScalarNode::Time => {
                let charge = self.charge_column(steps)?;
                ScalarColumn::PerStep(steps.times_ms().map(|time_ms| time_ms as f64 / 1000.0).collect(), charge)
            }
            ScalarNode::Of(vector) => self.only_value(vector, steps)?,
            ScalarNode::Negated(scalar) => match self.scalar(scalar, steps)? {
                ScalarColumn::Constant(value) => ScalarColumn::Constant(-value),
                ScalarColumn::PerStep(mut values, charge) => {
                    for value in &mut values {
                        *value = -*value;
                    }
                    ScalarColumn::PerStep(values, charge)
                }
            },
            ScalarNode::Binary { operator, left, right } => {
                let (left, right) = (self.scalar(left, steps)?, self.scalar(right, steps)?);
                if let (ScalarColumn::Constant(left), ScalarColumn::Constant(right)) = (&left, &right) {
                    ScalarColumn::Constant(operate_scalars(*operator, *left, *right))
                } else {
                    // Both operands are still held.
                    let charge = self.charge_column(steps)?;
                    let values = (0..steps.len()).map(|step| operate_scalars(*operator, left.at(step), right.at(step)));
                    ScalarColumn::PerStep(values.collect(), charge)
                }
            }
        })
    }

    /// The value of a vector with one element, NaN if there are none or several.
    fn only_value(&self, vector: &VectorNode, steps: &Steps) -> Result<ScalarColumn<'_>, EvalError> {
        let charge = self.charge_column(steps)?;
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
        Ok(ScalarColumn::PerStep(values, charge))
    }

    /// The values of a scalar at all steps, each in its place, and the charge for them.
    pub(super) fn scalar_values(&self, node: &ScalarNode, steps: &Steps) -> Result<(Vec<f64>, Charge<'_>), EvalError> {
        Ok(match self.scalar(node, steps)? {
            ScalarColumn::Constant(value) => {
                let charge = self.charge_column(steps)?;
                (vec![value; steps.len()], charge)
            }
            ScalarColumn::PerStep(values, charge) => (values, charge),
        })
    }

    pub(super) fn scalar_as_vector(&self, node: &ScalarNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let (values, _charge) = self.scalar_values(node, steps)?;
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

#[cfg(test)]
mod tests {
    use crate::limits::{Interrupted, MemoryBudget, NoInterrupt};
    use crate::store::MemoryStore;
    use crate::{Engine, EvalError, Interrupt, Outcome, Query};

    /// Evaluates at one time, with 8 MiB for all.
    fn at(text: &str, interrupt: &dyn Interrupt) -> Result<Outcome, EvalError> {
        let engine = Engine::default();
        let query = Query::parse(text, &engine.parse_limits)?;
        engine.instant(&query, 1_000_000_000, &MemoryStore::default(), interrupt, &MemoryBudget::new(8 << 20))
    }

    /// A subquery of 100,000 steps, at which a column takes 800 kB.
    fn long(expr: &str) -> String {
        format!("count_over_time({expr}[100000s:1s])")
    }

    #[test]
    fn scalars_that_are_held_at_the_same_time_are_charged() {
        let power = |many: usize| long(&format!("vector({})", vec!["time()"; many].join("^")));
        assert!(at(&power(3), &NoInterrupt).is_ok());
        let scalars = format!("vector({}time(){})", "(time() + ".repeat(16), ")".repeat(16));
        let only_values = format!("vector({}time(){})", "(scalar(vector(time())) + ".repeat(16), ")".repeat(16));
        let maps = format!("{}vector(1){}", "(".repeat(16), " * time())".repeat(16));
        for expr in [power(16), long(&scalars), long(&only_values), long(&maps)] {
            assert!(matches!(at(&expr, &NoInterrupt), Err(EvalError::Memory(_))), "{expr}");
        }
    }

    #[test]
    fn scalars_can_be_ended() {
        let interrupt = || -> Result<(), Interrupted> { Err(Interrupted::Cancelled) };
        assert!(matches!(at("vector(time() + 1)", &interrupt), Err(EvalError::Interrupted(Interrupted::Cancelled))));
    }
}

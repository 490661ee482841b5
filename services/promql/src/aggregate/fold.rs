//! Aggregations that take in one series after the other: they hold their groups only.

use super::GroupLabels;
use crate::column::{ABSENT, Series, is_absent};
use crate::error::EvalError;
use crate::eval::{Evaluator, Sink};
use crate::functions::kahan::{Mean, Sum};
use crate::functions::math;
use crate::functions::regression::Spread;
use crate::parse::ast::AggregateOperator;
use crate::plan::AggregateNode;
use crate::steps::Steps;

/// What a group has taken in, for each step.
enum Group {
    /// The smallest, the largest, the number, or 1.
    Values(Vec<f64>),
    Sums(Vec<f64>, Vec<f64>),
    Means(Vec<Mean>),
    Spreads(Vec<Option<Spread>>),
}

impl Group {
    fn new(operator: AggregateOperator, steps: usize) -> Self {
        match operator {
            AggregateOperator::Sum => Self::Sums(vec![ABSENT; steps], vec![0.0; steps]),
            AggregateOperator::Avg => Self::Means(vec![Mean::default(); steps]),
            AggregateOperator::Stddev | AggregateOperator::Stdvar => Self::Spreads(vec![None; steps]),
            _ => Self::Values(vec![ABSENT; steps]),
        }
    }

    fn memory_bytes(operator: AggregateOperator, steps: usize) -> usize {
        steps
            * match operator {
                AggregateOperator::Sum => 2 * size_of::<f64>(),
                AggregateOperator::Avg => size_of::<Mean>(),
                AggregateOperator::Stddev | AggregateOperator::Stdvar => size_of::<Option<Spread>>(),
                _ => size_of::<f64>(),
            }
    }

    fn add(&mut self, operator: AggregateOperator, values: &[f64]) {
        match self {
            Self::Sums(sums, lost) => {
                for ((sum, lost), value) in sums.iter_mut().zip(lost).zip(values) {
                    if is_absent(*value) {
                        continue;
                    }
                    if is_absent(*sum) {
                        *sum = *value;
                        continue;
                    }
                    let total = Sum { sum: *sum, lost: *lost }.plus(*value);
                    (*sum, *lost) = (total.sum, total.lost);
                }
            }
            Self::Means(means) => {
                for (mean, value) in means.iter_mut().zip(values).filter(|(_, value)| !is_absent(**value)) {
                    mean.add(*value);
                }
            }
            Self::Spreads(spreads) => {
                for (spread, value) in spreads.iter_mut().zip(values).filter(|(_, value)| !is_absent(**value)) {
                    let one = Spread::of(*value);
                    *spread = Some(spread.map_or(one, |spread| spread.join(one)));
                }
            }
            Self::Values(results) => match operator {
                AggregateOperator::Count => combine(results, values, |_| 1.0, |count, _| count + 1.0),
                AggregateOperator::Min => combine(results, values, |value| value, math::smaller),
                AggregateOperator::Max => combine(results, values, |value| value, math::larger),
                _ => combine(results, values, |_| 1.0, |_, _| 1.0),
            },
        }
    }

    fn into_values(self, operator: AggregateOperator) -> Vec<f64> {
        match self {
            Self::Values(values) => values,
            Self::Sums(mut sums, lost) => {
                for (sum, lost) in sums.iter_mut().zip(lost).filter(|(sum, _)| !is_absent(**sum)) {
                    *sum = Sum { sum: *sum, lost }.total();
                }
                sums
            }
            Self::Means(means) => means.into_iter().map(|mean| if mean.count > 0.0 { mean.value() } else { ABSENT }).collect(),
            Self::Spreads(spreads) => spreads
                .into_iter()
                .map(|spread| match spread {
                    None => ABSENT,
                    Some(spread) if operator == AggregateOperator::Stddev => spread.variance().sqrt(),
                    Some(spread) => spread.variance(),
                })
                .collect(),
        }
    }
}

#[inline]
fn combine(results: &mut [f64], values: &[f64], first: impl Fn(f64) -> f64, next: impl Fn(f64, f64) -> f64) {
    for (result, value) in results.iter_mut().zip(values) {
        if !is_absent(*value) {
            *result = if is_absent(*result) { first(*value) } else { next(*result, *value) };
        }
    }
}

pub(super) fn evaluate(evaluator: &Evaluator<'_>, node: &AggregateNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
    let operator = node.operator;
    let charge = evaluator.ledger.charge(0)?;
    let mut labels = GroupLabels::new(node);
    let mut groups: Vec<Group> = Vec::new();
    evaluator.stream(&node.expr, steps, &mut |series| {
        let (number, new) = labels.number(&series.labels, series.drop_name);
        if new {
            charge.add(Group::memory_bytes(operator, steps.len()) + 2 * labels.labels[number].0.memory_bytes())?;
            groups.push(Group::new(operator, steps.len()));
        }
        groups[number].add(operator, &series.values);
        Ok(())
    })?;
    for (group, (labels, drop_name)) in groups.into_iter().zip(labels.labels) {
        sink(&mut Series { labels, drop_name, values: group.into_values(operator) })?;
    }
    Ok(())
}

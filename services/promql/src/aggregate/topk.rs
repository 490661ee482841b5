//! The series with the largest or smallest values of a group at each step.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::{GroupLabels, number};
use crate::column::{ABSENT, Series, is_absent};
use crate::error::EvalError;
use crate::eval::{Evaluator, Sink};
use crate::labels::Labels;
use crate::parse::ast::AggregateOperator;
use crate::plan::{AggregateNode, ScalarNode};
use crate::steps::Steps;

/// A value and its series. The greater one is the better one.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    value: f64,
    /// Of equal values the series that came first is better.
    series: usize,
    largest: bool,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_value = match (self.value.is_nan(), other.value.is_nan()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => {
                let ordering = self.value.partial_cmp(&other.value).unwrap_or(Ordering::Equal);
                if self.largest { ordering } else { ordering.reverse() }
            }
        };
        by_value.then_with(|| other.series.cmp(&self.series))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

/// The best of a group at one step, the worst of them on top.
type Best = BinaryHeap<Reverse<Ranked>>;

pub(super) fn evaluate(
    evaluator: &Evaluator<'_>,
    node: &AggregateNode,
    parameter: &ScalarNode,
    largest: bool,
    steps: &Steps,
    sink: &mut Sink<'_>,
) -> Result<(), EvalError> {
    let charge = evaluator.ledger.charge(steps.len().saturating_mul(size_of::<usize>()))?;
    let counts = counts(evaluator, node.operator, parameter, steps)?;
    let mut labels = GroupLabels::new(node);
    let mut groups: Vec<Vec<Best>> = Vec::new();
    // The series that were among the best at any step when they came.
    let mut candidates: Vec<(Labels, bool)> = Vec::new();
    evaluator.stream(&node.expr, steps, &mut |series| {
        let (number, new) = labels.number(&series.labels, series.drop_name);
        if new {
            charge.add(steps.len() * size_of::<Best>())?;
            groups.push(vec![Best::new(); steps.len()]);
        }
        let candidate = candidates.len();
        let (mut taken, mut added) = (false, 0);
        for ((best, value), count) in groups[number].iter_mut().zip(&series.values).zip(&counts) {
            if is_absent(*value) || *count == 0 {
                continue;
            }
            let ranked = Ranked { value: *value, series: candidate, largest };
            if best.len() < *count {
                best.push(Reverse(ranked));
                added += 1;
            } else if best.peek().is_some_and(|worst| ranked > worst.0) {
                best.pop();
                best.push(Reverse(ranked));
            } else {
                continue;
            }
            taken = true;
        }
        charge.add(added * size_of::<Ranked>())?;
        if taken {
            charge.add(series.labels.memory_bytes())?;
            candidates.push((series.labels.clone(), series.drop_name));
        }
        Ok(())
    })?;
    if steps.len() == 1 {
        return in_order(groups, &candidates, sink);
    }
    let mut columns: Vec<Option<Vec<f64>>> = vec![None; candidates.len()];
    for group in groups {
        evaluator.check_interrupt()?;
        for (step, best) in group.into_iter().enumerate() {
            for Reverse(ranked) in best {
                let column = &mut columns[ranked.series];
                if column.is_none() {
                    charge.add(steps.len() * size_of::<f64>())?;
                }
                column.get_or_insert_with(|| vec![ABSENT; steps.len()])[step] = ranked.value;
            }
        }
    }
    for (column, (labels, drop_name)) in columns.into_iter().zip(candidates) {
        if let Some(values) = column {
            sink(&mut Series { labels, drop_name, values })?;
        }
    }
    Ok(())
}

/// The elements of an instant vector: groups in the order in which they were seen, the best of each first.
fn in_order(groups: Vec<Vec<Best>>, candidates: &[(Labels, bool)], sink: &mut Sink<'_>) -> Result<(), EvalError> {
    for best in groups.into_iter().flatten() {
        // What is sorted by its reverse has the greatest first.
        for Reverse(ranked) in best.into_sorted_vec() {
            let (labels, drop_name) = candidates[ranked.series].clone();
            sink(&mut Series { labels, drop_name, values: vec![ranked.value] })?;
        }
    }
    Ok(())
}

/// How many are asked for at each step.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn counts(evaluator: &Evaluator<'_>, operator: AggregateOperator, parameter: &ScalarNode, steps: &Steps) -> Result<Vec<usize>, EvalError> {
    let numbers = number(evaluator, parameter, steps)?;
    (0..steps.len())
        .map(|step| {
            let number = numbers.at(step);
            // Not a number, or more than a 64-bit integer.
            if !(-9.3e18..9.2e18).contains(&number) {
                let name = operator.as_str();
                return Err(EvalError::Execution(format!("{name}(): the parameter has to be a 64-bit integer, got {number}")));
            }
            Ok(number.max(0.0) as usize)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_one_is_greater() {
        let ranked = |value, series| Ranked { value, series, largest: true };
        assert!(ranked(2.0, 1) > ranked(1.0, 0) && ranked(1.0, 0) > ranked(1.0, 1) && ranked(-1.0, 1) > ranked(f64::NAN, 0));
        let ranked = |value, series| Ranked { value, series, largest: false };
        assert!(ranked(1.0, 1) > ranked(2.0, 0) && ranked(9.0, 1) > ranked(f64::NAN, 0));
    }
}

//! `and`, `or` and `unless`.

use crate::column::{ABSENT, is_absent};
use crate::error::EvalError;
use crate::eval::{Charge, Evaluator, Sink};
use crate::matching::Groups;
use crate::plan::{BinaryNode, VectorNode};
use crate::steps::Steps;

/// For each group of series the steps at which any of them has a value.
struct Presence<'a> {
    groups: Groups<'a>,
    steps: Vec<Vec<bool>>,
    charge: Charge<'a>,
}

impl<'a> Presence<'a> {
    fn new(evaluator: &'a Evaluator<'_>, node: &'a BinaryNode) -> Result<Self, EvalError> {
        Ok(Self { groups: Groups::new(&node.signature), steps: Vec::new(), charge: evaluator.ledger.charge(0)? })
    }

    fn of(evaluator: &'a Evaluator<'_>, node: &'a BinaryNode, vector: &VectorNode, steps: &Steps) -> Result<Self, EvalError> {
        let mut presence = Self::new(evaluator, node)?;
        evaluator.stream(vector, steps, &mut |series| presence.add(&series.labels, &series.values))?;
        Ok(presence)
    }

    fn add(&mut self, labels: &crate::Labels, values: &[f64]) -> Result<(), EvalError> {
        let number = self.groups.number(labels);
        if number == self.steps.len() {
            self.charge.add(values.len() + labels.memory_bytes())?;
            self.steps.push(vec![false; values.len()]);
        }
        for (present, value) in self.steps[number].iter_mut().zip(values) {
            *present |= !is_absent(*value);
        }
        Ok(())
    }

    /// Removes the values at the steps where the series' group is, or is not, present.
    fn remove(&mut self, labels: &crate::Labels, values: &mut [f64], where_present: bool) {
        match self.groups.find(labels) {
            None if where_present => {}
            None => values.fill(ABSENT),
            Some(number) => {
                for (value, present) in values.iter_mut().zip(&self.steps[number]) {
                    if *present == where_present {
                        *value = ABSENT;
                    }
                }
            }
        }
    }
}

/// The series of the left side where the right side has some, or has none, of the same group.
pub(super) fn intersect(
    evaluator: &Evaluator<'_>,
    node: &BinaryNode,
    steps: &Steps,
    sink: &mut Sink<'_>,
    keep_present: bool,
) -> Result<(), EvalError> {
    let mut right = Presence::of(evaluator, node, &node.right, steps)?;
    evaluator.stream(&node.left, steps, &mut |series| {
        right.remove(&series.labels, &mut series.values, !keep_present);
        if series.has_values() { sink(series) } else { Ok(()) }
    })
}

/// The series of the left side, and those of the right side where the left has none of the same group.
pub(super) fn unite(evaluator: &Evaluator<'_>, node: &BinaryNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
    let mut left = Presence::new(evaluator, node)?;
    evaluator.stream(&node.left, steps, &mut |series| {
        left.add(&series.labels, &series.values)?;
        sink(series)
    })?;
    evaluator.stream(&node.right, steps, &mut |series| {
        left.remove(&series.labels, &mut series.values, true);
        if series.has_values() { sink(series) } else { Ok(()) }
    })
}

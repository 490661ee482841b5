//! Aggregations over the series of a vector.

mod count_values;
mod fold;
mod quantile;
mod topk;

use crate::column::ScalarColumn;
use crate::error::EvalError;
use crate::eval::{Evaluator, Sink};
use crate::labels::{Labels, METRIC_NAME};
use crate::matching::Groups;
use crate::parse::ast::AggregateOperator;
use crate::plan::{AggregateNode, Parameter, ScalarNode};
use crate::steps::Steps;

pub(crate) fn evaluate(evaluator: &Evaluator<'_>, node: &AggregateNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
    match (node.operator, &node.parameter) {
        (AggregateOperator::Topk, Parameter::Number(count)) => topk::evaluate(evaluator, node, count, true, steps, sink),
        (AggregateOperator::Bottomk, Parameter::Number(count)) => topk::evaluate(evaluator, node, count, false, steps, sink),
        (AggregateOperator::Quantile, Parameter::Number(quantile)) => quantile::evaluate(evaluator, node, quantile, steps, sink),
        (AggregateOperator::CountValues, Parameter::Label(label)) => count_values::evaluate(evaluator, node, label, steps, sink),
        _ => fold::evaluate(evaluator, node, steps, sink),
    }
}

/// The groups of an aggregation with what their results are called.
struct GroupLabels<'a> {
    groups: Groups<'a>,
    node: &'a AggregateNode,
    /// The labels of each group, and whether the metric's name is left out of the result.
    labels: Vec<(Labels, bool)>,
}

impl<'a> GroupLabels<'a> {
    fn new(node: &'a AggregateNode) -> Self {
        Self { groups: Groups::new(&node.grouping), node, labels: Vec::new() }
    }

    /// The number of a series' group, and whether it is new.
    fn number(&mut self, labels: &Labels, drop_name: bool) -> (usize, bool) {
        let number = self.groups.number(labels);
        let new = number == self.labels.len();
        if new {
            self.labels.push((self.node.grouping.of(labels), false));
        }
        let group = &mut self.labels[number];
        // One series without a name leaves no name to the group.
        group.1 |= drop_name && self.node.grouping.has(METRIC_NAME);
        (number, new)
    }
}

/// The parameter as a column that does not outlive the aggregation.
fn number<'a>(evaluator: &'a Evaluator<'_>, node: &ScalarNode, steps: &Steps) -> Result<ScalarColumn<'a>, EvalError> {
    evaluator.scalar(node, steps)
}

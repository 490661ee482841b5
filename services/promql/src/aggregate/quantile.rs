//! The quantile of the values of a group.

use super::{GroupLabels, number};
use crate::column::{ABSENT, Series, is_absent};
use crate::error::EvalError;
use crate::eval::{Evaluator, Sink};
use crate::functions::quantile::quantile;
use crate::plan::{AggregateNode, ScalarNode};
use crate::steps::Steps;

pub(super) fn evaluate(
    evaluator: &Evaluator<'_>,
    node: &AggregateNode,
    parameter: &ScalarNode,
    steps: &Steps,
    sink: &mut Sink<'_>,
) -> Result<(), EvalError> {
    let quantiles = number(evaluator, parameter, steps)?;
    let charge = evaluator.ledger.charge(0)?;
    let mut labels = GroupLabels::new(node);
    let mut groups: Vec<Vec<Vec<f64>>> = Vec::new();
    evaluator.stream(&node.expr, steps, &mut |series| {
        let (number, new) = labels.number(&series.labels, series.drop_name);
        if new {
            groups.push(Vec::new());
        }
        charge.add(series.memory_bytes())?;
        groups[number].push(std::mem::take(&mut series.values));
        Ok(())
    })?;
    evaluator.warn_of_quantiles(quantiles.values(), node.parameter_span);
    let mut values = Vec::new();
    for (columns, (labels, drop_name)) in groups.into_iter().zip(labels.labels) {
        evaluator.check_interrupt()?;
        let results = (0..steps.len()).map(|step| {
            values.clear();
            values.extend(columns.iter().map(|column| column[step]).filter(|value| !is_absent(*value)));
            if values.is_empty() { ABSENT } else { quantile(quantiles.at(step), &mut values) }
        });
        let mut series = Series { labels, drop_name, values: results.collect() };
        sink(&mut series)?;
    }
    Ok(())
}

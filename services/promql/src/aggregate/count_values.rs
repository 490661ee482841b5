//! How many series of a group have each value.

use super::GroupLabels;
use crate::column::{ABSENT, Series, is_absent};
use crate::error::EvalError;
use crate::eval::{Evaluator, Sink};
use crate::matching::FastMap;
use crate::parse::number::DisplayNumber;
use crate::plan::AggregateNode;
use crate::steps::Steps;

pub(super) fn evaluate(
    evaluator: &Evaluator<'_>,
    node: &AggregateNode,
    label: &str,
    steps: &Steps,
    sink: &mut Sink<'_>,
) -> Result<(), EvalError> {
    // The value's label is part of the result, whatever else is.
    let grouping = node.grouping.with(label);
    let charge = evaluator.ledger.charge(0)?;
    let mut labels = GroupLabels { groups: crate::matching::Groups::new(&grouping), node, labels: Vec::new() };
    let mut columns: Vec<Vec<f64>> = Vec::new();
    // Within a series a value leads to the same group each time.
    let mut numbers: FastMap<u64, usize> = FastMap::default();
    evaluator.stream(&node.expr, steps, &mut |series| {
        numbers.clear();
        for (step, value) in series.values.iter().enumerate().filter(|(_, value)| !is_absent(**value)) {
            let value = if value.is_nan() { f64::NAN } else { *value };
            let number = if let Some(number) = numbers.get(&value.to_bits()) {
                *number
            } else {
                let with_value = series.labels.with(label, &DisplayNumber(value).to_string());
                let number = labels.groups.number(&with_value);
                if number == columns.len() {
                    evaluator.check_interrupt()?;
                    charge.add(steps.len() * size_of::<f64>() + 2 * with_value.memory_bytes())?;
                    labels.labels.push((grouping.of(&with_value), false));
                    columns.push(vec![ABSENT; steps.len()]);
                }
                labels.labels[number].1 |= series.drop_name;
                numbers.insert(value.to_bits(), number);
                number
            };
            let count = &mut columns[number][step];
            *count = if is_absent(*count) { 1.0 } else { *count + 1.0 };
        }
        Ok(())
    })?;
    for (values, (labels, drop_name)) in columns.into_iter().zip(labels.labels) {
        sink(&mut Series { labels, drop_name, values })?;
    }
    Ok(())
}

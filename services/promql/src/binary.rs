//! Operations of two vectors.

pub(crate) mod operate;
mod sets;

use crate::column::{ABSENT, Series, is_absent};
use crate::error::EvalError;
use crate::eval::{Charge, Collected, Evaluator, Sink};
use crate::labels::{Braced, Labels, LabelsBuilder, METRIC_NAME};
use crate::matching::{FastMap, Groups};
use crate::parse::ast::BinaryOperator;
use crate::plan::BinaryNode;
use crate::steps::Steps;

pub(crate) fn evaluate(evaluator: &Evaluator<'_>, node: &BinaryNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
    match node.operator {
        BinaryOperator::And => sets::intersect(evaluator, node, steps, sink, true),
        BinaryOperator::Unless => sets::intersect(evaluator, node, steps, sink, false),
        BinaryOperator::Or => sets::unite(evaluator, node, steps, sink),
        _ => Matching::new(evaluator, node, steps)?.evaluate(sink),
    }
}

/// An operation of vectors whose series are matched one to one or many to one.
struct Matching<'a> {
    evaluator: &'a Evaluator<'a>,
    node: &'a BinaryNode,
    /// The side that may have several series in a group, if `group_left` or `group_right` allows it; otherwise the left one.
    many: Vec<Series>,
    /// The side that has one series in a group at a time.
    one: Vec<Series>,
    /// Whether the side with many is the right one.
    swapped: bool,
    /// For each group the series of both sides.
    groups: Vec<(Vec<usize>, Vec<usize>)>,
    steps: usize,
    results: Results<'a>,
    _charges: [Charge<'a>; 2],
}

impl<'a> Matching<'a> {
    fn new(evaluator: &'a Evaluator<'_>, node: &'a BinaryNode, steps: &Steps) -> Result<Self, EvalError> {
        let left = evaluator.collect(&node.left, steps)?;
        let right = evaluator.collect(&node.right, steps)?;
        let swapped = node.grouping.as_ref().is_some_and(|grouping| !grouping.many_on_left);
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let mut numbers = Groups::new(&node.signature);
        let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
        for (index, series) in one.series.iter().enumerate() {
            let number = numbers.number(&series.labels);
            if number == groups.len() {
                groups.push(Default::default());
            }
            groups[number].1.push(index);
        }
        for (index, series) in many.series.iter().enumerate() {
            if let Some(number) = numbers.find(&series.labels) {
                groups[number].0.push(index);
            }
        }
        let results = Results { collected: Collected::new(evaluator)?, indices: FastMap::default() };
        Ok(Self {
            evaluator,
            node,
            many: many.series,
            one: one.series,
            swapped,
            groups,
            steps: steps.len(),
            results,
            _charges: [many.charge, one.charge],
        })
    }

    fn evaluate(mut self, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        self.check_one_side()?;
        for (many, one) in std::mem::take(&mut self.groups) {
            if many.is_empty() {
                continue;
            }
            if self.node.grouping.is_none() {
                self.check_many_side(&many, &one)?;
            }
            for many in &many {
                // A single group may have all series.
                self.evaluator.check_interrupt()?;
                for one in &one {
                    self.operate(*many, *one)?;
                }
                // The values are not needed any more.
                self.many[*many].values = Vec::new();
            }
        }
        self.results.collected.series.iter_mut().try_for_each(sink)
    }

    /// Fails if two series of one group are on the side that may have one, at a step where the other side has any series.
    fn check_one_side(&self) -> Result<(), EvalError> {
        let mut many_present: Option<Vec<bool>> = None;
        for (_, one) in self.groups.iter().filter(|(_, one)| one.len() > 1) {
            let many_present = many_present.get_or_insert_with(|| presence(&self.many, self.steps));
            for step in (0..self.steps).filter(|step| many_present[*step]) {
                let mut present = one.iter().map(|index| &self.one[*index]).filter(|series| !is_absent(series.values[step]));
                if let (Some(first), Some(second)) = (present.next(), present.next()) {
                    return Err(self.duplicates(first, second));
                }
            }
        }
        Ok(())
    }

    fn duplicates(&self, first: &Series, second: &Series) -> EvalError {
        let (first, second) = if first.labels <= second.labels { (first, second) } else { (second, first) };
        let side = if self.swapped { "left" } else { "right" };
        EvalError::Execution(format!(
            "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
            Braced(&self.node.signature.of(&first.labels)),
            Braced(&first.labels),
            Braced(&second.labels),
        ))
    }

    /// Fails if several series of one group would be matched with one series.
    fn check_many_side(&self, many: &[usize], one: &[usize]) -> Result<(), EvalError> {
        if many.len() < 2 {
            return Ok(());
        }
        for step in 0..self.steps {
            let present = |series: &Series| !is_absent(series.values[step]);
            if one.iter().any(|index| present(&self.one[*index]))
                && many.iter().filter(|index| present(&self.many[**index])).nth(1).is_some()
            {
                let message = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                return Err(EvalError::Execution(message.to_owned()));
            }
        }
        Ok(())
    }

    /// Computes the result of two series, at the steps where both have a value.
    fn operate(&mut self, many: usize, one: usize) -> Result<(), EvalError> {
        let (many, one) = (&self.many[many], &self.one[one]);
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        let values = operate_columns(self.node.operator, self.node.returns_bool, &left.values, &right.values);
        let mut series = Series { values, ..Series::default() };
        if !series.has_values() {
            return Ok(());
        }
        series.labels = self.labels(&many.labels, &one.labels);
        series.drop_name = self.drops_name(many, one);
        self.results.add(series, self.node.grouping.is_some())
    }

    fn labels(&self, many: &Labels, one: &Labels) -> Labels {
        let mut labels = LabelsBuilder::from(many);
        if !self.node.operator.is_comparison() {
            labels.set(METRIC_NAME, "");
        }
        match &self.node.grouping {
            None => {
                let signature = &self.node.signature;
                let keeps_name = |label: &str| label == METRIC_NAME && !signature.has_only_listed();
                labels.retain(|label| signature.has(label) || keeps_name(label));
            }
            Some(grouping) => {
                for label in &grouping.include {
                    labels.set(label, one.value(label));
                }
            }
        }
        labels.build()
    }

    fn drops_name(&self, many: &Series, one: &Series) -> bool {
        let takes_name = self.node.grouping.as_ref().is_some_and(|grouping| grouping.include.iter().any(|label| label == METRIC_NAME));
        let inherited = match (takes_name, self.node.operator.is_comparison()) {
            (true, _) => one.drop_name,
            (false, true) => many.drop_name,
            // There is no name any more.
            (false, false) => false,
        };
        self.node.returns_bool || inherited
    }
}

/// At which steps any of the series has a value.
fn presence(series: &[Series], steps: usize) -> Vec<bool> {
    let mut present = vec![false; steps];
    for series in series {
        for (present, value) in present.iter_mut().zip(&series.values) {
            *present |= !is_absent(*value);
        }
    }
    present
}

fn operate_columns(operator: BinaryOperator, returns_bool: bool, left: &[f64], right: &[f64]) -> Vec<f64> {
    let both = |function: &dyn Fn(f64, f64) -> f64| {
        let pairs = left.iter().zip(right);
        pairs.map(|(left, right)| if is_absent(*left) || is_absent(*right) { ABSENT } else { function(*left, *right) }).collect()
    };
    match (operator.is_comparison(), returns_bool) {
        (false, _) => both(&operate::arithmetic(operator)),
        (true, true) => both(&|left, right| f64::from(u8::from(operate::compare(operator, left, right)))),
        (true, false) => both(&|left, right| if operate::compare(operator, left, right) { left } else { ABSENT }),
    }
}

/// The results, those with the same labels put together.
struct Results<'a> {
    collected: Collected<'a>,
    indices: FastMap<(Labels, bool), usize>,
}

impl Results<'_> {
    fn add(&mut self, mut series: Series, grouped: bool) -> Result<(), EvalError> {
        let key = (series.labels.clone(), series.drop_name);
        let Some(index) = self.indices.get(&key) else {
            self.indices.insert(key, self.collected.series.len());
            return self.collected.push(&mut series);
        };
        let first = &mut self.collected.series[*index];
        if first.overlaps(&series) {
            let message = if grouped {
                "multiple matches for labels: grouping labels must ensure unique matches"
            } else {
                "vector cannot contain metrics with the same labelset"
            };
            return Err(EvalError::Execution(message.to_owned()));
        }
        first.fill_from(&series);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::store::MemoryStore;
    use crate::{Engine, EvalError, Interrupted, Labels, MemoryBudget, Query};

    #[test]
    fn an_operation_within_one_group_can_be_ended() {
        let series = 100;
        let mut store = MemoryStore::default();
        store.add(&Labels::new([("__name__", "one")]), 0, 1.0);
        for number in 0..series {
            store.add(&Labels::new([("__name__", "many".to_owned()), ("n", number.to_string())]), 0, 1.0);
        }
        let engine = Engine::default();
        let query = Query::parse("many * on () group_left () one", &engine.parse_limits).unwrap();
        let evaluate = |questions: usize| {
            let asked = Cell::new(0);
            let interrupt = || {
                asked.set(asked.get() + 1);
                if asked.get() > questions { Err(Interrupted::Cancelled) } else { Ok(()) }
            };
            let outcome = engine.instant(&query, 0, &store, &interrupt, &MemoryBudget::new(1 << 20));
            outcome.map(|_| asked.get())
        };
        // Each series is asked about when it is read, and again when it is multiplied.
        assert!(evaluate(usize::MAX).unwrap() >= 2 * series);
        let ended = evaluate(series + series / 2);
        assert!(matches!(ended, Err(EvalError::Interrupted(Interrupted::Cancelled))), "{ended:?}");
    }
}

//! Makes a plan of an expression.

use std::collections::BTreeSet;

use super::{AggregateNode, BinaryNode, Map, Matchers, Parameter, Plan, RangeNode, RangeSource, ScalarNode, Select, VectorNode};
use crate::error::EvalError;
use crate::functions::windows::Window;
use crate::functions::{FunctionKind, OverTime, rollup};
use crate::labels::{Labels, LabelsBuilder, METRIC_NAME};
use crate::matcher::MatchOp;
use crate::matching::Signature;
use crate::parse::ast::{AggregateExpr, AggregateOperator, At, BinaryExpr, Expr, ExprKind, Grouping, Modifiers, Selector, ValueType};
use crate::pattern;
use crate::position::Span;
use crate::steps::Steps;
use crate::store::{Hints, Selection};

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanContext {
    pub(crate) steps: Steps,
    pub(crate) lookback_ms: i64,
    pub(crate) subquery_step_ms: i64,
    pub(crate) max_subquery_steps: usize,
}

/// What surrounds an expression, as far as a store may want to know it.
#[derive(Clone, Default)]
struct Surroundings {
    aggregation: Option<(AggregateOperator, Option<Grouping>)>,
}

/// The plan of a whole query.
pub(crate) fn build(expr: &Expr, context: &PlanContext) -> Result<Plan, EvalError> {
    let steps = &context.steps;
    Ok(match expr.value_type() {
        ValueType::Scalar => Plan::Scalar(context.scalar(expr, steps)?),
        ValueType::InstantVector => Plan::Vector(context.vector(expr, steps, &Surroundings::default())?),
        ValueType::RangeVector => Plan::Range(context.range(expr, steps, None, &Surroundings::default())?),
        ValueType::Text => Plan::Text(text(expr).to_owned()),
    })
}

/// Whether the value is the same at every step.
fn is_constant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number { .. } | ExprKind::Text(_) => true,
        ExprKind::Vector(Selector { modifiers, .. })
        | ExprKind::Range { selector: Selector { modifiers, .. }, .. }
        | ExprKind::Subquery { modifiers, .. } => modifiers.at.is_some(),
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => is_constant(expr),
        ExprKind::Binary(binary) => is_constant(&binary.left) && is_constant(&binary.right),
        ExprKind::Aggregate(aggregate) => is_constant(&aggregate.expr) && aggregate.parameter.as_ref().is_none_or(is_constant),
        ExprKind::Call { function, arguments } => {
            let uses_time = match function.kind {
                FunctionKind::Time => true,
                FunctionKind::Timestamp => !matches!(arguments[0].without_parens().kind, ExprKind::Vector(_)),
                FunctionKind::Date(_) => arguments.is_empty(),
                FunctionKind::OverTime(function) => function.uses_step_time(),
                _ => false,
            };
            !uses_time && arguments.iter().all(is_constant)
        }
    }
}

/// The text of an expression that is one.
fn text(expr: &Expr) -> &str {
    match &expr.without_parens().kind {
        ExprKind::Text(text) => text,
        _ => unreachable!("the types were checked when the query was read"),
    }
}

impl PlanContext {
    fn scalar(&self, expr: &Expr, steps: &Steps) -> Result<ScalarNode, EvalError> {
        Ok(match &expr.kind {
            ExprKind::Number { value, .. } => ScalarNode::Constant(*value),
            ExprKind::Paren(expr) | ExprKind::Unary { negative: false, expr } => self.scalar(expr, steps)?,
            ExprKind::Unary { negative: true, expr } => ScalarNode::Negated(Box::new(self.scalar(expr, steps)?)),
            ExprKind::Binary(binary) => ScalarNode::Binary {
                operator: binary.operator,
                left: Box::new(self.scalar(&binary.left, steps)?),
                right: Box::new(self.scalar(&binary.right, steps)?),
            },
            ExprKind::Call { function, arguments } => match function.kind {
                FunctionKind::Pi => ScalarNode::Constant(std::f64::consts::PI),
                FunctionKind::Time => ScalarNode::Time,
                FunctionKind::Scalar => ScalarNode::Of(Box::new(self.vector(&arguments[0], steps, &Surroundings::default())?)),
                _ => unreachable!("no other function gives a scalar"),
            },
            _ => unreachable!("the types were checked when the query was read"),
        })
    }

    fn vector(&self, expr: &Expr, steps: &Steps, around: &Surroundings) -> Result<VectorNode, EvalError> {
        if steps.len() > 1 && is_constant(expr) {
            return Ok(VectorNode::Broadcast(Box::new(self.vector(expr, &steps.first(), around)?)));
        }
        Ok(match &expr.kind {
            ExprKind::Paren(expr) | ExprKind::Unary { negative: false, expr } => self.vector(expr, steps, around)?,
            ExprKind::Unary { negative: true, expr } => self.map(Map::Negate, expr, steps, around)?,
            ExprKind::Vector(selector) => VectorNode::Select(self.select(selector, expr.span, steps, None, around)),
            ExprKind::Binary(binary) => self.binary(binary, steps, around)?,
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, steps)?,
            ExprKind::Call { function, arguments } => self.call(function.kind, function.name, arguments, expr, steps, around)?,
            _ => unreachable!("the types were checked when the query was read"),
        })
    }

    fn map(&self, map: Map, expr: &Expr, steps: &Steps, around: &Surroundings) -> Result<VectorNode, EvalError> {
        Ok(VectorNode::Map { map, expr: Box::new(self.vector(expr, steps, around)?) })
    }

    fn window(&self, modifiers: Modifiers, range_ms: i64) -> Window {
        let at_ms = modifiers.at.map(|at| match at {
            At::Time { ms } => ms,
            At::Start => self.steps.start_ms(),
            At::End => self.steps.until_ms(),
        });
        Window { range_ms, offset_ms: modifiers.offset_ms.unwrap_or_default(), at_ms }
    }

    fn select(&self, selector: &Selector, span: Span, steps: &Steps, function: Option<&'static str>, around: &Surroundings) -> Select {
        let window = self.window(selector.modifiers, self.lookback_ms);
        let rollup_span_ms = Some(if steps.len() > 1 { steps.step_ms() } else { window.range_ms });
        Select { selection: selection(selector, window, steps, function, rollup_span_ms, around), window, span }
    }

    fn range(&self, expr: &Expr, steps: &Steps, function: Option<&'static str>, around: &Surroundings) -> Result<RangeNode, EvalError> {
        match &expr.without_parens().kind {
            ExprKind::Range { selector, range_ms } => {
                let window = self.window(selector.modifiers, *range_ms);
                let rollup_span_ms = function.is_some_and(rollup::can_answer).then_some(*range_ms);
                let selection = selection(selector, window, steps, function, rollup_span_ms, around);
                Ok(RangeNode { source: RangeSource::Stored(selection), window, span: expr.span })
            }
            ExprKind::Subquery { expr, range_ms, step_ms, modifiers } => {
                let window = self.window(*modifiers, *range_ms);
                let inner = self.subquery_steps(window, steps, step_ms.unwrap_or(self.subquery_step_ms))?;
                let source = match inner {
                    Some(inner) => Some((Box::new(self.vector(expr, &inner, &Surroundings::default())?), inner)),
                    None => None,
                };
                Ok(RangeNode { source: RangeSource::Subquery(source), window, span: expr.span })
            }
            _ => unreachable!("the types were checked when the query was read"),
        }
    }

    /// The multiples of the step that the windows of a subquery cover.
    fn subquery_steps(&self, window: Window, steps: &Steps, step_ms: i64) -> Result<Option<Steps>, EvalError> {
        let (first_covered, last_covered) = window.covered_ms(steps);
        let start_ms = (first_covered - 1).div_euclid(step_ms) * step_ms + step_ms;
        let Some(inner) = Steps::range(start_ms, last_covered, step_ms) else { return Ok(None) };
        if inner.len() > self.max_subquery_steps {
            return Err(EvalError::TooManySteps { what: "a subquery", steps: inner.len(), limit: self.max_subquery_steps });
        }
        Ok(Some(inner))
    }

    fn binary(&self, binary: &BinaryExpr, steps: &Steps, around: &Surroundings) -> Result<VectorNode, EvalError> {
        let BinaryExpr { operator, left, right, returns_bool, matching } = binary;
        let (operator, returns_bool) = (*operator, *returns_bool);
        let Some(matching) = matching else {
            let scalar_on_left = left.value_type() == ValueType::Scalar;
            let (scalar, vector) = if scalar_on_left { (left, right) } else { (right, left) };
            let scalar = self.scalar(scalar, steps)?;
            return self.map(Map::Operate { operator, scalar, scalar_on_left, returns_bool }, vector, steps, around);
        };
        let labels = matching.labels.clone();
        Ok(VectorNode::Binary(Box::new(BinaryNode {
            operator,
            left: self.vector(left, steps, &Surroundings::default())?,
            right: self.vector(right, steps, &Surroundings::default())?,
            returns_bool,
            signature: if matching.on { Signature::including(labels) } else { Signature::excluding(labels) },
            grouping: matching.grouping.clone(),
        })))
    }

    fn aggregate(&self, aggregate: &AggregateExpr, steps: &Steps) -> Result<VectorNode, EvalError> {
        let AggregateExpr { operator, expr, parameter, grouping } = aggregate;
        let signature = match grouping {
            Some(Grouping { without: true, labels }) => Signature::excluding(labels.clone()),
            Some(Grouping { without: false, labels }) => Signature::including(labels.clone()),
            None => Signature::including(Vec::new()),
        };
        let around = Surroundings { aggregation: Some((*operator, grouping.clone())) };
        let parameter_span = parameter.as_ref().map(|parameter| parameter.span).unwrap_or_default();
        let parameter = match parameter {
            None => Parameter::None,
            Some(label) if *operator == AggregateOperator::CountValues => Parameter::Label(label_name(text(label), "count_values")?),
            Some(number) => Parameter::Number(self.scalar(number, steps)?),
        };
        Ok(VectorNode::Aggregate(Box::new(AggregateNode {
            operator: *operator,
            parameter,
            grouping: signature,
            expr: self.vector(expr, steps, &around)?,
            parameter_span,
        })))
    }

    fn call(
        &self,
        kind: FunctionKind,
        name: &'static str,
        arguments: &[Expr],
        call: &Expr,
        steps: &Steps,
        around: &Surroundings,
    ) -> Result<VectorNode, EvalError> {
        let vector = |index: usize| self.vector(&arguments[index], steps, &Surroundings::default()).map(Box::new);
        let scalar = |index: usize| self.scalar(&arguments[index], steps);
        Ok(match kind {
            FunctionKind::OverTime(function) => {
                let range_index = usize::from(function == OverTime::Quantile);
                let parameter = match arguments.len() {
                    1 => ScalarNode::Constant(f64::NAN),
                    _ => scalar(1 - range_index)?,
                };
                let range = self.range(&arguments[range_index], steps, Some(name), around)?;
                VectorNode::OverTime { function, range, parameter, span: arguments[0].span }
            }
            FunctionKind::Math(function) => self.map(Map::Math(function), &arguments[0], steps, around)?,
            FunctionKind::Date(part) => match arguments {
                [] => {
                    let time = Box::new(VectorNode::Scalar(ScalarNode::Time));
                    VectorNode::Map { map: Map::Date(part), expr: time }
                }
                [expr, ..] => self.map(Map::Date(part), expr, steps, around)?,
            },
            FunctionKind::Round => {
                let to_nearest = if arguments.len() > 1 { scalar(1)? } else { ScalarNode::Constant(1.0) };
                self.map(Map::Round { to_nearest }, &arguments[0], steps, around)?
            }
            FunctionKind::Clamp => self.map(Map::Clamp { min: scalar(1)?, max: scalar(2)? }, &arguments[0], steps, around)?,
            FunctionKind::ClampMin => {
                let max = ScalarNode::Constant(f64::INFINITY);
                self.map(Map::Clamp { min: scalar(1)?, max }, &arguments[0], steps, around)?
            }
            FunctionKind::ClampMax => {
                let min = ScalarNode::Constant(f64::NEG_INFINITY);
                self.map(Map::Clamp { min, max: scalar(1)? }, &arguments[0], steps, around)?
            }
            FunctionKind::Timestamp => match &arguments[0].without_parens().kind {
                ExprKind::Vector(selector) => VectorNode::SelectTimes(self.select(selector, arguments[0].span, steps, Some(name), around)),
                _ => self.map(Map::StepTime, &arguments[0], steps, around)?,
            },
            FunctionKind::Vector => VectorNode::Scalar(scalar(0)?),
            FunctionKind::Absent => VectorNode::Absent { expr: vector(0)?, labels: labels_of_absent(&arguments[0]) },
            FunctionKind::AbsentOverTime => {
                let range = self.range(&arguments[0], steps, Some(name), &Surroundings::default())?;
                VectorNode::AbsentOverTime { range, labels: labels_of_absent(&arguments[0]) }
            }
            FunctionKind::LabelReplace => {
                let compiled =
                    pattern::compile(text(&arguments[4])).map_err(|error| EvalError::Execution(format!("label_replace(): {error}")))?;
                VectorNode::LabelReplace {
                    expr: vector(0)?,
                    destination: label_name(text(&arguments[1]), name)?,
                    replacement: text(&arguments[2]).to_owned(),
                    source: text(&arguments[3]).to_owned(),
                    regex: compiled.regex,
                }
            }
            FunctionKind::LabelJoin => VectorNode::LabelJoin {
                expr: vector(0)?,
                destination: label_name(text(&arguments[1]), name)?,
                separator: text(&arguments[2]).to_owned(),
                sources: arguments[3..].iter().map(|label| label_name(text(label), name)).collect::<Result<_, _>>()?,
            },
            FunctionKind::Sort { descending } => VectorNode::Sort { expr: vector(0)?, descending, span: call.span },
            FunctionKind::HistogramQuantile => VectorNode::HistogramQuantile {
                quantile: scalar(0)?,
                buckets: vector(1)?,
                quantile_span: arguments[0].span,
                span: arguments[1].span,
            },
            FunctionKind::HistogramFraction => {
                VectorNode::HistogramFraction { lower: scalar(0)?, upper: scalar(1)?, buckets: vector(2)?, span: arguments[2].span }
            }
            FunctionKind::NativeHistogram => VectorNode::Empty,
            FunctionKind::Time | FunctionKind::Pi | FunctionKind::Scalar => unreachable!("these give scalars"),
        })
    }
}

/// What a selector asks of the store.
fn selection(
    selector: &Selector,
    window: Window,
    steps: &Steps,
    function: Option<&'static str>,
    rollup_span_ms: Option<i64>,
    around: &Surroundings,
) -> Selection {
    let (start_ms, end_ms) = window.covered_ms(steps);
    let matchers: Matchers = selector.matchers.clone().into();
    let hints = Hints {
        function,
        range_ms: window.range_ms,
        step_ms: steps.step_ms(),
        steps: steps.len(),
        rollup_span_ms,
        aggregation: around.aggregation.clone(),
    };
    Selection { matchers, start_ms, end_ms, hints }
}

/// Any text may name a label, but not an empty one.
fn label_name(name: &str, function: &str) -> Result<String, EvalError> {
    if name.is_empty() {
        return Err(EvalError::Execution(format!("invalid label name in {function}(): it must not be empty")));
    }
    Ok(name.to_owned())
}

/// The labels that a selector fixes: those of what is absent.
fn labels_of_absent(expr: &Expr) -> Labels {
    let (ExprKind::Vector(selector) | ExprKind::Range { selector, .. }) = &expr.without_parens().kind else {
        return Labels::empty();
    };
    let mut labels = LabelsBuilder::default();
    // The labels that were set once, even if another matcher has removed them.
    let mut seen = BTreeSet::new();
    for matcher in selector.matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
        // A label with several matchers has no one value.
        let fixed = matcher.op() == MatchOp::Equal && seen.insert(matcher.name());
        labels.set(matcher.name(), if fixed { matcher.value() } else { "" });
    }
    labels.build()
}

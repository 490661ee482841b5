//! What is to be computed: the query with its times resolved, its types told apart and its constants checked.

mod build;

use std::sync::Arc;

pub(crate) use build::{PlanContext, build};
use regex::Regex;

use crate::functions::windows::Window;
use crate::functions::{DatePart, MathFunction, OverTime};
use crate::labels::Labels;
use crate::matching::Signature;
use crate::parse::ast::{AggregateOperator, BinaryOperator, MatchGrouping};
use crate::position::Span;
use crate::steps::Steps;
use crate::store::Selection;

/// A query ready for evaluation.
#[derive(Debug)]
pub(crate) enum Plan {
    Scalar(ScalarNode),
    Vector(VectorNode),
    Range(RangeNode),
    Text(String),
}

/// A number at each step.
#[derive(Debug)]
pub(crate) enum ScalarNode {
    Constant(f64),
    /// The time of the step, in seconds.
    Time,
    /// The only value of a vector.
    Of(Box<VectorNode>),
    Negated(Box<Self>),
    Binary {
        operator: BinaryOperator,
        left: Box<Self>,
        right: Box<Self>,
    },
}

/// Series with a value at each step.
#[derive(Debug)]
pub(crate) enum VectorNode {
    Empty,
    Select(Select),
    /// The times of the selected samples instead of their values.
    SelectTimes(Select),
    /// One series without labels.
    Scalar(ScalarNode),
    /// What does not depend on the step: evaluated once.
    Broadcast(Box<Self>),
    Map {
        map: Map,
        expr: Box<Self>,
    },
    OverTime {
        function: OverTime,
        range: RangeNode,
        parameter: ScalarNode,
        /// Of the first argument.
        span: Span,
    },
    Absent {
        expr: Box<Self>,
        labels: Labels,
    },
    AbsentOverTime {
        range: RangeNode,
        labels: Labels,
    },
    LabelReplace {
        expr: Box<Self>,
        destination: String,
        replacement: String,
        source: String,
        regex: Regex,
    },
    LabelJoin {
        expr: Box<Self>,
        destination: String,
        separator: String,
        sources: Vec<String>,
    },
    Sort {
        expr: Box<Self>,
        descending: bool,
        span: Span,
    },
    HistogramQuantile {
        quantile: ScalarNode,
        buckets: Box<Self>,
        quantile_span: Span,
        span: Span,
    },
    HistogramFraction {
        lower: ScalarNode,
        upper: ScalarNode,
        buckets: Box<Self>,
        span: Span,
    },
    Aggregate(Box<AggregateNode>),
    Binary(Box<BinaryNode>),
}

/// A function of each value on its own.
#[derive(Debug)]
pub(crate) enum Map {
    Negate,
    Math(MathFunction),
    Date(DatePart),
    /// The time of the step, in seconds.
    StepTime,
    Round {
        to_nearest: ScalarNode,
    },
    Clamp {
        min: ScalarNode,
        max: ScalarNode,
    },
    /// An operation with a scalar.
    Operate {
        operator: BinaryOperator,
        scalar: ScalarNode,
        scalar_on_left: bool,
        returns_bool: bool,
    },
}

impl Map {
    /// Whether the result is still a sample of the metric.
    pub(crate) fn keeps_name(&self) -> bool {
        matches!(self, Self::Operate { operator, returns_bool: false, .. } if operator.is_comparison())
    }
}

/// Stored series.
#[derive(Debug)]
pub(crate) struct Select {
    pub(crate) selection: Selection,
    pub(crate) window: Window,
    pub(crate) span: Span,
}

/// Series with the samples of a range at each step.
#[derive(Debug)]
pub(crate) struct RangeNode {
    pub(crate) source: RangeSource,
    pub(crate) window: Window,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) enum RangeSource {
    Stored(Selection),
    /// The values of an expression at steps of its own; `None` if no step falls into the range.
    Subquery(Option<(Box<VectorNode>, Steps)>),
}

#[derive(Debug)]
pub(crate) struct AggregateNode {
    pub(crate) operator: AggregateOperator,
    pub(crate) parameter: Parameter,
    pub(crate) grouping: Signature,
    pub(crate) expr: VectorNode,
    pub(crate) parameter_span: Span,
}

/// What some aggregations take beside the vector.
#[derive(Debug)]
pub(crate) enum Parameter {
    None,
    Number(ScalarNode),
    Label(String),
}

#[derive(Debug)]
pub(crate) struct BinaryNode {
    pub(crate) operator: BinaryOperator,
    pub(crate) left: VectorNode,
    pub(crate) right: VectorNode,
    pub(crate) returns_bool: bool,
    pub(crate) signature: Signature,
    pub(crate) grouping: Option<MatchGrouping>,
}

impl VectorNode {
    /// Whether no two series that it gives have the same labels. The others may give a series in several parts, each with
    /// the values of other steps.
    pub(crate) fn gives_each_series_once(&self) -> bool {
        match self {
            Self::Map { expr, .. } | Self::Broadcast(expr) | Self::Sort { expr, .. } => expr.gives_each_series_once(),
            Self::Binary(binary) => {
                !matches!(binary.operator, BinaryOperator::Or) && (!binary.operator.is_set() || binary.left.gives_each_series_once())
            }
            _ => true,
        }
    }

    /// Whether the order of an instant vector's elements means something.
    pub(crate) fn is_ordered(&self) -> bool {
        match self {
            Self::Sort { .. } => true,
            Self::Aggregate(aggregate) => matches!(aggregate.operator, AggregateOperator::Topk | AggregateOperator::Bottomk),
            Self::Map { expr, .. } | Self::LabelReplace { expr, .. } | Self::LabelJoin { expr, .. } | Self::Broadcast(expr) => {
                expr.is_ordered()
            }
            _ => false,
        }
    }

    fn children(&self) -> Vec<Child<'_>> {
        match self {
            Self::Empty => Vec::new(),
            Self::Select(select) | Self::SelectTimes(select) => vec![Child::Selection(&select.selection)],
            Self::Scalar(scalar) => vec![Child::Scalar(scalar)],
            Self::Broadcast(expr)
            | Self::Absent { expr, .. }
            | Self::LabelReplace { expr, .. }
            | Self::LabelJoin { expr, .. }
            | Self::Sort { expr, .. } => vec![Child::Vector(expr)],
            Self::Map { map, expr } => {
                let mut children = vec![Child::Vector(expr)];
                match map {
                    Map::Round { to_nearest: scalar } | Map::Operate { scalar, .. } => children.push(Child::Scalar(scalar)),
                    Map::Clamp { min, max } => children.extend([Child::Scalar(min), Child::Scalar(max)]),
                    Map::Negate | Map::Math(_) | Map::Date(_) | Map::StepTime => {}
                }
                children
            }
            Self::OverTime { range, parameter, .. } => vec![range.child(), Child::Scalar(parameter)],
            Self::AbsentOverTime { range, .. } => vec![range.child()],
            Self::HistogramQuantile { quantile, buckets, .. } => vec![Child::Scalar(quantile), Child::Vector(buckets)],
            Self::HistogramFraction { lower, upper, buckets, .. } => {
                vec![Child::Scalar(lower), Child::Scalar(upper), Child::Vector(buckets)]
            }
            Self::Aggregate(aggregate) => {
                let mut children = vec![Child::Vector(&aggregate.expr)];
                if let Parameter::Number(number) = &aggregate.parameter {
                    children.push(Child::Scalar(number));
                }
                children
            }
            Self::Binary(binary) => vec![Child::Vector(&binary.left), Child::Vector(&binary.right)],
        }
    }
}

impl RangeNode {
    fn child(&self) -> Child<'_> {
        match &self.source {
            RangeSource::Stored(selection) => Child::Selection(selection),
            RangeSource::Subquery(Some((expr, _))) => Child::Vector(expr),
            RangeSource::Subquery(None) => Child::Vector(&VectorNode::Empty),
        }
    }
}

enum Child<'a> {
    Selection(&'a Selection),
    Scalar(&'a ScalarNode),
    Vector(&'a VectorNode),
}

impl<'a> Child<'a> {
    fn collect(&self, selections: &mut Vec<&'a Selection>) {
        match self {
            Self::Selection(selection) => selections.push(selection),
            Self::Vector(vector) => vector.children().iter().for_each(|child| child.collect(selections)),
            Self::Scalar(ScalarNode::Constant(_) | ScalarNode::Time) => {}
            Self::Scalar(ScalarNode::Of(vector)) => Child::Vector(vector).collect(selections),
            Self::Scalar(ScalarNode::Negated(scalar)) => Child::Scalar(scalar).collect(selections),
            Self::Scalar(ScalarNode::Binary { left, right, .. }) => {
                Child::Scalar(left).collect(selections);
                Child::Scalar(right).collect(selections);
            }
        }
    }
}

impl Plan {
    /// All that the evaluation is going to select.
    pub(crate) fn selections(&self) -> Vec<&Selection> {
        let mut selections = Vec::new();
        match self {
            Self::Scalar(scalar) => Child::Scalar(scalar).collect(&mut selections),
            Self::Vector(vector) => Child::Vector(vector).collect(&mut selections),
            Self::Range(range) => range.child().collect(&mut selections),
            Self::Text(_) => {}
        }
        selections
    }
}

/// The matchers of a selection, shared.
pub(crate) type Matchers = Arc<[crate::matcher::Matcher]>;

//! What a query says, as a tree.

use std::fmt;

use crate::functions::Function;
use crate::matcher::Matcher;
use crate::position::Span;

/// An expression and where in the query it stands.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it is.
    pub span: Span,
    /// How many expressions are nested in it, itself included.
    pub(crate) depth: usize,
}

/// The kinds of expressions.
#[derive(Clone, Debug)]
pub enum ExprKind {
    /// A number.
    Number {
        /// Its value; a duration's in seconds.
        value: f64,
        /// Whether it was written as a duration.
        is_duration: bool,
    },
    /// A text.
    Text(String),
    /// An instant vector of stored series.
    Vector(Selector),
    /// A range vector of stored series.
    Range {
        /// The series.
        selector: Selector,
        /// How far back.
        range_ms: i64,
    },
    /// A range vector of an expression's values.
    Subquery {
        /// The expression.
        expr: Box<Expr>,
        /// How far back.
        range_ms: i64,
        /// The time between two values; the engine's default if it is not given.
        step_ms: Option<i64>,
        /// When it is evaluated.
        modifiers: Modifiers,
    },
    /// A sign in front of an expression.
    Unary {
        /// Whether it is a minus.
        negative: bool,
        /// The expression.
        expr: Box<Expr>,
    },
    /// Two operands.
    Binary(Box<BinaryExpr>),
    /// An aggregation over the series of a vector.
    Aggregate(Box<AggregateExpr>),
    /// A call of a function.
    Call {
        /// The function.
        function: &'static Function,
        /// Its arguments.
        arguments: Vec<Expr>,
    },
    /// An expression in parentheses.
    Paren(Box<Expr>),
}

/// Which stored series, and of which time.
#[derive(Clone, Debug)]
pub struct Selector {
    /// The metric's name, if it stands in front of the braces. It has a matcher as well.
    pub name: Option<String>,
    /// What the labels must be.
    pub matchers: Vec<Matcher>,
    /// When it is evaluated.
    pub modifiers: Modifiers,
}

/// `offset` and `@`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modifiers {
    /// How far the evaluation is moved into the past, or into the future if it is negative.
    pub offset_ms: Option<i64>,
    /// The time that takes the place of the evaluation's own.
    pub at: Option<At>,
}

/// The time that `@` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A fixed time.
    Time {
        /// In milliseconds since 1970.
        ms: i64,
    },
    /// The start of the query's range.
    Start,
    /// The end of the query's range.
    End,
}

/// Two operands and an operator.
#[derive(Clone, Debug)]
pub struct BinaryExpr {
    /// The operator.
    pub operator: BinaryOperator,
    /// The operand on the left.
    pub left: Expr,
    /// The operand on the right.
    pub right: Expr,
    /// Whether a comparison gives 0 or 1 instead of filtering.
    pub returns_bool: bool,
    /// Which series of the two sides belong together; only if both are vectors.
    pub matching: Option<VectorMatching>,
}

/// The binary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the operators")]
pub enum BinaryOperator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Atan2,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Unless,
}

impl BinaryOperator {
    /// Whether it compares.
    pub fn is_comparison(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual)
    }

    /// Whether it combines sets of series.
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }

    /// How the query writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Power => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }
}

/// Which series of the two sides of an operator belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VectorMatching {
    /// Whether only the listed labels must agree (`on`) or all others (`ignoring`).
    pub on: bool,
    /// The listed labels.
    pub labels: Vec<String>,
    /// Whether one side may have several series for one of the other.
    pub grouping: Option<MatchGrouping>,
}

/// `group_left` or `group_right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchGrouping {
    /// Whether the left side is the one with several series.
    pub many_on_left: bool,
    /// The labels that the result takes from the other side.
    pub include: Vec<String>,
}

/// An aggregation.
#[derive(Clone, Debug)]
pub struct AggregateExpr {
    /// What is computed.
    pub operator: AggregateOperator,
    /// What is aggregated.
    pub expr: Expr,
    /// The number, quantile or label that some operators take.
    pub parameter: Option<Expr>,
    /// Which series are aggregated together; all of them if it is not given.
    pub grouping: Option<Grouping>,
}

/// `by` or `without`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// Whether the labels are those that are left out.
    pub without: bool,
    /// The labels.
    pub labels: Vec<String>,
}

/// The aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the operators")]
pub enum AggregateOperator {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
}

impl AggregateOperator {
    pub(crate) const ALL: [Self; 12] = [
        Self::Sum,
        Self::Avg,
        Self::Count,
        Self::Min,
        Self::Max,
        Self::Group,
        Self::Stddev,
        Self::Stdvar,
        Self::Topk,
        Self::Bottomk,
        Self::CountValues,
        Self::Quantile,
    ];

    /// How the query writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Topk => "topk",
            Self::Bottomk => "bottomk",
            Self::CountValues => "count_values",
            Self::Quantile => "quantile",
        }
    }

    /// Whether it takes a parameter.
    pub fn has_parameter(self) -> bool {
        matches!(self, Self::Topk | Self::Bottomk | Self::CountValues | Self::Quantile)
    }
}

/// The types of expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// One number a step.
    Scalar,
    /// Series with one sample a step.
    InstantVector,
    /// Series with the samples of a range a step.
    RangeVector,
    /// A text.
    Text,
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::InstantVector => "instant vector",
            Self::RangeVector => "range vector",
            Self::Text => "string",
        })
    }
}

impl Expr {
    /// The type of its value.
    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Number { .. } => ValueType::Scalar,
            ExprKind::Text(_) => ValueType::Text,
            ExprKind::Vector(_) | ExprKind::Aggregate(_) => ValueType::InstantVector,
            ExprKind::Range { .. } | ExprKind::Subquery { .. } => ValueType::RangeVector,
            ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => expr.value_type(),
            ExprKind::Binary(binary) => {
                if binary.matching.is_none()
                    && binary.left.value_type() == ValueType::Scalar
                    && binary.right.value_type() == ValueType::Scalar
                {
                    ValueType::Scalar
                } else {
                    ValueType::InstantVector
                }
            }
            ExprKind::Call { function, .. } => function.returns,
        }
    }

    /// The expression without parentheses around it.
    pub fn without_parens(&self) -> &Self {
        let mut expr = self;
        while let ExprKind::Paren(inner) = &expr.kind {
            expr = inner;
        }
        expr
    }

    /// Calls `visit` for the expression and everything in it.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Self)) {
        visit(self);
        match &self.kind {
            ExprKind::Number { .. } | ExprKind::Text(_) | ExprKind::Vector(_) | ExprKind::Range { .. } => {}
            ExprKind::Subquery { expr, .. } | ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => expr.walk(visit),
            ExprKind::Binary(binary) => {
                binary.left.walk(visit);
                binary.right.walk(visit);
            }
            ExprKind::Aggregate(aggregate) => {
                if let Some(parameter) = &aggregate.parameter {
                    parameter.walk(visit);
                }
                aggregate.expr.walk(visit);
            }
            ExprKind::Call { arguments, .. } => arguments.iter().for_each(|argument| argument.walk(visit)),
        }
    }

    /// The selectors in it, from left to right.
    pub fn selectors(&self) -> Vec<&Selector> {
        let mut selectors = Vec::new();
        self.walk(&mut |expr| match &expr.kind {
            ExprKind::Vector(selector) | ExprKind::Range { selector, .. } => selectors.push(selector),
            _ => {}
        });
        selectors
    }
}

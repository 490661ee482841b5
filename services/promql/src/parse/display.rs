//! Expressions as text, in Prometheus's form.

use std::fmt::{self, Write};

use super::ast::{AggregateExpr, At, BinaryExpr, Expr, ExprKind, Modifiers, Selector};
use super::number::{DisplayDuration, DisplayNumber};
use super::quote::{LabelName, Quoted};
use crate::labels::METRIC_NAME;
use crate::matcher::MatchOp;

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            #[expect(clippy::cast_possible_truncation, reason = "a duration's value was made from milliseconds")]
            ExprKind::Number { value, is_duration: true } => DisplayDuration((value * 1000.0).round() as i64).fmt(f),
            ExprKind::Number { value, is_duration: false } => DisplayNumber(*value).fmt(f),
            ExprKind::Text(text) => Quoted(text).fmt(f),
            ExprKind::Vector(selector) => write!(f, "{}{}", Matchers(selector), selector.modifiers),
            ExprKind::Range { selector, range_ms } => {
                write!(f, "{}[{}]{}", Matchers(selector), DisplayDuration(*range_ms), selector.modifiers)
            }
            ExprKind::Subquery { expr, .. } => write!(f, "{expr}{}", SubquerySuffix(self)),
            ExprKind::Unary { negative, expr } => write!(f, "{}{expr}", if *negative { '-' } else { '+' }),
            ExprKind::Binary(binary) => write!(f, "{} {} {}", binary.left, Operator(binary), binary.right),
            ExprKind::Aggregate(aggregate) => {
                write!(f, "{}(", AggregateHead(aggregate))?;
                if let Some(parameter) = &aggregate.parameter {
                    write!(f, "{parameter}, ")?;
                }
                write!(f, "{})", aggregate.expr)
            }
            ExprKind::Call { function, arguments } => {
                write!(f, "{}(", function.name)?;
                for (index, argument) in arguments.iter().enumerate() {
                    let separator = if index > 0 { ", " } else { "" };
                    write!(f, "{separator}{argument}")?;
                }
                f.write_char(')')
            }
            ExprKind::Paren(expr) => write!(f, "({expr})"),
        }
    }
}

struct Matchers<'a>(&'a Selector);

impl fmt::Display for Matchers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.name.as_deref().unwrap_or_default();
        f.write_str(name)?;
        let is_name = |matcher: &crate::matcher::Matcher| {
            !name.is_empty() && matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal && matcher.value() == name
        };
        let mut matchers: Vec<_> = self.0.matchers.iter().filter(|matcher| !is_name(matcher)).map(ToString::to_string).collect();
        if matchers.is_empty() {
            return Ok(());
        }
        matchers.sort();
        write!(f, "{{{}}}", matchers.join(","))
    }
}

impl fmt::Display for Modifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(At::Time { ms }) => write!(f, " @ {}{}.{:03}", if ms < 0 { "-" } else { "" }, ms.abs() / 1000, ms.abs() % 1000)?,
            Some(At::Start) => f.write_str(" @ start()")?,
            Some(At::End) => f.write_str(" @ end()")?,
            None => {}
        }
        match self.offset_ms {
            Some(offset_ms) if offset_ms != 0 => write!(f, " offset {}", DisplayDuration(offset_ms)),
            _ => Ok(()),
        }
    }
}

/// What stands behind the expression of a subquery.
pub(super) struct SubquerySuffix<'a>(pub(super) &'a Expr);

impl fmt::Display for SubquerySuffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExprKind::Subquery { range_ms, step_ms, modifiers, .. } = &self.0.kind else { return Ok(()) };
        write!(f, "[{}:", DisplayDuration(*range_ms))?;
        if let Some(step_ms) = step_ms {
            DisplayDuration(*step_ms).fmt(f)?;
        }
        write!(f, "]{modifiers}")
    }
}

/// An operator with its modifiers.
pub(super) struct Operator<'a>(pub(super) &'a BinaryExpr);

impl fmt::Display for Operator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.operator.as_str())?;
        if self.0.returns_bool {
            f.write_str(" bool")?;
        }
        let Some(matching) = &self.0.matching else { return Ok(()) };
        if matching.on || !matching.labels.is_empty() || matching.grouping.is_some() {
            write!(f, " {} ({})", if matching.on { "on" } else { "ignoring" }, LabelList(&matching.labels))?;
        }
        if let Some(grouping) = &matching.grouping {
            write!(f, " {} ({})", if grouping.many_on_left { "group_left" } else { "group_right" }, LabelList(&grouping.include))?;
        }
        Ok(())
    }
}

/// An aggregation up to the parenthesis of its arguments.
pub(super) struct AggregateHead<'a>(pub(super) &'a AggregateExpr);

impl fmt::Display for AggregateHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.operator.as_str())?;
        match &self.0.grouping {
            Some(grouping) if grouping.without => write!(f, " without ({}) ", LabelList(&grouping.labels)),
            Some(grouping) if !grouping.labels.is_empty() => write!(f, " by ({}) ", LabelList(&grouping.labels)),
            _ => Ok(()),
        }
    }
}

struct LabelList<'a>(&'a [String]);

impl fmt::Display for LabelList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.0.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{}", LabelName(label))?;
        }
        Ok(())
    }
}

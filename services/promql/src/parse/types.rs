//! Checks that expressions have the types that surround them ask for.

use super::ParseError;
use super::ast::{AggregateOperator, BinaryOperator, Expr, ValueType, VectorMatching};
use super::grammar::Parser;
use crate::functions::Function;
use crate::position::Span;

fn expect(parser: &Parser<'_>, expr: &Expr, expected: ValueType, context: &str) -> Result<(), ParseError> {
    let found = expr.value_type();
    if found == expected {
        return Ok(());
    }
    Err(parser.error_at(expr.span, format!("expected type {expected} in {context}, got {found}")))
}

pub(super) fn check_aggregation(
    parser: &Parser<'_>,
    operator: AggregateOperator,
    expr: &Expr,
    parameter: Option<&Expr>,
) -> Result<(), ParseError> {
    expect(parser, expr, ValueType::InstantVector, "aggregation expression")?;
    if let Some(parameter) = parameter {
        let expected = if operator == AggregateOperator::CountValues { ValueType::Text } else { ValueType::Scalar };
        expect(parser, parameter, expected, "aggregation parameter")?;
    }
    Ok(())
}

pub(super) fn check_call(parser: &Parser<'_>, function: &Function, arguments: &[Expr], span: Span) -> Result<(), ParseError> {
    let (name, got) = (function.name, arguments.len());
    let (fewest, most) = function.argument_counts();
    if Some(fewest) == most && got != fewest {
        return Err(parser.error_at(span, format!("expected {fewest} argument(s) in call to {name:?}, got {got}")));
    }
    if got < fewest {
        return Err(parser.error_at(span, format!("expected at least {fewest} argument(s) in call to {name:?}, got {got}")));
    }
    if let Some(most) = most.filter(|most| got > *most) {
        return Err(parser.error_at(span, format!("expected at most {most} argument(s) in call to {name:?}, got {got}")));
    }
    for (index, argument) in arguments.iter().enumerate() {
        expect(parser, argument, function.argument_type(index), &format!("call to function {name:?}"))?;
    }
    Ok(())
}

pub(super) fn check_sign(parser: &Parser<'_>, expr: &Expr, span: Span) -> Result<(), ParseError> {
    match expr.value_type() {
        ValueType::Scalar | ValueType::InstantVector => Ok(()),
        other => {
            Err(parser
                .error_at(span, format!("unary expression only allowed on expressions of type scalar or instant vector, got {other}")))
        }
    }
}

pub(super) fn check_subquery(parser: &Parser<'_>, expr: &Expr, span: Span) -> Result<(), ParseError> {
    match expr.value_type() {
        ValueType::InstantVector => Ok(()),
        other => Err(parser.error_at(span, format!("subquery is only allowed on instant vector, got {other} instead"))),
    }
}

/// Checks an operation and returns how its vectors are matched, if both operands are vectors.
pub(super) fn check_binary(
    parser: &Parser<'_>,
    operator: BinaryOperator,
    left: &Expr,
    right: &Expr,
    returns_bool: bool,
    matching: Option<(VectorMatching, Span)>,
    operator_span: Span,
) -> Result<Option<VectorMatching>, ParseError> {
    let name = operator.as_str();
    for operand in [left, right] {
        if !matches!(operand.value_type(), ValueType::Scalar | ValueType::InstantVector) {
            return Err(parser.error_at(operand.span, "binary expression must contain only scalar and instant vector types"));
        }
    }
    let scalars = [left, right].into_iter().filter(|operand| operand.value_type() == ValueType::Scalar).count();
    if returns_bool && !operator.is_comparison() {
        return Err(parser.error_at(operator_span, "bool modifier can only be used on comparison operators"));
    }
    if operator.is_comparison() && !returns_bool && scalars == 2 {
        return Err(parser.error_at(operator_span, "comparisons between scalars must use BOOL modifier"));
    }
    if operator.is_set() && scalars > 0 {
        return Err(parser.error_at(left.span.to(right.span), format!("set operator {name:?} not allowed in binary scalar expression")));
    }
    let Some((matching, span)) = matching else {
        return Ok((scalars == 0).then(VectorMatching::default));
    };
    if scalars > 0 {
        // Without labels there is nothing to match, which is let pass.
        let ignored = matching.labels.is_empty();
        return if ignored { Ok(None) } else { Err(parser.error_at(span, "vector matching only allowed between instant vectors")) };
    }
    if let Some(grouping) = &matching.grouping {
        if operator.is_set() {
            return Err(parser.error_at(span, format!("no grouping allowed for {name:?} operation")));
        }
        if let Some(label) = grouping.include.iter().find(|label| matching.on && matching.labels.contains(label)) {
            return Err(parser.error_at(span, format!("label {label:?} must not occur in ON and GROUP clause at once")));
        }
    }
    Ok(Some(matching))
}

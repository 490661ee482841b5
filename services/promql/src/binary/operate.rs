//! Operators on numbers.

use crate::parse::ast::BinaryOperator;

/// The function of an operator that computes.
pub(crate) fn arithmetic(operator: BinaryOperator) -> fn(f64, f64) -> f64 {
    match operator {
        BinaryOperator::Add => |left, right| left + right,
        BinaryOperator::Subtract => |left, right| left - right,
        BinaryOperator::Multiply => |left, right| left * right,
        BinaryOperator::Divide => |left, right| left / right,
        BinaryOperator::Modulo => |left, right| left % right,
        BinaryOperator::Power => f64::powf,
        BinaryOperator::Atan2 => f64::atan2,
        _ => unreachable!("comparisons and set operators do not compute"),
    }
}

/// Whether a comparison holds.
pub(crate) fn compare(operator: BinaryOperator, left: f64, right: f64) -> bool {
    match operator {
        BinaryOperator::Equal => left == right,
        BinaryOperator::NotEqual => left != right,
        BinaryOperator::Less => left < right,
        BinaryOperator::LessOrEqual => left <= right,
        BinaryOperator::Greater => left > right,
        BinaryOperator::GreaterOrEqual => left >= right,
        _ => unreachable!("only comparisons compare"),
    }
}

//! Operators between expressions, with their precedence and modifiers.

use super::ast::{BinaryExpr, BinaryOperator, Expr, ExprKind, MatchGrouping, VectorMatching};
use super::grammar::Parser;
use super::lexer::Token;
use super::{ParseError, types};
use crate::position::Span;

/// A sign binds as `*` does: `-a ^ b` negates the power, `-a * b` multiplies the negated.
const SIGN_PRECEDENCE: u8 = 5;
const POWER_PRECEDENCE: u8 = 6;

fn precedence(operator: BinaryOperator) -> u8 {
    match operator {
        BinaryOperator::Or => 1,
        BinaryOperator::And | BinaryOperator::Unless => 2,
        BinaryOperator::Equal
        | BinaryOperator::NotEqual
        | BinaryOperator::Less
        | BinaryOperator::LessOrEqual
        | BinaryOperator::Greater
        | BinaryOperator::GreaterOrEqual => 3,
        BinaryOperator::Add | BinaryOperator::Subtract => 4,
        BinaryOperator::Multiply | BinaryOperator::Divide | BinaryOperator::Modulo | BinaryOperator::Atan2 => SIGN_PRECEDENCE,
        BinaryOperator::Power => POWER_PRECEDENCE,
    }
}

impl Parser<'_> {
    /// Operands joined by operators that bind at least so tight.
    pub(super) fn operators(&mut self, lowest: u8) -> Result<Expr, ParseError> {
        let mut left = self.signed()?;
        while let Some(operator) = self.operator() {
            if precedence(operator) < lowest {
                break;
            }
            self.advance();
            let (returns_bool, matching) = self.operator_modifiers()?;
            // The power is the one operator that groups to the right.
            let next = precedence(operator) + u8::from(operator != BinaryOperator::Power);
            let right = self.nested(|parser| parser.operators(next))?;
            left = self.binary(operator, left, right, returns_bool, matching)?;
        }
        Ok(left)
    }

    fn signed(&mut self) -> Result<Expr, ParseError> {
        let span = self.span();
        let negative = match self.peek() {
            Token::Minus => true,
            Token::Plus => false,
            _ => return self.operand(),
        };
        self.advance();
        let expr = self.nested(|parser| parser.operators(POWER_PRECEDENCE))?;
        let span = span.to(expr.span);
        if let ExprKind::Number { value, is_duration } = expr.kind {
            let value = if negative { -value } else { value };
            return self.node(ExprKind::Number { value, is_duration }, span, 0);
        }
        types::check_sign(self, &expr, span)?;
        let depth = expr.depth;
        self.node(ExprKind::Unary { negative, expr: Box::new(expr) }, span, depth)
    }

    fn operator(&self) -> Option<BinaryOperator> {
        Some(match self.peek() {
            Token::Plus => BinaryOperator::Add,
            Token::Minus => BinaryOperator::Subtract,
            Token::Star => BinaryOperator::Multiply,
            Token::Slash => BinaryOperator::Divide,
            Token::Percent => BinaryOperator::Modulo,
            Token::Caret => BinaryOperator::Power,
            Token::EqualEqual => BinaryOperator::Equal,
            Token::NotEqual => BinaryOperator::NotEqual,
            Token::Less => BinaryOperator::Less,
            Token::LessEqual => BinaryOperator::LessOrEqual,
            Token::Greater => BinaryOperator::Greater,
            Token::GreaterEqual => BinaryOperator::GreaterOrEqual,
            Token::Identifier => {
                let words = [BinaryOperator::And, BinaryOperator::Or, BinaryOperator::Unless, BinaryOperator::Atan2];
                return words.into_iter().find(|operator| self.is_keyword(operator.as_str()));
            }
            _ => return None,
        })
    }

    /// `bool`, `on`, `ignoring`, `group_left` and `group_right` behind an operator.
    fn operator_modifiers(&mut self) -> Result<(bool, Option<(VectorMatching, Span)>), ParseError> {
        let returns_bool = self.take_keyword("bool");
        let start = self.span();
        let on = self.is_keyword("on");
        let mut matching = None;
        if (on || self.is_keyword("ignoring")) && self.peek_at(1) == &Token::LeftParen {
            self.advance();
            let labels = self.label_list()?;
            let mut grouping = None;
            let many_on_left = self.is_keyword("group_left");
            if many_on_left || self.is_keyword("group_right") {
                self.advance();
                let include = if self.peek() == &Token::LeftParen { self.label_list()? } else { Vec::new() };
                grouping = Some(MatchGrouping { many_on_left, include });
            }
            matching = Some((VectorMatching { on, labels, grouping }, start.to(self.last_span())));
        } else if self.is_keyword("group_left") || self.is_keyword("group_right") {
            return Err(self.unexpected("", "\"on\" or \"ignoring\" in front of it"));
        }
        for fill in ["fill", "fill_left", "fill_right"] {
            if self.is_keyword(fill) && self.peek_at(1) == &Token::LeftParen {
                let message = format!("the modifier {fill:?} is experimental in Prometheus and not supported");
                return Err(self.unsupported(self.span(), message));
            }
        }
        Ok((returns_bool, matching))
    }

    fn binary(
        &self,
        operator: BinaryOperator,
        left: Expr,
        right: Expr,
        returns_bool: bool,
        matching: Option<(VectorMatching, Span)>,
    ) -> Result<Expr, ParseError> {
        let span = left.span.to(right.span);
        let operator_span = Span::new(left.span.end, right.span.start);
        let matching = types::check_binary(self, operator, &left, &right, returns_bool, matching, operator_span)?;
        let depth = left.depth.max(right.depth);
        self.node(ExprKind::Binary(Box::new(BinaryExpr { operator, left, right, returns_bool, matching })), span, depth)
    }
}

#[cfg(test)]
mod tests {
    use crate::parse::{ParseLimits, parse};

    /// The expression with parentheses around every operation.
    fn grouped(query: &str) -> String {
        use crate::parse::ast::ExprKind;
        fn write(expr: &super::Expr) -> String {
            match &expr.kind {
                ExprKind::Binary(binary) => format!("({} {} {})", write(&binary.left), binary.operator.as_str(), write(&binary.right)),
                ExprKind::Unary { expr, .. } => format!("(-{})", write(expr)),
                ExprKind::Paren(expr) => write(expr),
                _ => expr.to_string(),
            }
        }
        write(&parse(query, &ParseLimits::default()).unwrap())
    }

    #[test]
    fn operators_bind_as_documented() {
        for (query, expected) in [
            ("a + b * c", "(a + (b * c))"),
            ("a * b + c", "((a * b) + c)"),
            ("a - b - c", "((a - b) - c)"),
            ("a ^ b ^ c", "(a ^ (b ^ c))"),
            ("a % b ^ c", "(a % (b ^ c))"),
            ("a and b or c unless d", "((a and b) or (c unless d))"),
            ("a or b and c", "(a or (b and c))"),
            ("a == b + c", "(a == (b + c))"),
            ("a < b == c", "((a < b) == c)"),
            ("a atan2 b / c", "((a atan2 b) / c)"),
            ("-a ^ b", "(-(a ^ b))"),
            ("-a * b", "((-a) * b)"),
            ("a ^ -b ^ c", "(a ^ (-(b ^ c)))"),
            ("a ^ - - b * c", "((a ^ (-(-b))) * c)"),
            ("- a offset 5m", "(-a offset 5m)"),
        ] {
            assert_eq!(grouped(query), expected, "{query}");
        }
    }

    #[test]
    fn signs_of_numbers_are_part_of_them() {
        assert_eq!(parse("---1", &ParseLimits::default()).unwrap().to_string(), "-1");
        assert_eq!(grouped("-2 ^ 2"), "(-(2 ^ 2))");
    }
}

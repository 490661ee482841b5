//! The grammar of expressions, by recursive descent; operators are in `operators`, selectors in `selector`.

use super::ast::{AggregateExpr, AggregateOperator, At, Expr, ExprKind, Grouping, Modifiers, Selector};
use super::lexer::{Lexeme, Token, lex};
use super::number::{MAX_DURATION_MS, seconds_to_ms};
use super::patterns::PatternCount;
use super::{ParseError, ParseLimits, types};
use crate::functions;
use crate::position::Span;

const DURATION_EXPRESSIONS: &str =
    "durations that are computed are experimental in Prometheus and not supported; write the duration as one number";

pub(super) struct Parser<'a> {
    query: &'a str,
    lexemes: Vec<Lexeme>,
    at: usize,
    /// How many expressions are being read around the current one.
    nesting: usize,
    pub(super) limits: ParseLimits,
    /// The regular expressions so far.
    pub(super) patterns: PatternCount,
}

impl<'a> Parser<'a> {
    pub(super) fn new(query: &'a str, limits: &ParseLimits) -> Result<Self, ParseError> {
        if query.len() > limits.max_query_bytes {
            let message = format!("the query has {} bytes, more than the {} that are allowed", query.len(), limits.max_query_bytes);
            return Err(ParseError::new(query, Span::default(), message));
        }
        Ok(Self { query, lexemes: lex(query)?, at: 0, nesting: 0, limits: *limits, patterns: PatternCount::default() })
    }

    /// The whole query as an expression.
    pub(super) fn expression(mut self) -> Result<Expr, ParseError> {
        if self.peek() == &Token::End {
            return Err(self.error_at(self.span(), "no expression found in input"));
        }
        let expr = self.expr()?;
        self.end_of_input()?;
        Ok(expr)
    }

    /// The whole query as a selector.
    pub(super) fn only_selector(mut self) -> Result<Selector, ParseError> {
        let selector = self.selector()?;
        self.end_of_input()?;
        Ok(selector)
    }

    fn end_of_input(&self) -> Result<(), ParseError> {
        if self.peek() == &Token::End { Ok(()) } else { Err(self.unexpected("", "")) }
    }

    pub(super) fn peek(&self) -> &Token {
        &self.lexemes[self.at].token
    }

    /// The token so far behind the current one.
    pub(super) fn peek_at(&self, ahead: usize) -> &Token {
        &self.lexemes[(self.at + ahead).min(self.lexemes.len() - 1)].token
    }

    pub(super) fn span(&self) -> Span {
        self.lexemes[self.at].span
    }

    /// The span of the token that was taken last.
    pub(super) fn last_span(&self) -> Span {
        self.lexemes[self.at.saturating_sub(1)].span
    }

    pub(super) fn advance(&mut self) {
        self.at = (self.at + 1).min(self.lexemes.len() - 1);
    }

    /// Takes the token if it is this one.
    pub(super) fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == token;
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect(&mut self, token: &Token, context: &str, expected: &str) -> Result<(), ParseError> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected(context, expected)) }
    }

    /// The text of the current token.
    pub(super) fn text(&self) -> &'a str {
        let span = self.span();
        &self.query[span.start..span.end]
    }

    /// Whether the current token is this keyword, in any case.
    pub(super) fn is_keyword(&self, keyword: &str) -> bool {
        self.peek() == &Token::Identifier && self.text().eq_ignore_ascii_case(keyword)
    }

    pub(super) fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.is_keyword(keyword);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn error_at(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::new(self.query, span, message)
    }

    pub(super) fn unsupported(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::unsupported(self.query, span, message)
    }

    /// The error for a token that can't stand where it stands.
    pub(super) fn unexpected(&self, context: &str, expected: &str) -> ParseError {
        let found = match self.peek() {
            Token::End => "end of input".to_owned(),
            Token::Identifier => format!("identifier {:?}", self.text()),
            Token::Number(_) => format!("number {:?}", self.text()),
            Token::Duration(_) => format!("duration {:?}", self.text()),
            Token::Text(_) => format!("string {}", self.text()),
            _ => format!("{:?}", self.text()),
        };
        let context = if context.is_empty() { String::new() } else { format!(" in {context}") };
        let expected = if expected.is_empty() { String::new() } else { format!(", expected {expected}") };
        self.error_at(self.span(), format!("unexpected {found}{context}{expected}"))
    }

    /// A node of the tree over children of at most this depth, if it is not nested too deep.
    pub(super) fn node(&self, kind: ExprKind, span: Span, children_depth: usize) -> Result<Expr, ParseError> {
        let depth = 1 + children_depth;
        self.check_depth(depth, span)?;
        Ok(Expr { kind, span, depth })
    }

    fn check_depth(&self, depth: usize, span: Span) -> Result<(), ParseError> {
        if depth > self.limits.max_depth {
            return Err(self.error_at(span, format!("the expression is nested deeper than {} levels", self.limits.max_depth)));
        }
        Ok(())
    }

    /// An expression, with the nesting counted while it is read.
    pub(super) fn expr(&mut self) -> Result<Expr, ParseError> {
        self.nested(|parser| parser.operators(0))
    }

    pub(super) fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Expr, ParseError>) -> Result<Expr, ParseError> {
        self.nesting += 1;
        self.check_depth(self.nesting, self.span())?;
        let expr = read(self);
        self.nesting -= 1;
        expr
    }

    /// An operand with what stands behind it: a range, `offset`, `@`.
    pub(super) fn operand(&mut self) -> Result<Expr, ParseError> {
        let mut expr = self.primary()?;
        loop {
            if self.peek() == &Token::LeftBracket {
                expr = self.range(expr)?;
            } else if self.is_keyword("offset") {
                self.advance();
                self.offset(&mut expr)?;
            } else if self.take(&Token::At) {
                self.at_modifier(&mut expr)?;
            } else if self.is_keyword("anchored") || self.is_keyword("smoothed") {
                let message =
                    format!("the modifier {:?} is experimental in Prometheus and not supported", self.text().to_ascii_lowercase());
                return Err(self.unsupported(self.span(), message));
            } else {
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        let span = self.span();
        match self.peek().clone() {
            Token::Number(value) => {
                self.advance();
                self.node(ExprKind::Number { value, is_duration: false }, span, 0)
            }
            Token::Duration(ms) => {
                self.advance();
                self.node(ExprKind::Number { value: ms as f64 / 1000.0, is_duration: true }, span, 0)
            }
            Token::Text(text) => {
                self.advance();
                self.node(ExprKind::Text(text), span, 0)
            }
            Token::LeftParen => {
                self.advance();
                let inner = self.expr()?;
                self.expect(&Token::RightParen, "parentheses", "\")\"")?;
                let depth = inner.depth;
                self.node(ExprKind::Paren(Box::new(inner)), span.to(self.last_span()), depth)
            }
            Token::LeftBrace => self.vector(),
            Token::Identifier => self.identifier(),
            _ => Err(self.unexpected("", "an expression")),
        }
    }

    fn vector(&mut self) -> Result<Expr, ParseError> {
        let span = self.span();
        let selector = self.selector()?;
        self.node(ExprKind::Vector(selector), span.to(self.last_span()), 0)
    }

    /// What starts with a name: a number, an aggregation, a call or a selector.
    fn identifier(&mut self) -> Result<Expr, ParseError> {
        let span = self.span();
        let name = self.text();
        let lower = name.to_ascii_lowercase();
        let called = self.peek_at(1) == &Token::LeftParen;
        if lower == "inf" || lower == "nan" {
            self.advance();
            let value = if lower == "inf" { f64::INFINITY } else { f64::NAN };
            return self.node(ExprKind::Number { value, is_duration: false }, span, 0);
        }
        let grouped = self.peek_at(1) == &Token::Identifier && self.next_is_grouping();
        if called || grouped {
            if let Some(operator) = AggregateOperator::ALL.into_iter().find(|operator| operator.as_str() == lower) {
                return self.aggregation(operator);
            }
            if lower == "limitk" || lower == "limit_ratio" {
                let message = format!("the aggregation {lower:?} is experimental in Prometheus and not supported");
                return Err(self.unsupported(span, message));
            }
        }
        if called {
            return self.call(name);
        }
        if matches!(lower.as_str(), "bool" | "on" | "ignoring" | "group_left" | "group_right" | "atan2") {
            return Err(self.unexpected("", "an expression"));
        }
        self.vector()
    }

    fn next_is_grouping(&self) -> bool {
        let span = self.lexemes[self.at + 1].span;
        let next = &self.query[span.start..span.end];
        next.eq_ignore_ascii_case("by") || next.eq_ignore_ascii_case("without")
    }

    fn aggregation(&mut self, operator: AggregateOperator) -> Result<Expr, ParseError> {
        let start = self.span();
        self.advance();
        let mut grouping = self.grouping()?;
        let mut arguments = self.arguments("aggregation")?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let span = start.to(self.last_span());
        let expected = if operator.has_parameter() { 2 } else { 1 };
        if arguments.len() != expected {
            let message = format!(
                "wrong number of arguments for aggregate expression provided to {:?}, expected {expected}, got {}",
                operator.as_str(),
                arguments.len()
            );
            return Err(self.error_at(span, message));
        }
        let expr = arguments.pop().expect("there is at least one");
        let parameter = arguments.pop();
        types::check_aggregation(self, operator, &expr, parameter.as_ref())?;
        let depth = expr.depth.max(parameter.as_ref().map_or(0, |parameter| parameter.depth));
        self.node(ExprKind::Aggregate(Box::new(AggregateExpr { operator, expr, parameter, grouping })), span, depth)
    }

    fn grouping(&mut self) -> Result<Option<Grouping>, ParseError> {
        let without = self.is_keyword("without");
        if !without && !self.is_keyword("by") {
            return Ok(None);
        }
        self.advance();
        Ok(Some(Grouping { without, labels: self.label_list()? }))
    }

    fn call(&mut self, name: &str) -> Result<Expr, ParseError> {
        let start = self.span();
        let function = functions::find(name).map_err(|error| {
            if error.is_unsupported() { self.unsupported(start, error.to_string()) } else { self.error_at(start, error.to_string()) }
        })?;
        self.advance();
        let arguments = self.arguments(&format!("call to function {name:?}"))?;
        let span = start.to(self.last_span());
        types::check_call(self, function, &arguments, span)?;
        self.count_patterns_of_call(function, &arguments, span)?;
        let depth = arguments.iter().map(|argument| argument.depth).max().unwrap_or_default();
        self.node(ExprKind::Call { function, arguments }, span, depth)
    }

    /// Expressions in parentheses.
    fn arguments(&mut self, context: &str) -> Result<Vec<Expr>, ParseError> {
        self.expect(&Token::LeftParen, context, "\"(\"")?;
        let mut arguments = Vec::new();
        if self.take(&Token::RightParen) {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expr()?);
            if self.take(&Token::RightParen) {
                return Ok(arguments);
            }
            self.expect(&Token::Comma, context, "\",\" or \")\"")?;
            if self.peek() == &Token::RightParen {
                return Err(self.error_at(self.last_span(), "trailing commas not allowed in function call args"));
            }
        }
    }

    /// `[5m]` or `[5m:1m]` behind an expression.
    fn range(&mut self, expr: Expr) -> Result<Expr, ParseError> {
        let bracket = self.span();
        self.advance();
        let range_ms = self.positive_duration("subquery or range selector")?;
        if self.take(&Token::Colon) {
            let step_ms = if self.peek() == &Token::RightBracket { None } else { Some(self.positive_duration("subquery selector")?) };
            self.expect(&Token::RightBracket, "subquery selector", "\"]\"")?;
            let span = expr.span.to(self.last_span());
            types::check_subquery(self, &expr, span)?;
            let depth = expr.depth;
            let kind = ExprKind::Subquery { expr: Box::new(expr), range_ms, step_ms, modifiers: Modifiers::default() };
            return self.node(kind, span, depth);
        }
        self.expect(&Token::RightBracket, "subquery or range selector", "\":\" or \"]\"")?;
        let brackets = bracket.to(self.last_span());
        let ExprKind::Vector(selector) = expr.kind else {
            return Err(self.error_at(brackets, "ranges only allowed for vector selectors"));
        };
        if selector.modifiers.offset_ms.is_some() {
            return Err(self.error_at(brackets, "no offset modifiers allowed before range"));
        }
        if selector.modifiers.at.is_some() {
            return Err(self.error_at(brackets, "no @ modifiers allowed before range"));
        }
        self.node(ExprKind::Range { selector, range_ms }, expr.span.to(brackets), 0)
    }

    /// A duration, or a number of seconds.
    fn duration(&mut self, context: &str) -> Result<i64, ParseError> {
        let ms = match *self.peek() {
            Token::Duration(ms) => ms,
            Token::Number(seconds) => {
                let out_of_range =
                    || self.error_at(self.span(), format!("duration out of range, it may be {} s at most", MAX_DURATION_MS / 1000));
                seconds_to_ms(seconds).ok_or_else(out_of_range)?
            }
            Token::LeftParen => return Err(self.unsupported(self.span(), DURATION_EXPRESSIONS)),
            Token::Identifier if ["step", "range", "min", "max"].iter().any(|name| self.is_keyword(name)) => {
                return Err(self.unsupported(self.span(), DURATION_EXPRESSIONS));
            }
            _ => return Err(self.unexpected(context, "duration")),
        };
        self.advance();
        Ok(ms)
    }

    fn positive_duration(&mut self, context: &str) -> Result<i64, ParseError> {
        let span = self.span();
        let ms = self.duration(context)?;
        if matches!(self.peek(), Token::Plus | Token::Minus | Token::Star | Token::Slash | Token::Percent | Token::Caret) {
            return Err(self.unsupported(self.span(), DURATION_EXPRESSIONS));
        }
        if ms <= 0 {
            return Err(self.error_at(span, "duration must be greater than 0"));
        }
        Ok(ms)
    }

    fn offset(&mut self, expr: &mut Expr) -> Result<(), ParseError> {
        let keyword = self.last_span();
        let negative = self.take(&Token::Minus);
        if !negative {
            self.take(&Token::Plus);
        }
        let ms = self.duration("offset")?;
        let span = keyword.to(self.last_span());
        let modifiers = self.modifiers(expr, span, "offset modifier")?;
        if modifiers.offset_ms.replace(if negative { -ms } else { ms }).is_some() {
            return Err(self.error_at(span, "offset may not be set multiple times"));
        }
        expr.span = expr.span.to(span);
        Ok(())
    }

    fn at_modifier(&mut self, expr: &mut Expr) -> Result<(), ParseError> {
        let sign = self.last_span();
        let at = if (self.is_keyword("start") || self.is_keyword("end")) && self.peek_at(1) == &Token::LeftParen {
            let at = if self.is_keyword("start") { At::Start } else { At::End };
            self.advance();
            self.advance();
            self.expect(&Token::RightParen, "@", "\")\"")?;
            at
        } else {
            At::Time { ms: self.timestamp()? }
        };
        let span = sign.to(self.last_span());
        let modifiers = self.modifiers(expr, span, "@ modifier")?;
        if modifiers.at.replace(at).is_some() {
            return Err(self.error_at(span, "@ <timestamp> may not be set multiple times"));
        }
        expr.span = expr.span.to(span);
        Ok(())
    }

    fn timestamp(&mut self) -> Result<i64, ParseError> {
        let negative = self.take(&Token::Minus);
        if !negative {
            self.take(&Token::Plus);
        }
        let span = self.span();
        let seconds = match *self.peek() {
            Token::Number(seconds) => seconds,
            Token::Duration(ms) => ms as f64 / 1000.0,
            Token::Identifier if self.is_keyword("inf") || self.is_keyword("nan") => f64::NAN,
            _ => return Err(self.unexpected("@", "timestamp")),
        };
        self.advance();
        let ms = seconds_to_ms(seconds).ok_or_else(|| self.error_at(span, format!("timestamp out of bounds for @ modifier: {seconds}")))?;
        Ok(if negative { -ms } else { ms })
    }

    fn modifiers<'e>(&self, expr: &'e mut Expr, span: Span, what: &str) -> Result<&'e mut Modifiers, ParseError> {
        match &mut expr.kind {
            ExprKind::Vector(selector) | ExprKind::Range { selector, .. } => Ok(&mut selector.modifiers),
            ExprKind::Subquery { modifiers, .. } => Ok(modifiers),
            _ => {
                let message = format!("{what} must be preceded by an instant vector selector or range vector selector or a subquery");
                Err(self.error_at(span, message))
            }
        }
    }
}

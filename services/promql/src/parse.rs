//! Reads queries.
//!
//! The parser is this crate's own, because every error and every annotation of Prometheus says where in the query it
//! arose, and because a server has to survive any text: the crates that were looked at give no positions, panic on
//! `x offset inf` and overflow the stack on a long chain of operators. This one bounds the nesting while it reads.
//!
//! It reads what Prometheus 3 documents. What is experimental there is recognised and refused by its name.

pub mod ast;
mod display;
mod grammar;
mod lexer;
pub(crate) mod number;
mod operators;
mod patterns;
mod pretty;
pub(crate) mod quote;
mod selector;
mod types;

use ast::Expr;
pub use number::{DisplayDuration, parse_duration};

use crate::matcher::Matcher;
use crate::position::{Position, Span};

/// What a query may look like.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    /// How deep expressions may nest; a chain of operators nests once for each operator.
    pub max_depth: usize,
    /// How long a query may be.
    pub max_query_bytes: usize,
    /// How many regular expressions it may have.
    pub max_patterns: usize,
    /// How much memory they may take together when they are compiled.
    pub max_compiled_bytes: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { max_depth: 128, max_query_bytes: 128 * 1024, max_patterns: 128, max_compiled_bytes: 8 << 20 }
    }
}

/// A query that can't be evaluated, and where in its text the reason is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: parse error: {message}")]
pub struct ParseError {
    message: String,
    span: Span,
    position: Position,
    unsupported: bool,
}

impl ParseError {
    pub(crate) fn new(query: &str, span: Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), span, position: span.position(query), unsupported: false }
    }

    pub(crate) fn unsupported(query: &str, span: Span, message: impl Into<String>) -> Self {
        Self { unsupported: true, ..Self::new(query, span, message) }
    }

    /// What is wrong, without the position.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The part of the query that is wrong.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Where the wrong part starts.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether Prometheus knows this but this crate does not: something experimental.
    pub fn is_unsupported(&self) -> bool {
        self.unsupported
    }
}

/// Reads an expression and checks its types.
///
/// ```
/// use golectra_promql::parse::{ParseLimits, parse};
/// let expr = parse("sum(rate(x[5m]))by(job)", &ParseLimits::default())?;
/// assert_eq!(expr.to_string(), "sum by (job) (rate(x[5m]))");
/// let error = parse("sum(x", &ParseLimits::default()).unwrap_err();
/// assert_eq!(error.to_string(), r#"1:6: parse error: unexpected end of input in aggregation, expected "," or ")""#);
/// # Ok::<_, golectra_promql::parse::ParseError>(())
/// ```
pub fn parse(query: &str, limits: &ParseLimits) -> Result<Expr, ParseError> {
    grammar::Parser::new(query, limits)?.expression()
}

/// Reads a selector such as `up{job="node"}`, as the parameter `match[]` of Prometheus's API has it.
pub fn parse_selector(selector: &str, limits: &ParseLimits) -> Result<Vec<Matcher>, ParseError> {
    grammar::Parser::new(selector, limits)?.only_selector().map(|selector| selector.matchers)
}

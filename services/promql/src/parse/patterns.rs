//! Counts the regular expressions of a query: compiled they take far more memory than their text.

use super::ParseError;
use super::ast::{Expr, ExprKind};
use super::grammar::Parser;
use crate::functions::{Function, FunctionKind};
use crate::pattern;
use crate::position::Span;

/// How many there are, and what they take compiled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PatternCount {
    patterns: usize,
    compiled_bytes: usize,
}

impl Parser<'_> {
    /// Counts one that takes so much when it is compiled.
    pub(super) fn count_pattern(&mut self, compiled_bytes: usize, span: Span) -> Result<(), ParseError> {
        self.patterns.patterns += 1;
        self.patterns.compiled_bytes += compiled_bytes;
        if self.patterns.patterns > self.limits.max_patterns {
            return Err(self.error_at(span, format!("more than {} regular expressions are not allowed", self.limits.max_patterns)));
        }
        if self.patterns.compiled_bytes > self.limits.max_compiled_bytes {
            let message = format!("the regular expressions need more than {} bytes compiled", self.limits.max_compiled_bytes);
            return Err(self.error_at(span, message));
        }
        Ok(())
    }

    /// Counts the one that `label_replace` takes. If it is none, that is said when the query is evaluated, as in Prometheus.
    pub(super) fn count_patterns_of_call(&mut self, function: &Function, arguments: &[Expr], span: Span) -> Result<(), ParseError> {
        if function.kind != FunctionKind::LabelReplace {
            return Ok(());
        }
        let Some(ExprKind::Text(pattern)) = arguments.get(4).map(|argument| &argument.without_parens().kind) else { return Ok(()) };
        self.count_pattern(pattern::compile(pattern).map_or(0, |compiled| compiled.max_bytes), span)
    }
}

#[cfg(test)]
mod tests {
    use crate::parse::{ParseLimits, parse, parse_selector};

    fn error(query: &str) -> Option<String> {
        parse(query, &ParseLimits::default()).err().map(|error| error.message().to_owned())
    }

    #[test]
    fn regular_expressions_are_bounded_in_number_and_size() {
        let selectors = |matcher: &str, many: usize| format!("x{{{}}}", vec![matcher; many].join(","));
        assert_eq!(error(&selectors("a=~\"b.*\"", 128)), None);
        assert_eq!(error(&selectors("a=~\"b|c\"", 1_000)), None, "nothing is compiled for a list of texts");
        let too_many = "more than 128 regular expressions are not allowed";
        assert_eq!(error(&selectors("a=~\"b.*\"", 129)).as_deref(), Some(too_many));
        let large = "the regular expressions need more than 8388608 bytes compiled";
        assert_eq!(error(&selectors("a=~\"(b{1000}){20}.*\"", 9)).as_deref(), Some(large));
        assert!(parse_selector(&selectors("a=~\"b.*\"", 129), &ParseLimits::default()).is_err());
    }

    #[test]
    fn patterns_of_label_replace_count_too() {
        let limits = ParseLimits { max_patterns: 2, ..ParseLimits::default() };
        let replace = |inner: &str| format!("label_replace({inner}, \"a\", \"\", \"b\", \"c.*\")");
        assert!(parse(&replace(&replace("x")), &limits).is_ok());
        assert!(parse(&replace(&replace("x{a=~\"b.*\"}")), &limits).is_err());
        assert!(parse("label_replace(x, \"a\", \"\", \"b\", \"(\")", &limits).is_ok(), "an error of the evaluation");
    }
}

//! Matching series by their labels, as Prometheus's matchers do.

use golectra_protocol::IdParts;
use regex::{Regex, RegexBuilder};

/// The label that stands for the metric's name.
pub const NAME_LABEL: &str = "__name__";
/// The label that stands for the source, where the id has none of that name.
pub const SOURCE_LABEL: &str = "instance";
/// How large a compiled regular expression may be, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`: the whole value matches the regular expression.
    Regex,
    /// `!~`
    NotRegex,
}

/// One condition on a label. A label that a series does not have is compared as the empty text.
#[derive(Debug, Clone)]
pub struct Matcher {
    label: String,
    op: MatchOp,
    value: String,
    regex: Option<Regex>,
}

/// The regular expression can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the regular expression {pattern:?} can't be used: {reason}")]
pub struct RegexError {
    pattern: String,
    reason: String,
}

impl Matcher {
    /// A matcher; an error where the value is to be a regular expression and is none, or one that is too large.
    pub fn new(label: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Self, RegexError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => {
                let built = RegexBuilder::new(&format!("^(?s:{value})$")).size_limit(MAX_REGEX_BYTES).build();
                Some(built.map_err(|error| RegexError { pattern: value.clone(), reason: error.to_string() })?)
            }
        };
        Ok(Self { label: label.into(), op, value, regex })
    }

    /// The label that is compared.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// How it is compared.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// Whether a label of this value matches; an absent one has the empty text.
    pub fn matches(&self, value: &str) -> bool {
        let regex = || self.regex.as_ref().is_some_and(|regex| regex.is_match(value));
        match self.op {
            MatchOp::Equal => value == self.value,
            MatchOp::NotEqual => value != self.value,
            MatchOp::Regex => regex(),
            MatchOp::NotRegex => !regex(),
        }
    }

    /// Whether only series that have the label can match, so that an index of labels finds all of them.
    pub fn needs_label(&self) -> bool {
        matches!(self.op, MatchOp::Equal | MatchOp::Regex) && !self.matches("")
    }

    /// The only values that can match, where the matcher names them: `a`, or `a|b|c` as a regular expression.
    pub fn literals(&self) -> Option<Vec<&str>> {
        match self.op {
            MatchOp::Equal => Some(vec![&self.value]),
            MatchOp::Regex if !self.value.contains(|c: char| "\\.+*?()[]{}^$".contains(c)) => Some(self.value.split('|').collect()),
            _ => None,
        }
    }

    /// Whether a series of this source matches.
    pub fn matches_series(&self, source: &str, id: &IdParts<'_>) -> bool {
        let value = match self.label.as_str() {
            NAME_LABEL => &id.name,
            SOURCE_LABEL => id.label(SOURCE_LABEL).unwrap_or(source),
            label => id.label(label).unwrap_or_default(),
        };
        self.matches(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(label: &str, op: MatchOp, value: &str) -> Matcher {
        Matcher::new(label, op, value).unwrap()
    }

    #[test]
    fn matchers_see_names_labels_and_sources() {
        let id = IdParts::of("http{code=\"200\",path=\"/a\\nb\"}");
        for (label, op, value, expected) in [
            ("__name__", MatchOp::Equal, "http", true),
            ("code", MatchOp::Equal, "200", true),
            ("code", MatchOp::NotEqual, "200", false),
            ("code", MatchOp::Regex, "2..", true),
            ("code", MatchOp::Regex, "2", false),
            ("code", MatchOp::NotRegex, "4..|5..", true),
            ("path", MatchOp::Regex, "/a.b", true),
            ("zone", MatchOp::Equal, "", true),
            ("zone", MatchOp::NotEqual, "", false),
            ("zone", MatchOp::Regex, ".*", true),
            ("zone", MatchOp::Regex, ".+", false),
            ("instance", MatchOp::Equal, "node-1", true),
        ] {
            let matcher = matcher(label, op, value);
            assert_eq!(matcher.matches_series("node-1", &id), expected, "{matcher:?}");
        }
        let own = IdParts::of("http{instance=\"other\"}");
        assert!(!matcher("instance", MatchOp::Equal, "node-1").matches_series("node-1", &own));
    }

    #[test]
    fn values_that_a_matcher_names_are_known() {
        assert_eq!(matcher("a", MatchOp::Equal, "x|y").literals(), Some(vec!["x|y"]));
        assert_eq!(matcher("a", MatchOp::Regex, "x|y").literals(), Some(vec!["x", "y"]));
        for (op, value) in [(MatchOp::Regex, "x.*"), (MatchOp::Regex, "(x|y)"), (MatchOp::NotEqual, "x"), (MatchOp::NotRegex, "x|y")] {
            assert_eq!(matcher("a", op, value).literals(), None, "{value}");
        }
        assert!(matcher("a", MatchOp::Regex, "x|y").needs_label());
        for (op, value) in [(MatchOp::Equal, ""), (MatchOp::Regex, "x|"), (MatchOp::NotEqual, "x"), (MatchOp::NotRegex, "x")] {
            assert!(!matcher("a", op, value).needs_label(), "{value:?}");
        }
    }

    #[test]
    fn a_regular_expression_that_is_none_or_too_large_is_refused() {
        for pattern in ["(", "a{1000}{1000}{1000}", "*a"] {
            let error = Matcher::new("a", MatchOp::Regex, pattern).unwrap_err();
            assert!(error.to_string().contains(&format!("{pattern:?}")), "{error}");
        }
    }
}

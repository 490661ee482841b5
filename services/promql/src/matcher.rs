//! Matchers: what a selector asks of a label.

use std::fmt;

use crate::labels::Labels;
use crate::parse::quote::{LabelName, Quoted};
use crate::pattern::{Pattern, PatternError};

/// How a label's value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Match,
    /// `!~`
    NotMatch,
}

impl MatchOp {
    /// How a query writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Match => "=~",
            Self::NotMatch => "!~",
        }
    }
}

/// What a selector asks of one label. A label that a series does not have counts as empty.
#[derive(Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    pattern: Option<Pattern>,
}

impl Matcher {
    /// A matcher; fails if a pattern is none.
    pub fn new(op: MatchOp, name: &str, value: &str) -> Result<Self, PatternError> {
        let pattern = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Match | MatchOp::NotMatch => Some(Pattern::new(value)?),
        };
        Ok(Self { name: name.to_owned(), op, value: value.to_owned(), pattern })
    }

    /// A matcher for one value.
    pub fn equal(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), op: MatchOp::Equal, value: value.to_owned(), pattern: None }
    }

    /// The label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is compared.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The value or the pattern as the query writes it.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The values that a pattern stands for, if it is nothing but a list such as `a|b|c`; a store can look these up in an
    /// index. [`MatchOp::Match`] asks for one of them, [`MatchOp::NotMatch`] for none of them.
    pub fn alternatives(&self) -> Option<&[String]> {
        self.pattern.as_ref().and_then(Pattern::alternatives)
    }

    /// The only values that are asked for, where the matcher names them, so that an index can find them: `="a"`, `=~"a|b"`.
    pub fn only_values(&self) -> Option<&[String]> {
        match self.op {
            MatchOp::Equal => Some(std::slice::from_ref(&self.value)),
            MatchOp::Match => self.alternatives(),
            MatchOp::NotEqual | MatchOp::NotMatch => None,
        }
    }

    /// Whether only series that have the label are asked for, so that an index of labels finds all of them.
    pub fn needs_label(&self) -> bool {
        matches!(self.op, MatchOp::Equal | MatchOp::Match) && !self.matches("")
    }

    /// What every value that the pattern matches starts with.
    pub fn prefix(&self) -> Option<&str> {
        self.pattern.as_ref().map(Pattern::prefix).filter(|prefix| !prefix.is_empty())
    }

    /// How much memory its pattern takes at most once it is compiled; 0 where nothing has to be.
    pub fn compiled_bytes(&self) -> usize {
        self.pattern.as_ref().map_or(0, Pattern::compiled_bytes)
    }

    /// Whether a value is asked for; an empty one stands for a label that is not there.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.pattern) {
            (MatchOp::Equal, _) => self.value == value,
            (MatchOp::NotEqual, _) => self.value != value,
            (MatchOp::Match, Some(pattern)) => pattern.is_match(value),
            (MatchOp::NotMatch, Some(pattern)) => !pattern.is_match(value),
            (MatchOp::Match | MatchOp::NotMatch, None) => unreachable!("a matcher for a pattern has one"),
        }
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", LabelName(&self.name), self.op.as_str(), Quoted(&self.value))
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether a series has what all matchers ask for.
pub fn all_match(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels.value(matcher.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_labels_are_empty() {
        let labels = Labels::new([("a", "1")]);
        for (op, name, value, expected) in [
            (MatchOp::Equal, "a", "1", true),
            (MatchOp::Equal, "b", "", true),
            (MatchOp::NotEqual, "b", "1", true),
            (MatchOp::NotEqual, "a", "1", false),
            (MatchOp::Match, "b", "x?", true),
            (MatchOp::Match, "b", ".+", false),
            (MatchOp::NotMatch, "b", ".+", true),
            (MatchOp::NotMatch, "a", "[0-9]", false),
        ] {
            let matcher = Matcher::new(op, name, value).unwrap();
            assert_eq!(all_match(std::slice::from_ref(&matcher), &labels), expected, "{matcher}");
        }
    }

    #[test]
    fn patterns_tell_what_an_index_can_use() {
        let matcher = Matcher::new(MatchOp::Match, "a", "x|yz").unwrap();
        assert_eq!(matcher.alternatives(), Some(&["x".to_owned(), "yz".to_owned()][..]));
        let matcher = Matcher::new(MatchOp::Match, "a", "node_.*").unwrap();
        assert_eq!((matcher.alternatives(), matcher.prefix()), (None, Some("node_")));
        assert_eq!(Matcher::equal("a", "b").prefix(), None);
    }

    #[test]
    fn values_that_are_named_are_known() {
        let matcher = |op, value| Matcher::new(op, "a", value).unwrap();
        assert_eq!(matcher(MatchOp::Equal, "x|y").only_values(), Some(&["x|y".to_owned()][..]));
        assert_eq!(matcher(MatchOp::Match, "x|y").only_values(), Some(&["x".to_owned(), "y".to_owned()][..]));
        for (op, value) in [(MatchOp::Match, "x.*"), (MatchOp::NotEqual, "x"), (MatchOp::NotMatch, "x|y")] {
            assert_eq!(matcher(op, value).only_values(), None, "{value}");
        }
        assert!(matcher(MatchOp::Match, "x|y").needs_label());
        for (op, value) in [(MatchOp::Equal, ""), (MatchOp::Match, "x|"), (MatchOp::NotEqual, "x"), (MatchOp::NotMatch, "x")] {
            assert!(!matcher(op, value).needs_label(), "{value:?}");
        }
    }
}

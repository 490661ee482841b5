//! Sources: the nodes that send metrics.

use std::fmt;
use std::sync::Arc;

/// The name of the node that sent metrics: 1-253 of `A-Z a-z 0-9 . - _`, or the unnamed source of clients that send no name.
///
/// Cheap to clone; many series share one source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(Arc<str>);

/// The text is not a valid source name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a source is 1-253 characters of letters, digits, '.', '-' and '_'")]
pub struct SourceError;

impl Source {
    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let valid = (1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if valid { Ok(Self(text.into())) } else { Err(SourceError) }
    }

    /// The source of clients that send no name.
    pub fn unnamed() -> Self {
        Self("".into())
    }

    /// Parses a name as stores keep it: empty for the unnamed source.
    pub fn from_stored(text: &str) -> Result<Self, SourceError> {
        if text.is_empty() { Ok(Self::unnamed()) } else { Self::parse(text) }
    }

    /// The name; empty for the unnamed source.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the unnamed source.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names_and_a_little_more() {
        for name in ["a", "node-1.example.org", "gpu_7", &"x".repeat(253)] {
            assert_eq!(Source::parse(name).unwrap().as_str(), name);
        }
        for name in ["", " ", "a b", "a/b", "é", "a\n", "<b>", &"x".repeat(254)] {
            assert_eq!(Source::parse(name), Err(SourceError), "{name:?}");
        }
        assert!(Source::from_stored("").unwrap().is_unnamed());
    }
}

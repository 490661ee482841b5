//! Where in a query something is.

use std::fmt;

/// A part of a query's text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte behind the last one.
    pub end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// From the start of this span to the end of another one.
    pub(crate) fn to(self, end: Self) -> Self {
        Self { start: self.start, end: end.end }
    }

    /// The line and the column of the start.
    pub fn position(self, query: &str) -> Position {
        let before = query.get(..self.start).unwrap_or(query);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before.len() - line_start + 1 }
    }
}

/// A line and a column, both counted from 1; columns are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The byte within the line.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        let query = "sum(\n  x)";
        assert_eq!(Span::new(0, 1).position(query).to_string(), "1:1");
        assert_eq!(Span::new(7, 8).position(query).to_string(), "2:3");
        assert_eq!(Span::new(99, 99).position(query).to_string(), "2:5");
    }
}

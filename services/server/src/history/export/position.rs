//! Where an export goes on.

use std::fmt;
use std::str::FromStr;

use golectra_protocol::Source;

/// The last sample that an earlier export gave: the id of its series, as lines have it, and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The source of the series.
    pub source: String,
    /// The number of the series among those of its source.
    pub number: u32,
    /// The time of the sample in unix milliseconds.
    pub at_ms: i64,
}

/// What a position should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the id and the time of the last line that was received, as ID@UNIX_MILLISECONDS")]
pub struct PositionError;

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (id, at_ms) = text.rsplit_once('@').ok_or(PositionError)?;
        let (source, number) = id.rsplit_once('/').ok_or(PositionError)?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(number) || !digits(at_ms) || Source::from_stored(source).is_err() {
            return Err(PositionError);
        }
        let (number, at_ms) = (number.parse().map_err(|_| PositionError)?, at_ms.parse().map_err(|_| PositionError)?);
        Ok(Self { source: source.to_owned(), number, at_ms })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.source, self.number, self.at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        for text in ["node-1/64@1795724303107", "/0@0", "a.b_c/4294967295@9223372036854775807"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "64@1",
            "n/64",
            "n/64@",
            "n/@1",
            "n/-1@1",
            "n/+1@1",
            "n/1@-1",
            "n/1@1.5",
            "n/4294967296@1",
            "n/1@9223372036854775808",
            "n/1@1@",
            "n m/1@1",
            "a/b/1@1",
            "n/1@1\n",
        ] {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text:?}");
        }
    }
}

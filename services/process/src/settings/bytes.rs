//! Sizes in bytes, with units.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, written plainly (`1048576`) or with a unit (`512KiB`, `16MiB`, `1GiB`; `kB`, `MB` and `GB` are powers of
/// ten).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(usize);

/// Units, the longest suffix first so that `MiB` is not read as `B`.
const UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl Bytes {
    /// The number of bytes.
    pub const fn get(self) -> usize {
        self.0
    }
}

/// The text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a number of bytes such as 1048576, 512KiB, 16MiB or 1GiB")]
pub struct BytesError;

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let (number, unit) = UNITS.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit))).unwrap_or((text, 1));
        let number = number.trim_end();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BytesError);
        }
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or(BytesError)?;
        usize::try_from(bytes).map(Self).map_err(|_| BytesError)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as u64;
        let binary = UNITS[..4].iter().rev().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
        match binary {
            Some((suffix, unit)) => write!(f, "{}{suffix}", bytes / unit),
            None => write!(f, "{bytes}"),
        }
    }
}

/// The most bytes that a body may have, at least 512: with fewer of them, such as 0, nearly every body would be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BodyBytes(Bytes);

/// The text is no such number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyBytesError {
    /// It is not a number of bytes.
    #[error(transparent)]
    Syntax(#[from] BytesError),
    /// Less than [`BodyBytes::MIN`].
    #[error("expected at least {} bytes, such as 16MiB", BodyBytes::MIN)]
    TooFew,
}

impl BodyBytes {
    /// The least number of bytes.
    pub const MIN: usize = 512;

    /// The number of bytes.
    pub const fn get(self) -> usize {
        self.0.get()
    }
}

impl FromStr for BodyBytes {
    type Err = BodyBytesError;

    fn from_str(text: &str) -> Result<Self, BodyBytesError> {
        let bytes: Bytes = text.parse()?;
        if bytes.get() < Self::MIN { Err(BodyBytesError::TooFew) } else { Ok(Self(bytes)) }
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{BodyBytes, BodyBytesError, Bytes, BytesError};

    #[test]
    fn plain_and_with_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("16MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("512 KiB", 512 << 10),
            ("10kB", 10_000),
            ("2MB", 2_000_000),
            ("7B", 7),
        ] {
            assert_eq!(text.parse::<Bytes>().map(Bytes::get), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "-1", "+1", "1.5MiB", "MiB", "16 mib", "99999999999TiB", "1e6", "0x10"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_limit_of_bodies_has_a_minimum() {
        for text in ["0", "511", "0MiB"] {
            assert_eq!(text.parse::<BodyBytes>(), Err(BodyBytesError::TooFew), "{text}");
        }
        assert_eq!("much".parse::<BodyBytes>(), Err(BodyBytesError::Syntax(BytesError)));
        assert_eq!("512".parse::<BodyBytes>().map(BodyBytes::get), Ok(BodyBytes::MIN));
    }

    #[test]
    fn shown_in_the_largest_whole_unit() {
        for (text, shown) in [("16777216", "16MiB"), ("1536", "1536"), ("0", "0"), ("1024", "1KiB")] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), shown);
        }
    }
}

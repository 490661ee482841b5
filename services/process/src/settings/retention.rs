//! Retentions: times after which data is deleted, or a series or source expires.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long something is kept: `48h`, `7d`, `1d12h`.
///
/// The syntax is Prometheus's: whole numbers, each with one of the units `y` (365 days), `w`, `d`, `h`, `m`, `s` and `ms`, the
/// largest unit first and each at most once. Unlike in [`Interval`](super::Interval) the unit is mandatory: a retention read in
/// the wrong unit deletes data. Values below [`MIN`](Self::MIN) are refused for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Retention(Duration);

impl Retention {
    /// The shortest retention.
    pub const MIN: Self = Self(Duration::from_hours(1));

    /// The retention as a [`Duration`].
    pub const fn duration(self) -> Duration {
        self.0
    }
}

/// The text is not a retention.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// A number without a unit.
    #[error("expected a unit behind the number: write {0}h for hours or {0}d for days")]
    NoUnit(String),
    /// Not in the syntax of durations.
    #[error("expected whole numbers with units, the largest first, such as 48h, 7d or 1d12h (units: y, w, d, h, m, s, ms)")]
    Format,
    /// Less than [`Retention::MIN`].
    #[error("expected at least 1h, such as 48h or 7d")]
    TooShort,
    /// Beyond 2^63 nanoseconds, about 292 years, which is Prometheus's limit too.
    #[error("expected less than 292y, such as 48h or 7d")]
    TooLong,
}

/// Milliseconds of each unit, in the order in which they are written.
const UNITS: [(&str, u64); 7] =
    [("y", 365 * 86_400_000), ("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest retention.
const MAX_MILLIS: u64 = i64::MAX.unsigned_abs() / 1_000_000;

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Self, RetentionError> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RetentionError::NoUnit(text.to_owned()));
        }
        let millis = millis(text)?.filter(|millis| *millis <= MAX_MILLIS).ok_or(RetentionError::TooLong)?;
        let retention = Self(Duration::from_millis(millis));
        if retention < Self::MIN { Err(RetentionError::TooShort) } else { Ok(retention) }
    }
}

/// The sum of all parts; None on overflow.
fn millis(text: &str) -> Result<Option<u64>, RetentionError> {
    if text.is_empty() {
        return Err(RetentionError::Format);
    }
    let (mut rest, mut total, mut units) = (text, Some(0_u64), UNITS.as_slice());
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let (unit, behind) = behind.split_at(behind.bytes().take_while(u8::is_ascii_alphabetic).count());
        let place = units.iter().position(|(name, _)| *name == unit).ok_or(RetentionError::Format)?;
        if number.is_empty() {
            return Err(RetentionError::Format);
        }
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(units[place].1));
        total = total.and_then(|total| total.checked_add(part?));
        (rest, units) = (behind, &units[place + 1..]);
    }
    Ok(total)
}

/// In days, as people write it: years only where they are whole, no weeks.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A retention is always a whole number of milliseconds within this range.
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        for (unit, millis) in UNITS {
            if unit == "w" || (unit == "y" && left % millis > 0) {
                continue;
            }
            let count = left / millis;
            left %= millis;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl<'de> serde::Deserialize<'de> for Retention {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Retention, RetentionError};

    const HOUR: u64 = 3_600_000;

    #[test]
    fn every_unit_alone_and_combined() {
        for (text, millis) in [
            ("3600000ms", HOUR),
            ("3600s", HOUR),
            ("60m", HOUR),
            ("1h", HOUR),
            ("48h", 48 * HOUR),
            ("1d", 24 * HOUR),
            ("1w", 7 * 24 * HOUR),
            ("1y", 365 * 24 * HOUR),
            ("1d12h", 36 * HOUR),
            ("1y2w3d4h5m6s7ms", (365 + 14 + 3) * 24 * HOUR + 4 * HOUR + 5 * 60_000 + 6_007),
            ("0d1h", HOUR),
            ("01h", HOUR),
            ("292y", 292 * 365 * 24 * HOUR),
        ] {
            assert_eq!(text.parse().map(Retention::duration), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_what_to_write() {
        for text in ["48", "0", "7"] {
            let error = text.parse::<Retention>().unwrap_err();
            assert_eq!(error, RetentionError::NoUnit(text.to_owned()));
            assert!(error.to_string().contains(&format!("write {text}h for hours or {text}d for days")), "{error}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "h", "-1d", "+1d", "1 d", " 1d", "1d ", "1.5d", "12h1d", "1h1h", "1d1", "1day", "1D", "1M", "1us", "d1", "\u{661}d"]
        {
            assert_eq!(text.parse::<Retention>(), Err(RetentionError::Format), "{text:?}");
        }
        for text in ["0h", "59m", "59m59s999ms", "3599s", "1ms"] {
            assert_eq!(text.parse::<Retention>(), Err(RetentionError::TooShort), "{text}");
        }
        for text in ["293y", "99999999999999999999d", "999999999999999y", "292y52w"] {
            assert_eq!(text.parse::<Retention>(), Err(RetentionError::TooLong), "{text}");
        }
    }

    #[test]
    fn displayed_values_can_be_parsed() {
        for (text, shown) in [
            ("48h", "2d"),
            ("36h", "1d12h"),
            ("61m", "1h1m"),
            ("3600001ms", "1h1ms"),
            ("366d", "366d"),
            ("4w2d", "30d"),
            ("1w", "7d"),
            ("730d", "2y"),
        ] {
            let retention: Retention = text.parse().unwrap();
            assert_eq!(retention.to_string(), shown);
            assert_eq!(shown.parse(), Ok(retention));
        }
    }
}

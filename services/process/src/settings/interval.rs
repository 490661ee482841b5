//! Intervals in seconds or in Go's syntax.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time: whole seconds (`300`) or a Go duration (`10s`, `1m30s`, `1h`, `500ms`, `1.5h`). Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(Duration);

impl Interval {
    /// The interval as a [`Duration`].
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether it is zero, which has a special meaning for some settings.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

/// An [`Interval`] above zero, for time limits: nothing is done within no time at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PositiveInterval(Interval);

impl PositiveInterval {
    /// The interval as a [`Duration`].
    pub const fn duration(self) -> Duration {
        self.0.duration()
    }
}

impl FromStr for PositiveInterval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let interval: Interval = text.parse()?;
        if interval.is_zero() { Err(IntervalError::Zero) } else { Ok(Self(interval)) }
    }
}

impl fmt::Display for PositiveInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<Duration> for Interval {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

/// The text is not an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntervalError {
    /// Neither whole seconds nor a duration.
    #[error("expected whole seconds or a duration such as 10s, 1m30s, 1h or 500ms")]
    Format,
    /// It is negative.
    #[error("expected a length of time that is not negative, such as 10s")]
    Negative,
    /// It is zero, and a [`PositiveInterval`] was asked for.
    #[error("expected a length of time above 0, such as 10s")]
    Zero,
    /// Beyond Go's range of 2^63 nanoseconds, about 292 years.
    #[error("expected a length of time of less than 292 years")]
    TooLong,
}

/// Nanoseconds of each unit, two-letter units first so that `ms` is not read as `m`.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        if text.starts_with('-') {
            return Err(IntervalError::Negative);
        }
        let text = text.strip_prefix('+').unwrap_or(text);
        if text.is_empty() {
            return Err(IntervalError::Format);
        }
        let nanoseconds = if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse::<u128>().ok().and_then(|seconds| seconds.checked_mul(1_000_000_000))
        } else {
            go_duration(text)?
        };
        nanoseconds
            .and_then(|nanoseconds| i64::try_from(nanoseconds).ok())
            .map(|nanoseconds| Self(Duration::from_nanos(nanoseconds.unsigned_abs())))
            .ok_or(IntervalError::TooLong)
    }
}

/// Nanoseconds of `1m30.5s` and the like; None on overflow.
fn go_duration(mut text: &str) -> Result<Option<u128>, IntervalError> {
    let mut total = Some(0_u128);
    while !text.is_empty() {
        let (whole, rest) = digits(text);
        let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(IntervalError::Format);
        }
        let (unit, rest) =
            UNITS.iter().find_map(|(suffix, unit)| Some((u128::from(*unit), rest.strip_prefix(suffix)?))).ok_or(IntervalError::Format)?;
        total = total.and_then(|total| total.checked_add(scaled(whole, fraction, unit)?));
        text = rest;
    }
    Ok(total)
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `whole.fraction` times `unit`, truncated to whole nanoseconds.
fn scaled(whole: &str, fraction: &str, unit: u128) -> Option<u128> {
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()? };
    // Eighteen digits are more precise than a nanosecond in the largest unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(part.checked_mul(unit)? / scale)
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Interval {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Interval, IntervalError, PositiveInterval};

    #[test]
    fn seconds_and_go_durations() {
        for (text, milliseconds) in [
            ("0", 0),
            ("300", 300_000),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("0s", 0),
            ("2h45m", 9_900_000),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
            ("1000000ns", 1),
            ("+3s", 3_000),
        ] {
            assert_eq!(text.parse::<Interval>().map(Interval::duration), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn errors_say_what_was_expected() {
        for text in ["", "s", "10 s", "10d", "1.5", "s10", ".s", "1e3", "1m30", "ten", "+"] {
            assert_eq!(text.parse::<Interval>(), Err(IntervalError::Format), "{text}");
        }
        for text in ["-1", "-10s"] {
            assert_eq!(text.parse::<Interval>(), Err(IntervalError::Negative), "{text}");
        }
        for text in ["9223372037", "99999999999999999999999999999999999999999", "2562048h", "9999999999999999999999h"] {
            assert_eq!(text.parse::<Interval>(), Err(IntervalError::TooLong), "{text}");
        }
    }

    #[test]
    fn a_positive_interval_is_not_zero() {
        for text in ["0", "0s", "0.0s", "+0", "0.1ns"] {
            assert_eq!(text.parse::<PositiveInterval>(), Err(IntervalError::Zero), "{text}");
        }
        assert_eq!("-1s".parse::<PositiveInterval>(), Err(IntervalError::Negative));
        assert_eq!("1ns".parse::<PositiveInterval>().map(PositiveInterval::duration), Ok(Duration::from_nanos(1)));
        assert_eq!("20s".parse::<PositiveInterval>().unwrap().to_string(), "20s");
    }

    #[test]
    fn displayed_values_can_be_parsed() {
        for text in ["300s", "1.5s", "500ms", "0ns"] {
            let interval: Interval = text.parse().unwrap();
            assert_eq!(interval.to_string().parse(), Ok(interval), "{interval}");
        }
    }
}

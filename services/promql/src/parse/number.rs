//! Numbers and durations as PromQL writes them.

use std::fmt::{self, Write};

/// The longest duration: what Prometheus can hold, 292 years.
pub(crate) const MAX_DURATION_MS: i64 = i64::MAX / 1_000_000;

const UNITS: [(&str, i64); 7] =
    [("y", 365 * 86_400_000), ("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a number: decimal, hexadecimal (`0x1f`) or octal (`017`), with underscores between digits.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let digits = without_underscores(text)?;
    let lower = digits.to_ascii_lowercase();
    if let Some(hexadecimal) = lower.strip_prefix("0x") {
        return i64::from_str_radix(hexadecimal, 16).ok().map(|number| number as f64);
    }
    if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return i64::from_str_radix(&lower, 8).ok().map(|number| number as f64);
    }
    // `str::parse` also reads `inf` and `nan`, which are identifiers to the lexer.
    if !lower.bytes().all(|byte| byte.is_ascii_digit() || b".e+-".contains(&byte)) {
        return None;
    }
    lower.parse().ok()
}

/// Underscores may only stand between digits, or behind `0x`.
fn without_underscores(text: &str) -> Option<String> {
    if !text.contains('_') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let hexadecimal = bytes.get(1).is_some_and(|byte| byte.eq_ignore_ascii_case(&b'x'));
    let is_digit =
        |index: usize| bytes.get(index).is_some_and(|byte| if hexadecimal { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() });
    let allowed = bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'_')
        .all(|(index, _)| index > 0 && is_digit(index + 1) && (is_digit(index - 1) || (hexadecimal && index == 2)));
    allowed.then(|| text.replace('_', ""))
}

/// Reads a duration such as `1h30m` into milliseconds; each unit at most once, the largest first.
pub fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(unit_len);
        let index = next_unit + UNITS[next_unit..].iter().position(|(name, _)| *name == unit)?;
        next_unit = index + 1;
        total = number.parse::<i64>().ok()?.checked_mul(UNITS[index].1)?.checked_add(total)?;
        rest = tail;
    }
    (next_unit > 0 && total <= MAX_DURATION_MS).then_some(total)
}

/// Seconds as milliseconds, if they are a duration at all.
pub(crate) fn seconds_to_ms(seconds: f64) -> Option<i64> {
    let ms = seconds * 1000.0;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (ms.is_finite() && ms.abs() <= MAX_DURATION_MS as f64).then(|| ms.round() as i64)
}

/// A duration in milliseconds as Prometheus writes it: weeks and years only where they are exact.
pub struct DisplayDuration(pub i64);

impl fmt::Display for DisplayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_char('-')?;
        }
        let mut rest = self.0.abs();
        for (unit, unit_ms) in UNITS {
            let only_exact = unit_ms > 86_400_000;
            if rest >= unit_ms && (!only_exact || rest % unit_ms == 0) {
                write!(f, "{}{unit}", rest / unit_ms)?;
                rest %= unit_ms;
            }
        }
        Ok(())
    }
}

/// A float as PromQL writes it: without an exponent, `Inf`, `NaN`.
pub(crate) struct DisplayNumber(pub f64);

impl fmt::Display for DisplayNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            f.write_str("NaN")
        } else if self.0.is_infinite() {
            f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" })
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, number) in [
            ("0", 0.0),
            ("1.5", 1.5),
            (".5", 0.5),
            ("2.", 2.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("0x1F", 31.0),
            ("0x_1f", 31.0),
            ("017", 15.0),
            ("08", 8.0),
            ("0.17", 0.17),
            ("1_000.5", 1000.5),
            ("00", 0.0),
        ] {
            assert_eq!(parse_number(text), Some(number), "{text}");
        }
        for text in ["", ".", "1__0", "_1", "1_", "1_.5", "0x", "1e", "inf", "nan", "5m", "1.2.3", "0xfffffffffffffffff"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("5m", 300_000), ("1h30m", 5_400_000), ("1y2w3d4h5m6s7ms", 33_019_506_007), ("0s", 0), ("90s", 90_000)] {
            assert_eq!(parse_duration(text), Some(ms), "{text}");
        }
        for text in ["", "5", "m", "5m5m", "5m1h", "1.5h", "5x", "99999999999999999999s", "300y", "1h 5m"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_prometheus_does() {
        for (ms, text) in [
            (0, "0s"),
            (1, "1ms"),
            (5_400_000, "1h30m"),
            (14 * 86_400_000, "2w"),
            (9 * 86_400_000, "9d"),
            (365 * 86_400_000, "1y"),
            (-60_000, "-1m"),
            (372 * 86_400_000, "372d"),
        ] {
            assert_eq!(DisplayDuration(ms).to_string(), text);
            assert_eq!(parse_duration(text.trim_start_matches('-')), Some(ms.abs()));
        }
    }
}

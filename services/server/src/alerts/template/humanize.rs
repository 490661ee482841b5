//! Numbers as people read them, as Prometheus's templates write them.

use std::time::{Duration, UNIX_EPOCH};

const LARGE: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];
const BINARY: [&str; 8] = ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"];

/// With a prefix of the metric system.
pub fn humanize(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return significant(value);
    }
    if value.abs() >= 1.0 {
        let (value, prefix) = scaled(value, &LARGE, 1000.0);
        return significant(value) + prefix;
    }
    let (value, prefix) = enlarged(value);
    significant(value) + prefix
}

/// With a prefix by powers of 1024.
pub fn humanize1024(value: f64) -> String {
    if value.abs() <= 1.0 || !value.is_finite() {
        return significant(value);
    }
    let (value, prefix) = scaled(value, &BINARY, 1024.0);
    significant(value) + prefix
}

/// Seconds as days, hours, minutes and seconds.
pub fn duration(value: f64) -> String {
    if !value.is_finite() {
        return significant(value);
    }
    if value == 0.0 {
        return "0s".to_owned();
    }
    if value.abs() < 1.0 {
        let (value, prefix) = enlarged(value);
        return significant(value) + prefix + "s";
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let value = value.abs();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole seconds are meant; what is too large becomes the largest"
    )]
    let whole = value as u64;
    let (seconds, minutes, hours, days) = (whole % 60, whole / 60 % 60, whole / 3600 % 24, whole / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{}s", significant(value)),
        (0, 0, _) => format!("{sign}{minutes}m {seconds}s"),
        (0, _, _) => format!("{sign}{hours}h {minutes}m {seconds}s"),
        _ => format!("{sign}{days}d {hours}h {minutes}m {seconds}s"),
    }
}

/// A ratio in per cent.
pub fn percentage(value: f64) -> String {
    significant(value * 100.0) + "%"
}

/// Unix seconds as a time in UTC.
pub fn timestamp(value: f64) -> String {
    let time = Duration::try_from_secs_f64(value).ok().and_then(|since| UNIX_EPOCH.checked_add(since));
    // humantime writes years up to 9999.
    let Some(time) = time.filter(|_| value < 253_402_300_800.0) else { return significant(value) };
    let text = humantime::format_rfc3339_millis(time).to_string();
    let text = text.trim_end_matches('Z').replace('T', " ");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} +0000 UTC")
}

fn scaled<'a>(mut value: f64, prefixes: &[&'a str], by: f64) -> (f64, &'a str) {
    let mut prefix = "";
    for next in prefixes {
        if value.abs() < by {
            break;
        }
        prefix = next;
        value /= by;
    }
    (value, prefix)
}

fn enlarged(mut value: f64) -> (f64, &'static str) {
    let mut prefix = "";
    for next in SMALL {
        if value.abs() >= 1.0 {
            break;
        }
        prefix = next;
        value *= 1000.0;
    }
    (value, prefix)
}

/// Four significant digits, as Go's `%.4g`.
fn significant(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let rounded = format!("{value:.3e}");
    let (digits, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed =
        |text: &str| if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() };
    if (-4..4).contains(&exponent) {
        let decimals = usize::try_from(3 - exponent).unwrap_or(0);
        return trimmed(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(digits), exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_does() {
        for (written, expected) in [
            (humanize(0.0), "0"),
            (humanize(1_234_567.0), "1.235M"),
            (humanize(-1_234.0), "-1.234k"),
            (humanize(0.00123), "1.23m"),
            (humanize(f64::INFINITY), "+Inf"),
            (humanize1024(1_048_576.0), "1Mi"),
            (humanize1024(1000.0), "1000"),
            (duration(0.0), "0s"),
            (duration(0.1), "100ms"),
            (duration(59.5), "59.5s"),
            (duration(3_661.0), "1h 1m 1s"),
            (duration(-86_400.0), "-1d 0h 0m 0s"),
            (percentage(0.999), "99.9%"),
            (percentage(123.456), "1.235e+04%"),
            (timestamp(1_435_065_584.128), "2015-06-23 13:19:44.128 +0000 UTC"),
            (timestamp(0.0), "1970-01-01 00:00:00 +0000 UTC"),
            (significant(0.00001), "1e-05"),
        ] {
            assert_eq!(written, expected);
        }
    }
}

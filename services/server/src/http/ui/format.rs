//! How values are written on the pages.

use super::panels::Unit;

/// A time ago, in the largest unit that fits.
pub fn ago(then: u64, now: u64) -> String {
    format!("{} ago", span(now.saturating_sub(then) / 1000))
}

/// A length of time, in the largest unit that fits.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A number with commas between its thousands.
pub fn grouped(number: impl std::fmt::Display + Copy) -> String {
    let text = number.to_string();
    let start = usize::from(text.starts_with('-'));
    let digits = text[start..].bytes().take_while(u8::is_ascii_digit).count();
    // What is written as a power of ten has one digit before its point.
    let mut grouped = String::with_capacity(text.len() + digits / 3);
    for (index, character) in text.char_indices() {
        if index > start && index < start + digits && (start + digits - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(character);
    }
    grouped
}

/// A length of time in a unit that leaves few digits.
fn duration(seconds: f64) -> String {
    match seconds.abs() {
        _ if !seconds.is_finite() => format!("{seconds} s"),
        0.0 => "0 s".to_owned(),
        size if size < 0.001 => format!("{} µs", three_digits(seconds * 1e6)),
        size if size < 1.0 => format!("{} ms", three_digits(seconds * 1e3)),
        size if size < 120.0 => format!("{} s", three_digits(seconds)),
        size if size < 7_200.0 => format!("{} min", three_digits(seconds / 60.0)),
        size if size < 172_800.0 => format!("{} h", three_digits(seconds / 3_600.0)),
        _ => format!("{} d", three_digits(seconds / 86_400.0)),
    }
}

/// A value as a whole number that is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` keeps to the type's bounds, and makes NaN 0")]
pub fn whole(value: f64) -> u64 {
    value as u64
}

/// A share as whole percent. What is not quite all is not written as all.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = format!("{:.0} %", if (99.0..100.0).contains(&percent) { percent.floor() } else { percent });
    if text == "-0 %" { "0 %".to_owned() } else { text }
}

/// A value with its unit.
pub fn quantity(value: f64, unit: Unit) -> String {
    let three = |value: f64| if value != 0.0 && value.abs() < 0.005 { format!("{value:.1e}") } else { three_digits(value) };
    match unit {
        Unit::Percent if value != 0.0 && value.abs() < 0.095 => format!("{} %", three_digits((value * 1000.0).round() / 10.0)),
        Unit::Percent => percent(value),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => format!("{}/s", bytes(value)),
        Unit::Seconds => duration(value),
        Unit::PerSecond => format!("{}/s", if value.abs() < 1.0 { three(value) } else { short(value) }),
        Unit::Cores => cores(value),
        Unit::Number => {
            if value.abs() < 1.0 {
                three(value)
            } else {
                short(value)
            }
        }
    }
}

/// Processors, to a thousandth, which is the least that a container can request.
fn cores(value: f64) -> String {
    match value.abs() {
        1.0 if value > 0.0 => "1 core".to_owned(),
        size if size > 0.0 && size < 0.0005 => "< 0.001 cores".to_owned(),
        size if size > 0.0 && size < 0.005 => format!("{value:.3} cores"),
        _ => format!("{} cores", three_digits(value)),
    }
}

/// A time in unix milliseconds, for the templates.
pub fn clock(millis: impl std::borrow::Borrow<u64>) -> String {
    crate::clock::rfc3339(*millis.borrow())
}

/// Bytes in binary units, three digits.
pub fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A number with three digits and a unit for thousands.
pub fn short(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P"]).trim_end().to_owned()
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let (mut value, mut unit) = (value, 0);
    while value.abs() >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{} {}", three_digits(value), units[unit])
}

/// A number with at most three digits where it has a fraction.
pub fn three_digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = grouped(format_args!("{value:.places$}"));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text.as_str() };
    // Zero has no sign, nor has what is rounded to it.
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_shown_in_the_largest_unit_that_fits() {
        for (seconds, text) in [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (200_000, "2 d ago")] {
            assert_eq!(ago(1_000, 1_000 + seconds * 1000), text);
        }
        assert_eq!(ago(5_000, 1_000), "0 s ago", "a source whose clock is ahead");
    }

    #[test]
    fn thousands_are_separated() {
        for (text, shown) in [
            ("0", "0"),
            ("999", "999"),
            ("1000", "1,000"),
            ("-1234567.8901", "-1,234,567.8901"),
            ("100000", "100,000"),
            ("1e21", "1e21"),
            ("NaN", "NaN"),
            ("-inf", "-inf"),
            ("", ""),
        ] {
            assert_eq!(grouped(text), shown);
        }
    }

    #[test]
    fn values_have_three_digits_and_a_unit() {
        for (value, text) in
            [(0.0, "0 B"), (1023.0, "1,023 B"), (1536.0, "1.5 KiB"), (12.34 * 1_073_741_824.0, "12.3 GiB"), (-2048.0, "-2 KiB")]
        {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in [(0.5, "0.5"), (12_345.0, "12.3 k"), (1e6, "1 M"), (999.0, "999"), (f64::NAN, "NaN")] {
            assert_eq!(short(value), text);
        }
        for (value, unit, text) in [
            (0.344, Unit::Percent, "34 %"),
            (0.012, Unit::Percent, "1.2 %"),
            (5.12, Unit::Cores, "5.12 cores"),
            (1.0, Unit::Cores, "1 core"),
            (0.000_71, Unit::Cores, "0.001 cores"),
            (0.000_01, Unit::Cores, "< 0.001 cores"),
            (0.0, Unit::Cores, "0 cores"),
            (0.0001, Unit::Number, "1.0e-4"),
            (88e6, Unit::BytesPerSecond, "83.9 MiB/s"),
            (1500.0, Unit::PerSecond, "1.5 k/s"),
            (12_500.0, Unit::Cores, "12,500 cores"),
            (0.0, Unit::Seconds, "0 s"),
            (-0.0, Unit::Seconds, "0 s"),
            (-0.0, Unit::Number, "0"),
            (-0.0, Unit::Bytes, "0 B"),
            (-0.0, Unit::PerSecond, "0/s"),
            (-0.000_01, Unit::Percent, "0 %"),
            (-0.0, Unit::Percent, "0 %"),
            (0.0125, Unit::Seconds, "12.5 ms"),
            (90.0, Unit::Seconds, "90 s"),
            (-5_400.0, Unit::Seconds, "-90 min"),
            (86_400.0, Unit::Seconds, "24 h"),
            (30.0 * 86_400.0, Unit::Seconds, "30 d"),
        ] {
            assert_eq!(quantity(value, unit), text);
        }
        for (share, text) in [(0.0, "0 %"), (-0.001, "0 %"), (0.344, "34 %"), (0.996, "99 %"), (1.0, "100 %")] {
            assert_eq!(percent(share), text);
        }
    }
}

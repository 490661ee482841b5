//! Times and values as Prometheus writes them in JSON.

use std::io::Write as _;

/// Writing to memory does not fail.
const NO_FAILURE: &str = "writing to memory does not fail";

/// Whole numbers below this are the same as integers and are written faster so.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes a sample as `[time,"value"]`.
pub fn write_sample(out: &mut Vec<u8>, time_ms: i64, value: f64) {
    out.push(b'[');
    write_time(out, time_ms);
    out.extend_from_slice(b",\"");
    write_value(out, value);
    out.extend_from_slice(b"\"]");
}

/// Writes seconds, with three digits behind the point where they are not whole.
pub fn write_time(out: &mut Vec<u8>, time_ms: i64) {
    if time_ms < 0 {
        out.push(b'-');
    }
    let (seconds, millis) = (time_ms.unsigned_abs() / 1000, time_ms.unsigned_abs() % 1000);
    write!(out, "{seconds}").expect(NO_FAILURE);
    if millis != 0 {
        write!(out, ".{millis:03}").expect(NO_FAILURE);
    }
}

/// Writes the shortest text that reads back to the same value: with an exponent where the number is below 1e-6 or at least 1e21.
pub fn write_value(out: &mut Vec<u8>, value: f64) {
    let magnitude = value.abs();
    if value.fract() == 0.0 && magnitude < EXACT && (value != 0.0 || value.is_sign_positive()) {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and far from the ends of i64")]
        let whole = value as i64;
        write!(out, "{whole}").expect(NO_FAILURE);
    } else if magnitude != 0.0 && magnitude.is_finite() && !(1e-6..1e21).contains(&magnitude) {
        // Go writes at least two digits of the exponent, and its sign.
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').expect("a number with an exponent");
        let exponent: i32 = exponent.parse().expect("a number");
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{digits}e{sign}{:02}", exponent.unsigned_abs()).expect(NO_FAILURE);
    } else {
        write_plain(out, value);
    }
}

/// The shortest text with an exponent, as the API has values of alerts: `1e+00`.
pub fn write_exponent(value: f64) -> String {
    if !value.is_finite() {
        let mut out = Vec::new();
        write_plain(&mut out, value);
        return String::from_utf8(out).expect("ASCII");
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("a number with an exponent");
    let exponent: i32 = exponent.parse().expect("a number");
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// Writes the shortest text without an exponent, as the API does for scalars.
pub fn write_plain(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else {
        write!(out, "{value}").expect(NO_FAILURE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_written_as_prometheus_writes_them() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-17.0, "-17"),
            (0.1, "0.1"),
            (1e-6, "0.000001"),
            (1e-7, "1e-07"),
            (-1.25e-10, "-1.25e-10"),
            (5e-324, "5e-324"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(text(|out| write_value(out, value)), expected);
        }
        assert_eq!(text(|out| write_plain(out, 1e21)), "1000000000000000000000");
        assert_eq!(text(|out| write_plain(out, 1e-7)), "0.0000001");
    }

    #[test]
    fn times_are_seconds() {
        for (time_ms, expected) in
            [(0, "0"), (1_435_781_430_781, "1435781430.781"), (1_000, "1"), (1_005, "1.005"), (1_100, "1.100"), (-1_500, "-1.500")]
        {
            assert_eq!(text(|out| write_time(out, time_ms)), expected);
        }
        assert_eq!(text(|out| write_sample(out, 1_500, 2.5)), "[1.500,\"2.5\"]");
    }

    proptest! {
        #[test]
        fn values_read_back_bit_for_bit(bits in any::<u64>(), whole in any::<i32>()) {
            for value in [f64::from_bits(bits), f64::from(whole)] {
                let written = text(|out| write_value(out, value));
                let back: f64 = written.parse().unwrap();
                prop_assert!(back.to_bits() == value.to_bits() || (back.is_nan() && value.is_nan()), "{}", written);
            }
        }
    }
}

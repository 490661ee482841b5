//! Numbers as Go writes and reads them.

/// Parses a value as Go's `strconv.ParseFloat` does: a decimal number, NaN or an infinity; None for anything else, also for a
/// number that is out of range.
pub(super) fn parse(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    let has_digits = text.bytes().any(|byte| byte.is_ascii_digit());
    // Rust parses a number that is too large as an infinity, and a NaN with a sign.
    let differs = (value.is_infinite() && has_digits) || (value.is_nan() && text.len() != 3);
    (!differs).then_some(value)
}

/// A bound of a bucket or a quantile as OpenMetrics writes it, `1.0` for `1`; None if it is no number. Prometheus 3 does the same
/// so that a series has the same labels whatever format it was scraped in.
pub(super) fn normalized(text: &str) -> Option<String> {
    let value = parse(text)?;
    Some(if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        let scientific = format!("{value:e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let exponent: i32 = exponent.parse().unwrap_or_default();
        if (-4..6).contains(&exponent) {
            let plain = format!("{value}");
            if plain.contains('.') { plain } else { plain + ".0" }
        } else {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_go() {
        for (text, value) in [("1", 1.0), ("+1.5", 1.5), ("-.5", -0.5), ("1.", 1.0), ("1e3", 1000.0), ("1E-3", 0.001), ("1e-999", 0.0)] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in ["Inf", "+Inf", "inf", "+infinity", "Infinity"] {
            assert_eq!(parse(text), Some(f64::INFINITY), "{text}");
        }
        assert_eq!(parse("-Inf"), Some(f64::NEG_INFINITY));
        assert!(parse("NaN").unwrap().is_nan() && parse("nan").unwrap().is_nan());
        for text in ["", "x", "1e999", "-1e999", "0x1p3", "1_000", "1,5", "--1", "1e", "-NaN", "1\r", "１"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    /// The expected texts are what Go's `strconv.FormatFloat(f, 'g', -1, 64)` writes, with `.0` where it has neither.
    #[test]
    fn bounds_are_written_as_openmetrics_does() {
        for (text, expected) in [
            ("1", "1.0"),
            ("0", "0.0"),
            ("-1", "-1.0"),
            ("0.5", "0.5"),
            ("5e-1", "0.5"),
            ("100000", "100000.0"),
            ("1000000", "1e+06"),
            ("1234567", "1.234567e+06"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1e100", "1e+100"),
            ("+Inf", "+Inf"),
            ("inf", "+Inf"),
            ("-Inf", "-Inf"),
            ("NaN", "NaN"),
        ] {
            assert_eq!(normalized(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(normalized("a"), None);
    }
}

//! Formats and parses the numbers of the text routes.

use crate::{Kind, Value, ValueError};

/// A gauge in its shortest form without exponent (like Go's `strconv.FormatFloat(v, 'f', -1, 64)`), a counter as an integer.
pub fn format(value: Value) -> String {
    // Rust's Display of f64 is the shortest text that parses to the same bits, and never has an exponent.
    match value {
        Value::Gauge(v) => v.to_string(),
        Value::Counter(v) => v.to_string(),
    }
}

/// Parses a value of this kind: for a gauge a decimal number with or without exponent, for a counter a whole number.
pub fn parse(kind: Kind, text: &str) -> Result<Value, ValueError> {
    match kind {
        Kind::Gauge => Value::gauge(text.parse().map_err(|_| ValueError::NotFloat)?),
        Kind::Counter => Value::counter(text.parse().map_err(|_| ValueError::NotInteger)?),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gauges_are_formatted_like_in_go() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (-1234.5, "-1234.5"),
            (1e21, "1000000000000000000000"),
            (1e-7, "0.0000001"),
            (123_456.789, "123456.789"),
        ] {
            assert_eq!(format(Value::Gauge(value)), text);
        }
        assert_eq!(format(Value::Counter(i64::MAX)), "9223372036854775807");
    }

    #[test]
    fn invalid_values_are_refused() {
        for text in ["", " 1", "1 ", "abc", "NaN", "inf", "-Infinity", "1e999", "0x", "1_0", "1,5"] {
            assert!(parse(Kind::Gauge, text).is_err(), "{text:?}");
        }
        for text in ["", "1.0", "1e3", "-1", "9223372036854775808", "none", "٣"] {
            assert!(parse(Kind::Counter, text).is_err(), "{text:?}");
        }
        assert_eq!(parse(Kind::Counter, "-1"), Err(ValueError::Negative));
        assert_eq!(parse(Kind::Gauge, "1e999"), Err(ValueError::NotFinite));
        assert_eq!(parse(Kind::Counter, "+5"), Ok(Value::Counter(5)));
        assert_eq!(parse(Kind::Gauge, ".5"), Ok(Value::Gauge(0.5)));
    }

    proptest! {
        #[test]
        fn every_double_round_trips_bit_for_bit(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let Ok(Value::Gauge(back)) = parse(Kind::Gauge, &format(Value::Gauge(value))) else { panic!("a gauge") };
            prop_assert_eq!(back.to_bits(), bits);
        }
    }
}

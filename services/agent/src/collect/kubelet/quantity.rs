//! Quantities of the Kubernetes API: `100m`, `64Mi`, `1.5`, `129e6`.

/// The value of a quantity; None for a text that is none.
pub(super) fn parse(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    // `e6` and `E6` are exponents, a lone `E` is 10^18.
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|digits| !digits.is_empty() && *digits != "i");
    let value: f64 = match exponent {
        Some(_) => text.parse().ok()?,
        None => number.parse::<f64>().ok()? * scale(suffix)?,
    };
    value.is_finite().then_some(value)
}

fn scale(suffix: &str) -> Option<f64> {
    Some(match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn quantities_of_the_api() {
        for (text, value) in [
            ("0", 0.0),
            ("1", 1.0),
            ("1.5", 1.5),
            ("250m", 0.25),
            ("64Mi", 67_108_864.0),
            ("1Gi", 1_073_741_824.0),
            ("1G", 1e9),
            ("129e6", 129e6),
            ("1E3", 1000.0),
            ("2E", 2e18),
            ("1Ei", 1_152_921_504_606_846_976.0),
            ("100k", 1e5),
            ("5n", 5e-9),
            ("-1", -1.0),
            (".5", 0.5),
        ] {
            let parsed = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert!((parsed - value).abs() <= value.abs() * 1e-12, "{text}: {parsed}");
        }
        for text in ["", "m", "1x", "1 Mi", "1e", "1e999", "--1", "1MI", "٣", "1ee3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = parse(&text);
        }
    }
}

//! The time range of a page, which its address holds.

use std::collections::HashMap;

use super::shell::encode;

/// Ranges that one click chooses: what the address says, what the page says, and how many seconds it is.
pub const PRESETS: [(&str, &str, i64); 9] = [
    ("15m", "15 min", 900),
    ("1h", "1 h", 3_600),
    ("6h", "6 h", 21_600),
    ("1d", "1 day", 86_400),
    ("1w", "1 week", 604_800),
    ("30d", "30 days", 2_592_000),
    ("90d", "90 days", 7_776_000),
    ("1y", "1 year", 31_536_000),
    ("2y", "2 years", 63_072_000),
];

/// Times beyond this are none, as in queries; those within it can be computed with.
const FARTHEST_SECONDS: i64 = 9_000_000_000_000;

/// What stands for the window of rates in an expression.
const RATE_WINDOW: &str = "$window";
/// How long the window of rates is at least: many scrape once a minute.
pub const MIN_RATE_SECONDS: i64 = 120;

/// The expression with so many seconds as the window of rates: as long as its name up to six digits, so that errors keep their places.
pub fn with_rate_window(expr: &str, seconds: i64) -> String {
    expr.replace(RATE_WINDOW, &format!("{seconds:06}s"))
}

/// A time range.
#[derive(Debug, PartialEq, Eq)]
pub struct Window {
    /// Its start in unix milliseconds.
    pub start_ms: i64,
    /// Its end in unix milliseconds.
    pub end_ms: i64,
    /// The preset it is, and so ends now.
    pub preset: Option<&'static str>,
}

impl Window {
    /// The range that the parameters name: `range`, or `from` and `to` in unix seconds. The last hour where they name none.
    pub fn of(query: &HashMap<String, String>, now_ms: i64) -> Self {
        let is_near = |seconds: &i64| (-FARTHEST_SECONDS..=FARTHEST_SECONDS).contains(seconds);
        let seconds = |name: &str| query.get(name)?.parse().ok().filter(is_near).map(|seconds| seconds * 1000);
        if let (Some(start_ms), Some(end_ms)) = (seconds("from"), seconds("to"))
            && start_ms < end_ms
        {
            return Self { start_ms, end_ms, preset: None };
        }
        let named = query.get("range").and_then(|range| PRESETS.iter().find(|(name, ..)| name == range)).unwrap_or(&PRESETS[1]);
        Self { start_ms: now_ms - named.2 * 1000, end_ms: now_ms, preset: Some(named.0) }
    }

    /// The range as parameters.
    pub fn parameters(&self) -> String {
        match self.preset {
            Some(name) => format!("range={}", encode(name)),
            None => format!("from={}&to={}", self.start_ms / 1000, self.end_ms / 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_preset_or_two_times() {
        let of = |pairs: &[(&str, &str)]| {
            Window::of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(), 10_000_000)
        };
        assert_eq!(of(&[]), Window { start_ms: 6_400_000, end_ms: 10_000_000, preset: Some("1h") });
        assert_eq!(of(&[("range", "15m")]).start_ms, 9_100_000);
        assert_eq!(of(&[("range", "x")]).preset, Some("1h"));
        let two = of(&[("from", "100"), ("to", "200")]);
        assert_eq!((two.start_ms, two.end_ms, two.preset), (100_000, 200_000, None));
        assert_eq!(two.parameters(), "from=100&to=200");
        for (from, to) in [("200", "100"), ("x", "1"), ("1", "9223372036854775807"), ("-9223372036854775", "9223372036854775")] {
            assert_eq!(of(&[("from", from), ("to", to)]).preset, Some("1h"), "{from} {to}");
        }
    }

    #[test]
    fn a_window_of_rates_is_a_duration_that_moves_nothing() {
        let expr = "rate(x[$window]) + y";
        let filled = with_rate_window(expr, MIN_RATE_SECONDS);
        assert_eq!(filled, "rate(x[000120s]) + y");
        assert_eq!(filled.len(), expr.len());
        assert_eq!(golectra_promql::parse::parse_duration("000120s"), Some(120_000));
    }
}

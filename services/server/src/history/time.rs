//! Times and durations as Prometheus reads them from parameters.

use std::time::{Duration, UNIX_EPOCH};

use golectra_promql::parse::parse_duration;

/// The evaluation knows no times and durations beyond this many seconds.
const FARTHEST_SECONDS: f64 = 9_000_000_000_000.0;

/// Times up to this many seconds are taken as the farthest: Prometheus's first and last time are 9,223,309,901,257,974 s from 1970. Larger numbers are no times.
const LARGEST_SECONDS: f64 = 1e16;

/// What Prometheus writes for the first and the last time that it knows.
const FIRST: &str = "-292273086-05-16T16:47:06Z";
const LAST: &str = "+292277025-08-18T07:12:54.999999999Z";

/// 400 years of the Gregorian calendar.
const CYCLE_MILLIS: i64 = 146_097 * 24 * 60 * 60 * 1000;

/// Reads unix seconds or RFC 3339, in milliseconds.
pub fn parse_time_ms(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
        return (seconds.abs() <= LARGEST_SECONDS).then(|| (seconds.clamp(-FARTHEST_SECONDS, FARTHEST_SECONDS) * 1000.0).round() as i64);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let farthest_ms = (FARTHEST_SECONDS * 1000.0) as i64;
    match text {
        FIRST => Some(-farthest_ms),
        LAST => Some(farthest_ms),
        _ => parse_rfc3339_ms(text),
    }
}

fn parse_rfc3339_ms(text: &str) -> Option<i64> {
    let zone_at = text.len().checked_sub("+00:00".len())?;
    let (local, offset_seconds) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => (text.get(..zone_at)?, offset_seconds(text.get(zone_at..)?)?),
    };
    let (year, rest) = local.split_at_checked(4).filter(|(year, _)| year.bytes().all(|byte| byte.is_ascii_digit()))?;
    let year: i64 = year.parse().ok()?;
    // The library knows no time before 1970. The calendar repeats itself every 400 years.
    let cycles = if year < 1970 { (1970 - year + 399) / 400 } else { 0 };
    let time = humantime::parse_rfc3339(&format!("{:04}{rest}Z", year + 400 * cycles)).ok()?;
    let unix = time.duration_since(UNIX_EPOCH).ok()?;
    Some(i64::try_from(unix.as_millis()).ok()? - cycles * CYCLE_MILLIS - offset_seconds * 1000)
}

/// Seconds of `+hh:mm` or `-hh:mm`.
fn offset_seconds(zone: &str) -> Option<i64> {
    let (sign, rest) = zone.split_at_checked(1)?;
    let sign = match sign {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, limit: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| digits && *number < limit)
    };
    Some(sign * (number(hours, 24)? * 3600 + number(minutes, 60)? * 60))
}

/// Reads seconds or a duration such as `5m`, in milliseconds.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
        return (seconds.abs() <= FARTHEST_SECONDS).then(|| (seconds * 1000.0).round() as i64);
    }
    parse_duration(text)
}

/// As the standard library's type; none for one that is negative.
pub fn duration(ms: i64) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_unix_seconds_or_rfc_3339() {
        for (text, ms) in [
            ("1435781430.781", 1_435_781_430_781),
            ("1435781430", 1_435_781_430_000),
            ("1.4357814307815e9", 1_435_781_430_782),
            ("-5.5", -5_500),
            ("2015-07-01T20:10:30.781Z", 1_435_781_430_781),
            ("2015-07-01T20:10:30Z", 1_435_781_430_000),
            ("2015-07-01T22:10:30.781+02:00", 1_435_781_430_781),
            ("2015-07-01T15:40:30-04:30", 1_435_781_430_000),
            ("1969-12-31T23:59:59Z", -1_000),
            ("1970-01-01T00:00:00.5+01:00", -3_599_500),
            ("1600-03-01T00:00:00Z", -11_670_912_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
            (FIRST, -9_000_000_000_000_000),
            (LAST, 9_000_000_000_000_000),
            // The same as numbers.
            ("-9223309901257974", -9_000_000_000_000_000),
            ("9223309901257974", 9_000_000_000_000_000),
            ("9.223309901257974e+15", 9_000_000_000_000_000),
            ("9000000000001", 9_000_000_000_000_000),
        ] {
            assert_eq!(parse_time_ms(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "foo",
            "NaN",
            "Inf",
            "-inf",
            "9e18",
            "-9e18",
            "1.1e16",
            "30m",
            "2015-07-01",
            "2015-07-01T20:10:30",
            "2015-07-01 20:10:30Z",
            "2015-07-01T20:10:30+2:00",
            "2015-07-01T20:10:30+24:00",
            "2015-07-01T20:10:30é00:00",
            "2015-13-01T20:10:30Z",
        ] {
            assert_eq!(parse_time_ms(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        for (text, ms) in [("15", 15_000), ("0.25", 250), ("5m", 300_000), ("1h30m", 5_400_000), ("-1", -1_000), ("0", 0)] {
            assert_eq!(parse_duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "5x", "NaN", "1e300", "5m5", "-5m"] {
            assert_eq!(parse_duration_ms(text), None, "{text}");
        }
        assert_eq!((duration(1_500), duration(-1)), (Some(Duration::from_millis(1_500)), None));
    }
}

//! Quiet hours: times of the day at which a receiver is told of nothing but what is critical.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde::{Deserialize, Serialize};

use super::Severity;

/// The most entries of a list.
pub const MAX_ENTRIES: usize = 50;
/// The minutes of a day.
const DAY: u16 = 24 * 60;

/// The days, for people.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A part of some days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuietHours {
    /// The days on which it begins, from Monday.
    days: [bool; 7],
    /// When it begins, in minutes since midnight.
    from: u16,
    /// When it ends; not after its beginning where that is on the next day.
    to: u16,
    /// By the clock of this zone.
    zone: TimeZone,
    /// The worst that is held back.
    max_severity: Severity,
    /// As it was written.
    text: RawQuietHours,
}

/// As RECEIVERS_FILE has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawQuietHours {
    #[serde(default = "Day::all")]
    days: Vec<Day>,
    from: String,
    to: String,
    #[serde(default = "utc")]
    time_zone: String,
    #[serde(default = "warning")]
    max_severity: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn all() -> Vec<Self> {
        vec![Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun]
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

const fn warning() -> Severity {
    Severity::Warning
}

impl fmt::Display for QuietHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RawQuietHours { from, to, time_zone, max_severity, .. } = &self.text;
        let days: Vec<_> = DAYS.iter().zip(self.days).filter(|(_, named)| *named).map(|(name, _)| *name).collect();
        let days = if days.len() == DAYS.len() { "every day".to_owned() } else { days.join(", ") };
        write!(f, "{days} {from} to {to} {time_zone}, up to {}", max_severity.as_str())
    }
}

impl QuietHours {
    /// Checks what was written; the error says what is wrong.
    pub fn new(text: RawQuietHours) -> Result<Self, String> {
        let mut days = [false; 7];
        for day in &text.days {
            days[*day as usize] = true;
        }
        if text.days.is_empty() {
            return Err("days names at least one of mon, tue, wed, thu, fri, sat and sun".to_owned());
        }
        let minute = |name: &str, time: &str| {
            minute_of_day(time).ok_or_else(|| format!("{name} must be a time of the day from \"00:00\" to \"24:00\", not {time:?}"))
        };
        let (from, to) = (minute("from", &text.from)?, minute("to", &text.to)?);
        if from == to || from == DAY {
            return Err("from must be before 24:00 and differ from to; a whole day is from \"00:00\" to \"24:00\"".to_owned());
        }
        let zone = zone(&text.time_zone).ok_or_else(|| {
            format!("time_zone must be a zone such as Europe/Berlin or an offset from UTC such as \"+02:00\", not {:?}", text.time_zone)
        })?;
        Ok(Self { days, from, to, zone, max_severity: text.max_severity, text })
    }

    /// As it was written.
    pub const fn text(&self) -> &RawQuietHours {
        &self.text
    }

    /// Whether it is quiet at this time.
    pub fn is_on(&self, unix_ms: i64) -> bool {
        let Ok(time) = Timestamp::from_millisecond(unix_ms) else { return false };
        let local = self.zone.to_datetime(time);
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let today = usize::from(local.weekday().to_monday_zero_offset().unsigned_abs());
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            self.days[today] && (self.from..self.to).contains(&minute)
        } else {
            self.days[today] && minute >= self.from || self.days[yesterday] && minute < self.to
        }
    }
}

/// The worst severity that is held back at this time, if it is quiet.
pub fn held_up_to(all: &[QuietHours], unix_ms: i64) -> Option<Severity> {
    all.iter().filter(|hours| hours.is_on(unix_ms)).map(|hours| hours.max_severity).max()
}

fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok())?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

fn zone(text: &str) -> Option<TimeZone> {
    let Some(east) = text.strip_prefix('+').map(|rest| (1, rest)).or_else(|| text.strip_prefix('-').map(|rest| (-1, rest))) else {
        return TimeZone::get(text).ok();
    };
    let minutes = i32::from(minute_of_day(east.1).filter(|minutes| *minutes < DAY)?);
    Offset::from_seconds(east.0 * minutes * 60).ok().map(TimeZone::fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(yaml: &str) -> Result<QuietHours, String> {
        let raw: RawQuietHours = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
        QuietHours::new(raw)
    }

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// Whether it is quiet at each of these times.
    fn on(yaml: &str, times: &[(&str, bool)]) {
        let hours = hours(yaml).unwrap();
        for (time, expected) in times {
            assert_eq!(hours.is_on(ms(time)), *expected, "{yaml} at {time}");
        }
    }

    #[test]
    fn a_night_begins_on_one_day_and_ends_on_the_next() {
        // The 6th of November 2026 is a Friday.
        on(
            "{days: [fri], from: '22:00', to: '07:00'}",
            &[
                ("2026-11-06T06:59:59Z", false),
                ("2026-11-06T21:59:59Z", false),
                ("2026-11-06T22:00:00Z", true),
                ("2026-11-07T06:59:59Z", true),
                ("2026-11-07T07:00:00Z", false),
                ("2026-11-07T22:00:00Z", false),
            ],
        );
        on(
            "{days: [sat, sun], from: '00:00', to: '24:00'}",
            &[
                ("2026-11-06T23:59:59Z", false),
                ("2026-11-07T00:00:00Z", true),
                ("2026-11-08T23:59:59Z", true),
                ("2026-11-09T00:00:00Z", false),
            ],
        );
        // The day on which Sunday's night begins is the last of the list, Monday's the first.
        on("{days: [sun], from: '23:00', to: '01:00'}", &[("2026-11-09T00:30:00Z", true), ("2026-11-08T00:30:00Z", false)]);
    }

    #[test]
    fn times_are_those_of_the_zone_in_summer_and_winter() {
        let berlin = "{from: '22:00', to: '07:00', time_zone: Europe/Berlin}";
        on(berlin, &[("2026-07-01T19:59:00Z", false), ("2026-07-01T20:00:00Z", true), ("2026-07-02T05:00:00Z", false)]);
        on(berlin, &[("2026-12-01T20:59:00Z", false), ("2026-12-01T21:00:00Z", true), ("2026-12-02T06:00:00Z", false)]);
        // The hour that a change of the clock leaves out, and the one that it repeats.
        let change = "{from: '02:00', to: '03:00', time_zone: Europe/Berlin}";
        on(change, &[("2026-03-29T00:59:00Z", false), ("2026-03-29T01:00:00Z", false)]);
        on(change, &[("2026-10-25T00:00:00Z", true), ("2026-10-25T01:59:00Z", true), ("2026-10-25T02:00:00Z", false)]);
        on("{from: '22:00', to: '23:00', time_zone: '+05:30'}", &[("2026-11-06T16:30:00Z", true), ("2026-11-06T17:30:00Z", false)]);
        on("{from: '22:00', to: '23:00', time_zone: '-03:00'}", &[("2026-11-07T01:00:00Z", true), ("2026-11-06T22:00:00Z", false)]);
    }

    #[test]
    fn the_worst_of_what_overlaps_is_held() {
        let all = [hours("{from: '00:00', to: '24:00'}").unwrap(), hours("{from: '12:00', to: '13:00', max_severity: critical}").unwrap()];
        assert_eq!(held_up_to(&all, ms("2026-11-06T11:59:00Z")), Some(Severity::Warning));
        assert_eq!(held_up_to(&all, ms("2026-11-06T12:00:00Z")), Some(Severity::Critical));
        assert_eq!(held_up_to(&all[1..], ms("2026-11-06T13:00:00Z")), None);
    }

    #[test]
    fn they_are_written_for_people() {
        for (yaml, text) in [
            ("{from: '22:00', to: '07:00'}", "every day 22:00 to 07:00 UTC, up to warning"),
            (
                "{days: [sun, sat], from: '00:00', to: '24:00', time_zone: Europe/Berlin, max_severity: critical}",
                "Sat, Sun 00:00 to 24:00 Europe/Berlin, up to critical",
            ),
        ] {
            assert_eq!(hours(yaml).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (yaml, problem) in [
            ("{from: '22:00', to: '22:00'}", "a whole day"),
            ("{from: '24:00', to: '22:00'}", "a whole day"),
            ("{from: '22', to: '07:00'}", "from must be"),
            ("{from: '22:00', to: '7:00'}", "to must be"),
            ("{from: '22:00', to: '07:60'}", "to must be"),
            ("{from: '22:00', to: '24:01'}", "to must be"),
            ("{from: '22:00', to: '07:00', time_zone: Europe/Bielefeld}", "time_zone must be"),
            ("{from: '22:00', to: '07:00', time_zone: '+24:00'}", "time_zone must be"),
            ("{from: '22:00', to: '07:00', days: []}", "days names"),
            ("{from: '22:00', to: '07:00', days: [someday]}", "someday"),
            ("{from: '22:00', to: '07:00', max_severity: high}", "high"),
            ("{from: '22:00', until: '07:00'}", "until"),
        ] {
            let error = hours(yaml).unwrap_err();
            assert!(error.contains(problem), "{yaml}: {error}");
        }
    }
}

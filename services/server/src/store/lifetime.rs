//! How long keys, history, series and sources live, and the clock by which a series expires.
//!
//! A series that is missing from its source's reports for `SERIES_EXPIRY` leaves the newest state. Only time in which the source reports counts:
//! a node that is off for three days has all of its series when it is back. So each source has a [`ReportingClock`] that runs while reports come in.
//! The clock is marked from time to time with the arrival that was the newest then; a series whose last report arrived before a mark has been
//! missing since that mark. Nothing has to be kept for each series but the arrival of its last report.

use std::collections::VecDeque;
use std::time::Duration;

/// How long things live. Each is at least an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// How long it is remembered which batches were applied; older batches are refused.
    pub dedup_window: Duration,
    /// How long the history of values is kept.
    pub retention_raw: Duration,
    /// How long it is kept what the values of each 5 minutes come to, at least as long as the values.
    pub retention_5m: Duration,
    /// How long it is kept what the values of each hour come to, at least as long as those of 5 minutes.
    pub retention_1h: Duration,
    /// How long after its half hour a report stays in `frames` before it is sealed, at least [`Lifetimes::MIN_SEAL_AFTER`].
    pub seal_after: Duration,
    /// How long a series may be missing from its source's reports.
    pub series_expiry: Duration,
    /// How long a named source may be silent.
    pub source_expiry: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            dedup_window: Duration::from_hours(48),
            retention_raw: Duration::from_hours(30 * 24),
            retention_5m: Duration::from_hours(180 * 24),
            retention_1h: Duration::from_hours(2 * 365 * 24),
            seal_after: Duration::from_mins(5),
            series_expiry: Duration::from_hours(24),
            source_expiry: Duration::from_hours(7 * 24),
        }
    }
}

impl Lifetimes {
    /// Covers writes under way and what servers' clocks are off.
    pub const MIN_SEAL_AFTER: Duration = Duration::from_mins(2);

    /// [`Self::dedup_window`] in milliseconds.
    pub fn dedup_window_millis(&self) -> u64 {
        millis(self.dedup_window)
    }

    /// [`Self::retention_raw`] in milliseconds.
    pub fn retention_raw_millis(&self) -> u64 {
        millis(self.retention_raw)
    }

    /// [`Self::retention_5m`] in milliseconds.
    pub fn retention_5m_millis(&self) -> u64 {
        millis(self.retention_5m)
    }

    /// [`Self::retention_1h`] in milliseconds.
    pub fn retention_1h_millis(&self) -> u64 {
        millis(self.retention_1h)
    }

    /// [`Self::series_expiry`] in milliseconds.
    pub fn series_expiry_millis(&self) -> u64 {
        millis(self.series_expiry)
    }

    /// [`Self::source_expiry`] in milliseconds.
    pub fn source_expiry_millis(&self) -> u64 {
        millis(self.source_expiry)
    }

    /// The most that the time between two reports counts as time in which the source reported: a quarter of `series_expiry`. Whatever is longer
    /// is an outage.
    pub fn longest_gap_millis(&self) -> u64 {
        self.series_expiry_millis() / 4
    }

    /// How often a clock is marked, which is how exact expiry is: a twenty-fourth of `series_expiry`.
    pub fn mark_every_millis(&self) -> u64 {
        self.series_expiry_millis() / 24
    }

    /// How often to look for what has expired.
    pub fn sweep_every(&self) -> Duration {
        (self.series_expiry / 48).clamp(Duration::from_mins(1), Duration::from_mins(10))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment of a reporting clock, and the newest arrival at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// What the clock showed, in milliseconds.
    pub reporting_millis: u64,
    /// Every report that came later has a greater arrival.
    pub arrival: u64,
}

/// Runs while its source reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportingClock {
    /// How long the source has reported in all, in milliseconds.
    pub reporting_millis: u64,
    /// In order; the first is the newest of those that are `series_expiry` old, if there is one.
    pub marks: VecDeque<Mark>,
}

impl ReportingClock {
    /// Goes on by the time between two reports.
    pub fn advance(&mut self, gap_millis: u64, lifetimes: &Lifetimes) {
        self.reporting_millis += gap_millis.min(lifetimes.longest_gap_millis());
    }

    /// Marks the clock where that is due, and forgets marks that are of no use any more. `arrival` is the newest arrival.
    pub fn mark(&mut self, arrival: u64, lifetimes: &Lifetimes) {
        let due = self.marks.back().is_none_or(|last| self.reporting_millis >= last.reporting_millis + lifetimes.mark_every_millis());
        if due {
            self.marks.push_back(Mark { reporting_millis: self.reporting_millis, arrival });
        }
        while self.marks.get(1).is_some_and(|second| self.is_old(*second, lifetimes)) {
            self.marks.pop_front();
        }
    }

    /// Series whose last report arrived at or before this have expired.
    pub fn expired_up_to(&self, lifetimes: &Lifetimes) -> Option<u64> {
        self.marks.front().filter(|first| self.is_old(**first, lifetimes)).map(|first| first.arrival)
    }

    fn is_old(&self, mark: Mark, lifetimes: &Lifetimes) -> bool {
        mark.reporting_millis + lifetimes.series_expiry_millis() <= self.reporting_millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 60 * 60 * 1000;

    #[test]
    fn a_series_expires_a_day_of_reports_after_its_last_one() {
        let lifetimes = Lifetimes::default();
        let mut clock = ReportingClock::default();
        clock.mark(0, &lifetimes);
        for minute in 1..=60 * 50 {
            clock.advance(60_000, &lifetimes);
            clock.mark(minute, &lifetimes);
            let expired = clock.expired_up_to(&lifetimes);
            // To the hour, never early.
            match minute.checked_sub(24 * 60) {
                None => assert_eq!(expired, None, "minute {minute}"),
                Some(since) => assert_eq!(expired, Some(since / 60 * 60), "minute {minute}"),
            }
            assert!(clock.marks.len() <= 26, "{}", clock.marks.len());
        }
    }

    #[test]
    fn silence_counts_for_six_hours_at_most() {
        let lifetimes = Lifetimes::default();
        let mut clock = ReportingClock::default();
        clock.mark(1, &lifetimes);
        clock.advance(1000 * HOUR, &lifetimes);
        clock.mark(2, &lifetimes);
        assert_eq!(clock.reporting_millis, 6 * HOUR);
        assert_eq!(clock.expired_up_to(&lifetimes), None);
        for arrival in 3..6 {
            clock.advance(6 * HOUR, &lifetimes);
            clock.mark(arrival, &lifetimes);
        }
        assert_eq!(clock.expired_up_to(&lifetimes), Some(1));
    }
}

//! The database's clock, by which keys, history, series and sources live: servers may differ from it and from one another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use sqlx::PgConnection;

use crate::clock::Clock;
use crate::metrics::postgres::WriterMetrics;
use crate::store::expiry_clock::{ExpiryClock, since_boot};

/// A server whose clock differs by more than this says so.
const LARGE_OFFSET_MILLIS: i64 = 60_000;
/// Differences below this are left alone: measuring is not more exact over a network.
const SMALL_CHANGE_MILLIS: i64 = 20;

/// Counts time since the machine's start. Nobody sets it, and it goes on while the machine is suspended.
#[derive(Clone)]
enum SteadyClock {
    System,
    #[cfg(test)]
    Set(Arc<AtomicU64>),
}

impl SteadyClock {
    fn millis(&self) -> u64 {
        match self {
            Self::System => u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX),
            #[cfg(test)]
            Self::Set(now) => now.load(Ordering::Relaxed),
        }
    }
}

/// What this machine's clocks show at one moment, in milliseconds.
#[derive(Clone, Copy)]
struct Reading {
    unix: u64,
    steady: u64,
}

/// Tells the database's time without asking it each time: what it was when it was measured, and how much time has passed since. This machine's clock, which
/// may be set at any moment, counts only until the first measurement.
#[derive(Clone)]
pub(super) struct DatabaseClock {
    clock: Clock,
    steady: SteadyClock,
    /// How far the database's time is ahead of the steady clock.
    ahead_millis: Arc<AtomicI64>,
    /// When that was measured last, by the steady clock.
    measured_at: Arc<AtomicU64>,
    /// The latest time that it is known to have shown, in unix milliseconds.
    latest: Arc<AtomicU64>,
    /// Whether a large offset was logged.
    warned: Arc<AtomicBool>,
    expiry: Arc<ExpiryClock>,
    metrics: WriterMetrics,
}

impl DatabaseClock {
    pub(super) fn new(clock: Clock, metrics: WriterMetrics) -> Self {
        let steady = SteadyClock::System;
        let ahead_millis = Arc::new(AtomicI64::new(signed(clock.unix_millis()) - signed(steady.millis())));
        Self {
            clock,
            steady,
            ahead_millis,
            measured_at: Arc::default(),
            latest: Arc::default(),
            warned: Arc::default(),
            expiry: Arc::default(),
            metrics,
        }
    }

    /// Now, in unix milliseconds.
    pub(super) fn unix_millis(&self) -> u64 {
        if self.clock.stands_in_for_the_database() {
            return self.clock.unix_millis();
        }
        self.steady.millis().saturating_add_signed(self.ahead_millis.load(Ordering::Relaxed))
    }

    /// The latest time that it is known to have shown, in unix milliseconds: later than now where it was set back. A half hour that was over once counts as
    /// over, whatever the clock shows now.
    pub(super) fn latest_unix_millis(&self) -> u64 {
        let now = self.unix_millis();
        self.latest.load(Ordering::Relaxed).max(now)
    }

    /// The database has something that was made when its clock showed this or a later time.
    pub(super) fn has_shown(&self, unix_millis: u64) {
        self.latest.fetch_max(unix_millis, Ordering::Relaxed);
    }

    /// The time by which things are removed for good, in unix milliseconds: not later than now. A step of the database's clock, or another database's clock
    /// after a failover, counts only after an hour.
    pub(super) fn expiry_unix_millis(&self) -> u64 {
        let now = self.unix_millis();
        if self.clock.stands_in_for_the_database() { now } else { self.expiry.follow(now) }
    }

    /// Asks the database for its time.
    pub(super) async fn measure(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let asked = self.read();
        let told =
            sqlx::query_scalar!(r#"SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS "now!""#).fetch_one(conn).await?;
        self.observe(asked, told, self.read());
        Ok(())
    }

    /// Whether it was asked within the last second.
    pub(super) fn was_just_measured(&self) -> bool {
        self.steady.millis().saturating_sub(self.measured_at.load(Ordering::Relaxed)) < 1000
    }

    /// As if this machine had been paused for a while since the last measurement, and its clocks had not counted that.
    #[cfg(test)]
    pub(super) fn fall_behind(&self, millis: i64) {
        self.ahead_millis.fetch_sub(millis, Ordering::Relaxed);
        self.measured_at.store(0, Ordering::Relaxed);
    }

    fn read(&self) -> Reading {
        Reading { unix: self.clock.unix_millis(), steady: self.steady.millis() }
    }

    /// The database's time was `told` at some moment between `asked` and `answered` of this machine's clocks.
    fn observe(&self, asked: Reading, told: i64, answered: Reading) {
        if self.clock.stands_in_for_the_database() {
            self.has_shown(answered.unix);
            return;
        }
        self.has_shown(u64::try_from(told).unwrap_or(0));
        self.measured_at.store(answered.steady, Ordering::Relaxed);
        let unsure = (signed(answered.steady) - signed(asked.steady)) / 2;
        let measured = told + unsure - signed(answered.steady);
        let known = self.ahead_millis.load(Ordering::Relaxed);
        let ahead = if (measured - known).abs() > unsure + SMALL_CHANGE_MILLIS { measured } else { known };
        self.ahead_millis.store(ahead, Ordering::Relaxed);
        // How far the database's clock is ahead of this machine's.
        let offset = ahead + signed(answered.steady) - signed(answered.unix);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 ms")]
        self.metrics.clock_offset_seconds.set(offset as f64 / 1000.0);
        let large = offset.abs() - unsure > LARGE_OFFSET_MILLIS;
        if large && !self.warned.swap(true, Ordering::Relaxed) {
            let seconds = offset / 1000;
            tracing::warn!(
                offset_seconds = seconds,
                "the database's clock and this server's differ by more than a minute; the database's counts: synchronise both"
            );
        } else if !large && self.warned.swap(false, Ordering::Relaxed) {
            tracing::info!("the database's clock and this server's differ by less than a minute again");
        }
    }
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clocks that show the same.
    fn both(millis: u64) -> Reading {
        Reading { unix: millis, steady: millis }
    }

    #[test]
    fn the_offset_is_taken_from_the_middle_of_the_question_and_small_changes_are_ignored() {
        let clock = DatabaseClock::new(Clock::System, WriterMetrics::unregistered());
        let ahead = |clock: &DatabaseClock| clock.ahead_millis.load(Ordering::Relaxed);
        clock.observe(both(1_000), 5_000, both(1_100));
        assert_eq!(ahead(&clock), 3_950);
        clock.observe(both(2_000), 5_960, both(2_010));
        assert_eq!(ahead(&clock), 3_950, "5 ms more are within what is unsure");
        clock.observe(both(2_000), 1_000, both(2_000));
        assert_eq!(ahead(&clock), -1_000);
        assert!(!clock.warned.load(Ordering::Relaxed));
        clock.observe(both(200_000), 100_000, both(200_000));
        assert!(clock.warned.load(Ordering::Relaxed));
        assert!((clock.metrics.clock_offset_seconds.get() + 100.0).abs() < 1e-9);
        clock.observe(both(200_000), 200_000, both(200_000));
        assert!(!clock.warned.load(Ordering::Relaxed));
    }

    #[test]
    fn the_databases_time_goes_on_evenly_when_this_machines_clock_is_set() {
        const HOUR: u64 = 60 * 60 * 1000;
        let steady = Arc::new(AtomicU64::new(1_000));
        let plain = DatabaseClock::new(Clock::System, WriterMetrics::unregistered());
        let mut clock = DatabaseClock { steady: SteadyClock::Set(Arc::clone(&steady)), ..plain };
        let now = clock.clock.unix_millis();
        clock.observe(clock.read(), signed(now), clock.read());
        assert_eq!(clock.unix_millis(), now);
        steady.store(3_000, Ordering::Relaxed);
        for wrong_by in [3_600_000, -3_600_000] {
            clock.clock = Clock::Wrong(wrong_by);
            assert_eq!(clock.unix_millis(), now + 2_000);
        }
        // The next measurement shows how far this machine's clock is off, and changes nothing else.
        clock.observe(clock.read(), signed(now + 2_000), clock.read());
        assert_eq!(clock.unix_millis(), now + 2_000);
        let offset = clock.metrics.clock_offset_seconds.get();
        assert!((3_590.0..3_610.0).contains(&offset), "{offset}");
        assert!(clock.warned.load(Ordering::Relaxed));
        // While the machine is suspended, its steady clock goes on.
        steady.store(3_000 + HOUR, Ordering::Relaxed);
        assert_eq!(clock.unix_millis(), now + 2_000 + HOUR);
    }

    #[test]
    fn things_are_not_removed_by_a_database_whose_clock_is_suddenly_ahead() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let clock = DatabaseClock::new(Clock::System, WriterMetrics::unregistered());
        let before = clock.expiry_unix_millis();
        let now = clock.read();
        clock.observe(now, signed(now.unix + 365 * DAY), now);
        assert!(clock.unix_millis() > before + 364 * DAY);
        assert!((before..before + DAY).contains(&clock.clone().expiry_unix_millis()));
        clock.observe(now, signed(now.unix - DAY), now);
        assert!(clock.expiry_unix_millis() < before, "backwards it is followed at once");
    }

    #[test]
    fn the_latest_time_stays_when_the_clock_goes_back() {
        let own = Clock::at(7);
        let clock = DatabaseClock::new(own.clone(), WriterMetrics::unregistered());
        assert_eq!(clock.latest_unix_millis(), 7);
        own.set(9);
        clock.clone().observe(both(9), 0, both(9));
        own.set(8);
        assert_eq!((clock.unix_millis(), clock.latest_unix_millis()), (8, 9));
        clock.has_shown(11);
        assert_eq!((clock.unix_millis(), clock.latest_unix_millis()), (8, 11));
    }

    #[test]
    fn what_this_machine_guesses_is_not_what_the_database_has_shown() {
        let clock = DatabaseClock::new(Clock::Wrong(3_600_000), WriterMetrics::unregistered());
        let now = Clock::System.unix_millis();
        assert!(clock.unix_millis() > now + 3_500_000);
        let asked = clock.read();
        clock.observe(asked, signed(now), asked);
        assert!((now..now + 1_800_000).contains(&clock.latest_unix_millis()));
    }

    #[test]
    fn a_clock_that_a_test_sets_is_the_databases() {
        let clock = DatabaseClock::new(Clock::at(7), WriterMetrics::unregistered());
        clock.observe(both(7), 1_000_000, both(7));
        assert_eq!(clock.unix_millis(), 7);
    }
}

//! The database's clock, by which keys, history, series and sources live: servers may differ from it and from one another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use sqlx::PgConnection;

use crate::clock::Clock;
use crate::metrics::postgres::WriterMetrics;
use crate::store::expiry_clock::ExpiryClock;

/// A server whose clock differs by more than this says so.
const LARGE_OFFSET_MILLIS: i64 = 60_000;
/// Differences below this are left alone: measuring is not more exact over a network.
const SMALL_CHANGE_MILLIS: i64 = 20;

/// Tells the database's time without asking it each time: by this machine's clock and how far that is off.
#[derive(Clone)]
pub(super) struct DatabaseClock {
    clock: Clock,
    offset_millis: Arc<AtomicI64>,
    /// The latest time that it is known to have shown, in unix milliseconds.
    latest: Arc<AtomicU64>,
    /// Whether a large offset was logged.
    warned: Arc<AtomicBool>,
    expiry: Arc<ExpiryClock>,
    metrics: WriterMetrics,
}

impl DatabaseClock {
    pub(super) fn new(clock: Clock, metrics: WriterMetrics) -> Self {
        Self { clock, offset_millis: Arc::default(), latest: Arc::default(), warned: Arc::default(), expiry: Arc::default(), metrics }
    }

    /// Now, in unix milliseconds.
    pub(super) fn unix_millis(&self) -> u64 {
        self.clock.unix_millis().saturating_add_signed(self.offset_millis.load(Ordering::Relaxed))
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
        let asked = self.clock.unix_millis();
        let told =
            sqlx::query_scalar!(r#"SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS "now!""#).fetch_one(conn).await?;
        self.observe(asked, told, self.clock.unix_millis());
        Ok(())
    }

    /// The database's time was `told` at some moment between `asked` and `answered` of this machine's clock.
    fn observe(&self, asked: u64, told: i64, answered: u64) {
        if self.clock.stands_in_for_the_database() {
            self.has_shown(answered);
            return;
        }
        self.has_shown(u64::try_from(told).unwrap_or(0));
        let (asked, answered) = (signed(asked), signed(answered));
        let unsure = (answered - asked).abs() / 2;
        let offset = told - (asked + (answered - asked) / 2);
        let known = self.offset_millis.load(Ordering::Relaxed);
        if (offset - known).abs() > unsure + SMALL_CHANGE_MILLIS {
            self.offset_millis.store(offset, Ordering::Relaxed);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 ms")]
        self.metrics.clock_offset_seconds.set(self.offset_millis.load(Ordering::Relaxed) as f64 / 1000.0);
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

    #[test]
    fn the_offset_is_taken_from_the_middle_of_the_question_and_small_changes_are_ignored() {
        let clock = DatabaseClock::new(Clock::System, WriterMetrics::unregistered());
        let offset = |clock: &DatabaseClock| clock.offset_millis.load(Ordering::Relaxed);
        clock.observe(1_000, 5_000, 1_100);
        assert_eq!(offset(&clock), 3_950);
        clock.observe(2_000, 5_960, 2_010);
        assert_eq!(offset(&clock), 3_950, "5 ms more are within what is unsure");
        clock.observe(2_000, 1_000, 2_000);
        assert_eq!(offset(&clock), -1_000);
        assert!(!clock.warned.load(Ordering::Relaxed));
        clock.observe(200_000, 100_000, 200_000);
        assert!(clock.warned.load(Ordering::Relaxed));
        assert!((clock.metrics.clock_offset_seconds.get() + 100.0).abs() < 1e-9);
        clock.observe(200_000, 200_000, 200_000);
        assert!(!clock.warned.load(Ordering::Relaxed));
    }

    #[test]
    fn things_are_not_removed_by_a_database_whose_clock_is_suddenly_ahead() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let clock = DatabaseClock::new(Clock::System, WriterMetrics::unregistered());
        let before = clock.expiry_unix_millis();
        let now = Clock::System.unix_millis();
        clock.observe(now, signed(now + 365 * DAY), now);
        assert!(clock.unix_millis() > before + 364 * DAY);
        assert!((before..before + DAY).contains(&clock.clone().expiry_unix_millis()));
        clock.observe(now, signed(now - DAY), now);
        assert!(clock.expiry_unix_millis() < before, "backwards it is followed at once");
    }

    #[test]
    fn the_latest_time_stays_when_the_clock_goes_back() {
        let own = Clock::at(7);
        let clock = DatabaseClock::new(own.clone(), WriterMetrics::unregistered());
        assert_eq!(clock.latest_unix_millis(), 7);
        own.set(9);
        clock.clone().observe(9, 0, 9);
        own.set(8);
        assert_eq!((clock.unix_millis(), clock.latest_unix_millis()), (8, 9));
        clock.has_shown(11);
        assert_eq!((clock.unix_millis(), clock.latest_unix_millis()), (8, 11));
    }

    #[test]
    fn what_this_machine_guesses_is_not_what_the_database_has_shown() {
        let clock = DatabaseClock::new(Clock::Wrong(3_600_000), WriterMetrics::unregistered());
        let now = Clock::System.unix_millis();
        assert!(clock.unix_millis() >= now + 3_600_000);
        let asked = clock.clock.unix_millis();
        clock.observe(asked, signed(now), asked);
        assert!((now..now + 1_800_000).contains(&clock.latest_unix_millis()));
    }

    #[test]
    fn a_clock_that_a_test_sets_is_the_databases() {
        let clock = DatabaseClock::new(Clock::at(7), WriterMetrics::unregistered());
        clock.observe(7, 1_000_000, 7);
        assert_eq!(clock.unix_millis(), 7);
    }
}

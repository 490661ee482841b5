//! The time by which things are removed for good.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The clock was set when it went on by so much more than time did.
const STEP: Duration = Duration::from_mins(1);
/// For how long it has to stay ahead until things are removed by it.
const STEP_LASTS: Duration = Duration::from_hours(1);

/// The time since the machine's start. Nobody sets it, and it goes on while the machine is suspended.
pub(super) fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// Follows a clock, but a step forward only after an hour: what was removed because the clock was wrong for a while would not come back. It begins with what
/// the clock shows when it is asked for the first time.
#[derive(Debug, Default)]
pub(super) struct ExpiryClock {
    seen: Mutex<Option<Seen>>,
    /// The time that it gave last.
    last_millis: AtomicU64,
}

/// What the clock showed when it was last followed. Times are those since the machine's start: by one that stands still while the machine is suspended, every
/// suspension would look like a step of the clock.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    unix_millis: u64,
    ahead_since: Option<Duration>,
}

impl ExpiryClock {
    /// The time to remove by, when the clock shows this.
    pub(super) fn follow(&self, unix_millis: u64) -> u64 {
        let followed = self.follow_at(since_boot(), unix_millis);
        self.last_millis.store(followed, Ordering::Relaxed);
        followed
    }

    /// The time that it gave last, without the lock that following takes; zero before it gave one.
    pub(super) fn last_millis(&self) -> u64 {
        self.last_millis.load(Ordering::Relaxed)
    }

    fn follow_at(&self, now: Duration, unix_millis: u64) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = &mut *seen {
            let expected = seen.unix_millis.saturating_add(millis(now.saturating_sub(seen.at)));
            if unix_millis > expected.saturating_add(millis(STEP)) {
                let since = *seen.ahead_since.get_or_insert_with(|| {
                    tracing::warn!(
                        ahead_seconds = (unix_millis - expected) / 1000,
                        "the clock was set forward: what has expired by that is removed when the clock has stayed so for an hour"
                    );
                    now
                });
                if now.saturating_sub(since) < STEP_LASTS {
                    return expected;
                }
            }
        }
        *seen = Some(Seen { at: now, unix_millis, ahead_since: None });
        unix_millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_forward_is_followed_only_after_an_hour() {
        const MONTH: u64 = 30 * 24 * 60 * 60 * 1000;
        let clock = ExpiryClock::default();
        let at = |seconds: u64, unix_millis| clock.follow_at(Duration::from_secs(1_000 + seconds), unix_millis);
        assert_eq!(at(0, MONTH), MONTH);
        assert_eq!(at(20, MONTH + 20_000), MONTH + 20_000);
        // Wrong for a minute.
        assert_eq!(at(40, 3 * MONTH), MONTH + 40_000);
        assert_eq!(at(60, 3 * MONTH + 20_000), MONTH + 60_000);
        assert_eq!(at(80, MONTH + 80_000), MONTH + 80_000);
        // Right from now on; that it was ahead before does not count.
        assert_eq!(at(100, 3 * MONTH), MONTH + 100_000);
        assert_eq!(at(3_690, 3 * MONTH), MONTH + 3_690_000);
        assert_eq!(at(3_700, 3 * MONTH), 3 * MONTH);
        assert_eq!(at(3_720, 3 * MONTH + 20_000), 3 * MONTH + 20_000);
        // Backwards it is followed at once.
        assert_eq!(at(3_740, MONTH), MONTH);
    }
}

//! A clock that is behind at the start, as on a board without a real-time clock until NTP sets it.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::StoreError;

/// The clock is behind when it shows a time that is so much earlier than that of the last write.
const BEHIND_MILLIS: u64 = 60 * 1000;
/// A clock that has been behind for so long since the start is taken for right: it was ahead when the files were written.
const AT_MOST: Duration = Duration::from_hours(1);

/// Compares the clock with the time of the last write in the files.
#[derive(Debug, Default)]
pub(super) struct StartClock(OnceLock<LastWrite>);

#[derive(Debug)]
struct LastWrite {
    /// When it arrived, by this store's clock: a client's clock that is ahead does not count.
    unix_millis: u64,
    restored_at: Instant,
}

impl StartClock {
    /// The files were read, and the last write among them arrived at this time.
    pub(super) fn restored(&self, last_write_millis: u64) {
        let _ = self.0.set(LastWrite { unix_millis: last_write_millis, restored_at: Instant::now() });
    }

    /// The time of the last write, where the clock is behind that.
    fn last_write_millis(&self, now_millis: u64) -> Option<u64> {
        let last = self.0.get()?;
        let is_behind = now_millis.saturating_add(BEHIND_MILLIS) < last.unix_millis && last.restored_at.elapsed() < AT_MOST;
        is_behind.then_some(last.unix_millis)
    }

    /// Where the clock is behind: the error for what may be in range when the clock is right.
    pub(super) fn behind(&self, now_millis: u64) -> Option<StoreError> {
        let seconds = (self.last_write_millis(now_millis)? - now_millis) / 1000;
        Some(StoreError::Unavailable(format!("the clock is {seconds} s behind the time of the last write: is NTP running?")))
    }

    /// What the clock shows, or the time of the last write where the clock is behind that.
    pub(super) fn latest_millis(&self, now_millis: u64) -> u64 {
        self.last_write_millis(now_millis).unwrap_or(now_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_write_counts_for_an_hour_where_the_clock_is_behind() {
        const LAST: u64 = 1_800_000_000_000;
        let clock = StartClock::default();
        assert!(clock.behind(0).is_none(), "nothing was restored");
        clock.restored(LAST);
        for right in [LAST - BEHIND_MILLIS, LAST, LAST + 1] {
            assert!(clock.behind(right).is_none());
            assert_eq!(clock.latest_millis(right), right);
        }
        let Some(StoreError::Unavailable(why)) = clock.behind(LAST - 61_000) else { panic!("the clock is behind") };
        assert_eq!(why, "the clock is 61 s behind the time of the last write: is NTP running?");
        assert_eq!(clock.latest_millis(LAST - 61_000), LAST);
        tokio::time::advance(AT_MOST).await;
        assert!(clock.behind(0).is_none());
        assert_eq!(clock.latest_millis(0), 0);
    }
}

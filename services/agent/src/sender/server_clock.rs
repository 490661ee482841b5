//! The server's clock, as far as its answers tell: the header Date, to the second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use tokio::time::Instant;

/// Readings that differ by less come from one clock: Date leaves out the fraction of a second, and answers take a moment.
const TOLERANCE: Duration = Duration::from_secs(2);

/// The last reading.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    unix_millis: u64,
    at: Instant,
}

impl Reading {
    fn now(self) -> u64 {
        self.unix_millis.saturating_add(u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

impl ServerClock {
    /// Takes the Date header of an answer that just arrived. One that cannot be read changes nothing.
    pub(super) fn observe(&self, date: Option<&HeaderValue>) {
        let time = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let Some(since_epoch) = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()) else { return };
        let unix_millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A reading is never ahead of the server's clock, so that of two that agree the later time is closer. Keeping it also
        // keeps the distances between the times of batches that are corrected one after the other.
        let better = last.is_none_or(|last| {
            let known = last.now();
            unix_millis > known || Duration::from_millis(known - unix_millis) > TOLERANCE
        });
        if better {
            *last = Some(Reading { unix_millis, at: Instant::now() });
        }
    }

    /// The server's time now, up to a second too early. None before it told any.
    pub(super) fn unix_millis(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(Reading::now)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const TIME: u64 = 1_700_000_000_000;

    fn observe(clock: &ServerClock, unix_millis: u64) {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(unix_millis));
        clock.observe(Some(&HeaderValue::from_str(&date).unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_between_answers_and_ignores_lost_fractions() {
        let clock = ServerClock::default();
        assert_eq!(clock.unix_millis(), None);
        observe(&clock, TIME);
        advance(Duration::from_millis(2500)).await;
        assert_eq!(clock.unix_millis(), Some(TIME + 2500));
        observe(&clock, TIME + 2000);
        assert_eq!(clock.unix_millis(), Some(TIME + 2500), "the header has no fraction");
        observe(&clock, TIME + 3000);
        assert_eq!(clock.unix_millis(), Some(TIME + 3000), "the first reading had lost one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_clock_was_set_is_believed() {
        let clock = ServerClock::default();
        observe(&clock, TIME);
        observe(&clock, TIME - 3_600_000);
        assert_eq!(clock.unix_millis(), Some(TIME - 3_600_000));
        for date in [None, Some(HeaderValue::from_static("yesterday"))] {
            clock.observe(date.as_ref());
        }
        assert_eq!(clock.unix_millis(), Some(TIME - 3_600_000));
    }
}

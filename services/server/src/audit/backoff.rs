//! Pauses between deliveries: one for each event that failed, and one for a sink that fails with every event.

use std::time::Duration;

use tokio::time::Instant;

use super::sinks::DeliveryError;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// After this many failed deliveries in a row the cause is assumed to be the sink and not the events.
const SINK_FAILURES: u32 = 3;

/// The pause after this many failures in a row: 1 s, doubling up to 60 s, minus a random part of up to a half, so that the
/// clients of one sink do not all retry at the same time.
/// of one sink do not all come back at the same time.
pub fn pause(failures: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LONGEST);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// The pauses between deliveries to one sink.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// The sink accepted an event.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A delivery failed.
    pub fn failed(&mut self, error: &DeliveryError) {
        let asked = match error {
            DeliveryError::Failed { retry_after, .. } => *retry_after,
            DeliveryError::Down { .. } => {
                // A single such failure pauses the sink, because it can't be caused by the event.
                self.failures = self.failures.max(SINK_FAILURES - 1);
                None
            }
            DeliveryError::Refused { .. } => None,
        };
        let now = Instant::now();
        // Deliveries that ran at the same time count as one failure.
        if self.pausing().is_none() {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= SINK_FAILURES {
                self.until = Some(now + pause(self.failures - SINK_FAILURES + 1));
            }
        }
        if let Some(asked) = asked {
            let asked = now + asked;
            self.until = Some(self.until.map_or(asked, |until| until.max(asked)));
            self.failures = self.failures.max(SINK_FAILURES);
        }
    }

    /// The end of the current pause, if there is one.
    pub fn pausing(&self) -> Option<Instant> {
        self.until.filter(|until| *until > Instant::now())
    }

    /// Whether the next delivery is to be a single one, as a test.
    pub fn probing(&self) -> bool {
        self.failures >= SINK_FAILURES
    }

    /// Shortens the pause to this time, if it is longer.
    pub fn shorten(&mut self, longest: Duration) {
        let latest = Instant::now() + longest;
        self.until = self.until.map(|until| until.min(latest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(retry_after: Option<u64>) -> DeliveryError {
        DeliveryError::Failed { reason: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    fn left(backoff: &Backoff) -> f64 {
        backoff.pausing().map_or(0.0, |until| (until - Instant::now()).as_secs_f64())
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_are_jittered() {
        for (failures, whole) in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (8, 60.0), (u32::MAX, 60.0)] {
            let seconds: Vec<f64> = (0..100).map(|_| pause(failures).as_secs_f64()).collect();
            assert!(seconds.iter().all(|s| (whole / 2.0..=whole).contains(s)), "{failures}: {seconds:?}");
            assert!(seconds.iter().any(|s| (s - seconds[0]).abs() > whole / 100.0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_failing_event_among_others_does_not_pause_the_sink() {
        let mut backoff = Backoff::default();
        for _ in 0..9 {
            backoff.failed(&failed(None));
            backoff.failed(&DeliveryError::Refused { reason: String::new() });
            assert!(backoff.pausing().is_none() && !backoff.probing());
            backoff.succeeded();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_fails_with_every_event_is_tried_less_and_less_often() {
        let mut backoff = Backoff::default();
        let mut before = 0.0;
        for round in 0..6 {
            for _ in 0..8 {
                backoff.failed(&failed(None));
            }
            let pause = left(&backoff);
            assert!(pause >= before && pause <= f64::from(1 << round), "{round}: {pause}");
            assert!(backoff.probing());
            before = f64::from(1 << round) / 2.0;
            tokio::time::advance(Duration::from_secs_f64(pause)).await;
        }
        backoff.succeeded();
        assert!(backoff.pausing().is_none() && !backoff.probing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_is_down_or_sends_retry_after_is_paused_at_once() {
        let mut backoff = Backoff::default();
        backoff.failed(&DeliveryError::Down { reason: String::new() });
        assert!(left(&backoff) >= 0.5);
        backoff.succeeded();
        backoff.failed(&failed(Some(30)));
        assert!((left(&backoff) - 30.0).abs() < 0.001);
        backoff.failed(&failed(Some(10)));
        assert!((left(&backoff) - 30.0).abs() < 0.001);
        backoff.shorten(Duration::from_millis(250));
        assert!((left(&backoff) - 0.25).abs() < 0.001);
    }
}

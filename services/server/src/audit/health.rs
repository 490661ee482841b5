//! When to try again: a pause for each event, and one for a sink that fails whatever it is given.

use std::time::Duration;

use tokio::time::Instant;

use super::sinks::Fault;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// So many deliveries have to fail in a row, none succeeding between them, before it is the sink rather than the events.
const ENOUGH: u32 = 3;

/// The pause after so many failures in a row: 1 s doubling to 60 s, a random half of it left out so that many clients
/// of one sink don't come back together.
pub fn pause(failures: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LONGEST);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// What is thought of a sink.
#[derive(Debug, Default)]
pub struct Health {
    failures: u32,
    until: Option<Instant>,
}

impl Health {
    /// It took an event.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It did not take an event.
    pub fn failed(&mut self, fault: &Fault) {
        let asked = match fault {
            Fault::Failed { retry_after, .. } => *retry_after,
            Fault::Down { .. } => {
                // No need for more of them: nothing got as far as the sink.
                self.failures = self.failures.max(ENOUGH - 1);
                None
            }
            Fault::Refused { .. } => None,
        };
        let now = Instant::now();
        // Those that were on their way at the same time say nothing new.
        if self.pausing().is_none() {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= ENOUGH {
                self.until = Some(now + pause(self.failures - ENOUGH + 1));
            }
        }
        if let Some(asked) = asked {
            let asked = now + asked;
            self.until = Some(self.until.map_or(asked, |until| until.max(asked)));
            self.failures = self.failures.max(ENOUGH);
        }
    }

    /// Until when nothing is tried.
    pub fn pausing(&self) -> Option<Instant> {
        self.until.filter(|until| *until > Instant::now())
    }

    /// Whether one careful try comes before many.
    pub fn doubtful(&self) -> bool {
        self.failures >= ENOUGH
    }

    /// No pause outlasts this time.
    pub fn hurry(&mut self, longest: Duration) {
        let latest = Instant::now() + longest;
        self.until = self.until.map(|until| until.min(latest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(retry_after: Option<u64>) -> Fault {
        Fault::Failed { reason: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    fn left(health: &Health) -> f64 {
        health.pausing().map_or(0.0, |until| (until - Instant::now()).as_secs_f64())
    }

    #[test]
    fn pauses_double_to_a_minute_and_are_jittered() {
        for (failures, whole) in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (8, 60.0), (u32::MAX, 60.0)] {
            let seconds: Vec<f64> = (0..100).map(|_| pause(failures).as_secs_f64()).collect();
            assert!(seconds.iter().all(|s| (whole / 2.0..=whole).contains(s)), "{failures}: {seconds:?}");
            assert!(seconds.iter().any(|s| (s - seconds[0]).abs() > whole / 100.0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_event_among_good_ones_pauses_nothing() {
        let mut health = Health::default();
        for _ in 0..9 {
            health.failed(&failed(None));
            health.failed(&Fault::Refused { reason: String::new() });
            assert!(health.pausing().is_none() && !health.doubtful());
            health.succeeded();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_fails_everything_is_left_alone_for_longer_each_time() {
        let mut health = Health::default();
        let mut before = 0.0;
        for round in 0..6 {
            for _ in 0..8 {
                health.failed(&failed(None));
            }
            let pause = left(&health);
            assert!(pause >= before && pause <= f64::from(1 << round), "{round}: {pause}");
            assert!(health.doubtful());
            before = f64::from(1 << round) / 2.0;
            tokio::time::advance(Duration::from_secs_f64(pause)).await;
        }
        health.succeeded();
        assert!(health.pausing().is_none() && !health.doubtful());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_is_down_or_asks_for_time_is_believed_at_once() {
        let mut health = Health::default();
        health.failed(&Fault::Down { reason: String::new() });
        assert!(left(&health) >= 0.5);
        health.succeeded();
        health.failed(&failed(Some(30)));
        assert!((left(&health) - 30.0).abs() < 0.001);
        health.failed(&failed(Some(10)));
        assert!((left(&health) - 30.0).abs() < 0.001);
        health.hurry(Duration::from_millis(250));
        assert!((left(&health) - 0.25).abs() < 0.001);
    }
}

//! The pause after a failure, shared by all senders: a server with a problem is tried by one of them at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Pauses after the first, second and every further failure in a row.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(5)];

/// Gives every sender a permit while the server works. After a failure there is a pause; then one sender gets a permit, and
/// the others get one when it succeeded.
#[derive(Default)]
pub(super) struct Backoff {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    failures: usize,
    /// A sender is trying whether the server works again.
    probing: bool,
    paused_until: Option<Instant>,
    /// The end of the pause that the server asked for.
    asked_until: Option<Instant>,
}

impl Backoff {
    /// Waits until a try may be made. The permit must be told the result; one that is dropped changes nothing.
    pub(super) async fn permit(self: &Arc<Self>) -> Permit {
        loop {
            // Created before the check, so that a change in between is not missed.
            let changed = self.changed.notified();
            let pause_ends = {
                let mut state = self.state();
                let pause_ends = state.paused_until.max(state.asked_until).filter(|until| *until > Instant::now());
                if pause_ends.is_none() && (state.failures == 0 || !state.probing) {
                    let probe = state.failures > 0;
                    state.probing |= probe;
                    return Permit { backoff: Arc::clone(self), failures: state.failures, probe, told: false };
                }
                pause_ends
            };
            match pause_ends {
                Some(pause_ends) => tokio::select! {
                    () = sleep_until(pause_ends) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Ends the pause, but not one that the server asked for.
    pub(super) fn end_pause(&self) {
        self.state().paused_until = None;
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permission to make one try.
#[must_use = "the result of the try decides when the next one may be made"]
pub(super) struct Permit {
    backoff: Arc<Backoff>,
    failures: usize,
    probe: bool,
    told: bool,
}

impl Permit {
    /// The server answered for the batch: there is no pause.
    pub(super) fn succeeded(mut self) {
        self.told = true;
        *self.backoff.state() = State::default();
        self.backoff.changed.notify_waiters();
    }

    /// The server did not: there is a pause, at least as long as the server asked for.
    pub(super) fn failed(mut self, asked: Option<Duration>) {
        self.told = true;
        let now = Instant::now();
        let mut state = self.backoff.state();
        // Several senders that failed at the same time count as one failure.
        if state.failures == self.failures {
            let pause = PAUSES[state.failures.min(PAUSES.len() - 1)];
            state.failures += 1;
            state.paused_until = Some(now + jittered(pause));
        }
        if let Some(asked) = asked {
            // Never earlier than asked, but a little later, so that many agents do not come back at the same time.
            let later = asked.mul_f64(0.1).max(Duration::from_secs(1)).mul_f64(fastrand::f64());
            state.asked_until = state.asked_until.max(Some(now + asked + later));
        }
        if self.probe {
            state.probing = false;
        }
        drop(state);
        self.backoff.changed.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe && !self.told {
            self.backoff.state().probing = false;
            self.backoff.changed.notify_waiters();
        }
    }
}

/// Between half of the pause and all of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waited(backoff: &Arc<Backoff>) -> (Duration, Permit) {
        let start = Instant::now();
        let permit = backoff.permit().await;
        (start.elapsed(), permit)
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_five_seconds_and_end_with_a_success() {
        let backoff = Arc::new(Backoff::default());
        let (wait, mut permit) = waited(&backoff).await;
        assert_eq!(wait, Duration::ZERO);
        let mut waits = Vec::new();
        for longest in [1, 3, 5, 5, 5] {
            permit.failed(None);
            let (wait, next) = waited(&backoff).await;
            let longest = Duration::from_secs(longest);
            assert!(wait >= longest / 2 && wait <= longest + Duration::from_millis(1), "{wait:?} of {longest:?}");
            waits.push(wait);
            permit = next;
        }
        assert!(waits[2..].windows(2).any(|pair| pair[0] != pair[1]), "pauses differ: {waits:?}");
        permit.succeeded();
        let (wait, permit) = waited(&backoff).await;
        assert_eq!(wait, Duration::ZERO);
        permit.failed(None);
        assert!(waited(&backoff).await.0 <= Duration::from_millis(1001), "the next outage starts with the shortest pause");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_the_server_asks_for_is_kept() {
        let backoff = Arc::new(Backoff::default());
        backoff.permit().await.failed(Some(Duration::from_mins(1)));
        backoff.end_pause();
        let (wait, permit) = waited(&backoff).await;
        assert!(wait >= Duration::from_mins(1) && wait <= Duration::from_secs(67), "{wait:?}");
        permit.failed(None);
        backoff.end_pause();
        assert_eq!(waited(&backoff).await.0, Duration::ZERO, "the agent's own pause can be ended early");
    }

    #[tokio::test(start_paused = true)]
    async fn senders_that_fail_together_come_back_one_at_a_time() {
        let backoff = Arc::new(Backoff::default());
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(backoff.permit().await);
        }
        for permit in permits {
            permit.failed(None);
        }
        let (wait, probe) = waited(&backoff).await;
        assert!(wait <= Duration::from_millis(1001), "eight failures at once are one: {wait:?}");
        let second = tokio::spawn({
            let backoff = Arc::clone(&backoff);
            async move { backoff.permit().await.succeeded() }
        });
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(!second.is_finished(), "the others wait for the first");
        probe.succeeded();
        second.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_that_is_not_used_leaves_the_try_to_another() {
        let backoff = Arc::new(Backoff::default());
        backoff.permit().await.failed(None);
        drop(backoff.permit().await);
        assert_eq!(waited(&backoff).await.0, Duration::ZERO);
    }
}

//! The pause after a failure, common to all senders: a server in trouble is asked by one of them at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Pauses after the first, second and every further failure in a row.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(5)];

/// Open while the server works. After a failure it is shut for a pause; then one sender passes, and the others when it succeeded.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    failures: usize,
    /// Someone is trying whether the server works again.
    probing: bool,
    paused_until: Option<Instant>,
    /// The server asked for patience until then.
    asked_until: Option<Instant>,
}

impl Gate {
    /// Waits until a try may be made. The pass must hear how it went; one that does not leaves the gate as it was.
    pub(super) async fn pass(self: &Arc<Self>) -> Pass {
        loop {
            // Made before looking, so that no change in between is missed.
            let changed = self.changed.notified();
            let opens_at = {
                let mut state = self.state();
                let opens_at = state.paused_until.max(state.asked_until).filter(|until| *until > Instant::now());
                if opens_at.is_none() && (state.failures == 0 || !state.probing) {
                    let probe = state.failures > 0;
                    state.probing |= probe;
                    return Pass { gate: Arc::clone(self), failures: state.failures, probe, told: false };
                }
                opens_at
            };
            match opens_at {
                Some(opens_at) => tokio::select! {
                    () = sleep_until(opens_at) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Ends the pause, but not one that the server asked for.
    pub(super) fn open_now(&self) {
        self.state().paused_until = None;
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one try.
#[must_use = "the gate must hear how the try went"]
pub(super) struct Pass {
    gate: Arc<Gate>,
    failures: usize,
    probe: bool,
    told: bool,
}

impl Pass {
    /// The server answered for the batch: the gate is open.
    pub(super) fn succeeded(mut self) {
        self.told = true;
        *self.gate.state() = State::default();
        self.gate.changed.notify_waiters();
    }

    /// The server did not: the gate is shut for a while, at least for as long as the server asked.
    pub(super) fn failed(mut self, asked: Option<Duration>) {
        self.told = true;
        let now = Instant::now();
        let mut state = self.gate.state();
        // Senders that failed together have met one failure, not several.
        if state.failures == self.failures {
            let pause = PAUSES[state.failures.min(PAUSES.len() - 1)];
            state.failures += 1;
            state.paused_until = Some(now + jittered(pause));
        }
        if let Some(asked) = asked {
            // Never earlier than asked; later by some, so that many agents do not come back together.
            let later = asked.mul_f64(0.1).max(Duration::from_secs(1)).mul_f64(fastrand::f64());
            state.asked_until = state.asked_until.max(Some(now + asked + later));
        }
        if self.probe {
            state.probing = false;
        }
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe && !self.told {
            self.gate.state().probing = false;
            self.gate.changed.notify_waiters();
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

    async fn waited(gate: &Arc<Gate>) -> (Duration, Pass) {
        let start = Instant::now();
        let pass = gate.pass().await;
        (start.elapsed(), pass)
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_five_seconds_and_end_with_a_success() {
        let gate = Arc::new(Gate::default());
        let (wait, mut pass) = waited(&gate).await;
        assert_eq!(wait, Duration::ZERO);
        let mut waits = Vec::new();
        for longest in [1, 3, 5, 5, 5] {
            pass.failed(None);
            let (wait, next) = waited(&gate).await;
            let longest = Duration::from_secs(longest);
            assert!(wait >= longest / 2 && wait <= longest + Duration::from_millis(1), "{wait:?} of {longest:?}");
            waits.push(wait);
            pass = next;
        }
        assert!(waits[2..].windows(2).any(|pair| pair[0] != pair[1]), "pauses differ: {waits:?}");
        pass.succeeded();
        let (wait, pass) = waited(&gate).await;
        assert_eq!(wait, Duration::ZERO);
        pass.failed(None);
        assert!(waited(&gate).await.0 <= Duration::from_millis(1001), "it starts again with the shortest");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_left_alone_for_as_long_as_it_asks() {
        let gate = Arc::new(Gate::default());
        gate.pass().await.failed(Some(Duration::from_mins(1)));
        gate.open_now();
        let (wait, pass) = waited(&gate).await;
        assert!(wait >= Duration::from_mins(1) && wait <= Duration::from_secs(67), "{wait:?}");
        pass.failed(None);
        gate.open_now();
        assert_eq!(waited(&gate).await.0, Duration::ZERO, "a pause of its own can be cut short");
    }

    #[tokio::test(start_paused = true)]
    async fn senders_that_fail_together_come_back_one_at_a_time() {
        let gate = Arc::new(Gate::default());
        let mut passes = Vec::new();
        for _ in 0..8 {
            passes.push(gate.pass().await);
        }
        for pass in passes {
            pass.failed(None);
        }
        let (wait, probe) = waited(&gate).await;
        assert!(wait <= Duration::from_millis(1001), "eight failures at once are one: {wait:?}");
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass().await.succeeded() }
        });
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(!second.is_finished(), "the others wait for the first");
        probe.succeeded();
        second.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_is_not_used_leaves_the_turn_to_another() {
        let gate = Arc::new(Gate::default());
        gate.pass().await.failed(None);
        drop(gate.pass().await);
        assert_eq!(waited(&gate).await.0, Duration::ZERO);
    }
}

//! GET /stream: tells the pages that are open when they should look again, as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! One source of signals serves all of them: every five seconds, and as soon as an alert begins or ends. An event says only that something may be new; what that is
//! is read through the routes that everyone reads.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::AppState;
use crate::alerts::Alerts;
use crate::middleware::answer::Streamed;

/// How often pages look again when nothing calls for it.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a page whose connection was cut waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);
/// How many pages are told at once. Others ask by themselves.
const MAX_STREAMS: usize = 1_000;
/// When one that was refused may ask again, in seconds.
const RETRY_AFTER_SECONDS: &str = "60";

/// What pages are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    /// Something may be new. The number counts these signals.
    Look(u64),
    /// The server ends.
    End,
}

/// Tells open pages when to look again.
pub struct Pulse {
    signals: watch::Sender<Signal>,
    places: Arc<Semaphore>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { signals: watch::Sender::new(Signal::Look(0)), places: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

impl Pulse {
    /// Gives the signals until the shutdown begins, and ends all streams then.
    pub async fn run(&self, alerts: &Alerts, stopping: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = alerts.changes();
        loop {
            tokio::select! {
                () = stopping.cancelled() => break,
                _ = ticks.tick() => {}
                Ok(()) = changes.changed() => {}
            }
            self.look();
        }
        self.signals.send_replace(Signal::End);
    }

    /// Follows the signals from the next one on or, for a page that may have `missed` some, from the last one on. None if there is no free place.
    fn follow(&self, missed: bool) -> Option<Follower> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut signals = self.signals.subscribe();
        // A new receiver takes the present signal as seen. No other comes after the end: a page that connects while the server lingers would wait for one.
        if missed || *signals.borrow() == Signal::End {
            signals.mark_changed();
        }
        Some(Follower { signals, _place: place })
    }

    fn look(&self) {
        self.signals.send_modify(|signal| {
            if let Signal::Look(number) = signal {
                *number += 1;
            }
        });
    }
}

/// One page that is told.
struct Follower {
    signals: watch::Receiver<Signal>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; None at the end.
    async fn next(mut self) -> Option<(Result<Event, std::convert::Infallible>, Self)> {
        self.signals.changed().await.ok()?;
        let signal = *self.signals.borrow_and_update();
        match signal {
            Signal::Look(number) => Some((Ok(look(number)), self)),
            Signal::End => None,
        }
    }
}

/// The number is there so that the browser says, when it connects again, that it was connected before. It is the data as well: an event without data is
/// none to a browser.
fn look(number: u64) -> Event {
    Event::default().event("look").id(number.to_string()).retry(RETRY).data(number.to_string())
}

/// GET /stream.
pub async fn get(State(state): State<AppState>, headers: HeaderMap) -> Response {
    // One that was cut off may have missed something.
    let Some(follower) = state.pulse.follow(headers.contains_key("last-event-id")) else {
        let problem =
            format!("{MAX_STREAMS} pages follow this server, which is as many as may be; the page asks by itself every few seconds\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER_SECONDS)], problem).into_response();
    };
    let mut answer = Sse::new(stream::unfold(follower, Follower::next)).into_response();
    answer.extensions_mut().insert(Streamed);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_gets_what_comes_and_its_place_is_free_when_it_leaves() {
        let pulse = Pulse::default();
        let follower = pulse.follow(false).unwrap();
        assert_eq!(pulse.places.available_permits(), MAX_STREAMS - 1);
        // Signals that come faster than a page takes them are one.
        pulse.look();
        pulse.look();
        let (event, follower) = follower.next().await.unwrap();
        assert!(format!("{:?}", event.unwrap()).contains("id: 2"));
        pulse.signals.send_replace(Signal::End);
        pulse.look();
        assert!(follower.next().await.is_none(), "nothing comes after the end");
        assert_eq!(pulse.places.available_permits(), MAX_STREAMS);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_after_the_end_ends_at_once() {
        let pulse = Pulse::default();
        pulse.signals.send_replace(Signal::End);
        for missed in [false, true] {
            let next = pulse.follow(missed).unwrap().next();
            assert!(tokio::time::timeout(PERIOD, next).await.expect("it ends").is_none());
        }
    }
}

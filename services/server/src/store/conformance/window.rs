//! A batch's time lies within the kept history and not far ahead of the clock.

use std::time::Duration;

use golectra_protocol::{IdempotencyKey, MAX_AHEAD_MILLIS, WindowError};

use super::{Applied, Lab, Lifetimes, Made, Setup, StoreError, batch, counter, gauge};

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

async fn one_day(make: &impl AsyncFn(Setup) -> Option<Made>) -> Option<Lab> {
    let lifetimes = Lifetimes { dedup_window: Duration::from_millis(DAY_MILLIS), ..Lifetimes::default() };
    Lab::with(make, Setup { lifetimes, ..Setup::default() }).await
}

pub(crate) async fn the_edges_are_closed(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = one_day(make).await else { return };
    let (oldest, newest) = (lab.now - DAY_MILLIS, lab.now + MAX_AHEAD_MILLIS);
    for at in [oldest, newest] {
        assert_eq!(lab.put_at("a", at, vec![counter("c", 1)]).await.unwrap(), Applied::New);
    }
    for (at, expected) in [(oldest - 1, WindowError::TooOld), (newest + 1, WindowError::TooNew)] {
        let error = lab.put_at("a", at, vec![counter("c", 1)]).await.unwrap_err();
        assert!(matches!(error, StoreError::Window(why) if why == expected), "{error:?}");
    }
    assert_eq!(lab.counter("c").await, Some(2));
}

pub(crate) async fn a_refused_time_leaves_no_trace(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = one_day(make).await else { return };
    for at in [lab.now - DAY_MILLIS - 1, lab.now + MAX_AHEAD_MILLIS + 1] {
        lab.leaves_no_trace(batch("unseen", IdempotencyKey::at(at), vec![gauge("g", 1.0)])).await;
    }
    assert_eq!(lab.store.sources().await.unwrap(), []);
}

pub(crate) async fn a_repeat_outside_of_the_window_is_too_old(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = one_day(make).await else { return };
    let one = batch("a", IdempotencyKey::at(lab.now), vec![counter("c", 1)]);
    lab.store.apply(one.clone()).await.unwrap();
    lab.clock.set(lab.now + DAY_MILLIS);
    assert_eq!(lab.store.apply(one.clone()).await.unwrap(), Applied::Repeat);
    lab.clock.set(lab.now + DAY_MILLIS + 1);
    assert!(matches!(lab.leaves_no_trace(one).await, StoreError::Window(WindowError::TooOld)));
    assert_eq!(lab.counter("c").await, Some(1));
}

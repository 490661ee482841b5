//! A clock that is behind at the start.

use golectra_protocol::{Kind, WindowError};

use super::conformance::counter as count;
use super::conformance::samples::{refused, samples};
use super::*;

const HOUR: u64 = 3_600_000;

/// A store that was written to until NOW and is opened again with a clock that is three hours behind. It remembers one key.
async fn open_behind(path: &Path) -> (Arc<MemoryStore>, Clock) {
    let open = |clock: &Clock| {
        let config = MemoryConfig { max_keys: 1, ..config(Some(path.into()), Duration::from_hours(1), true) };
        MemoryStore::open(config, clock.clone()).unwrap()
    };
    let clock = Clock::at(NOW);
    let store = open(&clock);
    for at in [NOW - 1, NOW] {
        store.apply(batch("a", IdempotencyKey::at(at), vec![count("c", 1)])).await.unwrap();
    }
    store.close().await.unwrap();
    clock.set(NOW - 3 * HOUR);
    (open(&clock), clock)
}

fn is_refused_for_now(applied: &Result<Applied, StoreError>) -> bool {
    matches!(applied, Err(StoreError::Unavailable(why)) if why.starts_with("the clock is 10800 s behind"))
}

#[tokio::test]
async fn what_is_in_range_by_the_right_time_is_refused_only_for_now() {
    let folder = tempfile::tempdir().unwrap();
    let (store, clock) = open_behind(&folder.path().join("m.json")).await;
    let keyed = |at: u64| batch("a", IdempotencyKey::at(at), vec![count("c", 1)]);
    let later = keyed(NOW + HOUR);
    let sampled = || samples("p", &[("g", 1.0, NOW + HOUR)]);
    let unkeyed = |at: u64| Batch { keyed: false, ..keyed(at) };
    for one in [later.clone(), sampled(), unkeyed(clock.unix_millis())] {
        let applied = store.apply(one).await;
        assert!(is_refused_for_now(&applied), "{applied:?}");
    }
    // A client's key does not change, and the oldest time only rises.
    let old = store.apply(keyed(NOW - 3 * HOUR)).await;
    assert!(matches!(old, Err(StoreError::Window(WindowError::TooOld))), "{old:?}");
    assert_eq!(counter(&store, "c").await, Some(2));

    clock.set(NOW + HOUR);
    for one in [later, sampled(), unkeyed(NOW + HOUR)] {
        assert_eq!(store.apply(one).await.unwrap(), Applied::New);
    }
}

#[tokio::test]
async fn a_write_without_a_key_counts_when_the_clock_went_back_by_seconds() {
    let clock = Clock::at(NOW);
    let store = MemoryStore::open(config(None, Duration::ZERO, false), clock.clone()).unwrap();
    let put = async |keyed: bool, value: f64| {
        let one = batch("a", IdempotencyKey::at(clock.unix_millis()), vec![conformance::gauge("g", value)]);
        assert_eq!(store.apply(Batch { keyed, ..one }).await.unwrap(), Applied::New);
    };
    let selector = Selector { id: conformance::name("g"), kind: Kind::Gauge };
    let shown = async || (store.value(&selector).await.unwrap(), store.snapshot().await.unwrap().gauges["g"]);
    put(false, 1.0).await;
    assert_eq!(shown().await, (Some(Value::Gauge(1.0)), 1.0));
    clock.set(NOW - 20_000);
    put(false, 2.0).await;
    assert_eq!(shown().await, (Some(Value::Gauge(2.0)), 2.0), "also where the value was remembered");
    // A batch with a key keeps its place by its time.
    clock.set(NOW - 40_000);
    put(true, 3.0).await;
    assert_eq!(shown().await, (Some(Value::Gauge(2.0)), 2.0));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_behind_for_an_hour_is_taken_for_right() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _clock) = open_behind(&folder.path().join("m.json")).await;
    let later = batch("a", IdempotencyKey::at(NOW + HOUR), vec![count("c", 1)]);
    assert!(is_refused_for_now(&store.apply(later.clone()).await));
    tokio::time::advance(Duration::from_hours(1)).await;
    let applied = store.apply(later).await;
    assert!(matches!(applied, Err(StoreError::Window(WindowError::TooNew))), "{applied:?}");
    assert_eq!(refused(&store.apply(samples("p", &[("g", 1.0, NOW + HOUR)])).await.unwrap()), [0, 0, 1, 0]);
}

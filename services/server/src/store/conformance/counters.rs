//! A counter only adds, and its total fits or the batch is refused.

use golectra_protocol::IdempotencyKey;

use super::{Applied, Lab, Made, Setup, StoreError, batch, counter, gauge};

pub(crate) async fn deltas_add_up(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for delta in [5, 0, 7, 1_000_000_000_000] {
        assert_eq!(lab.put("a", vec![counter("c", delta)]).await.unwrap(), Applied::New);
    }
    assert_eq!(lab.counter("c").await, Some(1_000_000_000_012));
    assert_eq!(lab.store.snapshot().await.unwrap().counters, [("c".to_owned(), 1_000_000_000_012)].into());
    assert_eq!(lab.counter("other").await, None);
}

pub(crate) async fn the_view_is_the_sum_over_sources(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for (source, delta) in [("a", 1), ("b", 20), ("", 300), ("a", 4000)] {
        lab.put(source, vec![counter("c", delta)]).await.unwrap();
    }
    assert_eq!(lab.counter("c").await, Some(4321));
    assert_eq!(lab.store.snapshot().await.unwrap().counters["c"], 4321);
}

pub(crate) async fn the_sum_over_sources_saturates(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for source in ["a", "b", "c"] {
        lab.put(source, vec![counter("c", i64::MAX)]).await.unwrap();
    }
    assert_eq!(lab.counter("c").await, Some(i64::MAX));
    assert_eq!(lab.store.snapshot().await.unwrap().counters["c"], i64::MAX);
}

pub(crate) async fn a_late_delta_still_counts(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![counter("c", 1)]).await.unwrap();
    lab.put_at("a", lab.now - 60_000, vec![counter("c", 2)]).await.unwrap();
    assert_eq!(lab.counter("c").await, Some(3));
    assert_eq!(lab.series().await[0].at_millis, lab.now, "the latest time stays");
}

pub(crate) async fn zero_makes_the_counter(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![counter("c", 0)]).await.unwrap();
    assert_eq!(lab.counter("c").await, Some(0));
    assert_eq!(lab.store.snapshot().await.unwrap().counters, [("c".to_owned(), 0)].into());
}

pub(crate) async fn an_overflow_leaves_no_trace(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![counter("c", i64::MAX - 1), gauge("g", 1.0)]).await.unwrap();
    let key = IdempotencyKey::at(lab.now);
    let too_much = vec![gauge("g", 2.0), counter("first", 1), counter("c", 2), counter("last", 1)];
    let error = lab.leaves_no_trace(batch("a", key, too_much)).await;
    assert!(matches!(&error, StoreError::Overflow { id } if id.as_str() == "c"), "{error:?}");
    // The key was not remembered: what it may hold it takes.
    assert_eq!(lab.store.apply(batch("a", key, vec![counter("c", 1)])).await.unwrap(), Applied::New);
    assert_eq!(lab.counter("c").await, Some(i64::MAX));
    // Another source's counter is another counter.
    lab.put("b", vec![counter("c", 2)]).await.unwrap();
}

pub(crate) async fn a_gauge_and_a_counter_of_one_id_are_two(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![counter("m", 2), gauge("m", 0.5)]).await.unwrap();
    lab.put("a", vec![counter("m", 3)]).await.unwrap();
    assert_eq!((lab.gauge("m").await, lab.counter("m").await), (Some(0.5), Some(5)));
    assert_eq!(lab.series().await.len(), 2);
    assert_eq!(lab.store.sources().await.unwrap()[0].series, 2);
}

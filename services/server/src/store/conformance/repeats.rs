//! A batch is applied once: its key tells.

use futures_util::future::join_all;
use golectra_protocol::IdempotencyKey;

use super::{Applied, Lab, Made, Setup, StoreError, batch, counter, gauge};

pub(crate) async fn a_repeat_changes_nothing(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let first = batch("a", IdempotencyKey::at(lab.now - 10), vec![counter("c", 3), gauge("g", 1.0)]);
    assert_eq!(lab.store.apply(first.clone()).await.unwrap(), Applied::New);
    lab.put_at("a", lab.now - 10, vec![gauge("g", 2.0)]).await.unwrap();
    let before = lab.series().await;
    for _ in 0..3 {
        assert_eq!(lab.store.apply(first.clone()).await.unwrap(), Applied::Repeat);
    }
    assert_eq!(lab.series().await, before);
    assert_eq!((lab.counter("c").await, lab.gauge("g").await), (Some(3), Some(2.0)));
}

pub(crate) async fn of_many_at_once_one_is_new(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let one = batch("a", IdempotencyKey::at(lab.now), vec![counter("c", 3)]);
    let tries = (0..100).map(|_| {
        let (store, one) = (lab.store.clone(), one.clone());
        tokio::spawn(async move { store.apply(one).await })
    });
    let answers: Vec<Applied> = join_all(tries).await.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Applied::New).count(), 1);
    assert_eq!(lab.counter("c").await, Some(3));
}

pub(crate) async fn a_key_of_another_body_is_refused(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let key = IdempotencyKey::at(lab.now);
    let first = batch("a", key, vec![counter("c", 3)]);
    lab.store.apply(first.clone()).await.unwrap();
    let error = lab.leaves_no_trace(batch("a", key, vec![counter("c", 4), counter("d", 1)])).await;
    assert!(matches!(error, StoreError::KeyReused), "{error:?}");
    // The digest decides, not what the body meant.
    let respelled = super::Batch { digest: [7; 32], ..first.clone() };
    assert!(matches!(lab.leaves_no_trace(respelled).await, StoreError::KeyReused));
    assert_eq!(lab.store.apply(first).await.unwrap(), Applied::Repeat);
}

pub(crate) async fn keys_are_per_source(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let key = IdempotencyKey::at(lab.now);
    for source in ["a", "b", ""] {
        assert_eq!(lab.store.apply(batch(source, key, vec![counter("c", 1)])).await.unwrap(), Applied::New, "{source:?}");
    }
    assert_eq!(lab.store.apply(batch("b", key, vec![counter("c", 1)])).await.unwrap(), Applied::Repeat);
    assert_eq!(lab.counter("c").await, Some(3));
}

pub(crate) async fn a_refused_batch_may_come_again(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 100, 2).await else { return };
    let key = IdempotencyKey::at(lab.now);
    let over = batch("a", key, vec![gauge("x", 1.0), gauge("y", 1.0), gauge("z", 1.0)]);
    assert!(matches!(lab.leaves_no_trace(over).await, StoreError::TooManySeriesOfSource { limit: 2 }));
    let within = batch("a", key, vec![gauge("x", 1.0), gauge("y", 1.0)]);
    assert_eq!(lab.store.apply(within.clone()).await.unwrap(), Applied::New);
    assert_eq!(lab.store.apply(within).await.unwrap(), Applied::Repeat);
}

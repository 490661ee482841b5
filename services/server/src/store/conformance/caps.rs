//! New series are refused at the caps; series that exist are never touched by them.

use futures_util::future::join_all;
use golectra_protocol::IdempotencyKey;

use super::gauges::timed;
use super::{Lab, Made, Setup, StoreError, batch, counter, gauge};

pub(crate) async fn a_source_is_full_at_its_cap(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 100, 3).await else { return };
    lab.put("a", vec![gauge("x", 1.0), counter("x", 1), gauge("y", 1.0)]).await.unwrap();
    let error = lab.leaves_no_trace(batch("a", IdempotencyKey::at(lab.now), vec![gauge("z", 1.0)])).await;
    assert!(matches!(error, StoreError::TooManySeriesOfSource { limit: 3 }), "{error:?}");
    lab.put("b", vec![gauge("z", 1.0)]).await.unwrap();
}

pub(crate) async fn the_store_is_full_at_its_cap(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 5, 4).await else { return };
    lab.put("a", vec![gauge("x", 1.0), gauge("y", 1.0), gauge("z", 1.0)]).await.unwrap();
    lab.put("b", vec![gauge("x", 1.0), gauge("y", 1.0)]).await.unwrap();
    for source in ["a", "b", "unseen"] {
        let error = lab.leaves_no_trace(batch(source, IdempotencyKey::at(lab.now), vec![gauge("w", 1.0)])).await;
        assert!(matches!(error, StoreError::TooManySeries { limit: 5 }), "{error:?}");
    }
    assert_eq!(lab.store.sources().await.unwrap().len(), 2);
}

pub(crate) async fn existing_series_are_written_at_the_cap(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 2, 2).await else { return };
    lab.put("a", vec![gauge("g", 1.0), counter("c", 1)]).await.unwrap();
    lab.put("a", vec![gauge("g", 2.0), counter("c", 1)]).await.unwrap();
    assert_eq!((lab.gauge("g").await, lab.counter("c").await), (Some(2.0), Some(2)));
}

pub(crate) async fn a_batch_over_the_cap_is_refused_whole(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 3, 3).await else { return };
    lab.put("a", vec![gauge("g", 1.0), counter("c", 1)]).await.unwrap();
    let mixed = vec![gauge("g", 2.0), counter("c", 1), gauge("n1", 1.0), gauge("n2", 1.0)];
    lab.leaves_no_trace(batch("a", IdempotencyKey::at(lab.now), mixed)).await;
    // Exactly the rest still fits.
    lab.put("a", vec![gauge("g", 2.0), gauge("n1", 1.0)]).await.unwrap();
    assert_eq!(lab.series().await.len(), 3);
}

pub(crate) async fn writers_at_once_never_exceed_the_cap(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 50, 50).await else { return };
    let writers = (0..8).map(|writer| {
        let (store, now) = (lab.store.clone(), lab.now);
        tokio::spawn(async move {
            let mut taken = 0;
            for i in 0..16 {
                let one = batch(&format!("s{writer}"), IdempotencyKey::at(now), vec![gauge(&format!("g{i}"), 1.0)]);
                match store.apply(one).await {
                    Ok(_) => taken += 1,
                    Err(StoreError::TooManySeries { limit: 50 }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            taken
        })
    });
    let taken: usize = join_all(writers).await.into_iter().map(Result::unwrap).sum();
    assert_eq!((taken, lab.series().await.len()), (50, 50));
}

pub(crate) async fn samples_of_one_series_take_one_place(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 3, 2).await else { return };
    let at = |millis: u64| lab.now - millis;
    lab.store.apply(timed("a", lab.now, &[("x", 1.0, at(3)), ("x", 2.0, at(2)), ("y", 1.0, at(3)), ("x", 3.0, at(1))])).await.unwrap();
    assert_eq!((lab.gauge("x").await, lab.series().await.len()), (Some(3.0), 2));
    lab.store.apply(timed("b", lab.now, &[("z", 1.0, at(3)), ("z", 2.0, at(2))])).await.unwrap();
    let error = lab.leaves_no_trace(timed("b", lab.now, &[("z", 1.0, at(1)), ("w", 2.0, at(1))])).await;
    assert!(matches!(error, StoreError::TooManySeries { limit: 3 }), "{error:?}");
}

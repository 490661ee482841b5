//! Many writers, big batches, and the end.

use futures_util::future::join_all;
use golectra_protocol::IdempotencyKey;

use super::{Applied, Lab, Made, Setup, batch, counter, gauge, patiently};

pub(crate) async fn writers_of_many_sources_sum_right(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let (writers, rounds) = (24_u16, 20_u16);
    let all = (0..writers).map(|writer| {
        let (store, now) = (lab.store.clone(), lab.now);
        tokio::spawn(async move {
            for round in 0..rounds {
                let metrics = vec![
                    counter("shared", 1),
                    counter(&format!("some{}", writer % 5), 2),
                    gauge("round", f64::from(round)),
                    gauge(&format!("own{writer}"), f64::from(round)),
                ];
                // Two writers share each source, so that batches of one source meet.
                let one = batch(&format!("s{}", writer / 2), IdempotencyKey::at(now + u64::from(round)), metrics);
                assert_eq!(patiently(&*store, &one).await, Applied::New);
            }
        })
    });
    for done in join_all(all).await {
        done.unwrap();
    }
    assert_eq!(lab.counter("shared").await, Some(i64::from(writers * rounds)));
    let some: i64 = lab.store.snapshot().await.unwrap().counters.iter().filter(|(id, _)| id.starts_with("some")).map(|(_, sum)| sum).sum();
    assert_eq!(some, i64::from(writers * rounds * 2));
    assert_eq!(lab.gauge("round").await, Some(f64::from(rounds - 1)));
    assert_eq!(lab.store.sources().await.unwrap().len(), usize::from(writers / 2));
    for writer in 0..writers {
        assert_eq!(lab.gauge(&format!("own{writer}")).await, Some(f64::from(rounds - 1)));
    }
}

pub(crate) async fn a_big_batch_is_one_batch(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let metrics: Vec<_> = (0..10_000).map(|i| counter(&format!("big{{n=\"{i}\"}}"), i)).collect();
    let big = batch("a", IdempotencyKey::at(lab.now), metrics);
    assert_eq!(lab.store.apply(big.clone()).await.unwrap(), Applied::New);
    assert_eq!(lab.store.apply(big).await.unwrap(), Applied::Repeat);
    let snapshot = lab.store.snapshot().await.unwrap();
    assert_eq!(snapshot.counters.len(), 10_000);
    assert_eq!(snapshot.counters.values().sum::<i64>(), 49_995_000);
    assert_eq!(lab.series().await.len(), 10_000);
}

pub(crate) async fn nothing_is_applied_after_close(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![counter("c", 1)]).await.unwrap();
    lab.store.close().await.unwrap();
    lab.put("a", vec![counter("c", 1)]).await.unwrap_err();
    lab.put("b", vec![counter("c", 1)]).await.unwrap_err();
    lab.store.close().await.expect("closing twice is harmless");
}

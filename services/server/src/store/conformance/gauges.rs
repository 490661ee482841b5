//! A gauge's newest value is that of the batch with the latest time, then of the latest arrival.

use super::{Lab, Made, Setup, gauge};

pub(crate) async fn the_newest_batch_wins(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put_at("a", lab.now - 2000, vec![gauge("g", 1.0)]).await.unwrap();
    lab.put_at("a", lab.now - 1000, vec![gauge("g", -2.5)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(-2.5));
    assert_eq!(lab.store.snapshot().await.unwrap().gauges, [("g".to_owned(), -2.5)].into());
    assert_eq!(lab.gauge("other").await, None);
}

pub(crate) async fn a_tie_goes_to_the_later_arrival(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for value in 0..20 {
        let source = if value % 3 == 0 { "a" } else { "b" };
        lab.put(source, vec![gauge("g", f64::from(value))]).await.unwrap();
        assert_eq!(lab.gauge("g").await, Some(f64::from(value)), "from {source}");
        assert_eq!(lab.store.snapshot().await.unwrap().gauges["g"].to_bits(), f64::from(value).to_bits());
    }
}

pub(crate) async fn a_late_batch_does_not_overwrite(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("g", 2.0)]).await.unwrap();
    lab.put_at("a", lab.now - 1, vec![gauge("g", 1.0), gauge("new", 7.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(2.0));
    assert_eq!(lab.gauge("new").await, Some(7.0));
    let series = lab.series().await;
    assert_eq!((series[0].at_millis, series[1].at_millis), (lab.now, lab.now - 1));
}

pub(crate) async fn the_newest_over_all_sources_counts(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put_at("a", lab.now - 1000, vec![gauge("g", 1.0)]).await.unwrap();
    lab.put_at("", lab.now - 2000, vec![gauge("g", 2.0)]).await.unwrap();
    lab.put_at("c", lab.now - 3000, vec![gauge("g", 3.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(1.0));
    lab.put_at("c", lab.now - 500, vec![gauge("g", 4.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(4.0));
    assert_eq!(lab.store.snapshot().await.unwrap().gauges, [("g".to_owned(), 4.0)].into());
    let kept: Vec<_> = lab.series().await.into_iter().map(|series| series.value).collect();
    assert_eq!(kept, [2.0, 1.0, 4.0].map(golectra_protocol::Value::Gauge), "each source keeps its own");
}

pub(crate) async fn doubles_are_kept_bit_for_bit(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let values = [-0.0, 0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, f64::from_bits(1), -f64::from_bits(7), 0.1, 1.0 / 3.0, 5e-324, 1e23];
    let batch = values.iter().enumerate().map(|(i, value)| gauge(&format!("g{i}"), *value)).collect();
    lab.put("a", batch).await.unwrap();
    let snapshot = lab.store.snapshot().await.unwrap();
    for (i, value) in values.into_iter().enumerate() {
        let id = format!("g{i}");
        assert_eq!(lab.gauge(&id).await.map(f64::to_bits), Some(value.to_bits()), "{value:e}");
        assert_eq!(snapshot.gauges[&id].to_bits(), value.to_bits(), "{value:e}");
    }
}

pub(crate) async fn zero_is_a_value(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("g", 0.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(0.0));
    assert_eq!(lab.series().await.len(), 1);
}

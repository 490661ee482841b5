//! A gauge's newest value is that of the batch with the latest time, then of the latest arrival.

use golectra_protocol::{IdempotencyKey, Metrics, Value};

use super::{Batch, Lab, Made, Setup, batch, counter, gauge};

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

pub(crate) async fn a_batch_from_the_future_does_not_hide_newer_ones(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let minute = 60_000;
    // One agent's clock is nine minutes ahead, and then is set right.
    lab.put_at("a", lab.now + 9 * minute, vec![gauge("g", 1.0)]).await.unwrap();
    assert_eq!(lab.series().await[0].at_millis, lab.now, "a batch's time is not later than its arrival");
    lab.at(minute);
    lab.put_at("a", lab.now + minute, vec![gauge("g", 2.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(2.0));
    lab.put_at("b", lab.now + 10 * minute, vec![gauge("g", 3.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(3.0));
    lab.at(2 * minute);
    lab.put_at("a", lab.now + 2 * minute, vec![gauge("g", 4.0)]).await.unwrap();
    assert_eq!((lab.gauge("g").await, lab.store.snapshot().await.unwrap().gauges["g"]), (Some(4.0), 4.0));
}

pub(crate) async fn a_clock_that_was_ahead_hides_nothing(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let two_hours = 2 * 60 * 60_000;
    lab.at(two_hours);
    lab.put_at("a", lab.now + two_hours, vec![gauge("g", 1.0), counter("c", 1)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(1.0));
    lab.at(0);
    lab.put("a", vec![gauge("g", 2.0)]).await.unwrap();
    assert_eq!((lab.gauge("g").await, lab.store.snapshot().await.unwrap().gauges["g"]), (Some(2.0), 2.0));
    lab.put("a", vec![counter("c", 1)]).await.unwrap();
    assert_eq!(lab.counter("c").await, Some(2));
    assert!(lab.series().await.iter().all(|series| series.at_millis == lab.now));
    // A client that is only late still loses.
    lab.put_at("a", lab.now - 1, vec![gauge("g", 3.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(2.0));
    // So does one whose time is a little earlier by another server's clock.
    lab.at(1_000);
    lab.put_at("a", lab.now + 1_000, vec![gauge("g", 4.0)]).await.unwrap();
    lab.at(0);
    lab.put("a", vec![gauge("g", 5.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(4.0));
}

/// A batch of samples with times of their own.
pub(crate) fn timed(source: &str, at: u64, samples: &[(&str, f64, u64)]) -> Batch {
    let mut metrics = Metrics::default();
    for (id, value, at) in samples {
        metrics.push_parsed_at(id, Value::Gauge(*value), i64::try_from(*at).unwrap()).unwrap();
    }
    Batch { metrics, ..batch(source, IdempotencyKey::at(at), vec![gauge("unused", 0.0)]) }
}

pub(crate) async fn values_that_are_no_numbers_are_kept_and_not_shown(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    let odd = [("nan", f64::NAN), ("stale", stale), ("up", f64::INFINITY), ("down", f64::NEG_INFINITY)];
    let samples = odd.map(|(id, value)| (id, value, lab.now));
    lab.store.apply(timed("a", lab.now, &samples)).await.unwrap();
    lab.put("a", vec![counter("c", 1)]).await.unwrap();
    for (id, _) in odd {
        assert_eq!(lab.gauge(id).await, None, "{id}");
    }
    assert!(lab.store.snapshot().await.unwrap().gauges.is_empty());
    let mut kept: Vec<_> = lab.series().await.into_iter().filter(|series| series.id.as_str() != "c").collect();
    kept.sort_by_key(|series| odd.iter().position(|(id, _)| *id == series.id.as_str()));
    let bits = kept.iter().map(|series| if let Value::Gauge(value) = series.value { value.to_bits() } else { 0 });
    assert!(bits.eq(odd.iter().map(|(_, value)| value.to_bits())), "{kept:?}");
    lab.put("a", vec![gauge("stale", 1.0)]).await.unwrap();
    assert_eq!(lab.gauge("stale").await, Some(1.0));
}

pub(crate) async fn samples_with_times_of_their_own_are_set_by_them(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let (old, older, ahead) = (lab.now - 1_000, lab.now - 2_000, lab.now + 3_000);
    lab.store.apply(timed("a", lab.now, &[("g", 1.0, old), ("h", 2.0, ahead), ("g", 3.0, older)])).await.unwrap();
    let series: Vec<_> = lab.series().await.into_iter().map(|one| (one.id.to_string(), one.value, one.at_millis)).collect();
    assert_eq!(series, [("g".into(), Value::Gauge(1.0), old), ("h".into(), Value::Gauge(2.0), lab.now)]);
    lab.put_at("a", lab.now - 1_500, vec![gauge("g", 4.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(1.0));
    lab.put_at("a", lab.now - 500, vec![gauge("g", 5.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(5.0));
}

pub(crate) async fn the_newest_of_no_numbers_hides_older_numbers(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("g", 1.0)]).await.unwrap();
    lab.at(1_000);
    lab.store.apply(timed("b", lab.now + 1_000, &[("g", f64::NAN, lab.now + 1_000)])).await.unwrap();
    assert_eq!((lab.gauge("g").await, lab.store.snapshot().await.unwrap().gauges.len()), (None, 0), "the newest value is no number");
    lab.at(2_000);
    lab.put_at("a", lab.now + 2_000, vec![gauge("g", 2.0)]).await.unwrap();
    assert_eq!(lab.gauge("g").await, Some(2.0));
}

//! Series and sources leave the newest state, and come back.

use std::time::Duration;

use golectra_protocol::IdempotencyKey;

use super::{Applied, Lab, LatestFilter, Lifetimes, Made, Setup, StoreError, batch, counter, gauge, source};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

/// Reports these gauges hourly, from `from` to `to` hours after the start, maintenance included.
async fn report_hourly(lab: &Lab, source: &str, ids: &[&str], hours: std::ops::RangeInclusive<u64>) {
    for hour in hours {
        lab.at(hour * HOUR);
        lab.put_at(source, lab.now + hour * HOUR, ids.iter().map(|id| gauge(id, 1.0)).collect()).await.unwrap();
        lab.maintain().await;
    }
}

async fn ids(lab: &Lab, name: &str) -> Vec<String> {
    let filter = LatestFilter { source: Some(source(name)), ..LatestFilter::default() };
    lab.latest(filter).await.into_iter().map(|series| series.id.to_string()).collect()
}

pub(crate) async fn a_series_that_is_not_reported_expires(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("kept", 1.0), gauge("gone", 1.0)]).await.unwrap();
    report_hourly(&lab, "a", &["kept"], 1..=23).await;
    assert_eq!(ids(&lab, "a").await, ["gone", "kept"], "not before a day is over");
    report_hourly(&lab, "a", &["kept"], 24..=26).await;
    assert_eq!(ids(&lab, "a").await, ["kept"]);
    assert_eq!(lab.gauge("gone").await, None);
    assert_eq!(lab.store.snapshot().await.unwrap().gauges.into_keys().collect::<Vec<_>>(), ["kept"]);
    assert_eq!(lab.store.sources().await.unwrap()[0].series, 1);
}

pub(crate) async fn only_time_in_which_the_source_reports_counts(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let lifetimes = Lifetimes { source_expiry: Duration::from_hours(1000), ..Lifetimes::default() };
    let Some(lab) = Lab::with(make, Setup { lifetimes, ..Setup::default() }).await else { return };
    lab.put("a", vec![gauge("first", 1.0), gauge("second", 1.0)]).await.unwrap();
    report_hourly(&lab, "a", &["first"], 1..=2).await;
    // Away for four days; the first report afterwards names one of two.
    report_hourly(&lab, "a", &["first"], 98..=100).await;
    assert_eq!(ids(&lab, "a").await, ["first", "second"], "an outage is not held against a series");
    report_hourly(&lab, "a", &["first"], 101..=124).await;
    assert_eq!(ids(&lab, "a").await, ["first"]);
}

pub(crate) async fn late_reports_keep_a_series(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("late", 1.0), gauge("kept", 1.0)]).await.unwrap();
    for hour in 1..=30 {
        report_hourly(&lab, "a", &["kept"], hour..=hour).await;
        // A backlog of reports from before the start: their values are not the newest, but they are reports.
        lab.put_at("a", lab.now - 10_000 + hour, vec![gauge("late", 2.0)]).await.unwrap();
    }
    lab.maintain().await;
    assert_eq!(ids(&lab, "a").await, ["kept", "late"]);
    assert_eq!(lab.gauge("late").await, Some(1.0));
}

pub(crate) async fn an_expired_series_comes_back(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let both = vec![gauge("kept", 1.0), gauge("pod{n=\"1\"}", 1.0)];
    for _ in 0..3 {
        lab.put("a", both.clone()).await.unwrap();
    }
    report_hourly(&lab, "a", &["kept"], 1..=26).await;
    assert_eq!(ids(&lab, "a").await, ["kept"]);
    lab.put_at("a", lab.now + 26 * HOUR, both.clone()).await.unwrap();
    lab.put_at("a", lab.now + 26 * HOUR, both).await.unwrap();
    assert_eq!(ids(&lab, "a").await, ["kept", "pod{n=\"1\"}"]);
    assert_eq!(lab.store.sources().await.unwrap()[0].series, 2);
    assert_eq!(lab.gauge("pod{n=\"1\"}").await, Some(1.0));
    report_hourly(&lab, "a", &["kept"], 27..=52).await;
    assert_eq!(ids(&lab, "a").await, ["kept"], "and leaves again");
}

pub(crate) async fn unlabelled_totals_never_fall(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![counter("c", 5), gauge("kept", 1.0)]).await.unwrap();
    lab.put("b", vec![counter("c", 7)]).await.unwrap();
    report_hourly(&lab, "a", &["kept"], 1..=26).await;
    assert_eq!(ids(&lab, "a").await, ["kept"]);
    assert_eq!(lab.counter("c").await, Some(12), "a total that expired still counts");
    assert!(lab.store.forget_source(&source("b"), None).await.unwrap());
    assert_eq!((lab.counter("c").await, lab.store.snapshot().await.unwrap().counters["c"]), (Some(12), 12));
    // The series begins at 0 again, the sum does not.
    lab.put_at("a", lab.now + 26 * HOUR, vec![counter("c", 1)]).await.unwrap();
    assert_eq!(lab.counter("c").await, Some(13));
    lab.put_at("b", lab.now + 26 * HOUR, vec![counter("c", i64::MAX)]).await.unwrap();
    assert_eq!(lab.counter("c").await, Some(i64::MAX), "the sum saturates");
    assert!(lab.store.forget_source(&source("b"), None).await.unwrap());
    assert_eq!(lab.counter("c").await, Some(i64::MAX));
}

pub(crate) async fn a_labelled_counter_begins_anew(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![counter("c{pod=\"1\"}", 5), gauge("kept", 1.0)]).await.unwrap();
    report_hourly(&lab, "a", &["kept"], 1..=26).await;
    assert_eq!(lab.counter("c{pod=\"1\"}").await, None);
    lab.put_at("a", lab.now + 26 * HOUR, vec![counter("c{pod=\"1\"}", 2)]).await.unwrap();
    assert_eq!(lab.counter("c{pod=\"1\"}").await, Some(2));
}

pub(crate) async fn expired_series_make_room_under_the_caps(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 4, 3).await else { return };
    lab.put("a", vec![gauge("kept", 1.0), gauge("x", 1.0), gauge("y", 1.0)]).await.unwrap();
    lab.put("b", vec![gauge("z", 1.0)]).await.unwrap();
    assert!(matches!(lab.put("a", vec![gauge("new", 1.0)]).await, Err(StoreError::TooManySeriesOfSource { limit: 3 })));
    assert!(matches!(lab.put("b", vec![gauge("new", 1.0)]).await, Err(StoreError::TooManySeries { limit: 4 })));
    report_hourly(&lab, "a", &["kept"], 1..=26).await;
    let at = lab.now + 26 * HOUR;
    lab.put_at("a", at, vec![gauge("new", 1.0), gauge("newer", 1.0)]).await.unwrap();
    assert!(matches!(lab.put_at("a", at, vec![gauge("more", 1.0)]).await, Err(StoreError::TooManySeriesOfSource { limit: 3 })));
    assert!(lab.store.forget_source(&source("a"), None).await.unwrap());
    lab.put_at("b", at, vec![gauge("1", 1.0), gauge("2", 1.0)]).await.unwrap();
    let held: usize = lab.store.sources().await.unwrap().iter().map(|info| info.series).sum();
    assert_eq!(held, 3);
}

pub(crate) async fn a_silent_source_expires_with_its_series(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("silent", vec![gauge("g", 1.0), counter("c", 3)]).await.unwrap();
    lab.put("other", vec![gauge("g", 2.0)]).await.unwrap();
    lab.at(7 * DAY - HOUR);
    lab.maintain().await;
    assert_eq!(ids(&lab, "silent").await, ["c", "g"], "a silent source keeps all of its series");
    lab.put_at("other", lab.now + 7 * DAY - HOUR, vec![gauge("g", 2.0)]).await.unwrap();
    lab.maintain().await;
    lab.at(7 * DAY + 1);
    lab.maintain().await;
    let names: Vec<_> = lab.store.sources().await.unwrap().into_iter().map(|info| info.name.to_string()).collect();
    assert_eq!(names, ["other"]);
    assert_eq!((ids(&lab, "silent").await.len(), lab.counter("c").await), (0, Some(3)));
    lab.put_at("silent", lab.now + 7 * DAY, vec![gauge("g", 5.0)]).await.unwrap();
    let back = lab.store.sources().await.unwrap().remove(1);
    assert_eq!(
        (back.name, back.first_seen_millis, back.series),
        (source("silent"), lab.now + 7 * DAY + 1, 1),
        "seen for the first time, again"
    );
}

pub(crate) async fn the_unnamed_source_never_expires(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("", vec![gauge("by_hand", 1.0), counter("visits", 1)]).await.unwrap();
    report_hourly(&lab, "", &["other"], 1..=30).await;
    lab.at(400 * DAY);
    lab.maintain().await;
    assert_eq!(ids(&lab, "").await, ["by_hand", "other", "visits"]);
}

pub(crate) async fn a_source_that_is_forgotten_keeps_its_keys(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let one = batch("a", IdempotencyKey::at(lab.now), vec![counter("c", 5), gauge("g", 1.0)]);
    lab.store.apply(one.clone()).await.unwrap();
    lab.put("a", vec![counter("c", 1), gauge("g", 2.0)]).await.unwrap();
    assert!(lab.store.forget_source(&source("a"), None).await.unwrap());
    assert_eq!(lab.store.sources().await.unwrap(), []);
    assert_eq!((lab.series().await, lab.gauge("g").await), (vec![], None));
    assert_eq!(lab.store.apply(one.clone()).await.unwrap(), Applied::Repeat);
    assert_eq!((lab.counter("c").await, lab.series().await.len()), (Some(6), 0), "a repeat changes nothing");
    assert_eq!(lab.put("a", vec![counter("c", 2), gauge("g", 3.0)]).await.unwrap(), Applied::New);
    assert_eq!((lab.counter("c").await, lab.gauge("g").await), (Some(8), Some(3.0)));
    assert_eq!(lab.store.sources().await.unwrap()[0].series, 2);
    assert_eq!(lab.store.apply(one).await.unwrap(), Applied::Repeat);
}

pub(crate) async fn forgetting_no_source_says_so(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("g", 1.0)]).await.unwrap();
    assert!(!lab.store.forget_source(&source("b"), None).await.unwrap());
    assert!(lab.store.forget_source(&source("a"), None).await.unwrap());
    assert!(!lab.store.forget_source(&source("a"), None).await.unwrap(), "it is forgotten");
}

pub(crate) async fn keys_outlive_a_shorter_history(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let lifetimes = Lifetimes { retention_raw: Duration::from_hours(1), ..Lifetimes::default() };
    let Some(lab) = Lab::with(make, Setup { lifetimes, ..Setup::default() }).await else { return };
    let one = batch("a", IdempotencyKey::at(lab.now), vec![counter("c", 5)]);
    lab.store.apply(one.clone()).await.unwrap();
    lab.at(47 * HOUR);
    lab.maintain().await;
    assert_eq!(lab.store.apply(one.clone()).await.unwrap(), Applied::Repeat);
    let other = super::Batch { digest: [7; 32], ..one };
    assert!(matches!(lab.store.apply(other).await, Err(StoreError::KeyReused)));
    // Older than the history that is kept, younger than the keys: it counts, once.
    let late = batch("a", IdempotencyKey::at(lab.now + HOUR), vec![counter("c", 2)]);
    assert_eq!(lab.store.apply(late.clone()).await.unwrap(), Applied::New);
    lab.maintain().await;
    assert_eq!(lab.store.apply(late).await.unwrap(), Applied::Repeat);
    assert_eq!(lab.counter("c").await, Some(7));
}

pub(crate) async fn a_source_that_was_forgotten_begins_anew(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("g", 1.0), gauge("old", 1.0)]).await.unwrap();
    report_hourly(&lab, "a", &["g"], 1..=20).await;
    assert!(lab.store.forget_source(&source("a"), None).await.unwrap());
    lab.at(21 * HOUR);
    lab.put_at("a", lab.now + 21 * HOUR, vec![gauge("g", 1.0), gauge("other", 1.0)]).await.unwrap();
    let back = lab.store.sources().await.unwrap().remove(0);
    assert_eq!((back.first_seen_millis, back.series), (lab.now + 21 * HOUR, 2), "seen for the first time, again");
    // Its series have a whole day before them.
    report_hourly(&lab, "a", &["g"], 22..=44).await;
    assert_eq!(ids(&lab, "a").await, ["g", "other"]);
    report_hourly(&lab, "a", &["g"], 45..=48).await;
    assert_eq!(ids(&lab, "a").await, ["g"]);
}

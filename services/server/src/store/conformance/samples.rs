//! Samples with times of their own and no key, as remote-write brings them: each (series, time) is stored once.

use std::collections::{BTreeMap, HashMap};

use golectra_protocol::{IdempotencyKey, MAX_AHEAD_MILLIS, Metrics, Value};

use super::{Lab, Made, Setup, gauge, source};
use crate::store::{Applied, Batch, Lifetimes, Refusal};

const MINUTE: u64 = 60 * 1000;
const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// A batch of samples: id, value, time.
pub(crate) fn samples(name: &str, samples: &[(&str, f64, u64)]) -> Batch {
    let mut metrics = Metrics::default();
    for (id, value, at) in samples {
        metrics.push_parsed_at(id, Value::Gauge(*value), i64::try_from(*at).unwrap()).unwrap();
    }
    Batch { source: source(name), key: IdempotencyKey::at(1), keyed: false, digest: [0; 32], metrics, audit: None }
}

/// How many samples were refused, by reason: conflicts, too old, too new, series limit.
pub(crate) fn refused(applied: &Applied) -> [usize; 4] {
    let Applied::Partly(refused) = applied else { return [0; 4] };
    [Refusal::Conflict, Refusal::TooOld, Refusal::TooNew, Refusal::SeriesLimit].map(|refusal| refused.count(refusal))
}

async fn put(lab: &Lab, name: &str, of: &[(&str, f64, u64)]) -> Applied {
    lab.store.apply(samples(name, of)).await.unwrap()
}

pub(crate) async fn the_same_again_is_a_repeat(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let first = [("g", 1.0, lab.now - 2000), ("g", 2.0, lab.now - 1000), ("h", STALE, lab.now - 1000), ("h", f64::NAN, lab.now)];
    assert_eq!(put(&lab, "p", &first).await, Applied::New);
    assert_eq!(put(&lab, "p", &first).await, Applied::Repeat);
    for one in first {
        assert_eq!(put(&lab, "p", &[one]).await, Applied::Repeat, "{one:?}");
    }
    assert_eq!(put(&lab, "q", &first).await, Applied::New, "another source has series of its own");
    assert_eq!(lab.gauge("g").await, Some(2.0));
}

pub(crate) async fn samples_of_a_clock_that_was_ahead_are_stored_once(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let hour = 60 * MINUTE;
    lab.at(hour);
    let ahead = [("g", 1.0, lab.now + hour)];
    assert_eq!(put(&lab, "p", &ahead).await, Applied::New);
    lab.at(0);
    assert_eq!(put(&lab, "p", &[("g", 2.0, lab.now)]).await, Applied::New);
    assert_eq!(lab.gauge("g").await, Some(2.0));
    lab.at(hour);
    assert_eq!(put(&lab, "p", &ahead).await, Applied::Repeat);
    assert_eq!(refused(&put(&lab, "p", &[("g", 3.0, lab.now + hour)]).await), [1, 0, 0, 0]);
    assert_eq!(put(&lab, "p", &[("g", 4.0, lab.now + hour + 1)]).await, Applied::New);
    assert_eq!(lab.gauge("g").await, Some(4.0));
}

pub(crate) async fn another_value_at_a_stored_time_is_refused_alone(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    put(&lab, "p", &[("g", 1.0, lab.now - 2000), ("g", 2.0, lab.now - 1000), ("stale", STALE, lab.now)]).await;
    let mixed = [
        ("g", 9.0, lab.now - 2000),
        ("g", 9.0, lab.now - 1000),
        ("g", 3.0, lab.now),
        ("new", 1.0, lab.now),
        ("stale", f64::NAN, lab.now),
        ("twice", 1.0, lab.now),
        ("twice", 1.0, lab.now),
        ("twice", 2.0, lab.now),
    ];
    let applied = put(&lab, "p", &mixed).await;
    assert_eq!(refused(&applied), [4, 0, 0, 0]);
    let Applied::Partly(why) = applied else { unreachable!() };
    let first = why.first(Refusal::Conflict).unwrap();
    assert_eq!(why.total(), 4);
    assert!(["g", "stale", "twice"].contains(&first.id.as_str()), "{first:?}");
    assert_eq!((lab.gauge("g").await, lab.gauge("new").await, lab.gauge("twice").await), (Some(3.0), Some(1.0), Some(1.0)));
    // The refused ones are refused again, and nothing else is new.
    assert_eq!(refused(&put(&lab, "p", &mixed).await), [4, 0, 0, 0]);
    assert_eq!(put(&lab, "p", &[mixed[2], mixed[3], mixed[5]]).await, Applied::Repeat);
}

pub(crate) async fn zeros_of_both_signs_are_two_values(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    put(&lab, "p", &[("g", 0.0, lab.now)]).await;
    assert_eq!(refused(&put(&lab, "p", &[("g", -0.0, lab.now)]).await), [1, 0, 0, 0]);
}

pub(crate) async fn samples_come_in_any_order(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let oldest = lab.now - 47 * 60 * MINUTE;
    let times = [lab.now, lab.now - 5 * MINUTE, oldest, lab.now - 90 * MINUTE, lab.now - MINUTE];
    for (number, at) in (1_u32..).zip(times) {
        assert_eq!(put(&lab, "p", &[("g", f64::from(number), at)]).await, Applied::New);
    }
    for (number, at) in (1_u32..).zip(times) {
        assert_eq!(put(&lab, "p", &[("g", f64::from(number), at)]).await, Applied::Repeat);
        assert_eq!(refused(&put(&lab, "p", &[("g", 0.5, at)]).await), [1, 0, 0, 0]);
    }
    assert_eq!(lab.gauge("g").await, Some(1.0));
}

pub(crate) async fn samples_outside_of_the_history_are_refused_alone(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let (oldest, newest) = (lab.now - Lifetimes::default().retention_raw_millis(), lab.now + MAX_AHEAD_MILLIS);
    let all = [("a", 1.0, oldest), ("a", 2.0, oldest - 1), ("b", 3.0, newest), ("b", 4.0, newest + 1), ("b", 5.0, newest + 2)];
    assert_eq!(refused(&put(&lab, "p", &all).await), [0, 1, 2, 0]);
    assert_eq!((lab.gauge("a").await, lab.gauge("b").await), (Some(1.0), Some(3.0)));
    let none = lab.store.apply(samples("none", &all[3..])).await.unwrap();
    assert_eq!(refused(&none), [0, 0, 2, 0]);
    assert!(lab.store.sources().await.unwrap().iter().all(|source| source.name.as_str() != "none"));
}

pub(crate) async fn samples_ahead_of_the_clock_are_stored_once(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let ahead = [("g", 1.0, lab.now + 5 * MINUTE), ("g", 2.0, lab.now + 3 * MINUTE), ("h", 1.0, lab.now)];
    assert_eq!(put(&lab, "p", &ahead).await, Applied::New);
    lab.at(MINUTE);
    assert_eq!(put(&lab, "p", &ahead).await, Applied::Repeat);
    for at in [lab.now, lab.now + MINUTE, lab.now + 4 * MINUTE] {
        assert_eq!(put(&lab, "p", &[("g", 3.0, at)]).await, Applied::New, "nothing is stored at {at}");
    }
    lab.at(6 * MINUTE);
    assert_eq!(put(&lab, "p", &ahead).await, Applied::Repeat);
    assert_eq!(refused(&put(&lab, "p", &[("g", 7.0, lab.now + 5 * MINUTE)]).await), [1, 0, 0, 0]);
}

pub(crate) async fn a_full_store_takes_the_samples_of_series_that_are_there(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::capped(make, 3, 1).await else { return };
    // The cap of one source is not for them.
    assert_eq!(put(&lab, "p", &[("a", 1.0, lab.now), ("b", 1.0, lab.now)]).await, Applied::New);
    let more = [("a", 2.0, lab.now + 1), ("c", 1.0, lab.now), ("d", 1.0, lab.now), ("d", 2.0, lab.now + 1)];
    let first = refused(&put(&lab, "p", &more).await)[3];
    assert!(first == 1 || first == 2, "one of the two new series fits");
    assert_eq!(lab.gauge("a").await, Some(2.0));
    assert_eq!(lab.series().await.len(), 3);
    assert_eq!(refused(&put(&lab, "p", &more).await)[3], first);
    let other = lab.store.apply(samples("other", &[("a", 1.0, lab.now)])).await.unwrap();
    assert_eq!(refused(&other), [0, 0, 0, 1]);
    assert_eq!(lab.store.sources().await.unwrap().len(), 1, "a source without a series is none");
}

pub(crate) async fn a_forgotten_source_still_has_its_samples(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let all = [("g", 1.0, lab.now - 1000), ("g", 2.0, lab.now)];
    put(&lab, "p", &all).await;
    assert!(lab.store.forget_source(&source("p"), None).await.unwrap());
    assert_eq!(put(&lab, "p", &all).await, Applied::Repeat);
    assert_eq!(refused(&put(&lab, "p", &[("g", 3.0, lab.now), ("g", 3.0, lab.now + 1)]).await), [1, 0, 0, 0]);
    assert_eq!(lab.gauge("g").await, Some(3.0));
}

pub(crate) async fn a_series_that_is_back_has_its_samples_also_those_after_the_first_new_one(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let stored = [("g", 1.0, lab.now - 3000), ("g", 2.0, lab.now), ("h", 3.0, lab.now)];
    assert_eq!(put(&lab, "p", &stored).await, Applied::New);
    // By samples of the past, and by a report.
    for by_report in [false, true] {
        assert!(lab.store.forget_source(&source("p"), None).await.unwrap());
        if by_report {
            lab.put_at("p", lab.now - 1000, vec![gauge("g", 5.0), gauge("h", 5.0)]).await.unwrap();
        } else {
            assert_eq!(put(&lab, "p", &[("g", 5.0, lab.now - 2000), ("h", 5.0, lab.now - 2000)]).await, Applied::New);
        }
        assert_eq!(refused(&put(&lab, "p", &[("g", 9.0, lab.now), ("h", 9.0, lab.now)]).await), [2, 0, 0, 0]);
        assert_eq!(put(&lab, "p", &stored).await, Applied::Repeat);
    }
    assert_eq!(put(&lab, "p", &[("g", 6.0, lab.now + 1)]).await, Applied::New);
    assert_eq!(lab.gauge("g").await, Some(6.0));
}

pub(crate) async fn a_series_whose_samples_are_all_stored_does_not_come_back_half(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let (stored, ids) = (lab.now - 2000, ["g", "h", "i"]);
    assert_eq!(put(&lab, "p", &ids.map(|id| (id, 1.0, stored))).await, Applied::New);
    assert!(lab.store.forget_source(&source("p"), None).await.unwrap());
    // Of g there is nothing new.
    assert_eq!(put(&lab, "p", &[("g", 1.0, stored), ("h", 2.0, lab.now - 1000)]).await, Applied::New);
    assert_eq!(lab.gauge("h").await, Some(2.0));
    for round in 0..2_u32 {
        let at = lab.now + u64::from(round);
        assert_eq!(put(&lab, "p", &ids.map(|id| (id, f64::from(round), at))).await, Applied::New);
        assert_eq!(put(&lab, "p", &ids.map(|id| (id, 1.0, stored))).await, Applied::Repeat);
        assert_eq!(lab.gauge("g").await, Some(f64::from(round)));
    }
    let sources = lab.store.sources().await.unwrap();
    assert_eq!((sources.len(), sources[0].series, lab.series().await.len()), (1, 3, 3));
}

pub(crate) async fn whatever_comes_again_is_stored_once(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let mut random = fastrand::Rng::with_seed(11);
    let ids: Vec<String> = (0..100).map(|number| format!("m{{pod=\"{number}\"}}")).collect();
    let mut stored: HashMap<(usize, u64), f64> = HashMap::new();
    let mut newest: BTreeMap<usize, (u64, f64)> = BTreeMap::new();
    for round in 0..60_u64 {
        // Some requests are new, some older, most are made of what was sent before and what was not.
        let now = round * 10_000;
        lab.at(now);
        let (mut of, mut conflicts, mut new) = (Vec::new(), 0, 0);
        for _ in 0..random.usize(1..80) {
            let series = random.usize(0..ids.len());
            let at = lab.now + now - 10_000 * random.u64(0..5) - if random.u8(0..10) == 0 { 3 * 60 * MINUTE } else { 0 };
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let value = (series as f64) + if random.u8(0..8) == 0 { 0.5 } else { 0.0 };
            of.push((ids[series].as_str(), value, at));
            match stored.get(&(series, at)) {
                None => {
                    new += 1;
                    stored.insert((series, at), value);
                    let last = newest.entry(series).or_insert((at, value));
                    if at >= last.0 {
                        *last = (at, value);
                    }
                }
                Some(there) if there.to_bits() != value.to_bits() => conflicts += 1,
                Some(_) => {}
            }
        }
        let applied = put(&lab, "p", &of).await;
        assert_eq!(refused(&applied), [conflicts, 0, 0, 0], "round {round}");
        assert!(conflicts > 0 || applied == if new > 0 { Applied::New } else { Applied::Repeat }, "round {round}: {applied:?}");
    }
    for (series, (_, value)) in newest {
        assert_eq!(lab.gauge(&ids[series]).await, Some(value), "{}", ids[series]);
    }
}

pub(crate) async fn agents_and_remote_write_share_a_source(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put_at("p", lab.now - 1000, vec![gauge("g", 1.0)]).await.unwrap();
    assert_eq!(put(&lab, "p", &[("g", 1.0, lab.now - 1000)]).await, Applied::Repeat);
    assert_eq!(put(&lab, "p", &[("g", 2.0, lab.now)]).await, Applied::New);
    lab.at(1);
    lab.put_at("p", lab.now + 1, vec![gauge("g", 3.0)]).await.unwrap();
    assert_eq!(refused(&put(&lab, "p", &[("g", 2.0, lab.now), ("g", 5.0, lab.now - 1000)]).await), [1, 0, 0, 0]);
    assert_eq!(lab.gauge("g").await, Some(3.0));
}

pub(crate) async fn sealed_samples_are_stored_once(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let mut all = Vec::new();
    for minute in 0..40_u32 {
        let at = u64::from(minute) * MINUTE;
        lab.at(at);
        let of = [("g", f64::from(minute), lab.now + at), ("h", STALE, lab.now + at), ("late", f64::from(minute), lab.now - at)];
        assert_eq!(put(&lab, "p", &of).await, Applied::New);
        all.extend(of);
    }
    for hours in [0, 1, 3, 7] {
        lab.at(40 * MINUTE + hours * 60 * MINUTE);
        lab.maintain().await;
        assert_eq!(put(&lab, "p", &all).await, Applied::Repeat, "after {hours} h");
        let others: Vec<_> = all.iter().map(|(id, value, at)| (*id, if value.is_nan() { 1.0 } else { value + 0.5 }, *at)).collect();
        let hole = [("g", 7.0, lab.now + 30_000 + hours), ("new", 7.0, lab.now + hours)];
        let applied = put(&lab, "p", &[&others[..], &hole].concat()).await;
        assert_eq!(refused(&applied), [all.len(), 0, 0, 0], "after {hours} h");
        assert_eq!(put(&lab, "p", &hole).await, Applied::Repeat, "after {hours} h");
    }
}

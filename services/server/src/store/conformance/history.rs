//! History: what comes back of samples, and how series are found.

use golectra_promql::store::{Hints, Selection};
use golectra_promql::{MatchOp, Matcher, MemoryBudget, MemoryExceeded, Reservation};
use golectra_protocol::{IdempotencyKey, Metrics, Value};

use super::{Applied, Lab, Made, Setup, batch, counter, gauge};
use crate::store::history::{HistoryError, HistorySeries, SeriesFilter, TimeRange};
use crate::store::{Batch, Lifetimes, StoreError};

const HOUR: u64 = 3_600_000;
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// A series' labels and its samples.
type Read = (String, Vec<(i64, f64)>);

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(op, name, value).unwrap()
}

/// As much memory as a case needs.
fn memory() -> Reservation {
    MemoryBudget::new(1 << 30).reserve(1 << 30)
}

/// A matcher for a metric's name.
fn named(name: &str) -> Matcher {
    Matcher::equal("__name__", name)
}

fn millis(unix_millis: u64) -> i64 {
    i64::try_from(unix_millis).unwrap()
}

fn read(series: &HistorySeries) -> Vec<(i64, f64)> {
    let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
    series.samples.read(&mut timestamps_ms, &mut values).unwrap();
    assert_eq!(timestamps_ms.len(), values.len());
    assert!(timestamps_ms.is_sorted_by(|one, next| one < next), "one sample for each time: {timestamps_ms:?}");
    timestamps_ms.into_iter().zip(values).collect()
}

fn selection(matchers: &[Matcher], start_millis: u64, end_millis: u64) -> Selection {
    Selection { matchers: matchers.into(), start_ms: millis(start_millis), end_ms: millis(end_millis), hints: Hints::default() }
}

impl Lab {
    async fn select(&self, selection: &Selection) -> Result<Vec<HistorySeries>, HistoryError> {
        let mut reservation = memory();
        let series = self.store.select(selection, 100_000, &mut reservation).await?;
        assert!(series.is_sorted_by(|one, next| one.labels < next.labels), "sorted, each label set once");
        assert!(series.is_empty() || reservation.used_bytes() > 0);
        Ok(series)
    }

    /// Series and their samples in these two days.
    async fn history(&self, matchers: &[Matcher]) -> Vec<Read> {
        self.history_in(matchers, self.now - 24 * HOUR, self.now + 24 * HOUR).await
    }

    /// Series and their samples from the first time to the last one.
    async fn history_in(&self, matchers: &[Matcher], start_millis: u64, end_millis: u64) -> Vec<Read> {
        let selection = selection(matchers, start_millis, end_millis);
        let asked = selection.start_ms..=selection.end_ms;
        let series = self.select(&selection).await.unwrap();
        // A store may answer more than was asked for.
        let asked = |series: &HistorySeries| read(series).into_iter().filter(|(at, _)| asked.contains(at)).collect::<Vec<_>>();
        series.iter().map(|series| (series.labels.to_string(), asked(series))).filter(|(_, samples)| !samples.is_empty()).collect()
    }

    /// The samples of the one series that matches.
    async fn samples(&self, matchers: &[Matcher]) -> Vec<(i64, f64)> {
        let mut all = self.history(matchers).await;
        assert!(all.len() <= 1, "{all:?}");
        all.pop().map(|(_, samples)| samples).unwrap_or_default()
    }

    /// Samples as offsets from the start with their values.
    async fn offsets(&self, matchers: &[Matcher]) -> Vec<(i64, f64)> {
        self.samples(matchers).await.into_iter().map(|(at, value)| (at - millis(self.now), value)).collect()
    }

    /// Applies samples with times of their own: an id, the time as an offset from the start, and the value.
    async fn put_samples(&self, source: &str, samples: &[(&str, i64, Value)]) -> Result<Applied, StoreError> {
        let mut metrics = Metrics::default();
        for (id, offset, value) in samples {
            metrics.push_parsed_at(id, *value, millis(self.now) + offset).unwrap();
        }
        let one = batch(source, IdempotencyKey::at(self.now), vec![gauge("placeholder", 0.0)]);
        self.store.apply(Batch { metrics, ..one }).await
    }

    fn filter(&self, any: Vec<Vec<Matcher>>, limit: usize) -> SeriesFilter {
        SeriesFilter { any, range: TimeRange { start_ms: millis(self.now - HOUR), end_ms: millis(self.now + HOUR) }, limit }
    }

    async fn found(&self, any: Vec<Vec<Matcher>>, limit: usize) -> (Vec<String>, bool) {
        let found = self.store.series(&self.filter(any, limit), &mut memory()).await.unwrap();
        (found.items.iter().map(ToString::to_string).collect(), found.truncated)
    }
}

pub(crate) async fn samples_come_back_to_the_bit_and_in_order(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let values = [0.1, -0.0, f64::MIN_POSITIVE, f64::from_bits(1), f64::MAX, 1e300, 5.0, 5.0, -7.25];
    let mut expected = Vec::new();
    for (offset, value) in (0..).map(|place| place * 10_000 + place % 3).zip(values) {
        lab.put_at("n1", lab.now - HOUR + offset, vec![gauge("g", value), gauge("other", 1.0)]).await.unwrap();
        expected.push((millis(lab.now - HOUR + offset), value.to_bits()));
    }
    let found: Vec<_> = lab.samples(&[named("g")]).await.into_iter().map(|(at, value)| (at, value.to_bits())).collect();
    assert_eq!(found, expected);
    let labels: Vec<_> = lab.history(&[]).await.into_iter().map(|(labels, samples)| (labels, samples.len())).collect();
    assert_eq!(labels, [(r#"g{instance="n1"}"#.to_owned(), values.len()), (r#"other{instance="n1"}"#.to_owned(), values.len())]);
}

pub(crate) async fn a_counters_samples_are_running_totals(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for (offset, delta) in [(0, 5), (10, 0), (20, 7)] {
        lab.put_at("n1", lab.now - 100 + offset, vec![counter("c", delta)]).await.unwrap();
    }
    lab.put_at("n2", lab.now - 90, vec![counter("c", 1 << 52)]).await.unwrap();
    lab.put_at("n2", lab.now - 80, vec![counter("c", 1)]).await.unwrap();
    let of = |instance| [named("c"), Matcher::equal("instance", instance)];
    assert_eq!(lab.offsets(&of("n1")).await, [(-100, 5.0), (-90, 5.0), (-80, 12.0)]);
    assert_eq!(lab.offsets(&of("n2")).await, [(-90, 4_503_599_627_370_496.0), (-80, 4_503_599_627_370_497.0)]);
}

pub(crate) async fn totals_count_what_came_before_the_range(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for hours in (0..=20).rev() {
        lab.put_at("n1", lab.now - hours * HOUR, vec![counter("c", 1)]).await.unwrap();
    }
    let found = lab.history_in(&[named("c")], lab.now - 90 * 60_000, lab.now).await;
    assert_eq!(found, [(r#"c{instance="n1"}"#.to_owned(), vec![(millis(lab.now - HOUR), 20.0), (millis(lab.now), 21.0)])]);
}

pub(crate) async fn late_batches_take_their_places(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for (offset, value) in [(30, 3_i32), (10, 1), (20, 2), (0, 0)] {
        lab.put_at("n1", lab.now - 100 + offset, vec![gauge("g", f64::from(value)), counter("c", 1 << value)]).await.unwrap();
    }
    assert_eq!(lab.offsets(&[named("g")]).await, [(-100, 0.0), (-90, 1.0), (-80, 2.0), (-70, 3.0)]);
    assert_eq!(lab.offsets(&[named("c")]).await, [(-100, 1.0), (-90, 3.0), (-80, 7.0), (-70, 15.0)]);
    // A late batch counts towards the totals of what is there already, hours later too.
    lab.put_at("n1", lab.now - 20 * HOUR, vec![counter("c", 100)]).await.unwrap();
    let totals: Vec<f64> = lab.samples(&[named("c")]).await.into_iter().map(|(_, total)| total).collect();
    assert_eq!(totals, [100.0, 101.0, 103.0, 107.0, 115.0]);
}

pub(crate) async fn repeated_batches_add_no_samples(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let one = batch("n1", IdempotencyKey::at(lab.now - 5), vec![counter("c", 3), gauge("g", 1.0)]);
    for expected in [Applied::New, Applied::Repeat, Applied::Repeat] {
        assert_eq!(lab.store.apply(one.clone()).await.unwrap(), expected);
    }
    lab.store.apply(Batch { digest: [9; 32], ..one }).await.unwrap_err();
    assert_eq!(lab.offsets(&[named("c")]).await, [(-5, 3.0)]);
    assert_eq!(lab.offsets(&[named("g")]).await, [(-5, 1.0)]);
}

pub(crate) async fn of_equal_times_the_later_arrival_is_the_sample(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for (offset, value) in [(0, 1_i32), (10, 2), (0, 4)] {
        lab.put_at("n1", lab.now - 50 + offset, vec![gauge("g", f64::from(value)), counter("c", value.into())]).await.unwrap();
    }
    assert_eq!(lab.offsets(&[named("g")]).await, [(-50, 4.0), (-40, 2.0)]);
    assert_eq!(lab.offsets(&[named("c")]).await, [(-50, 5.0), (-40, 7.0)]);
}

pub(crate) async fn samples_have_times_of_their_own(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let far = -20 * millis(HOUR);
    let samples = [
        ("g", -10, Value::Gauge(1.0)),
        ("h{a=\"1\"}", -10, Value::Gauge(2.0)),
        ("g", -30, Value::Gauge(3.0)),
        ("c", -10, Value::Counter(1)),
        ("g", far, Value::Gauge(4.0)),
        ("g", -10, Value::Gauge(5.0)),
        ("c", far, Value::Counter(10)),
        ("c", -10, Value::Counter(100)),
    ];
    lab.put_samples("remote-write", &samples).await.unwrap();
    assert_eq!(lab.offsets(&[named("g")]).await, [(far, 4.0), (-30, 3.0), (-10, 5.0)]);
    assert_eq!(lab.offsets(&[named("h")]).await, [(-10, 2.0)]);
    assert_eq!(lab.offsets(&[named("c")]).await, [(far, 10.0), (-10, 111.0)]);
    let labels: Vec<_> = lab.history(&[]).await.into_iter().map(|(labels, _)| labels).collect();
    assert_eq!(labels, ["c", "g", r#"h{a="1"}"#], "remote-write's labels stay as they were sent");
}

pub(crate) async fn stale_markers_and_values_that_are_no_numbers_are_samples(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let bits =
        [STALE, 0x7ff8_0000_0000_0001, 0xfff8_0000_0000_0000, f64::INFINITY.to_bits(), f64::NEG_INFINITY.to_bits(), 1.5_f64.to_bits()];
    let samples: Vec<_> = (0..).zip(bits).map(|(place, bits)| ("g", -100 + place, Value::Gauge(f64::from_bits(bits)))).collect();
    lab.put_samples("n1", &samples).await.unwrap();
    let found: Vec<_> = lab.samples(&[named("g")]).await.into_iter().map(|(_, value)| value.to_bits()).collect();
    assert_eq!(found, bits);
}

pub(crate) async fn a_series_that_left_the_newest_state_stays_in_history(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let lifetimes = Lifetimes { retention_raw: std::time::Duration::from_hours(30 * 24), ..Lifetimes::default() };
    let Some(lab) = Lab::with(make, Setup { lifetimes, ..Setup::default() }).await else { return };
    lab.put("n1", vec![gauge("old", 1.0), gauge("stays", 1.0)]).await.unwrap();
    for hours in 1..=30 {
        lab.at(hours * HOUR);
        lab.put_at("n1", lab.now + hours * HOUR, vec![gauge("stays", 2.0)]).await.unwrap();
        lab.maintain().await;
    }
    assert_eq!(lab.series().await.len(), 1, "it has expired");
    assert_eq!(lab.offsets(&[named("old")]).await, [(0, 1.0)]);
    lab.store.forget_source(&super::source("n1"), None).await.unwrap();
    lab.maintain().await;
    assert_eq!(lab.offsets(&[named("old")]).await, [(0, 1.0)]);
    assert_eq!(lab.samples(&[named("stays")]).await.len(), 25);
    lab.put_at("n1", lab.now + 30 * HOUR, vec![gauge("old", 3.0)]).await.unwrap();
    let found = lab.history_in(&[named("old")], lab.now, lab.now + 40 * HOUR).await;
    assert_eq!(found[0].1, [(millis(lab.now), 1.0), (millis(lab.now + 30 * HOUR), 3.0)]);
}

pub(crate) async fn a_counter_beside_a_gauge_says_so(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("n1", vec![counter("x", 1)]).await.unwrap();
    lab.put("n2", vec![counter("x", 2)]).await.unwrap();
    lab.put("n1", vec![gauge("x", 3.0)]).await.unwrap();
    let found: Vec<_> = lab.history(&[named("x")]).await.into_iter().map(|(labels, samples)| (labels, samples[0].1)).collect();
    let expected = [(r#"x{__type__="counter", instance="n1"}"#, 1.0), (r#"x{instance="n1"}"#, 3.0), (r#"x{instance="n2"}"#, 2.0)];
    assert_eq!(found, expected.map(|(labels, value)| (labels.to_owned(), value)));
    assert_eq!(lab.history(&[named("x"), Matcher::equal("__type__", "counter")]).await.len(), 1);
    assert_eq!(lab.history(&[named("x"), Matcher::equal("__type__", "")]).await.len(), 2);
}

pub(crate) async fn series_of_equal_labels_are_one(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put_at("n1", lab.now - 20, vec![gauge("x", 1.0)]).await.unwrap();
    lab.put_at("", lab.now - 30, vec![gauge("x{instance=\"n1\"}", 2.0)]).await.unwrap();
    lab.put_at("", lab.now - 10, vec![gauge("x{instance=\"n1\"}", 3.0)]).await.unwrap();
    assert_eq!(lab.offsets(&[named("x")]).await, [(-30, 2.0), (-20, 1.0), (-10, 3.0)]);
}

pub(crate) async fn matchers_select_from_history(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for source in ["n1", "n2", ""] {
        let ids = ["cpu{mode=\"idle\"}", "cpu{mode=\"user\"}", "memory", "{\"a.b\",mode=\"idle\"}", "own{instance=\"i\"}"];
        lab.put(source, ids.map(|id| gauge(id, 1.0)).into()).await.unwrap();
    }
    for (matchers, expected) in [
        (vec![], 13),
        (vec![named("cpu")], 6),
        (vec![named("cpu"), Matcher::equal("mode", "idle")], 3),
        (vec![Matcher::equal("mode", "idle")], 6),
        (vec![named("a.b")], 3),
        (vec![matcher("__name__", MatchOp::Match, "cpu|memory")], 9),
        (vec![matcher("__name__", MatchOp::Match, "c.*|a\\.b")], 9),
        (vec![matcher("__name__", MatchOp::NotMatch, "c.*|own")], 6),
        (vec![matcher("__name__", MatchOp::NotEqual, "cpu"), Matcher::equal("mode", "")], 4),
        (vec![named("cpu"), Matcher::equal("instance", "n2")], 2),
        (vec![named("cpu"), Matcher::equal("instance", "")], 2),
        (vec![Matcher::equal("instance", "i")], 1),
        (vec![named("cpu"), matcher("instance", MatchOp::Match, "n.")], 4),
        (vec![named("cpu"), matcher("mode", MatchOp::NotEqual, "idle")], 3),
        (vec![named("cpu"), matcher("mode", MatchOp::NotMatch, "idle|user")], 0),
        (vec![named("nothing")], 0),
    ] {
        assert_eq!(lab.history(&matchers).await.len(), expected, "{matchers:?}");
    }
}

pub(crate) async fn only_series_with_samples_in_the_range_are_selected(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put_at("n1", lab.now - 40 * HOUR, vec![gauge("early", 1.0), gauge("both", 1.0)]).await.unwrap();
    lab.put_at("n1", lab.now, vec![gauge("late", 1.0), gauge("both", 2.0)]).await.unwrap();
    let names = async |start, end| lab.history_in(&[], start, end).await.into_iter().map(|(labels, _)| labels).collect::<Vec<_>>();
    assert_eq!(names(lab.now - 41 * HOUR, lab.now - 39 * HOUR).await, [r#"both{instance="n1"}"#, r#"early{instance="n1"}"#]);
    assert_eq!(names(lab.now - HOUR, lab.now).await, [r#"both{instance="n1"}"#, r#"late{instance="n1"}"#]);
    assert!(names(lab.now - 30 * HOUR, lab.now - 20 * HOUR).await.is_empty());
    // Both ends belong to the range.
    assert_eq!(names(lab.now, lab.now).await.len(), 2);
    assert_eq!(lab.history_in(&[named("both")], lab.now - 40 * HOUR, lab.now).await[0].1.len(), 2);
    // Labels are those of the range too.
    assert_eq!(lab.found(vec![], 10).await.0, [r#"both{instance="n1"}"#, r#"late{instance="n1"}"#]);
}

pub(crate) async fn a_query_has_limits(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("n1", (0..50).map(|number| gauge(&format!("m{{n=\"{number}\"}}"), 1.0)).collect()).await.unwrap();
    let selection = selection(&[named("m")], lab.now - HOUR, lab.now);
    let budget = MemoryBudget::new(1 << 30);
    let mut reservation = budget.reserve(1 << 30);
    assert_eq!(lab.store.select(&selection, 50, &mut reservation).await.unwrap().len(), 50);
    assert!(reservation.used_bytes() > 50 * 20, "{}", reservation.used_bytes());
    let refused = lab.store.select(&selection, 49, &mut budget.reserve(1 << 30)).await;
    assert!(matches!(refused, Err(HistoryError::TooManySeries { limit: 49 })));
    let refused = lab.store.select(&selection, 50, &mut budget.reserve(500)).await;
    assert!(matches!(refused, Err(HistoryError::Memory(MemoryExceeded::Query { limit_bytes: 500 }))));
}

pub(crate) async fn series_and_labels_are_listed_sorted_and_limited(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("n1", vec![gauge("b{x=\"2\"}", 1.0), gauge("b{x=\"1\",y=\"3\"}", 1.0), counter("a", 1)]).await.unwrap();
    lab.put("n0", vec![gauge("b{x=\"2\"}", 1.0)]).await.unwrap();
    let all = [r#"a{instance="n1"}"#, r#"b{instance="n0", x="2"}"#, r#"b{instance="n1", x="1", y="3"}"#, r#"b{instance="n1", x="2"}"#];
    assert_eq!(lab.found(vec![], 4).await, (all.map(str::to_owned).into(), false));
    assert_eq!(lab.found(vec![], 3).await, (all[..3].iter().map(ToString::to_string).collect(), true));
    // A series that two lists select comes once.
    let lists = vec![vec![named("a")], vec![Matcher::equal("x", "2")], vec![Matcher::equal("instance", "n0")]];
    assert_eq!(lab.found(lists, 10).await.0, [all[0], all[1], all[3]]);

    let names = lab.store.label_names(&lab.filter(vec![], 10), &mut memory()).await.unwrap();
    assert_eq!((names.items, names.truncated), (["__name__", "instance", "x", "y"].map(str::to_owned).into(), false));
    let names = lab.store.label_names(&lab.filter(vec![vec![named("a")]], 1), &mut memory()).await.unwrap();
    assert_eq!((names.items, names.truncated), (vec!["__name__".to_owned()], true));
    for (label, any, expected) in [
        ("__name__", vec![], &["a", "b"][..]),
        ("instance", vec![], &["n0", "n1"]),
        ("x", vec![vec![named("b"), Matcher::equal("instance", "n1")]], &["1", "2"]),
        ("x", vec![vec![named("a")]], &[]),
        ("none", vec![], &[]),
    ] {
        let values = lab.store.label_values(label, &lab.filter(any, 10), &mut memory()).await.unwrap();
        assert_eq!((values.items, values.truncated), (expected.iter().map(ToString::to_string).collect(), false), "{label}");
    }
    let values = lab.store.label_values("x", &lab.filter(vec![], 1), &mut memory()).await.unwrap();
    assert_eq!((values.items, values.truncated), (vec!["1".to_owned()], true));
}

pub(crate) async fn a_list_of_series_to_export_takes_8_bytes_each(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("n1", (0..1_000).map(|number| gauge(&format!("m{{n=\"{number}\"}}"), 1.0)).collect()).await.unwrap();
    let filter = SeriesFilter { any: vec![], range: TimeRange { start_ms: 0, end_ms: i64::MAX }, limit: usize::MAX };
    let mut reservation = memory();
    let listed = lab.store.list(&filter, &mut reservation).await.unwrap();
    assert_eq!(listed.iter().map(|of_source| of_source.series.len()).sum::<usize>(), 1_000);
    // And the source a little.
    let bytes = reservation.used_bytes();
    assert!((8_000..8_500).contains(&bytes), "{bytes}");
}

pub(crate) async fn what_was_not_reported_since_is_not_listed(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("n0", vec![gauge("silent", 1.0)]).await.unwrap();
    lab.put("n1", vec![gauge("old{x=\"1\"}", 1.0), gauge("stays{y=\"2\"}", 1.0)]).await.unwrap();
    let filter = |hours: std::ops::RangeInclusive<u64>, any| {
        let [start_ms, end_ms] = [hours.start(), hours.end()].map(|hour| millis(lab.now + hour * HOUR));
        SeriesFilter { any, range: TimeRange { start_ms, end_ms }, limit: 10 }
    };
    let series = async |hours, any| {
        let found = lab.store.series(&filter(hours, any), &mut memory()).await.unwrap();
        found.items.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let stays = [r#"stays{instance="n1", y="2"}"#];
    for hour in 1..=30 {
        lab.at(hour * HOUR);
        lab.put_at("n1", lab.now + hour * HOUR, vec![gauge("stays{y=\"2\"}", 2.0)]).await.unwrap();
        lab.maintain().await;
        // A store may list what has samples within two hours. One that was listed no more does not come back by expiring.
        if hour >= 4 {
            assert_eq!(series(hour - 1..=hour, vec![]).await, stays, "{hour} h");
            assert_eq!(series(hour - 1..=hour, vec![vec![Matcher::new(MatchOp::NotEqual, "z", "1").unwrap()]]).await, stays, "{hour} h");
        }
    }
    assert_eq!(lab.series().await.len(), 2, "old has expired");
    let all = [r#"old{instance="n1", x="1"}"#, r#"silent{instance="n0"}"#, stays[0]];
    assert_eq!(series(0..=30, vec![]).await, all, "what has expired is listed where it has samples");

    // Without matchers, names and values come of the same series.
    for (hours, names) in [(29..=30, &["__name__", "instance", "y"][..]), (0..=30, &["__name__", "instance", "x", "y"])] {
        assert_eq!(lab.store.label_names(&filter(hours, vec![]), &mut memory()).await.unwrap().items, names);
    }
    for (label, now, ever) in [
        ("__name__", &["stays"][..], &["old", "silent", "stays"][..]),
        ("instance", &["n1"], &["n0", "n1"]),
        ("x", &[], &["1"]),
        ("y", &["2"], &["2"]),
    ] {
        for (hours, values) in [(29..=30, now), (0..=30, ever)] {
            let found = lab.store.label_values(label, &filter(hours, vec![]), &mut memory()).await.unwrap();
            assert_eq!((found.items, found.truncated), (values.iter().map(ToString::to_string).collect(), false), "{label}");
        }
    }
    let limited = SeriesFilter { limit: 1, ..filter(0..=30, vec![]) };
    let names = lab.store.label_values("__name__", &limited, &mut memory()).await.unwrap();
    assert_eq!((names.items, names.truncated), (vec!["old".to_owned()], true));
}

pub(crate) async fn samples_leave_with_their_retention_and_totals_go_on(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let day = std::time::Duration::from_hours(24);
    let lifetimes = Lifetimes { retention_raw: day, retention_5m: day, retention_1h: day, ..Lifetimes::default() };
    let Some(lab) = Lab::with(make, Setup { lifetimes, ..Setup::default() }).await else { return };
    let days = 24 * HOUR;
    lab.put("n1", vec![counter("c", 7), gauge("gone", 1.0)]).await.unwrap();
    for hours in (6..=5 * 24).step_by(6) {
        lab.at(hours * HOUR);
        lab.put_at("n1", lab.now + hours * HOUR, vec![counter("c", 1)]).await.unwrap();
        lab.maintain().await;
    }
    // A store that has something left of the samples says so; one that has nothing left gives none.
    match lab.select(&selection(&[], lab.now, lab.now + 6 * days)).await {
        Ok(series) => assert!(series.iter().all(|series| read(series).len() <= 16), "not all of it is kept"),
        Err(error) => assert!(matches!(error, HistoryError::RawSamplesGone), "{error}"),
    }
    let found = lab.history_in(&[], lab.now + 4 * days, lab.now + 6 * days).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let (labels, samples) = &found[0];
    assert_eq!(labels, r#"c{instance="n1"}"#);
    assert_eq!(samples.last(), Some(&(millis(lab.now + 5 * days), 27.0)));
    assert_eq!(samples.len(), 5, "the retention: {samples:?}");
    assert!(samples.windows(2).all(|two| (two[1].1 - two[0].1).to_bits() == 1.0_f64.to_bits()), "{samples:?}");
    let filter = SeriesFilter { any: vec![], range: TimeRange { start_ms: 0, end_ms: millis(lab.now + 6 * days) }, limit: 10 };
    assert_eq!(lab.store.label_values("__name__", &filter, &mut memory()).await.unwrap().items, ["c"]);
}

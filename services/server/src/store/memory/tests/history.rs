//! History held to a naive model, to its bound, and to its files.

use std::collections::BTreeMap;

use golectra_promql::store::{Hints, Selection};
use golectra_promql::{Matcher, MemoryBudget};
use golectra_protocol::{Kind, Metrics, Source, Value};
use proptest::prelude::*;

use super::conformance::{counter as count, gauge};
use super::*;
use crate::store::RefusedSamples;
use crate::store::conformance::samples::{refused, samples};
use crate::store::history::{History, HistorySeries, SeriesFilter, TimeRange};

const MINUTE: u64 = 60_000;
const IDS: [&str; 5] = ["m0", "m1{l=\"1\"}", "m1{l=\"2\"}", "m2", "m3"];
const SOURCES: [&str; 3] = ["", "a", "b"];

/// A series' labels with the times and bits of its samples.
type Read = BTreeMap<String, Vec<(i64, u64)>>;

pub(super) fn millis(unix_millis: u64) -> i64 {
    i64::try_from(unix_millis).unwrap()
}

pub(super) async fn select(store: &MemoryStore, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<HistorySeries> {
    let selection = Selection { matchers: matchers.into(), start_ms, end_ms, hints: Hints::default() };
    store.select(&selection, usize::MAX, &mut MemoryBudget::new(1 << 40).reserve(1 << 40)).await.unwrap()
}

/// Everything from the first time to the last one.
pub(super) async fn read(store: &MemoryStore, start_ms: i64, end_ms: i64) -> Read {
    let mut all = Read::new();
    for series in select(store, &[], start_ms, end_ms).await {
        let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
        series.samples.read(&mut timestamps_ms, &mut values).unwrap();
        assert!(timestamps_ms.is_sorted_by(|one, next| one < next), "{timestamps_ms:?}");
        let samples = timestamps_ms.into_iter().zip(values.into_iter().map(f64::to_bits));
        let asked: Vec<_> = samples.filter(|(at, _)| (start_ms..=end_ms).contains(at)).collect();
        if !asked.is_empty() {
            all.insert(series.labels.to_string(), asked);
        }
    }
    all
}

#[derive(Debug, Clone)]
enum Step {
    /// Samples: the series, minutes before now, and a counter's delta or a gauge's bits.
    Write {
        source: usize,
        timed: bool,
        samples: Vec<(usize, u64, Result<i64, u64>)>,
    },
    /// The write before, this many back.
    Repeat(usize),
    Pass(u64),
    Seal,
    /// What the keeper does from time to time.
    Maintain,
    Save,
    Close,
    Crash,
}

/// Every sample that was ever taken, in order of arrival.
#[derive(Debug, Clone, Default)]
pub(super) struct Model(Vec<(String, String, i64, Value)>);

/// The samples of each series: its source, its id, and its kind.
pub(super) type SeriesValues = BTreeMap<(String, String, Kind), BTreeMap<i64, Value>>;

impl Model {
    pub(super) fn apply(&mut self, batch: &Batch, now: u64) {
        for (index, metric) in batch.metrics.iter().enumerate() {
            let at = batch.metrics.at_millis(index).unwrap_or_else(|| millis(batch.key.unix_millis().min(now)));
            self.0.push((batch.source.to_string(), metric.id.to_owned(), at, metric.value));
        }
    }

    pub(super) fn series(&self) -> SeriesValues {
        let mut series = SeriesValues::new();
        for (source, id, at, value) in &self.0 {
            let of_series = series.entry((source.clone(), id.clone(), value.kind())).or_default();
            match (of_series.get_mut(at), value) {
                (Some(Value::Counter(sum)), Value::Counter(delta)) => *sum += delta,
                _ => drop(of_series.insert(*at, *value)),
            }
        }
        series
    }

    fn read(&self, start_ms: i64, end_ms: i64) -> Read {
        let series = self.series();
        let mut all = Read::new();
        for ((source, id, kind), samples) in &series {
            let beside = *kind == Kind::Counter && series.contains_key(&(source.clone(), id.clone(), Kind::Gauge));
            let mut total = 0_i64;
            let samples = samples.iter().map(|(at, value)| match value {
                Value::Gauge(value) => (*at, value.to_bits()),
                Value::Counter(delta) => {
                    total += delta;
                    #[expect(clippy::cast_precision_loss, reason = "as history does")]
                    let double = total as f64;
                    (*at, double.to_bits())
                }
            });
            let samples: Vec<_> = samples.filter(|(at, _)| (start_ms..=end_ms).contains(at)).collect();
            if !samples.is_empty() {
                all.insert(crate::history::labels::of_series(source, id, beside).to_string(), samples);
            }
        }
        all
    }
}

fn any_value() -> impl Strategy<Value = Result<i64, u64>> {
    let bits = prop_oneof![
        any::<f64>().prop_map(f64::to_bits),
        (0..50_u32).prop_map(|n| (f64::from(n) / 10.0).to_bits()),
        Just(0x7ff0_0000_0000_0002)
    ];
    prop_oneof![(0..1000_i64).prop_map(Ok), bits.prop_map(Err)]
}

fn any_step() -> impl Strategy<Value = Step> {
    // Most is new, some hours late.
    let age = prop_oneof![6 => 0..3_u64, 2 => 0..600_u64];
    let samples = proptest::collection::vec((0..IDS.len(), age, any_value()), 1..12);
    let write = (0..SOURCES.len(), any::<bool>(), samples).prop_map(|(source, timed, samples)| Step::Write { source, timed, samples });
    prop_oneof![
        14 => write,
        2 => (1..6_usize).prop_map(Step::Repeat),
        5 => (0..90_u64).prop_map(Step::Pass),
        2 => Just(Step::Seal),
        3 => Just(Step::Maintain),
        2 => Just(Step::Save),
        1 => Just(Step::Close),
        2 => Just(Step::Crash),
    ]
}

fn metrics(samples: &[(usize, u64, Result<i64, u64>)], timed: bool, now: u64) -> Metrics {
    let mut metrics = Metrics::default();
    let mut seen = std::collections::HashSet::new();
    for (id, age, value) in samples {
        let value = value.map_or_else(|bits| Value::Gauge(f64::from_bits(bits)), Value::Counter);
        if timed {
            metrics.push_parsed_at(IDS[*id], value, millis(now - age * MINUTE)).unwrap();
        } else if seen.insert((*id, value.kind())) {
            metrics.push_parsed(IDS[*id], value).unwrap();
        }
    }
    metrics
}

async fn run(interval: Duration, steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let lifetimes = Lifetimes { retention_raw: Duration::from_hours(24 * 30), ..Lifetimes::default() };
    let config = MemoryConfig { lifetimes, ..config(Some(folder.path().join("m.json")), interval, true) };
    let clock = Clock::at(NOW);
    let open = || MemoryStore::open_on(config.clone(), clock.clone(), Disk::default(), 2000).unwrap();
    let mut store = open();
    let (mut model, mut saved, mut batches) = (Model::default(), Model::default(), Vec::<Batch>::new());
    let last_step = steps.len() - 1;
    for (number, step) in steps.into_iter().enumerate() {
        let now = clock.unix_millis();
        match step {
            Step::Write { source, timed, samples } => {
                let age = if timed { 0 } else { samples[0].1 * MINUTE };
                let one = batch(SOURCES[source], IdempotencyKey::at(now - age), vec![]);
                let one = Batch { metrics: metrics(&samples, timed, now), ..one };
                store.apply(one.clone()).await.unwrap();
                model.apply(&one, now);
                batches.push(one);
            }
            Step::Repeat(back) => {
                let Some(one) = batches.len().checked_sub(back).map(|at| batches[at].clone()) else { continue };
                if store.apply(one.clone()).await.unwrap() == Applied::New {
                    model.apply(&one, now);
                }
            }
            Step::Pass(minutes) => clock.set(now + minutes * MINUTE),
            Step::Seal => store.keeper.maintain_all(),
            Step::Maintain => store.keeper.maintain(),
            Step::Save => {
                store.save_now().await.unwrap();
                saved = model.clone();
            }
            Step::Close => {
                store.close().await.unwrap();
                drop(store);
                saved = model.clone();
                store = open();
            }
            Step::Crash => {
                store.crash();
                store = open();
                if !interval.is_zero() {
                    model = saved.clone();
                }
            }
        }
        let (first, last) = (millis(now) - 700 * millis(MINUTE), millis(now) + 200 * millis(MINUTE));
        assert_eq!(read(&store, i64::MIN, i64::MAX).await, model.read(i64::MIN, i64::MAX));
        let middle = first + (last - first) / 2;
        assert_eq!(read(&store, middle, last).await, model.read(middle, last));
        if number % 4 == 3 || number == last_step {
            super::rollups::check(&store, &model.series(), middle, millis(now) - 7 * millis(MINUTE)).await;
        }
    }
    store.crash();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn history_is_what_a_naive_recomputation_gives(steps in proptest::collection::vec(any_step(), 1..40), journaled in any::<bool>()) {
        let interval = if journaled { Duration::ZERO } else { Duration::from_hours(1) };
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(run(interval, steps));
    }
}

/// The suite while everything is sealed all the time.
mod sealed {
    use super::*;
    use crate::store::conformance::{Made, conformance_suite};

    async fn make(setup: Setup) -> Option<Made> {
        let config = MemoryConfig { lifetimes: setup.lifetimes, limits: setup.limits, ..config(None, Duration::ZERO, false) };
        let store = MemoryStore::open(config, setup.clock).unwrap();
        let seals = Arc::downgrade(&store);
        std::thread::spawn(move || {
            while let Some(store) = seals.upgrade() {
                store.keeper.maintain_all();
                drop(store);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Some(Made { maintain: maintain(&store), store, guard: Box::new(()) })
    }
    conformance_suite!(make);
}

/// A batch of so many gauges with ids of their own and values that can't be coded in less than two bytes.
fn many(source: &str, at: u64, series: usize, name: &str) -> Batch {
    let value = |number: usize| {
        let mixed = (at / 1000).wrapping_mul(2_654_435_761).wrapping_add(number as u64 * 40_503) >> 7;
        f64::from(u32::try_from(mixed % 1_000_000).unwrap()) / 100.0
    };
    let all = (0..series).map(|number| gauge(&format!("{name}{{number=\"{number}\"}}"), value(number))).collect();
    Batch { keyed: false, ..batch(source, IdempotencyKey::at(at), all) }
}

fn bounded(max_bytes: usize) -> Arc<MemoryStore> {
    let lifetimes =
        Lifetimes { dedup_window: Duration::from_hours(24 * 60), retention_raw: Duration::from_hours(24 * 60), ..Lifetimes::default() };
    MemoryStore::open(MemoryConfig { lifetimes, history_max_bytes: max_bytes, ..config(None, Duration::ZERO, false) }, Clock::at(NOW))
        .unwrap()
}

#[tokio::test]
async fn the_oldest_goes_when_there_is_no_room() {
    let max_bytes = 1 << 18;
    let store = bounded(max_bytes);
    let start = NOW - 20 * 24 * 60 * MINUTE;
    for minutes in (0..20 * 24 * 60).step_by(15) {
        store.apply(many("n", start + minutes * MINUTE, 100, "m")).await.unwrap();
        assert!(store.shards.history.used_bytes() <= max_bytes);
        if store.shards.history.is_crowded() {
            store.keeper.make_room();
            assert!(!store.shards.history.is_crowded());
        }
    }
    let dropped = store.shards.history.samples_dropped();
    assert!(dropped > 0);
    let all = read(&store, store.shards.history.raw_from_ms(), i64::MAX).await;
    assert_eq!(all.len(), 100);
    let first = all.values().map(|samples| samples[0].0).min().unwrap();
    assert!(first > millis(start), "the oldest is gone");
    let kept: usize = all.values().map(Vec::len).sum();
    assert_eq!(kept as u64 + dropped, 100 * 20 * 24 * 4, "each is there or counted");
    for samples in all.values() {
        assert!(samples.windows(2).all(|two| two[1].0 - two[0].0 == millis(15 * MINUTE)), "nothing is missing but the oldest");
        assert_eq!(samples.last().unwrap().0, millis(NOW - 15 * MINUTE));
    }
    let first = u64::try_from(first).unwrap();
    let late = samples("n", &[("late", 1.0, first - 15 * MINUTE), ("late", 1.0, first), ("late", 1.0, NOW)]);
    assert_eq!(refused(&store.apply(late).await.unwrap()), [0, 1, 0, 0], "what would be dropped next is not acknowledged");
}

#[tokio::test]
async fn series_that_came_and_went_leave_nothing_behind() {
    let store = bounded(1 << 20);
    let start = NOW - 20 * 24 * 60 * MINUTE;
    let mut used = Vec::new();
    for day in 0..20 {
        for hour in (0..24).step_by(2) {
            // A hundred and fifty new series every two hours, and one counter that stays.
            let at = start + (day * 24 + hour) * 60 * MINUTE;
            store.apply(many("n", at, 150, &format!("pod{}", day * 24 + hour))).await.unwrap();
            store.apply(Batch { keyed: false, ..batch("n", IdempotencyKey::at(at), vec![count("total", 1)]) }).await.unwrap();
            store.keeper.maintain_all();
            if store.shards.history.is_crowded() {
                store.keeper.make_room();
            }
        }
        used.push(store.shards.history.used_bytes());
    }
    assert!(used.iter().all(|bytes| *bytes <= 1 << 20), "{used:?}");
    let found = read(&store, store.shards.history.raw_from_ms(), i64::MAX).await;
    assert!((150..20_000).contains(&found.len()), "{}", found.len());
    let total = &found[r#"total{instance="n"}"#];
    assert_eq!(f64::from_bits(total.last().unwrap().1).to_bits(), 240.0_f64.to_bits(), "totals go on");
    let source = Source::parse("n").unwrap();
    let filter = SeriesFilter { any: vec![], range: TimeRange { start_ms: i64::MIN, end_ms: i64::MAX }, limit: usize::MAX };
    let listed = store.series(&filter, &mut MemoryBudget::new(1 << 40).reserve(1 << 40)).await.unwrap().items.len();
    let known = store.shards.of(&source).shard.history.known_series(&source);
    assert!(known <= listed + 2 * 64, "{known} series are known and {listed} have samples or rollups");
}

#[tokio::test]
async fn what_is_more_than_there_is_room_for_is_not_taken_and_counted() {
    let store = bounded(64 << 10);
    for round in 0..50 {
        store.apply(many("n", NOW - round, 900, &format!("m{round}"))).await.unwrap();
        // Room may be made meanwhile.
        assert!(store.shards.history.used_bytes() <= 64 << 10);
    }
    assert!(store.shards.history.samples_dropped() > 0);
}

#[tokio::test]
async fn totals_go_on_where_samples_were_not_taken() {
    let store = bounded(64 << 10);
    let one = |at: u64| Batch { keyed: false, ..batch("n", IdempotencyKey::at(at), vec![count("total", 1)]) };
    store.apply(one(NOW - 3)).await.unwrap();
    // As many new series as there is never room for.
    let mut all: Vec<_> = (0..900).map(|number| gauge(&format!("m{number}"), 1.0)).collect();
    all.extend([count("total", 10), count("new", 3)]);
    store.apply(Batch { keyed: false, ..batch("n", IdempotencyKey::at(NOW - 2), all) }).await.unwrap();
    assert_eq!(store.shards.history.samples_dropped(), 902);
    store.apply(one(NOW - 1)).await.unwrap();
    store.apply(Batch { keyed: false, ..batch("n", IdempotencyKey::at(NOW), vec![count("new", 4)]) }).await.unwrap();
    let found = read(&store, i64::MIN, i64::MAX).await;
    let last = |labels: &str| found[labels].last().unwrap().1;
    assert_eq!(last(r#"total{instance="n"}"#), 12.0_f64.to_bits());
    assert_eq!(last(r#"new{instance="n"}"#), 7.0_f64.to_bits());
}

#[tokio::test]
async fn samples_that_are_acknowledged_one_by_one_are_kept_where_their_series_need_more_room() {
    let store = bounded(64 << 10);
    let mut metrics = Metrics::default();
    for series in 0..900 {
        metrics.push_parsed_at(&format!("m{{number=\"{series}\"}}"), Value::Gauge(f64::from(series)), millis(NOW)).unwrap();
    }
    let applied = store.apply(Batch { keyed: false, metrics, ..batch("n", IdempotencyKey::at(NOW), Vec::new()) }).await.unwrap();
    assert_eq!(applied, Applied::of_samples(900, RefusedSamples::default()));
    assert_eq!((read(&store, i64::MIN, i64::MAX).await.len(), store.shards.history.samples_dropped()), (900, 0));
}

#[tokio::test]
async fn what_is_older_than_the_history_when_it_comes_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let lifetimes = Lifetimes { retention_raw: Duration::from_hours(1), ..Lifetimes::default() };
    let config = MemoryConfig { lifetimes, ..config(Some(folder.path().join("m.json")), Duration::ZERO, true) };
    let store = MemoryStore::open(config.clone(), Clock::at(NOW)).unwrap();
    let too_old = |store: &MemoryStore| store.memory_metrics().history_too_old_samples.load(Ordering::Relaxed);
    let late = batch("a", IdempotencyKey::at(NOW - 90 * MINUTE), vec![gauge("g", 1.0), count("c", 1)]);
    assert_eq!(store.apply(late.clone()).await.unwrap(), Applied::New);
    assert_eq!(store.apply(late).await.unwrap(), Applied::Repeat);
    assert_eq!(too_old(&store), 2);
    let mut metrics = Metrics::default();
    for at in [NOW - 90 * MINUTE, NOW] {
        metrics.push_parsed_at("g", Value::Gauge(2.0), millis(at)).unwrap();
    }
    store.apply(Batch { metrics, ..batch("a", IdempotencyKey::at(NOW), vec![]) }).await.unwrap();
    assert_eq!(too_old(&store), 3);
    let found = read(&store, i64::MIN, i64::MAX).await;
    assert_eq!(found, [(r#"g{instance="a"}"#.to_owned(), vec![(millis(NOW), 2.0_f64.to_bits())])].into());
    store.crash();
    let store = MemoryStore::open(config, Clock::at(NOW)).unwrap();
    assert_eq!((read(&store, i64::MIN, i64::MAX).await, too_old(&store)), (found, 0));
}

#[tokio::test]
async fn without_room_there_is_no_history() {
    let store = bounded(0);
    store.apply(many("n", NOW, 10, "m")).await.unwrap();
    assert!(read(&store, i64::MIN, i64::MAX).await.is_empty());
    assert_eq!((store.shards.history.used_bytes(), store.shards.history.samples_dropped()), (0, 0));
}

/// A day of a node whose values move, sealed: what is kept of a series that is known to the newest state too.
#[tokio::test]
async fn what_history_says_it_takes_is_what_it_takes() {
    let store = bounded(256 << 20);
    let before = super::heap::held_bytes();
    for minutes in 0..180 {
        store.shards.apply(&many("n", NOW - (180 - minutes) * MINUTE, 1000, "m"), NOW, |_| {}).unwrap();
    }
    let newest = 1000 * 90;
    let (held, said) = (super::heap::held_bytes() - before - newest, store.shards.history.used_bytes().cast_signed());
    println!("{held} bytes are held and {said} are said, open");
    assert!((held - said).abs() < said / 5, "{held} and {said}");
    store.keeper.maintain_all();
    let (held, said) = (super::heap::held_bytes() - before - newest, store.shards.history.used_bytes().cast_signed());
    println!("{held} bytes are held and {said} are said, sealed");
    assert!((held - said).abs() < said / 5, "{held} and {said}");
}

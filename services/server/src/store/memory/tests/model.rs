//! Any sequence of writes, repeats, expiries, clocks that are set, saves, restarts and crashes gives what a simple model gives.
//!
//! The model keeps for each series the arrival of its last report, and for each source a [`ReportingClock`]; the store's reporting periods
//! must come to the same.

use std::collections::{BTreeMap, HashSet};

use golectra_protocol::{Kind, MAX_AHEAD_MILLIS, MetricId, Metrics, WindowError};
use proptest::prelude::*;

use super::*;
use crate::store::lifetime::ReportingClock;

const MINUTE: u64 = 60_000;
const IDS: [&str; 6] = ["m0", "m1", "m2", "m3", "m0{l=\"1\"}", "m1{l=\"2\"}"];
const SOURCES: [&str; 3] = ["", "a", "b"];

#[derive(Debug, Clone)]
enum Step {
    Write {
        source: usize,
        age_millis: u64,
        keyed: bool,
        /// A counter's delta, or a gauge.
        metrics: Vec<(usize, Option<i64>)>,
        /// Whether each sample has a time of its own: every second one the time before.
        timed: bool,
    },
    /// The write before, this many back.
    Repeat(usize),
    Forget(usize),
    /// Time goes by.
    Pass(u64),
    /// The clock is set back.
    SetBack(u64),
    Sweep,
    Save,
    Close,
    Crash,
}

/// A value's bits, so that NaN is equal to itself.
fn bits(value: Value) -> (Kind, u64) {
    match value {
        Value::Gauge(value) => (Kind::Gauge, value.to_bits()),
        Value::Counter(total) => (Kind::Counter, total.cast_unsigned()),
    }
}

#[derive(Debug, Clone)]
struct ModelSeries {
    value: Value,
    /// The time and the arrival of the value.
    version: (u64, u64),
    last_arrival: u64,
}

#[derive(Debug, Clone, Default)]
struct ModelSource {
    series: BTreeMap<(String, Kind), ModelSeries>,
    clock: ReportingClock,
    first_seen: u64,
    last_seen: u64,
}

#[derive(Debug, Clone, Default)]
struct Model {
    sources: BTreeMap<String, ModelSource>,
    retired: BTreeMap<String, i64>,
    keys: HashSet<(String, IdempotencyKey)>,
    arrival: u64,
}

type Listed = Vec<(String, String, (Kind, u64), u64)>;

impl Model {
    fn apply(&mut self, batch: &Batch, now: u64) -> Result<Applied, WindowError> {
        if batch.key.unix_millis() > now + MAX_AHEAD_MILLIS {
            return Err(WindowError::TooNew);
        }
        if batch.keyed && !self.keys.insert((batch.source.to_string(), batch.key)) {
            return Ok(Applied::Repeat);
        }
        self.arrival += 1;
        let source = self.sources.entry(batch.source.to_string()).or_default();
        if source.series.is_empty() {
            *source = ModelSource { first_seen: now, ..ModelSource::default() };
        } else {
            source.clock.advance(now.saturating_sub(source.last_seen), &lifetimes());
        }
        source.last_seen = now;
        for (index, metric) in batch.metrics.iter().enumerate() {
            let at = batch.metrics.at_millis(index).map_or(batch.key.unix_millis(), |at| u64::try_from(at).unwrap()).min(now);
            let version = (at, self.arrival);
            let new = ModelSeries { value: metric.value, version, last_arrival: self.arrival };
            let Some(kept) = source.series.get_mut(&(metric.id.to_owned(), metric.kind())) else {
                source.series.insert((metric.id.to_owned(), metric.kind()), new);
                continue;
            };
            // No time is later than its arrival: one that is so far ahead is from before the clock went back. A write without a key is sent once.
            let may_be_ahead = if batch.keyed { MINUTE } else { 0 };
            let is_newer = at >= kept.version.0 || kept.version.0 > now + may_be_ahead;
            match (&mut kept.value, metric.value) {
                (Value::Counter(total), Value::Counter(delta)) => *total += delta,
                (value, new) if is_newer => *value = new,
                _ => {}
            }
            kept.version = if is_newer { version } else { kept.version };
            kept.last_arrival = self.arrival;
        }
        Ok(Applied::New)
    }

    fn retire(&mut self, gone: impl IntoIterator<Item = ((String, Kind), ModelSeries)>) {
        for ((id, _), series) in gone {
            if let Value::Counter(total) = series.value
                && !id.contains('{')
            {
                *self.retired.entry(id).or_default() += total;
            }
        }
    }

    fn forget(&mut self, source: &str) -> bool {
        let gone = self.sources.remove(source).unwrap_or_default();
        let there = !gone.series.is_empty();
        self.retire(gone.series);
        there
    }

    fn sweep(&mut self, now: u64) {
        let names: Vec<String> = self.sources.keys().filter(|name| !name.is_empty()).cloned().collect();
        for name in names {
            let source = self.sources.get_mut(&name).unwrap();
            if now.saturating_sub(source.last_seen) > lifetimes().source_expiry_millis() {
                self.forget(&name);
                continue;
            }
            source.clock.mark(self.arrival, &lifetimes());
            let Some(expired) = source.clock.expired_up_to(&lifetimes()) else { continue };
            let gone: Vec<_> = source.series.extract_if(.., |_, series| series.last_arrival <= expired).collect();
            if source.series.is_empty() {
                self.sources.remove(&name);
            }
            self.retire(gone);
        }
    }

    fn listed(&self) -> Listed {
        let of = |(name, source): (&String, &ModelSource)| {
            let name = name.clone();
            let list = source.series.iter().map(move |((id, _), one)| (name.clone(), id.clone(), bits(one.value), one.version.0));
            list.collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(of).collect()
    }

    fn sources(&self) -> Vec<(String, u64, u64, usize)> {
        self.sources.iter().map(|(name, one)| (name.clone(), one.first_seen, one.last_seen, one.series.len())).collect()
    }

    /// A metric over all sources, as the store's reads show it.
    fn merged(&self, id: &str, kind: Kind) -> Option<(Kind, u64)> {
        let all = || self.sources.values().filter_map(|source| source.series.get(&(id.to_owned(), kind)));
        match kind {
            Kind::Gauge => {
                let newest = all().max_by_key(|series| series.version)?.value;
                Some(bits(newest)).filter(|_| matches!(newest, Value::Gauge(value) if value.is_finite()))
            }
            Kind::Counter => {
                let live = all().map(|series| bits(series.value).1.cast_signed());
                let all: Vec<i64> = live.chain(self.retired.get(id).copied()).collect();
                (!all.is_empty()).then(|| (kind, all.iter().sum::<i64>().cast_unsigned()))
            }
        }
    }
}

fn lifetimes() -> Lifetimes {
    // Keys outlive every sequence, so that the model needs no memory of what was forgotten.
    Lifetimes { dedup_window: Duration::from_hours(24 * 10_000), ..Lifetimes::default() }
}

fn any_step() -> impl Strategy<Value = Step> {
    let metrics = proptest::collection::btree_map(0..IDS.len(), proptest::option::of(0..100_i64), 1..4);
    let write =
        (0..SOURCES.len(), 0..5_u64, any::<bool>(), metrics, any::<bool>()).prop_map(|(source, age_millis, keyed, metrics, timed)| {
            // Samples with times and without a key are remote-write's, which are stored once per time: the conformance suite tests those.
            Step::Write { source, age_millis, keyed: keyed || timed, metrics: metrics.into_iter().collect(), timed }
        });
    prop_oneof![
        14 => write,
        3 => (1..6_usize).prop_map(Step::Repeat),
        1 => (1..SOURCES.len()).prop_map(Step::Forget),
        6 => (1..=8 * 60_u64).prop_map(|minutes| Step::Pass(minutes * MINUTE)),
        1 => (1..=10 * 24 * 60_u64).prop_map(|minutes| Step::Pass(minutes * MINUTE)),
        1 => (1..=3 * 24 * 60_u64).prop_map(|minutes| Step::SetBack(minutes * MINUTE)),
        8 => Just(Step::Sweep),
        2 => Just(Step::Save),
        1 => Just(Step::Close),
        2 => Just(Step::Crash),
    ]
}

/// The batch of a step; its values are told apart by the step's number, and some are no numbers.
#[expect(clippy::type_complexity, reason = "the parts of one step")]
fn batch_of(step: (usize, u64, bool, &[(usize, Option<i64>)], bool), number: usize, now: u64) -> Batch {
    let (source, age_millis, keyed, metrics, timed) = step;
    let mut all = Metrics::default();
    for (index, (id, delta)) in metrics.iter().enumerate() {
        let number = f64::from(u32::try_from(number).unwrap());
        let value = delta.map_or(Value::Gauge(if number % 5.0 == 0.0 { f64::NAN } else { number }), Value::Counter);
        let at = i64::try_from(now - age_millis).unwrap() - i64::try_from(index % 2).unwrap();
        let pushed = if timed { all.push_parsed_at(IDS[*id], value, at) } else { all.push_parsed(IDS[*id], value) };
        pushed.unwrap();
    }
    let plain = batch(SOURCES[source], IdempotencyKey::at(now - age_millis), vec![]);
    Batch { keyed, metrics: all, digest: [u8::try_from(number).unwrap(); 32], ..plain }
}

async fn assert_same(store: &MemoryStore, model: &Model, after: &str) {
    let listed = crate::store::conformance::every(store.latest(LatestFilter::default()).await.unwrap()).await.into_iter();
    let listed: Listed = listed.map(|one| (one.source.to_string(), one.id.to_string(), bits(one.value), one.at_millis)).collect();
    assert_eq!(listed, model.listed(), "{after}");
    assert_eq!(store.metrics().series, Some(listed.len() as u64), "{after}");
    let sources = store.sources().await.unwrap().into_iter();
    let sources: Vec<_> = sources.map(|one| (one.name.to_string(), one.first_seen_millis, one.last_seen_millis, one.series)).collect();
    assert_eq!(sources, model.sources(), "{after}");
    // A snapshot looks at every source, where a single read may know the answer from before.
    let all = store.snapshot().await.unwrap();
    for id in IDS {
        for kind in [Kind::Gauge, Kind::Counter] {
            let expected = model.merged(id, kind);
            let read = store.value(&Selector { id: MetricId::parse(id).unwrap(), kind }).await.unwrap().map(bits);
            assert_eq!(read, expected, "{id} {kind} {after}");
            let shown = match kind {
                Kind::Gauge => all.gauges.get(id).copied().map(Value::Gauge),
                Kind::Counter => all.counters.get(id).copied().map(Value::Counter),
            };
            assert_eq!(shown.map(bits), expected, "{id} {kind} {after}");
        }
    }
}

async fn run(steps: &[Step], journals: bool) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::at(NOW);
    let interval = if journals { Duration::ZERO } else { Duration::from_hours(1) };
    let config = MemoryConfig { lifetimes: lifetimes(), ..config(Some(folder.path().join("m.json")), interval, true) };
    let open = || MemoryStore::open(config.clone(), clock.clone()).unwrap();
    let (mut model, mut on_disk) = (Model::default(), Model::default());
    let mut store = open();
    let mut sent: Vec<Batch> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let now = clock.unix_millis();
        let applied = async |store: &MemoryStore, one: &Batch| match store.apply(one.clone()).await {
            Ok(applied) => Ok(applied),
            Err(StoreError::Window(why)) => Err(why),
            // It was opened after the clock was set back.
            Err(StoreError::Unavailable(why)) if why.contains("is NTP running?") => Err(WindowError::TooNew),
            Err(error) => panic!("{error:?}"),
        };
        match step {
            Step::Write { source, age_millis, keyed, metrics, timed } => {
                sent.push(batch_of((*source, *age_millis, *keyed, metrics, *timed), number, now));
                let one = sent.last().unwrap();
                assert_eq!(applied(&store, one).await, model.apply(one, now));
            }
            Step::Repeat(back) => {
                let Some(one) = sent.len().checked_sub(*back).map(|place| sent[place].clone()).filter(|one| one.keyed) else { continue };
                assert_eq!(applied(&store, &one).await, model.apply(&one, now));
            }
            Step::Forget(source) => {
                let name = SOURCES[*source];
                let forgotten = store.forget_source(&Source::parse(name).unwrap(), None).await.unwrap();
                assert_eq!(forgotten, model.forget(name));
            }
            Step::Pass(millis) => clock.set(now + millis),
            Step::SetBack(millis) => clock.set(now - millis),
            Step::Sweep => {
                store.sweep();
                model.sweep(now);
            }
            Step::Save => {
                store.save_now().await.unwrap();
                on_disk = model.clone();
            }
            Step::Close => {
                store.close().await.unwrap();
                on_disk = model.clone();
                store = open();
            }
            Step::Crash => {
                store.crash();
                if !journals {
                    model = on_disk.clone();
                }
                store = open();
            }
        }
        assert_same(&store, &model, &format!("after step {number}, {step:?}")).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_store_does_what_the_model_does(steps in proptest::collection::vec(any_step(), 1..90), journals in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&steps, journals));
    }
}

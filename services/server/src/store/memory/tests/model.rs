//! Any sequence of writes, repeats, saves, restarts and crashes gives what a simple model gives.

use std::collections::{BTreeMap, HashSet};

use golectra_protocol::{Kind, MetricId};
use proptest::prelude::*;

use super::conformance::{counter as count, gauge};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write {
        source: usize,
        age_millis: u64,
        keyed: bool,
        metrics: Vec<(usize, Option<i64>)>,
    },
    /// The write before, this many back.
    Repeat(usize),
    Save,
    Close,
    Crash,
}

type Series = BTreeMap<(String, String, Kind), (Value, u64)>;
type Keys = HashSet<(String, IdempotencyKey)>;

#[derive(Debug, Clone, Default)]
struct Model {
    series: Series,
    keys: Keys,
}

impl Model {
    fn apply(&mut self, batch: &Batch) -> Applied {
        let key = (batch.source.to_string(), batch.key);
        if batch.keyed && !self.keys.insert(key) {
            return Applied::Repeat;
        }
        let at = batch.key.unix_millis();
        for metric in &batch.metrics {
            let place = (batch.source.to_string(), metric.id.to_string(), metric.kind());
            let kept = self.series.entry(place).or_insert((metric.value, 0));
            match (&mut kept.0, metric.value) {
                (Value::Counter(total), Value::Counter(delta)) if kept.1 > 0 => *total += delta,
                (value @ Value::Gauge(_), new) if at >= kept.1 => *value = new,
                _ => {}
            }
            kept.1 = kept.1.max(at);
        }
        Applied::New
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let metrics = proptest::collection::btree_map(0..4_usize, proptest::option::of(0..100_i64), 1..4);
    let write = (0..3_usize, 0..5_u64, any::<bool>(), metrics).prop_map(|(source, age_millis, keyed, metrics)| Step::Write {
        source,
        age_millis,
        keyed,
        metrics: metrics.into_iter().collect(),
    });
    prop_oneof![12 => write, 4 => (1..6_usize).prop_map(Step::Repeat), 2 => Just(Step::Save), 1 => Just(Step::Close), 2 => Just(Step::Crash)]
}

async fn run(steps: &[Step], journals: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let open = || if journals { journaled(&path) } else { saved(&path) };
    let (mut model, mut on_disk) = (Model::default(), Model::default());
    let mut store = open();
    let mut sent: Vec<Batch> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Write { source, age_millis, keyed, metrics } => {
                let of = |(id, delta): &(usize, Option<i64>)| match delta {
                    Some(delta) => count(&format!("m{id}"), *delta),
                    None => gauge(&format!("m{id}"), f64::from(u32::try_from(number).unwrap())),
                };
                let key = IdempotencyKey::at(NOW - age_millis);
                let one = batch(["", "a", "b"][*source], key, metrics.iter().map(of).collect());
                sent.push(Batch { keyed: *keyed, ..one });
                let one = sent.last().unwrap();
                assert_eq!(store.apply(one.clone()).await.unwrap(), model.apply(one));
            }
            Step::Repeat(back) => {
                let Some(one) = sent.len().checked_sub(*back).map(|place| sent[place].clone()).filter(|one| one.keyed) else { continue };
                assert_eq!(store.apply(one.clone()).await.unwrap(), model.apply(&one));
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
        let filter = LatestFilter::default();
        let listed = crate::store::conformance::every(store.latest(filter).await.unwrap()).await.into_iter();
        let found: Series =
            listed.map(|one| ((one.source.to_string(), one.id.to_string(), one.value.kind()), (one.value, one.at_millis))).collect();
        assert_eq!(found, model.series, "after step {number}, {step:?}");
        assert_eq!(store.metrics().series, Some(found.len() as u64));
        // A snapshot looks at every source, where a single read may know the answer from before.
        let all = store.snapshot().await.unwrap();
        for id in (0..4).map(|id| format!("m{id}")) {
            let read = async |kind| store.value(&Selector { id: MetricId::parse(&id).unwrap(), kind }).await.unwrap();
            assert_eq!(read(Kind::Gauge).await, all.gauges.get(&id).copied().map(Value::Gauge), "{id} after step {number}, {step:?}");
            assert_eq!(read(Kind::Counter).await, all.counters.get(&id).copied().map(Value::Counter), "{id} after step {number}, {step:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_store_does_what_the_model_does(steps in proptest::collection::vec(any_step(), 1..40), journals in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&steps, journals));
    }
}

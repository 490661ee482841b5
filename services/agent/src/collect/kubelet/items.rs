//! The gauges of one reading, written as the items of JSON arrays in an order that is the same every time.
//!
//! A node has thousands of these series, and nearly all of them are the same as in the reading before. Their label sets are
//! therefore rendered once and kept as long as they occur; an item is then four texts put one after the other.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;

use golectra_protocol::{IdError, MAX_ID_BYTES, MetricId};

use super::namespaces::Namespaces;
use super::summary::HostNetworks;
use crate::batch::MAX_BATCH_ITEMS;
use crate::collect::Readings;
use crate::metrics::SkipReason;

/// The most series of one pod, or of the node.
const MAX_GROUP_ITEMS: usize = 2000;

/// Longer than the name of any metric here.
const MAX_NAME_BYTES: usize = 80;

/// Label sets, rendered as they are written into items.
///
/// They are found by 128 bits of keyed hashes: their texts as keys would take as much memory as what is rendered, and keys that are new in each process
/// let nobody choose labels whose hashes are equal.
#[derive(Debug, Default)]
pub(super) struct LabelSets {
    sets: HashMap<[u64; 2], Rendered>,
    reading: u64,
    hashers: [RandomState; 2],
}

#[derive(Debug)]
struct Rendered {
    /// `{key="value",…}` with the escapes of JSON.
    json: Box<str>,
    /// The last reading that had it.
    reading: u64,
}

impl LabelSets {
    /// Forgets what did not occur since the last call.
    pub(super) fn next_reading(&mut self) {
        let reading = self.reading;
        self.sets.retain(|_, set| set.reading == reading);
        // After many pods at once the table would stay as large as it was then.
        if self.sets.capacity() > 4 * self.sets.len() {
            self.sets.shrink_to(2 * self.sets.len());
        }
        self.reading += 1;
    }

    fn rendered(&mut self, labels: &[(&str, &str)]) -> Result<&str, IdError> {
        let key = self.hashers.each_ref().map(|hasher| hasher.hash_one(labels));
        let set = match self.sets.entry(key) {
            Entry::Occupied(set) => set.into_mut(),
            Entry::Vacant(place) => {
                let id = MetricId::from_parts("m", labels.iter().copied())?;
                if id.as_str().len() + MAX_NAME_BYTES > MAX_ID_BYTES {
                    return Err(IdError::TooLong(id.as_str().len() + MAX_NAME_BYTES));
                }
                let json = serde_json::to_string(&id.as_str()[1..]).expect("a text can be written as JSON");
                let json = json[1..json.len() - 1].into();
                place.insert(Rendered { json, reading: 0 })
            }
        };
        set.reading = self.reading;
        Ok(&set.json)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }
}

/// What a group of series belongs to, in the order in which groups are sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// The node, or the agent.
    Node(&'static str),
    /// A volume in the kubelet's summary, by the namespace and the name of its claim.
    Volume(String, String),
    /// A pod in the kubelet's summary, by namespace and name.
    Pod(String, String),
    /// A pod in the kubelet's list of pods.
    PodObject(String, String),
    /// A pod in cAdvisor's metrics.
    Cadvisor(String, String),
}

/// The gauges of one reading.
#[derive(Debug, Default)]
pub(super) struct Items {
    text: String,
    groups: BTreeMap<Owner, Group>,
    /// How many series are in the batches so far.
    series: usize,
    /// How many series are kept free for what later requests of this reading report about themselves.
    pub(super) reserved: usize,
    namespaces: Namespaces,
    /// Of the pods in the kubelet's list of pods.
    pub(super) host_networks: HostNetworks,
    /// What could not be reported.
    pub(super) readings: Readings,
}

#[derive(Debug)]
struct Group {
    text: Range<usize>,
    items: usize,
    started_at: f64,
}

/// Items of one batch, separated by commas.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BatchItems {
    pub(super) text: String,
    pub(super) items: usize,
}

impl Owner {
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Node(_) => None,
            Self::Volume(namespace, _) | Self::Pod(namespace, _) | Self::PodObject(namespace, _) | Self::Cadvisor(namespace, _) => {
                Some(namespace)
            }
        }
    }
}

impl Items {
    /// No gauges yet. Those of pods in other namespaces than these are left out.
    pub(super) fn of(namespaces: Namespaces) -> Self {
        Self { namespaces, ..Self::default() }
    }

    /// Adds the series of one owner. Where it has some already, as with two pods of one name of which one is terminating, those of
    /// the one that started later are kept, and of two that started at the same time those that come later.
    pub(super) fn group(&mut self, labels: &mut LabelSets, owner: Owner, started_at: f64, write: impl FnOnce(&mut Writer<'_>)) {
        if owner.namespace().is_some_and(|namespace| !self.namespaces.allow(namespace)) {
            return;
        }
        if self.groups.get(&owner).is_some_and(|known| known.started_at > started_at) {
            return;
        }
        let start = self.text.len();
        let mut writer = Writer { text: &mut self.text, labels, readings: &mut self.readings, items: 0 };
        write(&mut writer);
        let items = writer.items;
        if items > 0 {
            self.groups.insert(owner, Group { text: start..self.text.len(), items, started_at });
        }
    }

    /// What was added since the last call, in batches. Groups beyond `max_series` of the whole reading are left out.
    pub(super) fn batches(&mut self, max_series: usize) -> Vec<BatchItems> {
        let mut batches = Vec::<BatchItems>::new();
        for (owner, group) in std::mem::take(&mut self.groups) {
            if self.series + self.reserved + group.items > max_series {
                self.readings.skip(SkipReason::Limit, group.items as u64, format_args!("more than {max_series} series, from {owner:?} on"));
                continue;
            }
            self.series += group.items;
            let text = &self.text[group.text];
            match batches.last_mut() {
                Some(last) if last.items + group.items <= MAX_BATCH_ITEMS => {
                    last.text.push(',');
                    last.text.push_str(text);
                    last.items += group.items;
                }
                _ => batches.push(BatchItems { text: text.to_owned(), items: group.items }),
            }
        }
        self.text.clear();
        batches
    }
}

/// Writes the series of one group.
pub(super) struct Writer<'a> {
    text: &'a mut String,
    labels: &'a mut LabelSets,
    readings: &'a mut Readings,
    items: usize,
}

impl Writer<'_> {
    /// Adds a gauge; nothing if there is no value. Labels with an empty value are left out.
    pub(super) fn gauge(&mut self, name: &'static str, labels: &[(&str, &str)], value: Option<f64>) {
        debug_assert!(name.len() <= MAX_NAME_BYTES);
        let Some(value) = value else { return };
        if !value.is_finite() {
            return self.readings.skip(SkipReason::InvalidValue, 1, format_args!("{name}: {value}"));
        }
        if self.items == MAX_GROUP_ITEMS {
            return self.readings.skip(SkipReason::Limit, 1, format_args!("{name}: more than {MAX_GROUP_ITEMS} series of one pod"));
        }
        match self.labels.rendered(labels) {
            Ok(json) => {
                if self.items > 0 {
                    self.text.push(',');
                }
                self.items += 1;
                // Writing to a string does not fail. Display writes a double without exponent, so that it is JSON.
                let _ = write!(self.text, "{{\"id\":\"{name}{json}\",\"type\":\"gauge\",\"value\":{value}}}");
            }
            Err(error) => self.readings.skip(SkipReason::InvalidId, 1, format_args!("{name}: {error}")),
        }
    }
}

/// The gauges of these items by id. Each has to be in the catalog, with its job and labels that it may have.
#[cfg(test)]
pub(super) fn checked(items: &mut Items) -> BTreeMap<String, f64> {
    use golectra_protocol::{Value, catalog, json};
    let mut found = BTreeMap::new();
    for batch in items.batches(100_000) {
        let text = format!("[{}]", batch.text);
        let metrics = json::decode_batch(text.as_bytes(), 10_000).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(metrics.len(), batch.items);
        for metric in &metrics {
            let id = metric.to_id();
            let parts = id.parts();
            let (group, row) = catalog::find(&parts.name).unwrap_or_else(|| panic!("{id} is not in the catalog"));
            assert_eq!(parts.label("job"), group.job, "{id}");
            let known = |label: &str| label == "job" || row.labels.contains(&label);
            assert!(parts.labels.iter().all(|(label, _)| known(label)), "{id} has labels that the catalog does not know: {:?}", row.labels);
            let Value::Gauge(value) = metric.value else { panic!("{id} is a gauge") };
            assert!(found.insert(metric.id.to_owned(), value).is_none(), "{id} is reported twice");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use golectra_protocol::json;

    use super::*;

    fn ids(batches: &[BatchItems]) -> Vec<String> {
        let decoded = |batch: &BatchItems| json::decode_batch(format!("[{}]", batch.text).as_bytes(), 10_000).unwrap();
        batches.iter().flat_map(|batch| decoded(batch).iter().map(|metric| metric.id.to_owned()).collect::<Vec<_>>()).collect()
    }

    fn pod(name: &str) -> Owner {
        Owner::Pod("n".into(), name.into())
    }

    #[test]
    fn items_are_valid_json_with_canonical_ids_in_a_fixed_order() {
        let (mut items, mut labels) = (Items::default(), LabelSets::default());
        items.group(&mut labels, pod("b"), 0.0, |writer| {
            writer.gauge("m", &[("pod", "b\"\\\n"), ("empty", ""), ("a", "ä")], Some(1e22));
            writer.gauge("m", &[("pod", "x")], Some(-0.0));
            writer.gauge("m", &[], Some(0.1));
            writer.gauge("m", &[], None);
        });
        items.group(&mut labels, pod("a"), 0.0, |writer| writer.gauge("m", &[("pod", "a")], Some(1.0)));
        items.group(&mut labels, pod("none"), 0.0, |_| {});
        let batches = items.batches(100);
        assert_eq!(ids(&batches), ["m{pod=\"a\"}", "m{a=\"ä\",pod=\"b\\\"\\\\\\n\"}", "m{pod=\"x\"}", "m"]);
        assert_eq!(batches[0].items, 4);
    }

    #[test]
    fn what_cannot_be_reported_is_counted() {
        let (mut items, mut labels) = (Items::default(), LabelSets::default());
        items.group(&mut labels, pod("b"), 0.0, |writer| {
            writer.gauge("m", &[("pod", "a\0b")], Some(1.0));
            writer.gauge("m", &[("pod", &"x".repeat(5000))], Some(1.0));
            writer.gauge("m", &[("pod", &"x".repeat(4050))], Some(1.0));
            writer.gauge("m", &[], Some(f64::INFINITY));
        });
        assert_eq!(items.batches(100), []);
        let counts: Vec<_> = items.readings.skipped_counts().collect();
        assert_eq!(counts, [(SkipReason::InvalidId, 3), (SkipReason::InvalidValue, 1)]);
    }

    #[test]
    fn of_two_pods_with_one_name_the_later_one_is_reported() {
        for order in [[1.0, 2.0], [2.0, 1.0]] {
            let (mut items, mut labels) = (Items::default(), LabelSets::default());
            for started in order {
                items.group(&mut labels, pod("a"), started, |writer| writer.gauge("m", &[], Some(started)));
            }
            let batches = items.batches(100);
            assert_eq!(batches, [BatchItems { text: r#"{"id":"m","type":"gauge","value":2}"#.into(), items: 1 }]);
        }
    }

    #[test]
    fn pods_of_namespaces_that_are_left_out_have_no_items() {
        let (mut labels, exclude) = (LabelSets::default(), "n".parse().unwrap());
        let mut items = Items::of(Namespaces { exclude, ..Namespaces::default() });
        for owner in [pod("a"), Owner::PodObject("n".into(), "a".into()), Owner::Cadvisor("n".into(), "a".into()), Owner::Node("x")] {
            items.group(&mut labels, owner, 0.0, |writer| writer.gauge("m", &[], Some(1.0)));
        }
        assert_eq!(items.batches(100).iter().map(|batch| batch.items).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn batches_and_series_are_bounded() {
        let (mut items, mut labels) = (Items::default(), LabelSets::default());
        for number in 0..5 {
            items.group(&mut labels, pod(&number.to_string()), 0.0, |writer| {
                for series in 0..=MAX_GROUP_ITEMS {
                    writer.gauge("m", &[("s", &series.to_string()), ("pod", &number.to_string())], Some(1.0));
                }
            });
        }
        let sizes: Vec<_> = items.batches(9000).iter().map(|batch| batch.items).collect();
        assert_eq!(sizes, [4000, 4000]);
        let limit: Vec<_> = items.readings.skipped_counts().collect();
        assert_eq!(limit, [(SkipReason::Limit, 5 + 2000)]);
    }

    #[test]
    fn the_limit_is_one_of_all_batches_of_a_reading() {
        let (mut items, mut labels) = (Items::default(), LabelSets::default());
        let mut add = |items: &mut Items, owner: Owner, series: usize| {
            items.group(&mut labels, owner, 0.0, |writer| {
                for number in 0..series {
                    writer.gauge("m", &[("s", &number.to_string())], Some(1.0));
                }
            });
        };
        let sizes = |items: &mut Items| items.batches(10).iter().map(|batch| batch.items).collect::<Vec<_>>();
        items.reserved = 2;
        add(&mut items, pod("a"), 6);
        add(&mut items, pod("b"), 3);
        assert_eq!(sizes(&mut items), [6], "two are left free");
        items.reserved = 0;
        add(&mut items, Owner::Node("later"), 2);
        add(&mut items, Owner::Cadvisor("n".into(), "a".into()), 3);
        add(&mut items, Owner::Cadvisor("n".into(), "b".into()), 2);
        assert_eq!(sizes(&mut items), [4]);
        assert!(sizes(&mut items).is_empty(), "each series is in one batch");
        assert_eq!(items.readings.skipped_counts().collect::<Vec<_>>(), [(SkipReason::Limit, 3 + 3)]);
    }

    #[test]
    fn label_sets_are_kept_as_long_as_they_occur() {
        let mut labels = LabelSets::default();
        let mut read = |pods: &[&str]| {
            labels.next_reading();
            let mut items = Items::default();
            for name in pods {
                items.group(&mut labels, pod(name), 0.0, |writer| writer.gauge("m", &[("pod", name)], Some(1.0)));
            }
            labels.len()
        };
        assert_eq!(read(&["a", "b"]), 2);
        assert_eq!(read(&["b", "c"]), 3, "what is gone is forgotten with the next reading");
        assert_eq!(read(&["c"]), 2);
        assert_eq!(read(&["c"]), 1);
    }
}

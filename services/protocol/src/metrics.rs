//! A batch of metrics in two allocations, whatever their number.
//!
//! With a string for each id, a batch of a thousand metrics would cost a thousand allocations and a thousand deallocations,
//! which is more than all other work on it. So all ids are stored in one string, one after the other.

use std::fmt;
use std::ops::Range;

use crate::id::{append, canonical};
use crate::{IdError, Kind, Metric, MetricId, Value};

/// Metrics in the order in which they were sent; each id is valid and canonical.
///
/// ```
/// # use golectra_protocol::{Metric, MetricId, Metrics, Value};
/// let metrics = Metrics::from_iter([Metric { id: MetricId::parse("Alloc")?, value: Value::Gauge(1.5) }]);
/// let first = metrics.get(0);
/// assert_eq!((metrics.len(), first.id, first.value), (1, "Alloc", Value::Gauge(1.5)));
/// # Ok::<_, golectra_protocol::IdError>(())
/// ```
#[derive(Clone, Default)]
pub struct Metrics {
    /// The ids, one after the other; ids of removed items stay as unused text.
    text: String,
    items: Vec<Item>,
    /// The samples' own times in unix milliseconds; empty if all have the batch's time.
    times: Vec<i64>,
}

/// 16 bytes, so that four items share a cache line.
#[derive(Clone, Copy)]
struct Item {
    /// The bits of the value, which is a double or an integer.
    bits: u64,
    /// The start of the id in the text.
    start: u32,
    /// The length of the id in bytes, at most [`MAX_ID_BYTES`](crate::MAX_ID_BYTES).
    len: u16,
    kind: Kind,
}

impl Item {
    #[inline]
    fn value(self) -> Value {
        match self.kind {
            Kind::Gauge => Value::Gauge(f64::from_bits(self.bits)),
            Kind::Counter => Value::Counter(self.bits.cast_signed()),
        }
    }
}

fn bits(value: Value) -> u64 {
    match value {
        Value::Gauge(value) => value.to_bits(),
        Value::Counter(delta) => delta.cast_unsigned(),
    }
}

/// One metric of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricRef<'a> {
    /// The id, valid and canonical.
    pub id: &'a str,
    /// Its value.
    pub value: Value,
}

impl MetricRef<'_> {
    /// The metric's kind, according to its value.
    #[inline]
    pub const fn kind(&self) -> Kind {
        self.value.kind()
    }

    /// The id as an owned value.
    pub fn to_id(&self) -> MetricId {
        MetricId::from_canonical(self.id)
    }

    /// The metric as an owned value.
    pub fn to_metric(&self) -> Metric {
        Metric { id: self.to_id(), value: self.value }
    }
}

impl Metrics {
    /// The largest total length of the ids of a batch, in bytes.
    pub const MAX_TEXT_BYTES: usize = u32::MAX as usize;

    /// An empty batch with capacity for this many metrics and this many bytes of ids.
    pub fn with_capacity(items: usize, text_bytes: usize) -> Self {
        Self { text: String::with_capacity(text_bytes), items: Vec::with_capacity(items), times: Vec::new() }
    }

    /// The number of metrics.
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no metrics.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The metric at this index.
    ///
    /// # Panics
    /// If the index is out of range.
    #[inline]
    pub fn get(&self, index: usize) -> MetricRef<'_> {
        self.view(self.items[index])
    }

    /// The metrics in their order.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        Iter { metrics: self, items: self.items.iter() }
    }

    /// Parses an id and appends the metric.
    ///
    /// # Panics
    /// If the ids together have more than [`Metrics::MAX_TEXT_BYTES`].
    pub fn push_parsed(&mut self, id: &str, value: Value) -> Result<(), IdError> {
        let id = canonical(id)?;
        self.push(&id, value);
        Ok(())
    }

    /// Parses an id and appends a sample with a time of its own, in unix milliseconds. Either all samples of a batch have a
    /// time or none has.
    ///
    /// # Panics
    /// If there are samples without a time already, or like [`Metrics::push_parsed`].
    pub fn push_parsed_at(&mut self, id: &str, value: Value, at_millis: i64) -> Result<(), IdError> {
        assert_eq!(self.times.len(), self.items.len(), "all samples of a batch have a time, or none has");
        let id = canonical(id)?;
        self.push(&id, value);
        self.times.push(at_millis);
        Ok(())
    }

    /// Puts the samples of a gauge with these labels at the end, with their times in unix milliseconds. The labels are in order, each key once, and
    /// no value is empty. The id is written once for all of them. After an error nothing was put.
    ///
    /// # Panics
    /// As [`Metrics::push_parsed_at`].
    pub(crate) fn push_samples(&mut self, name: &str, labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Result<(), IdError> {
        assert_eq!(self.times.len(), self.items.len(), "all samples of a batch have a time, or none has");
        let start = self.text.len();
        append(&mut self.text, name, labels)?;
        let len = u16::try_from(self.text.len() - start).expect("an id has at most 4096 bytes");
        let start = u32::try_from(start).expect("the ids of a batch have less than 4 GiB");
        for (at_millis, value) in samples {
            self.items.push(Item { bits: value.to_bits(), start, len, kind: Kind::Gauge });
            self.times.push(*at_millis);
        }
        Ok(())
    }

    /// How many bytes the metrics take.
    pub fn held_bytes(&self) -> usize {
        self.text.len() + self.items.len() * size_of::<Item>() + self.times.len() * size_of::<i64>()
    }

    /// The own time of the sample at this index, in unix milliseconds; None if it has the batch's time.
    #[inline]
    pub fn at_millis(&self, index: usize) -> Option<i64> {
        self.times.get(index).copied()
    }

    /// Whether the samples have times of their own.
    pub fn has_times(&self) -> bool {
        !self.times.is_empty()
    }

    /// Replaces the value of the metric at this index by another one of the same kind.
    ///
    /// # Panics
    /// If the index is out of range, or the kind differs.
    pub fn set(&mut self, index: usize, value: Value) {
        let item = &mut self.items[index];
        assert!(item.kind == value.kind(), "a metric keeps its kind");
        item.bits = bits(value);
    }

    /// A copy of the metrics at these indexes, which holds no other ids. Samples that share an id here share it there.
    ///
    /// # Panics
    /// If the range ends behind the last metric.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        let items = &self.items[range.clone()];
        let mut part = Self::with_capacity(items.len(), 0);
        let mut last: Option<(u32, u32)> = None;
        for item in items {
            let start = match last {
                Some((whole, start)) if whole == item.start => start,
                _ => {
                    let start = u32::try_from(part.text.len()).expect("a part has no more text than the whole");
                    part.text.push_str(self.view(*item).id);
                    start
                }
            };
            last = Some((item.start, start));
            part.items.push(Item { start, ..*item });
        }
        if self.has_times() {
            part.times.extend_from_slice(&self.times[range]);
        }
        part
    }

    /// Keeps the metrics at the indexes for which `keep` returns true, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let kept: Vec<bool> = (0..self.items.len()).map(&mut keep).collect();
        let mut next = kept.iter();
        self.items.retain(|_| *next.next().expect("one answer an item"));
        let mut next = kept.iter();
        self.times.retain(|_| *next.next().expect("one answer an item"));
    }

    /// Appends a metric whose id is canonical.
    #[inline]
    pub(crate) fn push(&mut self, id: &str, value: Value) {
        let start = u32::try_from(self.text.len()).expect("the ids of a batch have less than 4 GiB");
        let len = u16::try_from(id.len()).expect("an id has at most 4096 bytes");
        self.text.push_str(id);
        self.items.push(Item { bits: bits(value), start, len, kind: value.kind() });
    }

    #[inline]
    fn view(&self, item: Item) -> MetricRef<'_> {
        let start = item.start as usize;
        MetricRef { id: &self.text[start..start + usize::from(item.len)], value: item.value() }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl PartialEq for Metrics {
    fn eq(&self, other: &Self) -> bool {
        // Doubles are equal if their bits are: a batch may hold NaN.
        let same = |(one, other): (MetricRef<'_>, MetricRef<'_>)| {
            one.id == other.id && one.kind() == other.kind() && bits(one.value) == bits(other.value)
        };
        self.len() == other.len() && self.times == other.times && self.iter().zip(other).all(same)
    }
}

impl FromIterator<Metric> for Metrics {
    fn from_iter<I: IntoIterator<Item = Metric>>(metrics: I) -> Self {
        let mut all = Self::default();
        for metric in metrics {
            all.push(metric.id.as_str(), metric.value);
        }
        all
    }
}

impl From<&Metric> for Metrics {
    fn from(metric: &Metric) -> Self {
        let mut one = Self::with_capacity(1, metric.id.as_str().len());
        one.push(metric.id.as_str(), metric.value);
        one
    }
}

impl From<Vec<Metric>> for Metrics {
    fn from(metrics: Vec<Metric>) -> Self {
        metrics.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Metrics {
    type Item = MetricRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterates over the metrics of a batch in their order.
#[derive(Clone)]
pub struct Iter<'a> {
    metrics: &'a Metrics,
    items: std::slice::Iter<'a, Item>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = MetricRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<MetricRef<'a>> {
        self.items.next().map(|item| self.metrics.view(*item))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.items.next_back().map(|item| self.metrics.view(*item))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Metrics {
        let mut batch = Metrics::default();
        for (id, value) in [("ä", Value::Gauge(-0.0)), ("b{ z=\"1\", a=\"2\" }", Value::Counter(i64::MAX)), ("c", Value::Gauge(2.5))] {
            batch.push_parsed(id, value).unwrap();
        }
        batch
    }

    #[test]
    fn metrics_are_returned_as_pushed_and_in_order() {
        let batch = batch();
        let seen: Vec<_> = batch.iter().map(|metric| (metric.id, metric.value)).collect();
        assert_eq!(seen, [("ä", Value::Gauge(-0.0)), ("b{a=\"2\",z=\"1\"}", Value::Counter(i64::MAX)), ("c", Value::Gauge(2.5))]);
        assert_eq!(batch.iter().next_back(), Some(batch.get(2)));
        assert_eq!(batch.iter().map(|metric| metric.to_metric()).collect::<Metrics>(), batch);
    }

    #[test]
    fn a_bad_id_changes_nothing() {
        let mut batch = batch();
        for id in ["", "a\0", &"x".repeat(crate::MAX_ID_BYTES + 1)] {
            batch.push_parsed(id, Value::Counter(1)).unwrap_err();
        }
        assert_eq!(batch, self::batch());
    }

    #[test]
    fn samples_may_have_times_of_their_own_and_any_value() {
        let mut batch = Metrics::default();
        assert!(!batch.has_times());
        let stale = f64::from_bits(0x7ff0_0000_0000_0002);
        for (id, value, at) in [("a", 1.0, 5), ("a", f64::NAN, -6), ("b", stale, i64::MAX)] {
            batch.push_parsed_at(id, Value::Gauge(value), at).unwrap();
        }
        assert!(batch.has_times());
        let twin = batch.clone();
        assert_eq!(batch, twin, "NaN is compared by its bits");
        batch.retain(|index| index != 1);
        assert_eq!((batch.len(), batch.at_millis(0), batch.at_millis(1), batch.at_millis(2)), (2, Some(5), Some(i64::MAX), None));
        let Value::Gauge(kept) = batch.get(1).value else { panic!("a gauge") };
        assert_eq!(kept.to_bits(), stale.to_bits());
        assert_ne!(batch, twin);
        assert_eq!(self::batch().at_millis(0), None);
    }

    #[test]
    fn a_part_has_its_metrics_and_their_ids_once() {
        let mut all = Metrics::default();
        for name in ["a", "bc", "d"] {
            all.push_samples(name, &[("k", "v")], &[(1, 1.0), (2, f64::NAN), (3, 3.0)]).unwrap();
        }
        for (start, end) in (0..=9).flat_map(|start| (start..=9).map(move |end| (start, end))) {
            let mut expected = all.clone();
            expected.retain(|index| (start..end).contains(&index));
            assert_eq!(all.part(start..end), expected, "{start}..{end}");
        }
        assert_eq!(all.part(0..9).held_bytes(), all.held_bytes());
        assert_eq!(all.part(2..4).text, "a{k=\"v\"}bc{k=\"v\"}");
        assert_eq!(batch().part(1..3).iter().map(|metric| metric.id).collect::<Vec<_>>(), ["b{a=\"2\",z=\"1\"}", "c"]);
        assert!(!batch().part(1..3).has_times());
    }

    #[test]
    fn values_can_be_changed_and_metrics_removed() {
        let mut batch = batch();
        batch.set(2, Value::Gauge(7.0));
        batch.retain(|index| index != 1);
        assert_eq!(batch.iter().map(|metric| metric.id).collect::<Vec<_>>(), ["ä", "c"]);
        assert_eq!(batch.get(1), MetricRef { id: "c", value: Value::Gauge(7.0) });
        assert_ne!(batch, self::batch());
    }
}

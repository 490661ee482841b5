//! A batch of metrics in two allocations, however many it has.
//!
//! A batch of a thousand ids as strings of their own costs a thousand allocations to read and a thousand more to forget,
//! which is more than everything else that happens to it. Here all ids stand in one text, one behind the other.

use std::fmt;

use crate::id::canonical;
use crate::{IdError, Kind, Metric, MetricId, Value};

/// Metrics in the order in which they were sent, each id valid and in its canonical form.
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
    /// Ids, one behind the other; what no item points at is left over from items that were removed.
    text: String,
    items: Vec<Item>,
    /// The items' own times in unix milliseconds; empty where all have the batch's.
    times: Vec<i64>,
}

/// Sixteen bytes, so that four share a cache line.
#[derive(Clone, Copy)]
struct Item {
    /// The value's bits, of a double or of an integer.
    bits: u64,
    /// Where the id begins in the text.
    start: u32,
    /// The id's bytes, at most [`MAX_ID_BYTES`](crate::MAX_ID_BYTES).
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
    /// The id, valid and in its canonical form.
    pub id: &'a str,
    /// Its value.
    pub value: Value,
}

impl MetricRef<'_> {
    /// The metric's kind, which its value tells.
    #[inline]
    pub const fn kind(&self) -> Kind {
        self.value.kind()
    }

    /// The id with an allocation of its own.
    pub fn to_id(&self) -> MetricId {
        MetricId::from_canonical(self.id)
    }

    /// The metric with an allocation of its own.
    pub fn to_metric(&self) -> Metric {
        Metric { id: self.to_id(), value: self.value }
    }
}

impl Metrics {
    /// The most bytes that the ids of one batch may have together.
    pub const MAX_TEXT_BYTES: usize = u32::MAX as usize;

    /// An empty batch with room for this many metrics, and this many bytes of ids.
    pub fn with_capacity(items: usize, text_bytes: usize) -> Self {
        Self { text: String::with_capacity(text_bytes), items: Vec::with_capacity(items), times: Vec::new() }
    }

    /// How many metrics there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The metric at this place, counted from 0.
    ///
    /// # Panics
    /// Where there are not as many.
    #[inline]
    pub fn get(&self, index: usize) -> MetricRef<'_> {
        self.view(self.items[index])
    }

    /// The metrics in their order.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        Iter { metrics: self, items: self.items.iter() }
    }

    /// Reads an id and puts the metric at the end.
    ///
    /// # Panics
    /// Where the ids together have more than [`Metrics::MAX_TEXT_BYTES`].
    pub fn push_parsed(&mut self, id: &str, value: Value) -> Result<(), IdError> {
        let id = canonical(id)?;
        self.push(&id, value);
        Ok(())
    }

    /// Reads an id and puts a sample with a time of its own, in unix milliseconds, at the end. Either all samples of a batch have a time or none
    /// has.
    ///
    /// # Panics
    /// Where samples without a time are there already, or as [`Metrics::push_parsed`].
    pub fn push_parsed_at(&mut self, id: &str, value: Value, at_millis: i64) -> Result<(), IdError> {
        assert_eq!(self.times.len(), self.items.len(), "all samples of a batch have a time, or none has");
        let id = canonical(id)?;
        self.push(&id, value);
        self.times.push(at_millis);
        Ok(())
    }

    /// The own time of the sample at this place, in unix milliseconds; none where it is the batch's.
    #[inline]
    pub fn at_millis(&self, index: usize) -> Option<i64> {
        self.times.get(index).copied()
    }

    /// Whether the samples have times of their own.
    pub fn has_times(&self) -> bool {
        !self.times.is_empty()
    }

    /// Gives the metric at this place another value of the same kind.
    ///
    /// # Panics
    /// Where there are not as many, or the kind differs.
    pub fn set(&mut self, index: usize, value: Value) {
        let item = &mut self.items[index];
        assert!(item.kind == value.kind(), "a metric keeps its kind");
        item.bits = bits(value);
    }

    /// Keeps the metrics at the places that `keep` is true for, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let kept: Vec<bool> = (0..self.items.len()).map(&mut keep).collect();
        let mut next = kept.iter();
        self.items.retain(|_| *next.next().expect("one answer an item"));
        let mut next = kept.iter();
        self.times.retain(|_| *next.next().expect("one answer an item"));
    }

    /// Puts a metric at the end whose id is canonical.
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
        // Equal doubles are those with the same bits: a batch may hold NaN.
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

/// The metrics of a batch in their order.
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
    fn what_goes_in_comes_out_in_order() {
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
    fn values_change_and_metrics_leave() {
        let mut batch = batch();
        batch.set(2, Value::Gauge(7.0));
        batch.retain(|index| index != 1);
        assert_eq!(batch.iter().map(|metric| metric.id).collect::<Vec<_>>(), ["ä", "c"]);
        assert_eq!(batch.get(1), MetricRef { id: "c", value: Value::Gauge(7.0) });
        assert_ne!(batch, self::batch());
    }
}

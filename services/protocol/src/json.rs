//! Metrics as JSON: `{"id": string, "type": "gauge"|"counter", "value": number (gauge) | "delta": integer (counter)}`.
//!
//! Keys match without regard to case, unknown fields are ignored, null counts as absent, and the last of several equal keys
//! counts: this is how the original's decoder works, so its clients may rely on it.
//!
//! There are two parsers. `scan` is a fast one for the usual form; if it meets anything else it gives up, and `by_serde` parses
//! the body from its start. So all errors come from one parser, and the fast one is correct if it agrees with it.

mod by_serde;
mod scan;
mod text;

use serde::de::IgnoredAny;
use serde::ser::{Serialize, SerializeMap, Serializer};

pub use self::text::Text;
use crate::{IdError, Metric, Metrics, Selector, UnknownKind, Value, ValueError};

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or JSON of another shape.
    #[error("{0}")]
    Shape(String),
    /// A metric that is invalid.
    #[error(transparent)]
    Item(#[from] ItemError),
    /// A metric of a batch that is invalid, and its position.
    #[error("item {index}: {reason}")]
    ItemAt {
        /// The item's position in the array, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// An array without items.
    #[error("the batch is empty, expected a non-empty array of metrics")]
    Empty,
    /// More items than the limit.
    #[error("the batch has more than {0} items")]
    TooMany(usize),
}

/// Why a metric object is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// The id is missing or invalid.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The type is missing.
    #[error("\"type\" is missing, expected \"gauge\" or \"counter\"")]
    NoKind,
    /// The type is neither gauge nor counter.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// A gauge without a value.
    #[error("a gauge needs a number in \"value\"")]
    NoValue,
    /// A counter without a delta.
    #[error("a counter needs a whole number in \"delta\"")]
    NoDelta,
    /// The number is out of range.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// Parses a metric object.
pub fn decode_metric(body: &[u8]) -> Result<Metric, DecodeError> {
    scan::metric(body).map_or_else(|| by_serde::metric(body), Ok)
}

/// Parses `{"id", "type"}`, which identifies a metric; other fields are ignored.
pub fn decode_selector(body: &[u8]) -> Result<Selector, DecodeError> {
    by_serde::selector(body)
}

/// Parses a non-empty array of at most `max_items` metric objects. The error names the first bad item; later items are not
/// checked.
pub fn decode_batch(body: &[u8], max_items: usize) -> Result<Metrics, DecodeError> {
    scan::batch(body, max_items).map_or_else(|| by_serde::batch(body, max_items), Ok)
}

/// [`decode_batch`] with serde_json alone: the reference for the fuzzer.
#[cfg(fuzzing)]
pub fn decode_batch_by_serde(body: &[u8], max_items: usize) -> Result<Metrics, DecodeError> {
    by_serde::batch(body, max_items)
}

/// The number of items in an array, of any kind. None if the body is not a JSON array.
pub fn count_items(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Vec<IgnoredAny>>(body).ok().map(|items| items.len() as u64)
}

/// Encodes a metric object.
pub fn encode_metric(metric: &Metric) -> Vec<u8> {
    serde_json::to_vec(metric).expect("a valid metric always encodes")
}

/// Appends a metric object to a body that is built piece by piece.
pub fn append_metric(body: &mut String, metric: &Metric) {
    body.push_str(&serde_json::to_string(metric).expect("a valid metric always encodes"));
}

/// Encodes an array of metric objects.
pub fn encode_batch(metrics: &[Metric]) -> Vec<u8> {
    serde_json::to_vec(metrics).expect("valid metrics always encode")
}

/// The object of a gauge up to its value, for [`encode_batch_with`].
pub fn gauge_start(id: &crate::MetricId) -> String {
    let id = serde_json::to_string(id.as_str()).expect("a text always encodes");
    format!("{{\"id\":{id},\"type\":\"gauge\",\"value\":")
}

/// Encodes an array of metric objects and, behind them, of gauges by their [`gauge_start`] and finite value.
pub fn encode_batch_with<S: AsRef<str>>(metrics: &[Metric], gauges: impl Iterator<Item = (S, f64)>) -> Vec<u8> {
    let mut body = encode_batch(metrics);
    body.pop();
    for (start, value) in gauges {
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(start.as_ref().as_bytes());
        serde_json::to_writer(&mut body, &value).expect("a number always encodes");
        body.push(b'}');
    }
    body.push(b']');
    body
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("id", self.id.as_str())?;
        map.serialize_entry("type", self.kind().as_str())?;
        match self.value {
            Value::Gauge(value) => map.serialize_entry("value", &value)?,
            Value::Counter(delta) => map.serialize_entry("delta", &delta)?,
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;

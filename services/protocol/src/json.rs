//! Metrics as JSON: `{"id": string, "type": "gauge"|"counter", "value": number (gauge) | "delta": integer (counter)}`.
//!
//! Keys match without regard to case, unknown fields are ignored, null is as good as absent, and of a key that stands
//! twice the last one counts: so the original's decoder reads, and so its peers may write.
//!
//! There are two readers. `scan` is the fast one, of what peers really send; where it meets anything else it gives up, and
//! `by_serde` reads the body from its start. So refusals have one source, and the fast reader is right when it agrees.

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
    /// A metric that breaks a rule.
    #[error(transparent)]
    Item(#[from] ItemError),
    /// A metric of a batch that breaks a rule, and where it stands.
    #[error("item {index}: {reason}")]
    ItemAt {
        /// Where the item stands in the array, from 0.
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

/// Which rule a metric object breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// No id, or one that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// No type.
    #[error("\"type\" is missing, expected \"gauge\" or \"counter\"")]
    NoKind,
    /// Another type.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// A gauge without a value.
    #[error("a gauge needs a number in \"value\"")]
    NoValue,
    /// A counter without a delta.
    #[error("a counter needs a whole number in \"delta\"")]
    NoDelta,
    /// A number that no metric may have.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// Reads one metric object.
pub fn decode_metric(body: &[u8]) -> Result<Metric, DecodeError> {
    scan::metric(body).map_or_else(|| by_serde::metric(body), Ok)
}

/// Reads which metric is asked for: `{"id", "type"}`; what else the object has is ignored.
pub fn decode_selector(body: &[u8]) -> Result<Selector, DecodeError> {
    by_serde::selector(body)
}

/// Reads a non-empty array of at most `max_items` metric objects. The first bad item is named, and nothing after it counts.
pub fn decode_batch(body: &[u8], max_items: usize) -> Result<Metrics, DecodeError> {
    scan::batch(body, max_items).map_or_else(|| by_serde::batch(body, max_items), Ok)
}

/// What [`decode_batch`] must give, read by serde_json alone: for the fuzzer to compare.
#[cfg(fuzzing)]
pub fn decode_batch_by_serde(body: &[u8], max_items: usize) -> Result<Metrics, DecodeError> {
    by_serde::batch(body, max_items)
}

/// How many items an array has, whatever they are. None when the body is not a JSON array.
pub fn count_items(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Vec<IgnoredAny>>(body).ok().map(|items| items.len() as u64)
}

/// Writes a metric object.
pub fn encode_metric(metric: &Metric) -> Vec<u8> {
    serde_json::to_vec(metric).expect("a valid metric always encodes")
}

/// Writes an array of metric objects.
pub fn encode_batch(metrics: &[Metric]) -> Vec<u8> {
    serde_json::to_vec(metrics).expect("valid metrics always encode")
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

//! Prometheus's remote-write: the messages of its versions 1.0 (`prometheus.WriteRequest`) and 2.0 (`io.prometheus.write.v2.Request`).
//!
//! A message becomes [`Metrics`] in one pass over its bytes: no text and no list is made for a label or a series, since a request has thousands of
//! them. All of it is bounded: the length before snappy is undone, and what the decoded message takes while it is decoded, since a table of symbols
//! lets a small message name a long text many times.
//!
//! A message that can't be read is refused as a whole. A series that no metric may be (without a name, or with a label twice) is left out and
//! counted, and the others stand.

mod series;
mod snappy;
mod v1;
mod v2;
mod wire;

use crate::Metrics;

pub use self::snappy::{UnsnapError, unsnap};
use self::wire::WireError;

/// Which message a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// `prometheus.WriteRequest`, of remote-write 1.0.
    V1,
    /// `io.prometheus.write.v2.Request`, of remote-write 2.0.
    V2,
}

impl Message {
    /// The message that a Content-Type announces; none for any other type.
    pub fn of_content_type(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("application/x-protobuf") {
            return None;
        }
        let mut message = Self::V1;
        for parameter in parts.filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=')?;
            if key.trim().eq_ignore_ascii_case("proto") {
                message = match value.trim().trim_matches('"') {
                    "prometheus.WriteRequest" => Self::V1,
                    "io.prometheus.write.v2.Request" => Self::V2,
                    _ => return None,
                };
            }
        }
        Some(message)
    }
}

/// What a message holds.
#[derive(Debug, Default, PartialEq)]
pub struct Decoded {
    /// The samples in their order, each a gauge with a time of its own, whatever bits its value has.
    pub metrics: Metrics,
    /// What is said about metrics.
    pub metadata: Vec<Metadata>,
    /// What was left out.
    pub invalid: Invalid,
    /// How many native histograms there were. None is decoded.
    pub histograms: usize,
    /// How many exemplars there were. None is decoded.
    pub exemplars: usize,
}

/// The series that no metric may be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// How many samples they have.
    pub samples: usize,
    /// What is wrong with the first of them.
    pub first: Option<String>,
}

/// What a metric is, in the words of the one who measures it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metadata {
    /// The metric's name, of a histogram or summary without its series' endings.
    pub name: String,
    /// Its type.
    pub kind: MetadataKind,
    /// A sentence about it.
    pub help: String,
    /// Its unit.
    pub unit: String,
}

/// The types that Prometheus knows, by their numbers in both messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MetadataKind {
    /// Not said, or a type of a later version.
    #[default]
    Unknown,
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Counts by bucket.
    Histogram,
    /// Counts by bucket that go up and down.
    GaugeHistogram,
    /// Quantiles.
    Summary,
    /// Labels alone.
    Info,
    /// A set of states.
    StateSet,
}

impl MetadataKind {
    /// Every type, by its number.
    pub const ALL: [Self; 8] =
        [Self::Unknown, Self::Counter, Self::Gauge, Self::Histogram, Self::GaugeHistogram, Self::Summary, Self::Info, Self::StateSet];

    /// The type with this number.
    pub fn of_number(number: u64) -> Self {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number).copied()).unwrap_or_default()
    }

    /// The word that Prometheus's API has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
        }
    }

    /// Reads such a word; any other is unknown.
    pub fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).unwrap_or_default()
    }
}

/// Why a message can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Its bytes are not those of such a message.
    #[error("the body is not a valid {message} message: {problem}")]
    Malformed {
        /// The message's name.
        message: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// Decoded it would take more than this many bytes.
    #[error("the decoded message is larger than {0} bytes; send fewer samples in a request")]
    TooLarge(usize),
    /// The caller has no room for as many bytes.
    #[error("there is no room for a decoded message of {0} bytes")]
    NoRoom(usize),
}

/// Decodes a message that takes at most `limit` bytes. `room` is asked with the bytes that are to be taken in all, before more is taken.
pub fn decode(body: &[u8], message: Message, limit: usize, room: impl FnMut(usize) -> bool) -> Result<Decoded, DecodeError> {
    let memory = series::Memory::new(limit, room);
    let (decoded, name) = match message {
        Message::V1 => (v1::decode(body, memory), "prometheus.WriteRequest"),
        Message::V2 => (v2::decode(body, memory), "io.prometheus.write.v2.Request"),
    };
    decoded.map_err(|failure| match failure {
        Failure::Wire(WireError(problem)) => DecodeError::Malformed { message: name, problem },
        Failure::Memory(error) => error,
    })
}

/// Why decoding ends.
enum Failure {
    Wire(WireError),
    Memory(DecodeError),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

#[cfg(test)]
mod tests;

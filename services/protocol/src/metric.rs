//! The metric model: a gauge keeps its last value, a counter adds deltas.

use std::fmt;

use crate::MetricId;

/// The type of a metric. A gauge and a counter with the same id are two different metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A value that goes up and down; the last one counts.
    Gauge,
    /// A sum that only grows, by its deltas.
    Counter,
}

/// The text was neither `gauge` nor `counter`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown metric type {0:?}, expected \"gauge\" or \"counter\"")]
pub struct UnknownKind(pub String);

impl Kind {
    /// The kind's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }

    /// Parses exactly `gauge` or `counter`. The error quotes at most 32 characters of any other text.
    pub fn parse(text: &str) -> Result<Self, UnknownKind> {
        match text {
            "gauge" => Ok(Self::Gauge),
            "counter" => Ok(Self::Counter),
            other => Err(UnknownKind(other.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A gauge's value, or a counter's delta (in requests) or total (in answers).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Any double. Values of /update and /updates are finite: [`Value::gauge`] checks that.
    Gauge(f64),
    /// Never negative.
    Counter(i64),
}

/// Why a number can't be a metric's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// NaN or an infinity.
    #[error("a gauge's value must be a finite number")]
    NotFinite,
    /// A delta below zero.
    #[error("a counter's delta must not be negative")]
    Negative,
    /// Not a floating point number, or one that is out of range.
    #[error("a gauge's value must be a 64-bit floating point number")]
    NotFloat,
    /// Not a whole number, or one out of range.
    #[error("a counter's delta must be a whole number from 0 to 9223372036854775807")]
    NotInteger,
}

impl Value {
    /// A gauge's value for /update and /updates, which must be finite.
    pub fn gauge(value: f64) -> Result<Self, ValueError> {
        if value.is_finite() { Ok(Self::Gauge(value)) } else { Err(ValueError::NotFinite) }
    }

    /// A counter's delta, which must not be negative.
    pub fn counter(delta: i64) -> Result<Self, ValueError> {
        if delta >= 0 { Ok(Self::Counter(delta)) } else { Err(ValueError::Negative) }
    }

    /// The kind of metric that has this value.
    #[inline]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Gauge(_) => Kind::Gauge,
            Self::Counter(_) => Kind::Counter,
        }
    }
}

/// One metric of one source: in a request a sample or a delta, in an answer the metric's current value.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The metric's name with its labels.
    pub id: MetricId,
    /// Its value.
    pub value: Value,
}

impl Metric {
    /// The metric's kind, according to its value.
    pub const fn kind(&self) -> Kind {
        self.value.kind()
    }
}

/// Identifies the metric that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The metric's name with its labels.
    pub id: MetricId,
    /// The metric's kind.
    pub kind: Kind,
}

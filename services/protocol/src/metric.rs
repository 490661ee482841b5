//! The metric model: a gauge keeps its last value, a counter adds deltas.

use std::fmt;

use crate::MetricId;

/// What a metric is. A gauge and a counter of one id are two different metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A value that goes up and down; the last one counts.
    Gauge,
    /// A sum that only grows by its deltas.
    Counter,
}

/// The text was neither `gauge` nor `counter`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown metric type {0:?}, expected \"gauge\" or \"counter\"")]
pub struct UnknownKind(pub String);

impl Kind {
    /// The kind as the wire names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }

    /// Reads `gauge` or `counter`, exactly so. What is quoted of another text in the error is at most 32 characters long.
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

/// A gauge's value or a counter's delta (on the way in) or total (on the way out).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Any double. Those that cross the wire of /update and /updates are finite: [`Value::gauge`] sees to it.
    Gauge(f64),
    /// Never negative.
    Counter(i64),
}

/// A number that no metric may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// NaN or an infinity.
    #[error("a gauge's value must be a finite number")]
    NotFinite,
    /// A delta below zero.
    #[error("a counter's delta must not be negative")]
    Negative,
    /// Not a number of this kind at all, or one out of its range.
    #[error("a gauge's value must be a 64-bit floating point number")]
    NotFloat,
    /// Not a whole number, or one out of range.
    #[error("a counter's delta must be a whole number from 0 to 9223372036854775807")]
    NotInteger,
}

impl Value {
    /// A gauge's value as /update and /updates take it, which must be finite.
    pub fn gauge(value: f64) -> Result<Self, ValueError> {
        if value.is_finite() { Ok(Self::Gauge(value)) } else { Err(ValueError::NotFinite) }
    }

    /// A counter's delta, which must not be negative.
    pub fn counter(delta: i64) -> Result<Self, ValueError> {
        if delta >= 0 { Ok(Self::Counter(delta)) } else { Err(ValueError::Negative) }
    }

    /// Which kind of metric has this value.
    #[inline]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Gauge(_) => Kind::Gauge,
            Self::Counter(_) => Kind::Counter,
        }
    }
}

/// One metric of one source: on the way in a sample or a delta, on the way out the metric as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The metric's name with its labels.
    pub id: MetricId,
    /// Its value.
    pub value: Value,
}

impl Metric {
    /// The metric's kind, which its value tells.
    pub const fn kind(&self) -> Kind {
        self.value.kind()
    }
}

/// Which metric a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The metric's name with its labels.
    pub id: MetricId,
    /// The metric's kind.
    pub kind: Kind,
}

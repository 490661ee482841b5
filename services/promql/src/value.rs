//! Results.

use crate::annotations::Annotations;
use crate::column::is_absent;
use crate::labels::Labels;
use crate::limits::Reservation;
use crate::steps::Steps;

/// A result and what is to be said about it. Its memory is charged to the budget until it is dropped.
#[derive(Debug)]
pub struct Outcome {
    /// The result.
    pub value: Value,
    /// Warnings and hints.
    pub annotations: Annotations,
    /// What it took.
    pub statistics: Statistics,
    pub(crate) memory: Reservation,
}

impl Outcome {
    /// The memory that the result takes.
    pub fn memory_bytes(&self) -> usize {
        self.memory.used_bytes()
    }
}

/// What a query took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// How many series were selected; one that two selectors select counts twice.
    pub series: usize,
    /// How many samples were read.
    pub samples: u64,
    /// The most memory that was taken at one time.
    pub peak_bytes: usize,
}

/// A result.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number.
    Scalar {
        /// When.
        time_ms: i64,
        /// The number.
        value: f64,
    },
    /// A text.
    Text {
        /// When.
        time_ms: i64,
        /// The text.
        text: String,
    },
    /// Series with one value each: what an instant query usually gives. Sorted by labels, unless the query sorts.
    Vector {
        /// When.
        time_ms: i64,
        /// The series.
        samples: Vec<VectorSample>,
    },
    /// Series with the stored samples of a range, sorted by labels.
    RangeVector(Vec<RangeVector>),
    /// Series with a value at each step: what a range query gives. Sorted by labels.
    Matrix(Matrix),
}

/// One series of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// The labels.
    pub labels: Labels,
    /// The value.
    pub value: f64,
}

/// One series of a range vector.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeVector {
    /// The labels.
    pub labels: Labels,
    /// The samples' times.
    pub timestamps_ms: Vec<i64>,
    /// The samples' values.
    pub values: Vec<f64>,
}

/// Series over steps.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The times of the values.
    pub steps: Steps,
    /// The series.
    pub series: Vec<MatrixSeries>,
}

/// One series of a matrix.
#[derive(Clone, Debug)]
pub struct MatrixSeries {
    /// The labels.
    pub labels: Labels,
    pub(crate) values: Vec<f64>,
}

impl MatrixSeries {
    /// The times and values of the steps at which there is a value.
    pub fn samples(&self, steps: &Steps) -> impl Iterator<Item = (i64, f64)> {
        steps.times_ms().zip(self.values.iter().copied()).filter(|(_, value)| !is_absent(*value))
    }
}

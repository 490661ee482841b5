//! Predictions of a value from those before it.

use super::cost;
use crate::DecodeError;
use crate::bytes::{Reader, put_zigzag};

/// What is subtracted from each value. All arithmetic is modulo 2^64, so any values survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prediction {
    /// Nothing.
    None,
    /// The value before.
    Previous,
    /// The value before and the difference of the two before.
    Trend,
    /// A straight line from the first value. For times on a grid, whose deviations are independent of each other.
    Line {
        /// The difference between two points of the line.
        step: i64,
    },
}

impl Prediction {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Previous => 1,
            Self::Trend => 2,
            Self::Line { .. } => 3,
        }
    }

    /// The one whose residuals are likely to need least space.
    pub(super) fn choose(values: &[i64]) -> Self {
        let mut best = (cost::of_residuals(values.iter().copied()), Self::None);
        let mut consider = |bits: f64, prediction| {
            if bits < best.0 {
                best = (bits, prediction);
            }
        };
        if values.len() >= 2 {
            let deltas = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
            consider(cost::of_residuals(deltas) + cost::of_value(values[0]), Self::Previous);
        }
        if values.len() >= 4 {
            let second = |triple: &[i64]| triple[2].wrapping_sub(triple[1]).wrapping_sub(triple[1].wrapping_sub(triple[0]));
            let first_delta = values[1].wrapping_sub(values[0]);
            let bits = cost::of_residuals(values.windows(3).map(second)) + cost::of_value(values[0]) + cost::of_value(first_delta);
            consider(bits, Self::Trend);
            let step = step_of_line(values);
            let bits = cost::of_residuals(from_line(values, step)) + cost::of_value(step);
            consider(bits, Self::Line { step });
        }
        best.1
    }

    /// How many values stand before the residuals as they are.
    pub(super) fn leading(self) -> usize {
        match self {
            Self::None | Self::Line { .. } => 0,
            Self::Previous => 1,
            Self::Trend => 2,
        }
    }

    /// Turns the values into residuals; what they need besides is written.
    pub(super) fn apply<'a>(self, values: &'a mut [i64], bytes: &mut Vec<u8>) -> &'a [i64] {
        match self {
            Self::None => {}
            Self::Previous => {
                put_zigzag(bytes, values[0]);
                subtract_previous(values);
            }
            Self::Trend => {
                subtract_previous(values);
                subtract_previous(&mut values[1..]);
                put_zigzag(bytes, values[0]);
                put_zigzag(bytes, values[1]);
            }
            Self::Line { step } => {
                put_zigzag(bytes, step);
                let mut point = 0_i64;
                for value in &mut *values {
                    *value = value.wrapping_sub(point);
                    point = point.wrapping_add(step);
                }
            }
        }
        &values[self.leading()..]
    }

    /// Reads what [`Self::apply`] wrote; leading values are put at the end of `values`.
    pub(super) fn read(code: u8, reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>) -> Result<Self, DecodeError> {
        let prediction = match code {
            0 => Self::None,
            1 => Self::Previous,
            2 => Self::Trend,
            _ => Self::Line { step: reader.zigzag()? },
        };
        if prediction.leading() > count {
            return Err(DecodeError::Malformed("too few values for their prediction"));
        }
        for _ in 0..prediction.leading() {
            values.push(reader.zigzag()?);
        }
        Ok(prediction)
    }

    /// Turns residuals, behind their leading values, into values.
    pub(super) fn undo(self, values: &mut [i64]) {
        match self {
            Self::None => {}
            Self::Previous => add_previous(values),
            Self::Trend => {
                add_previous(&mut values[1..]);
                add_previous(values);
            }
            Self::Line { step } => {
                let mut point = 0_i64;
                for value in values {
                    *value = value.wrapping_add(point);
                    point = point.wrapping_add(step);
                }
            }
        }
    }
}

fn subtract_previous(values: &mut [i64]) {
    let mut previous = values[0];
    for value in &mut values[1..] {
        let current = *value;
        *value = current.wrapping_sub(previous);
        previous = current;
    }
}

fn add_previous(values: &mut [i64]) {
    let mut sum = 0_i64;
    for value in values {
        sum = sum.wrapping_add(*value);
        *value = sum;
    }
}

/// The typical difference of neighbours, not that of the ends: a gap does not tilt the line.
fn step_of_line(values: &[i64]) -> i64 {
    cost::typical_of(values.len() - 1, |index| values[index + 1].wrapping_sub(values[index]))
}

fn from_line(values: &[i64], step: i64) -> impl ExactSizeIterator<Item = i64> + Clone {
    let mut point = 0_i64;
    values.iter().map(move |value| {
        let residual = value.wrapping_sub(point);
        point = point.wrapping_add(step);
        residual
    })
}

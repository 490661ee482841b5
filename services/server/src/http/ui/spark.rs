//! Small lines in tables, as the paths of an SVG: no script has to draw them.

use std::fmt::Write as _;

/// The height of the picture; a step is one unit wide.
pub const HEIGHT: u32 = 28;

/// The paths of a line: the line itself and the area below it, each with a gap where there is no value.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Spark {
    /// How many steps wide.
    pub width: usize,
    /// The line.
    pub line: String,
    /// The area.
    pub area: String,
}

impl Spark {
    /// Draws values between 0 and `top`. None where there is nothing to draw.
    pub fn draw(values: &[f64], top: f64) -> Option<Self> {
        let mut spark = Self { width: values.len().saturating_sub(1), ..Self::default() };
        let mut begun = None;
        for (x, value) in values.iter().enumerate() {
            if value.is_nan() {
                spark.close(&mut begun, x.saturating_sub(1));
                continue;
            }
            let y = (1.0 - (value / top).clamp(0.0, 1.0)) * f64::from(HEIGHT - 2) + 1.0;
            let sign = if begun.is_none() { 'M' } else { 'L' };
            let _ = write!(spark.line, "{sign}{x} {y:.1}");
            if begun.is_none() {
                let _ = write!(spark.area, "M{x} {HEIGHT}");
                begun = Some(x);
            }
            let _ = write!(spark.area, "L{x} {y:.1}");
        }
        spark.close(&mut begun, values.len().saturating_sub(1));
        (!spark.line.is_empty()).then_some(spark)
    }

    fn close(&mut self, begun: &mut Option<usize>, end: usize) {
        if begun.take().is_some() {
            let _ = write!(self.area, "L{end} {HEIGHT}Z");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_gaps() {
        let spark = Spark::draw(&[0.0, 1.0, f64::NAN, 0.5, 2.0], 1.0).unwrap();
        assert_eq!(spark.line, "M0 27.0L1 1.0M3 14.0L4 1.0");
        assert_eq!(spark.area, "M0 28L0 27.0L1 1.0L1 28ZM3 28L3 14.0L4 1.0L4 28Z");
        assert_eq!(Spark::draw(&[f64::NAN, f64::NAN], 1.0), None);
    }
}

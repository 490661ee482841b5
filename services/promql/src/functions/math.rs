//! Functions of one number.

use std::f64::consts::PI;

/// A function that is applied to each value on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the functions")]
pub enum MathFunction {
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Ceil,
    Cos,
    Cosh,
    Deg,
    Exp,
    Floor,
    Ln,
    Log10,
    Log2,
    Rad,
    Sgn,
    Sin,
    Sinh,
    Sqrt,
    Tan,
    Tanh,
}

impl MathFunction {
    pub(crate) fn function(self) -> fn(f64) -> f64 {
        match self {
            Self::Abs => f64::abs,
            Self::Acos => f64::acos,
            Self::Acosh => acosh,
            Self::Asin => f64::asin,
            Self::Asinh => asinh,
            Self::Atan => f64::atan,
            Self::Atanh => f64::atanh,
            Self::Ceil => f64::ceil,
            Self::Cos => f64::cos,
            Self::Cosh => f64::cosh,
            Self::Deg => |value| value * 180.0 / PI,
            Self::Exp => f64::exp,
            Self::Floor => f64::floor,
            Self::Ln => f64::ln,
            Self::Log10 => f64::log10,
            Self::Log2 => f64::log2,
            Self::Rad => |value| value * PI / 180.0,
            Self::Sgn => sign,
            Self::Sin => f64::sin,
            Self::Sinh => f64::sinh,
            Self::Sqrt => f64::sqrt,
            Self::Tan => f64::tan,
            Self::Tanh => f64::tanh,
        }
    }
}

fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

/// The standard library's loses its precision for large values, whose square is infinite.
fn acosh(value: f64) -> f64 {
    if value > 1e150 { value.ln() + std::f64::consts::LN_2 } else { value.acosh() }
}

fn asinh(value: f64) -> f64 {
    if value.abs() > 1e150 { (value.abs().ln() + std::f64::consts::LN_2).copysign(value) } else { value.asinh() }
}

/// The next multiple, upwards from the middle between two of them.
pub(crate) fn round(value: f64, to_nearest: f64) -> f64 {
    // Multiplying by the inverse is what Prometheus does; dividing would round differently now and then.
    let inverse = 1.0 / to_nearest;
    (value * inverse + 0.5).floor() / inverse
}

/// The larger one; a number is larger than NaN.
#[inline]
pub(crate) fn larger(left: f64, right: f64) -> f64 {
    if right > left || left.is_nan() { right } else { left }
}

/// The smaller one; a number is smaller than NaN.
#[inline]
pub(crate) fn smaller(left: f64, right: f64) -> f64 {
    if right < left || left.is_nan() { right } else { left }
}

/// The value within its bounds. NaN stays NaN, but for a bound that leaves one value only.
pub(crate) fn clamp(value: f64, min: f64, max: f64) -> f64 {
    // As Go's math.Min and math.Max: of an infinity and NaN the infinity, of a number and NaN it is NaN.
    let capped = if max == f64::NEG_INFINITY || value == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if value.is_nan() || max.is_nan() {
        f64::NAN
    } else {
        value.min(max)
    };
    if min == f64::INFINITY || capped == f64::INFINITY {
        f64::INFINITY
    } else if capped.is_nan() || min.is_nan() {
        f64::NAN
    } else {
        capped.max(min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_values_keep_their_precision() {
        for value in [1e160_f64, 1e300] {
            let expected = value.ln() + std::f64::consts::LN_2;
            assert_eq!((acosh(value), asinh(value), asinh(-value)), (expected, expected, -expected));
        }
    }

    #[test]
    fn rounding_goes_up_from_the_middle() {
        for (value, to_nearest, expected) in [(0.5, 1.0, 1.0), (-0.5, 1.0, 0.0), (2.44, 0.1, 2.4), (7.0, 5.0, 5.0), (7.5, 5.0, 10.0)] {
            assert_eq!(round(value, to_nearest), expected);
        }
    }

    #[test]
    fn signs_of_zero_and_nan_stay() {
        assert_eq!((sign(-3.0), sign(0.0), sign(2.0)), (-1.0, 0.0, 1.0));
        assert!(sign(f64::NAN).is_nan() && clamp(f64::NAN, 0.0, 1.0).is_nan() && clamp(0.0, f64::NAN, 1.0).is_nan());
        assert_eq!((clamp(5.0, 0.0, 3.0), clamp(-5.0, 0.0, 3.0), clamp(1.0, 0.0, 3.0)), (3.0, 0.0, 1.0));
        assert_eq!(clamp(f64::NAN, f64::INFINITY, f64::INFINITY), f64::INFINITY);
    }
}

//! Doubles as integers, where that is lossless to the bit.

/// How an integer stands for a double.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scale {
    /// `integer / 10^digits`. Most values were decimals, or whole numbers, before they became doubles.
    Divide {
        /// Digits after the point.
        digits: u8,
    },
    /// `integer * 10^-digits` with the rounding of that multiplication, as programs convert units.
    Multiply {
        /// Digits after the point.
        digits: u8,
    },
    /// `integer / 2^bits`.
    Binary {
        /// Bits after the point.
        bits: u8,
    },
    /// The double next to `integer / 10^digits`, or one close to it, which a correction tells. Sums of decimals and values
    /// that were divided twice are such.
    Near {
        /// Digits after the point.
        digits: u8,
    },
    /// The double's own bits, in an order that makes close doubles close integers, without so many low bits, which are zero.
    Bits {
        /// How many are left out.
        shift: u8,
    },
}

/// The powers of ten that are doubles; larger divisors would round twice.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
const INVERSE_POWERS: [f64; 16] = [1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15];
const MAX_DIGITS: u8 = 15;
/// Units are smaller by milli to nano, as a rule. More digits are tried when nothing else fits.
const MAX_UNIT_DIGITS: u8 = 9;
const MAX_BINARY_BITS: u8 = 40;

/// Fractions are not made of larger integers.
const MAX_SCALED: f64 = 9_007_199_254_740_992.0;
/// The corrections of larger ones need as many bits as they save.
const MAX_NEAR_SCALED: f64 = 17_592_186_044_416.0;
const MAX_CORRECTION: u64 = 2;
/// Larger integers say no less than the bits do.
const MAX_BINARY_SCALED: f64 = 4_294_967_296.0;
/// 2^63: whole numbers below it are integers as they are.
const MAX_WHOLE: f64 = 9_223_372_036_854_775_808.0;

const MULTIPLY: u8 = 32;
const NEAR: u8 = 48;
const BITS: u8 = 64;
const BINARY: u8 = 128;

impl Scale {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Divide { digits } => digits,
            Self::Multiply { digits } => MULTIPLY + digits,
            Self::Near { digits } => NEAR + digits,
            Self::Bits { shift } => BITS + shift,
            Self::Binary { bits } => BINARY + bits,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        let within = |start: u8, max: u8| code.checked_sub(start).filter(|value| *value <= max);
        within(0, MAX_DIGITS)
            .map(|digits| Self::Divide { digits })
            .or_else(|| within(MULTIPLY, MAX_UNIT_DIGITS).map(|digits| Self::Multiply { digits }))
            .or_else(|| within(NEAR, MAX_UNIT_DIGITS).map(|digits| Self::Near { digits }))
            .or_else(|| within(BITS, 63).map(|shift| Self::Bits { shift }))
            .or_else(|| within(BINARY, MAX_BINARY_BITS).map(|bits| Self::Binary { bits }))
    }

    /// The first scale, from simple to general, by which all values are integers. The integers are written to `integers`,
    /// and the corrections, if the scale has any, to `corrections`. Values that none of the arithmetic scales takes, NaN
    /// for instance, lead to [`Scale::Bits`].
    pub(crate) fn choose(values: &[f64], integers: &mut Vec<i64>, corrections: &mut Vec<i64>) -> Self {
        corrections.clear();
        let scales = (0..=MAX_UNIT_DIGITS)
            .map(|digits| Self::Divide { digits })
            .chain((1..=MAX_UNIT_DIGITS).map(|digits| Self::Multiply { digits }))
            .chain((1..=MAX_UNIT_DIGITS).map(|digits| Self::Near { digits }))
            .chain((MAX_UNIT_DIGITS + 1..=MAX_DIGITS).map(|digits| Self::Divide { digits }))
            .chain(std::iter::once_with(|| binary_bits(values)).flatten().map(|bits| Self::Binary { bits }));
        // A scale that does not fit fails at one of the first values, as a rule, and the next fails at the same.
        let mut failed_at = 0;
        for scale in scales {
            if values.get(failed_at).is_some_and(|value| scale.to_integer(*value).is_none()) {
                continue;
            }
            integers.clear();
            integers.extend(values.iter().map_while(|value| scale.to_integer(*value)));
            if integers.len() == values.len() {
                if matches!(scale, Self::Near { .. }) {
                    corrections.extend(integers.iter().zip(values).map(|(integer, value)| correction(scale.to_double(*integer), *value)));
                }
                return scale;
            }
            failed_at = integers.len();
        }
        let zeros = values.iter().fold(u64::MAX >> 1, |zeros, value| zeros & !value.to_bits()).trailing_ones();
        integers.clear();
        integers.extend(values.iter().map(|value| bits_to_integer(*value, zeros)));
        Self::Bits { shift: u8::try_from(zeros).expect("at most 63") }
    }

    /// Whether the integers have corrections.
    pub(crate) fn has_corrections(self) -> bool {
        matches!(self, Self::Near { .. })
    }

    /// The integer for a value, if it gives exactly this value again without a correction.
    pub(crate) fn to_integer_exactly(self, value: f64) -> Option<i64> {
        match self {
            // The bits of a sum say nothing about those of its parts.
            Self::Bits { .. } => None,
            _ => self.to_integer(value).filter(|integer| self.to_double(*integer).to_bits() == value.to_bits()),
        }
    }

    /// The integer for a value, if it gives exactly this value again, or nearly with [`Scale::Near`].
    #[expect(clippy::cast_possible_truncation, reason = "the magnitude is checked before")]
    fn to_integer(self, value: f64) -> Option<i64> {
        let (scaled, limit) = match self {
            Self::Divide { digits: 0 } => (value, MAX_WHOLE),
            Self::Divide { digits } | Self::Multiply { digits } => ((value * POWERS[usize::from(digits)]).round(), MAX_SCALED),
            Self::Near { digits } => ((value * POWERS[usize::from(digits)]).round(), MAX_NEAR_SCALED),
            Self::Binary { bits } => (value * power_of_two(bits), MAX_BINARY_SCALED),
            Self::Bits { shift } => return Some(bits_to_integer(value, u32::from(shift))),
        };
        if scaled.is_nan() || scaled.abs() >= limit {
            return None;
        }
        let integer = scaled as i64;
        let again = self.to_double(integer);
        let fits = match self {
            // Not from zero to minus zero.
            Self::Near { .. } => {
                again.is_sign_negative() == value.is_sign_negative() && correction(again, value).unsigned_abs() <= MAX_CORRECTION
            }
            _ => again.to_bits() == value.to_bits(),
        };
        fits.then_some(integer)
    }

    #[expect(clippy::cast_precision_loss, reason = "the encoder checks that the double is the one that it had")]
    #[inline]
    fn to_double(self, integer: i64) -> f64 {
        match self {
            Self::Divide { digits: 0 } => integer as f64,
            Self::Divide { digits } | Self::Near { digits } => integer as f64 / POWERS[usize::from(digits)],
            Self::Multiply { digits } => integer as f64 * INVERSE_POWERS[usize::from(digits)],
            Self::Binary { bits } => integer as f64 / power_of_two(bits),
            Self::Bits { shift } => integer_to_bits(integer, u32::from(shift)),
        }
    }

    /// Puts the doubles that the integers stand for at the end of `values`. There are as many corrections as integers, or none.
    pub(crate) fn to_doubles(self, integers: &[i64], corrections: &[i64], values: &mut Vec<f64>) {
        let start = values.len();
        match self {
            Self::Divide { digits: 0 } => extend_with(values, integers, |integer| integer),
            Self::Divide { digits } | Self::Near { digits } => {
                let power = POWERS[usize::from(digits)];
                extend_with(values, integers, move |integer| integer / power);
            }
            Self::Multiply { digits } => {
                let power = INVERSE_POWERS[usize::from(digits)];
                extend_with(values, integers, move |integer| integer * power);
            }
            Self::Binary { bits } => {
                let power = power_of_two(bits);
                extend_with(values, integers, move |integer| integer / power);
            }
            Self::Bits { shift } => values.extend(integers.iter().map(|integer| integer_to_bits(*integer, u32::from(shift)))),
        }
        for (value, correction) in values[start..].iter_mut().zip(corrections) {
            *value = integer_to_bits(bits_to_integer(*value, 0).wrapping_add(*correction), 0);
        }
    }
}

/// 1.5 * 2^52. Doubles near it are whole numbers, so that adding a small integer to its bits adds the integer.
const NEAR_WHOLE: f64 = 6_755_399_441_055_744.0;
/// The magnitude of integers that are small in this sense.
const SMALL: i64 = 1 << 51;

/// Puts what is made of each integer's double at the end of `values`. Processors without AVX-512 have no vector instruction for the conversion, so small
/// integers are converted by an addition and a subtraction, which have.
#[expect(clippy::cast_precision_loss, reason = "the encoder checks that the double is the one that it had")]
#[inline]
fn extend_with(values: &mut Vec<f64>, integers: &[i64], of: impl Fn(f64) -> f64) {
    let all_bits = integers.iter().fold(0, |bits, integer| bits | integer.wrapping_add(SMALL).cast_unsigned());
    if all_bits < SMALL.cast_unsigned() << 1 {
        let double = |integer: i64| f64::from_bits(NEAR_WHOLE.to_bits().wrapping_add_signed(integer)) - NEAR_WHOLE;
        values.extend(integers.iter().map(move |integer| of(double(*integer))));
    } else {
        values.extend(integers.iter().map(move |integer| of(*integer as f64)));
    }
}

/// How many doubles further the value is.
fn correction(from: f64, value: f64) -> i64 {
    bits_to_integer(value, 0).wrapping_sub(bits_to_integer(from, 0))
}

fn power_of_two(exponent: u8) -> f64 {
    f64::from_bits((1023 + u64::from(exponent)) << 52)
}

/// How many bits after the point the values have, if all have few enough.
fn binary_bits(values: &[f64]) -> Option<u8> {
    let mut bits = 0;
    for value in values {
        if *value != 0.0 {
            let exponent = i32::try_from(value.to_bits() >> 52 & 0x7ff).expect("it has 11 bits") - 1023;
            let fraction = value.to_bits() & ((1 << 52) - 1);
            let used = 52 - fraction.trailing_zeros().min(52).cast_signed();
            bits = bits.max(used - exponent);
        }
    }
    u8::try_from(bits).ok().filter(|bits| (1..=MAX_BINARY_BITS).contains(bits))
}

const MAGNITUDE: u64 = u64::MAX >> 1;

/// The magnitude, shifted, and its complement for negative values. Shifted-out bits must be zero.
fn bits_to_integer(value: f64, shift: u32) -> i64 {
    let magnitude = ((value.to_bits() & MAGNITUDE) >> shift).cast_signed();
    if value.is_sign_negative() { !magnitude } else { magnitude }
}

fn integer_to_bits(integer: i64, shift: u32) -> f64 {
    let (magnitude, sign) = if integer < 0 { (!integer, !MAGNITUDE) } else { (integer, 0) };
    f64::from_bits((magnitude.cast_unsigned() << shift) & MAGNITUDE | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(values: &[f64]) -> (Scale, Vec<i64>) {
        let (mut integers, mut corrections) = (Vec::new(), Vec::new());
        let scale = Scale::choose(values, &mut integers, &mut corrections);
        assert_eq!(scale.has_corrections(), !corrections.is_empty());
        let mut again = Vec::new();
        scale.to_doubles(&integers, &corrections, &mut again);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(values));
        assert_eq!(Scale::from_code(scale.code()), Some(scale));
        (scale, integers)
    }

    #[test]
    fn whole_numbers_are_themselves() {
        assert_eq!(chosen(&[1.0, -5.0, 1e18]), (Scale::Divide { digits: 0 }, vec![1, -5, 1_000_000_000_000_000_000]));
        assert_eq!(chosen(&[-9_223_372_036_854_775_807.0]).0, Scale::Bits { shift: 53 });
    }

    #[test]
    fn decimals_have_the_digits_of_the_longest() {
        assert_eq!(chosen(&[12.34, 0.5, -7.0]), (Scale::Divide { digits: 2 }, vec![1234, 50, -700]));
        assert_eq!(chosen(&[0.000_000_001]), (Scale::Divide { digits: 9 }, vec![1]));
    }

    #[test]
    fn products_keep_their_rounding() {
        let product = 3.0 * 0.1;
        assert_eq!(chosen(&[product, 0.1]), (Scale::Multiply { digits: 1 }, vec![3, 1]));
    }

    #[test]
    fn sums_and_repeated_divisions_have_corrections() {
        // As node_exporter has microseconds of pressure.
        let twice: Vec<f64> = (1..100).map(|index| f64::from(index * 123_457) / 1000.0 / 1000.0).collect();
        let (scale, integers) = chosen(&twice);
        assert_eq!((scale, integers[1]), (Scale::Near { digits: 6 }, 246_914));
        let sums: Vec<f64> = (0..10)
            .scan(0.0, |sum, _| {
                *sum += 0.1;
                Some(*sum)
            })
            .collect();
        assert_eq!(chosen(&sums).0, Scale::Near { digits: 1 });
    }

    #[test]
    fn fractions_of_powers_of_two() {
        let fraction = 1.0 / 1_048_576.0;
        assert_eq!(chosen(&[fraction, 3.5]), (Scale::Binary { bits: 20 }, vec![1, 3_670_016]));
    }

    #[test]
    fn anything_else_is_its_bits() {
        let single = f64::from(std::f32::consts::PI * 1e-9);
        assert!(matches!(chosen(&[single, -single]).0, Scale::Bits { shift: 29.. }));
        let strange =
            [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0002), -0.0, f64::INFINITY, f64::MIN_POSITIVE, f64::from_bits(1)];
        assert_eq!(chosen(&strange).0, Scale::Bits { shift: 0 });
        assert_eq!(chosen(&[-0.0]).1, [-1]);
        assert_eq!(chosen(&[f64::NAN]).0, Scale::Bits { shift: 51 });
    }

    #[test]
    fn small_and_large_integers_are_converted_alike() {
        let edges = [0, 1, -1, SMALL - 1, SMALL, -SMALL, -SMALL - 1, 1 << 53, i64::MAX, i64::MIN];
        for scale in (0..=u8::MAX).filter_map(Scale::from_code) {
            for integers in edges.map(|edge| [edge, 7, -12_345]) {
                let mut values = Vec::new();
                scale.to_doubles(&integers, &[], &mut values);
                let expected = integers.map(|integer| scale.to_double(integer).to_bits());
                assert_eq!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), expected, "{scale:?} {integers:?}");
            }
        }
    }

    #[test]
    fn codes_that_no_encoder_writes_are_refused() {
        for code in [16, 31, 42, 47, 58, 63, 169, 255] {
            assert_eq!(Scale::from_code(code), None);
        }
    }
}

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
/// Other factors than powers of ten are seldom; these are the usual ones, milli to nano.
const MAX_MULTIPLY_DIGITS: u8 = 9;
const MAX_BINARY_BITS: u8 = 40;

/// Fractions are not made of larger integers.
const MAX_SCALED: f64 = 9_007_199_254_740_992.0;
/// Larger integers say no less than the bits do.
const MAX_BINARY_SCALED: f64 = 4_294_967_296.0;
/// 2^63: whole numbers below it are integers as they are.
const MAX_WHOLE: f64 = 9_223_372_036_854_775_808.0;

const MULTIPLY: u8 = 32;
const BITS: u8 = 64;
const BINARY: u8 = 128;
/// The code of counters, whose values are integers.
pub(crate) const COUNTER: u8 = 255;

impl Scale {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Divide { digits } => digits,
            Self::Multiply { digits } => MULTIPLY + digits,
            Self::Bits { shift } => BITS + shift,
            Self::Binary { bits } => BINARY + bits,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        let within = |start: u8, max: u8| code.checked_sub(start).filter(|value| *value <= max);
        within(0, MAX_DIGITS)
            .map(|digits| Self::Divide { digits })
            .or_else(|| within(MULTIPLY, MAX_DIGITS).map(|digits| Self::Multiply { digits }))
            .or_else(|| within(BITS, 63).map(|shift| Self::Bits { shift }))
            .or_else(|| within(BINARY, MAX_BINARY_BITS).map(|bits| Self::Binary { bits }))
    }

    /// The coarsest scale by which all values are integers; these are written to `integers`. Values that none of the
    /// arithmetic scales takes, NaN for instance, lead to [`Scale::Bits`].
    pub(crate) fn choose(values: &[f64], integers: &mut Vec<i64>) -> Self {
        let divide = (0..=MAX_DIGITS).map(|digits| Self::Divide { digits });
        let multiply = (1..=MAX_MULTIPLY_DIGITS).map(|digits| Self::Multiply { digits });
        let binary = std::iter::once_with(|| binary_bits(values)).flatten().map(|bits| Self::Binary { bits });
        // A scale that fails does so at one of the first values, as a rule, and later scales start with the one that failed.
        let mut failed_at = 0;
        for scale in divide.chain(multiply).chain(binary) {
            let Some(failed) = values.get(failed_at) else { continue };
            if scale.to_integer(*failed).is_none() {
                continue;
            }
            integers.clear();
            integers.extend(values.iter().map_while(|value| scale.to_integer(*value)));
            if integers.len() == values.len() {
                return scale;
            }
            failed_at = integers.len();
        }
        let zeros = values.iter().fold(u64::MAX >> 1, |zeros, value| zeros & !value.to_bits()).trailing_ones();
        let scale = Self::Bits { shift: u8::try_from(zeros).expect("at most 63") };
        integers.clear();
        integers.extend(values.iter().map(|value| bits_to_integer(*value, zeros)));
        scale
    }

    /// The integer for a value, if it gives exactly this value again.
    #[expect(clippy::cast_possible_truncation, reason = "the magnitude is checked before")]
    fn to_integer(self, value: f64) -> Option<i64> {
        let (scaled, limit) = match self {
            Self::Divide { digits: 0 } => (value, MAX_WHOLE),
            Self::Divide { digits } | Self::Multiply { digits } => ((value * POWERS[usize::from(digits)]).round(), MAX_SCALED),
            Self::Binary { bits } => (value * power_of_two(bits), MAX_BINARY_SCALED),
            Self::Bits { shift } => return Some(bits_to_integer(value, u32::from(shift))),
        };
        if scaled.is_nan() || scaled.abs() >= limit {
            return None;
        }
        let integer = scaled as i64;
        (self.to_double(integer).to_bits() == value.to_bits()).then_some(integer)
    }

    #[expect(clippy::cast_precision_loss, reason = "the encoder checks that the double is the one that it had")]
    #[inline]
    fn to_double(self, integer: i64) -> f64 {
        match self {
            Self::Divide { digits: 0 } => integer as f64,
            Self::Divide { digits } => integer as f64 / POWERS[usize::from(digits)],
            Self::Multiply { digits } => integer as f64 * INVERSE_POWERS[usize::from(digits)],
            Self::Binary { bits } => integer as f64 / power_of_two(bits),
            Self::Bits { shift } => integer_to_bits(integer, u32::from(shift)),
        }
    }

    /// Puts the doubles that the integers stand for at the end of `values`.
    pub(crate) fn to_doubles(self, integers: &[i64], values: &mut Vec<f64>) {
        // One loop each, so that each can be vectorised.
        match self {
            Self::Divide { digits: 0 } => values.extend(integers.iter().map(|integer| Self::Divide { digits: 0 }.to_double(*integer))),
            Self::Divide { digits } => values.extend(integers.iter().map(|integer| Self::Divide { digits }.to_double(*integer))),
            Self::Multiply { digits } => values.extend(integers.iter().map(|integer| Self::Multiply { digits }.to_double(*integer))),
            Self::Binary { bits } => values.extend(integers.iter().map(|integer| Self::Binary { bits }.to_double(*integer))),
            Self::Bits { shift } => values.extend(integers.iter().map(|integer| Self::Bits { shift }.to_double(*integer))),
        }
    }
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
        let mut integers = Vec::new();
        let scale = Scale::choose(values, &mut integers);
        let mut again = Vec::new();
        scale.to_doubles(&integers, &mut again);
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
    fn codes_that_no_encoder_writes_are_refused() {
        for code in [16, 31, 48, 63, 169, COUNTER] {
            assert_eq!(Scale::from_code(code), None);
        }
    }
}

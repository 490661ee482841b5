//! Parses JSON numbers to the exact double.
//!
//! Most gauge values have 15 to 17 digits. Such a number is an integer below 2^64 divided by a power of ten: one division of
//! 128 by 64 bits computes it, and its remainder decides the rounding. The standard library parses all other numbers.

/// Powers of five that fit into 63 bits.
const FIVES: [u64; 28] = {
    let mut fives = [1; 28];
    let mut n = 1;
    while n < fives.len() {
        fives[n] = fives[n - 1] * 5;
        n += 1;
    }
    fives
};

/// Every integer up to this one has an exact double.
const MAX_EXACT: u64 = 1 << 53;

/// Powers of ten that have an exact double.
const TENS: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

/// Parses a finite double at the start of the text; returns it with its length in bytes. `None`: no number, or one that is too
/// large.
#[inline]
pub(super) fn double(text: &str) -> Option<(f64, usize)> {
    let bytes = text.as_bytes();
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut digits = Digits::default();
    let mut at = digits.take(bytes, start);
    // Empty, or a zero followed by digits, which is not valid JSON.
    if at == start || (at > start + 1 && bytes[start] == b'0') {
        return None;
    }
    let mut count = at - start;
    let mut exponent = 0;
    if bytes.get(at) == Some(&b'.') {
        let end = digits.take(bytes, at + 1);
        let fraction = end - at - 1;
        if fraction == 0 {
            return None;
        }
        count += fraction;
        exponent = -i64::try_from(fraction).ok()?;
        at = end;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let (more, end) = self::exponent(bytes, at + 1)?;
        exponent += more;
        at = end;
    }
    // More than 19 digits may have overflowed; leading zeros are not counted.
    let quick = if count <= 19 { quotient(digits.0, exponent) } else { None };
    if let Some(value) = quick {
        return Some((if negative { -value } else { value }, at));
    }
    text[..at].parse().ok().filter(|value: &f64| value.is_finite()).map(|value| (value, at))
}

/// Parses a non-negative integer at the start of the text; returns it with its length in bytes. `None`: none, or one that may
/// be too large.
#[inline]
pub(super) fn integer(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut digits = Digits::default();
    let len = digits.take(bytes, 0);
    let whole = !matches!(bytes.get(len), Some(b'.' | b'e' | b'E'));
    // Eighteen digits always fit.
    let fits = (1..=18).contains(&len) && (len == 1 || bytes[0] != b'0');
    (whole && fits).then(|| (digits.0.cast_signed(), len))
}

/// The number of the digits parsed so far, modulo 2^64.
#[derive(Default)]
struct Digits(u64);

impl Digits {
    /// Parses digits from this position on; returns the position of their end.
    #[inline]
    fn take(&mut self, bytes: &[u8], mut at: usize) -> usize {
        while let Some(eight) = bytes.get(at..at + 8) {
            let Some(value) = eight_digits(u64::from_le_bytes(eight.try_into().expect("eight bytes"))) else { break };
            self.0 = self.0.wrapping_mul(100_000_000).wrapping_add(value);
            at += 8;
        }
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            self.0 = self.0.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            at += 1;
        }
        at
    }
}

/// The number that eight digits form, the first in the lowest byte.
#[inline]
const fn eight_digits(word: u64) -> Option<u64> {
    const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);
    const SIXES: u64 = u64::from_le_bytes([6; 8]);
    const HIGH_HALVES: u64 = u64::from_le_bytes([0xf0; 8]);
    // A digit is 0x30 to 0x39: its high half is 3, and stays so when 6 is added.
    if (word & HIGH_HALVES) != ZEROS || (word.wrapping_add(SIXES) & HIGH_HALVES) != ZEROS {
        return None;
    }
    // Neighbours are combined: digits to pairs, pairs to groups of four, and those to all eight.
    let ones = word - ZEROS;
    let pairs = (ones * 10 + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    Some((fours * 10_000 + (fours >> 32)) & 0xffff_ffff)
}

/// Parses the text after an `e`: an integer with an optional sign, and the position of its end.
#[cold]
fn exponent(bytes: &[u8], mut at: usize) -> Option<(i64, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    at += usize::from(matches!(bytes.get(at), Some(b'-' | b'+')));
    let start = at;
    let mut value = 0_i64;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        value = value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
        at += 1;
    }
    // Small enough not to overflow, and larger than any exponent of a double.
    let value = value.min(1 << 32);
    (at > start).then_some((if negative { -value } else { value }, at))
}

/// `digits` times ten to the power of `exponent`, if one division or multiplication gives the exact result.
#[inline]
fn quotient(digits: u64, exponent: i64) -> Option<f64> {
    if digits == 0 {
        return Some(0.0);
    }
    let power = usize::try_from(exponent.unsigned_abs()).ok()?;
    if digits <= MAX_EXACT
        && let Some(ten) = TENS.get(power)
    {
        // Both operands are exact, so the result is rounded once and correct.
        #[expect(clippy::cast_precision_loss, reason = "checked to be exact")]
        let digits = digits as f64;
        return Some(if exponent < 0 { digits / ten } else { digits * ten });
    }
    if exponent > 0 {
        return None;
    }
    let five = *FIVES.get(power)?;
    // With both highest bits set the quotient has 63 or 64 bits, at least ten more than a double keeps.
    let (up, five_up) = (digits.leading_zeros(), five.leading_zeros());
    let (over, under) = (u128::from(digits << up) << 63, u128::from(five << five_up));
    let quotient = over / under;
    let rest = over - quotient * under;
    #[expect(clippy::cast_possible_truncation, reason = "a normalized number is less than twice another, which makes 2^64 the bound")]
    let mut bits = quotient as u64;
    // A remainder only matters for breaking a tie, so it is recorded in the lowest bit, which is far below the rounding
    // position.
    bits |= u64::from(rest != 0);
    // Ten is five times two; the factor two and the shifts are applied to the exponent. No result comes near the smallest
    // normal double.
    let scale = i64::from(five_up) - i64::from(up) - 63 + exponent;
    #[expect(clippy::cast_precision_loss, reason = "the only rounding")]
    Some(bits as f64 * f64::from_bits(u64::try_from(1023 + scale).ok()? << 52))
}

//! The coding of a column of integers: times, deltas of counters, and doubles that were turned into integers.
//!
//! A column is made small in three steps, each of which is undone exactly, in arithmetic modulo 2^64:
//! 1. A divisor that all differences share is divided out.
//! 2. A prediction from the values before ([`Prediction`]) leaves residuals.
//! 3. The residuals are written in the form ([`Form`]) that needs least space.
//!
//! pco stores the bounds of each of its bins in the width of its integers, which for columns of some hundred values is
//! much of the size. So predictions are made here, and pco gets the residuals in the narrowest type that holds them.

mod cost;
mod packed;
mod predict;

use crate::DecodeError;
use crate::bytes::{Reader, put_varint, put_zigzag, to_zigzag, varint_bytes};
use predict::Prediction;

/// Bits of the header that [`encode`] leaves to its caller.
pub(crate) const CALLERS_BITS: u8 = 0b1100_0000;

const DIVISOR_BIT: u8 = 0b0010_0000;
const PREDICTION_SHIFT: u8 = 3;
const PREDICTION_MASK: u8 = 0b11;
const FORM_MASK: u8 = 0b111;

/// How residuals are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// All are one value.
    Constant = 0,
    /// Most are one value; the others are listed with their distances.
    Sparse = 1,
    /// One after the other, as variable-length integers. For very few values.
    Plain = 2,
    /// pco with 8-bit integers.
    Packed8 = 3,
    /// pco with 16-bit integers.
    Packed16 = 4,
    /// pco with 32-bit integers.
    Packed32 = 5,
    /// pco with 64-bit integers.
    Packed64 = 6,
}

impl Form {
    fn from_code(code: u8) -> Result<Self, DecodeError> {
        Ok(match code {
            0 => Self::Constant,
            1 => Self::Sparse,
            2 => Self::Plain,
            3 => Self::Packed8,
            4 => Self::Packed16,
            5 => Self::Packed32,
            6 => Self::Packed64,
            _ => return Err(DecodeError::Malformed("unknown form of integers")),
        })
    }

    fn for_range(range: u64) -> Self {
        match 64 - range.leading_zeros() {
            0..=8 => Self::Packed8,
            9..=16 => Self::Packed16,
            17..=32 => Self::Packed32,
            _ => Self::Packed64,
        }
    }
}

/// Writes the values, which are overwritten, and gives the header, in which [`CALLERS_BITS`] are free. The count is not written.
pub(crate) fn encode(values: &mut [i64], bytes: &mut Vec<u8>) -> u8 {
    if values.is_empty() {
        return 0;
    }
    let mut header = 0;
    if let Some(divisor) = common_divisor(values) {
        header |= DIVISOR_BIT;
        put_varint(bytes, divisor.cast_unsigned());
        put_varint(bytes, values[0].rem_euclid(divisor).cast_unsigned());
        for value in &mut *values {
            *value = value.div_euclid(divisor);
        }
    }
    let prediction = Prediction::choose(values);
    let residuals = prediction.apply(values, bytes);
    header | (prediction.code() << PREDICTION_SHIFT) | encode_residuals(residuals, bytes) as u8
}

/// Reads `count` values and puts them at the end of `values`. The reader has nothing but these.
pub(crate) fn decode(header: u8, mut reader: Reader<'_>, count: usize, values: &mut Vec<i64>) -> Result<(), DecodeError> {
    if count == 0 {
        return reader.finish();
    }
    let divisor = if header & DIVISOR_BIT == 0 { None } else { Some((reader.varint()?.cast_signed(), reader.varint()?.cast_signed())) };
    let form = Form::from_code(header & FORM_MASK)?;
    let prediction = Prediction::read(header >> PREDICTION_SHIFT & PREDICTION_MASK, &mut reader, count, values)?;
    let start = values.len() - prediction.leading();
    decode_residuals(form, reader, count - prediction.leading(), values)?;
    let values = &mut values[start..];
    prediction.undo(values);
    if let Some((divisor, remainder)) = divisor {
        for value in values {
            *value = value.wrapping_mul(divisor).wrapping_add(remainder);
        }
    }
    Ok(())
}

/// Writes the values, which are overwritten, so that others can follow.
pub(crate) fn put_part(values: &mut [i64], bytes: &mut Vec<u8>) {
    let mut coded = Vec::new();
    bytes.push(encode(values, &mut coded));
    put_varint(bytes, coded.len() as u64);
    bytes.extend_from_slice(&coded);
}

/// Reads what [`put_part`] wrote.
pub(crate) fn read_part(reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>) -> Result<(), DecodeError> {
    let (header, coded) = skip_part(reader)?;
    decode(header, Reader::new(coded), count, values)
}

/// Passes over what [`put_part`] wrote.
pub(crate) fn skip_part<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), DecodeError> {
    let header = reader.byte()?;
    let length = reader.count(reader.rest().len())?;
    Ok((header, reader.take(length)?))
}

/// The greatest common divisor of all differences, if dividing by it gains something.
fn common_divisor(values: &[i64]) -> Option<i64> {
    let first = values[0];
    let mut divisor = 0_u64;
    for &value in values {
        let difference = value.abs_diff(first);
        if divisor == 0 || !difference.is_multiple_of(divisor) {
            divisor = greatest_common_divisor(divisor, difference);
            if divisor == 1 {
                return None;
            }
        }
    }
    // Zero means that all values are equal.
    i64::try_from(divisor).ok().filter(|divisor| *divisor > 1)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn encode_residuals(residuals: &[i64], bytes: &mut Vec<u8>) -> Form {
    let Some((min, max)) = residuals.iter().fold(None, |bounds: Option<(i64, i64)>, &value| {
        Some(bounds.map_or((value, value), |(min, max)| (min.min(value), max.max(value))))
    }) else {
        return Form::Constant;
    };
    if min == max {
        put_zigzag(bytes, min);
        return Form::Constant;
    }
    let start = bytes.len();
    let common = cost::typical(residuals);
    let sparse_bytes = sparse_bytes(residuals, common);
    let plain_bytes = plain_bytes(residuals, min);
    let simple_bytes = sparse_bytes.min(plain_bytes);
    if simple_bytes > packed::MIN_BYTES {
        let form = Form::for_range(max.abs_diff(min));
        put_zigzag(bytes, min);
        packed::encode(form, residuals, min, bytes);
        if bytes.len() - start <= simple_bytes {
            return form;
        }
        bytes.truncate(start);
    }
    if sparse_bytes <= plain_bytes {
        put_sparse(residuals, common, bytes);
        Form::Sparse
    } else {
        put_zigzag(bytes, min);
        for &residual in residuals {
            put_varint(bytes, residual.abs_diff(min));
        }
        Form::Plain
    }
}

fn decode_residuals(form: Form, mut reader: Reader<'_>, count: usize, values: &mut Vec<i64>) -> Result<(), DecodeError> {
    if count == 0 {
        return reader.finish();
    }
    let base = reader.zigzag()?;
    match form {
        Form::Constant => values.resize(values.len() + count, base),
        Form::Sparse => {
            let start = values.len();
            values.resize(start + count, base);
            let mut rest = &mut values[start..];
            let others = reader.count(count)?;
            for _ in 0..others {
                let gap = reader.count(count)?;
                let (residual, after) = rest.get_mut(gap..).and_then(<[i64]>::split_first_mut).ok_or(OUT_OF_RANGE)?;
                *residual = base.wrapping_add(reader.zigzag()?);
                rest = after;
            }
        }
        Form::Plain => {
            if reader.rest().len() < count {
                return Err(DecodeError::Truncated);
            }
            values.reserve(count);
            for _ in 0..count {
                values.push(base.wrapping_add_unsigned(reader.varint()?));
            }
        }
        packed => return packed::decode(packed, reader.rest(), base, count, values),
    }
    reader.finish()
}

const OUT_OF_RANGE: DecodeError = DecodeError::Malformed("a position is out of range");

fn sparse_others(residuals: &[i64], common: i64) -> impl Iterator<Item = (usize, i64)> {
    let mut next = 0;
    residuals.iter().enumerate().filter(move |(_, residual)| **residual != common).map(move |(position, residual)| {
        let gap = position - next;
        next = position + 1;
        (gap, residual.wrapping_sub(common))
    })
}

/// How many bytes the sparse form takes; more than any other form where too many values differ.
fn sparse_bytes(residuals: &[i64], common: i64) -> usize {
    let most = residuals.len() / 4 + 2;
    let mut others = 0;
    let mut bytes = 0;
    for (gap, difference) in sparse_others(residuals, common) {
        others += 1;
        if others > most {
            return usize::MAX;
        }
        bytes += varint_bytes(gap as u64) + varint_bytes(to_zigzag(difference));
    }
    bytes + varint_bytes(to_zigzag(common)) + varint_bytes(others as u64)
}

fn put_sparse(residuals: &[i64], common: i64, bytes: &mut Vec<u8>) {
    put_zigzag(bytes, common);
    put_varint(bytes, sparse_others(residuals, common).count() as u64);
    for (gap, difference) in sparse_others(residuals, common) {
        put_varint(bytes, gap as u64);
        put_zigzag(bytes, difference);
    }
}

/// How many bytes the plain form takes; more than any other form where there are many values.
fn plain_bytes(residuals: &[i64], min: i64) -> usize {
    if residuals.len() > 64 {
        return usize::MAX;
    }
    varint_bytes(to_zigzag(min)) + residuals.iter().map(|residual| varint_bytes(residual.abs_diff(min))).sum::<usize>()
}

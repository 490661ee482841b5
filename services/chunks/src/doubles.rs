//! The coding of a column of doubles: as integers of a scale, with what does not fit standing apart.
//!
//! It is: the scale; exceptional values, if there are any; corrections, if the scale has them; the integers.

use std::cell::RefCell;

use crate::DecodeError;
use crate::bytes::{Reader, put_varint};
use crate::integers;
use crate::scale::Scale;

/// In the header: some values stand apart from the integers.
const EXCEPTIONS_BIT: u8 = 0b0100_0000;
/// The bit of the header that [`encode`] leaves to its caller.
pub(crate) const CALLERS_BIT: u8 = 0b1000_0000;
const _: () = assert!(CALLERS_BIT | EXCEPTIONS_BIT == integers::CALLERS_BITS);

/// How many values there must be for each that stands apart.
const VALUES_PER_EXCEPTION: usize = 4;

/// Memory that is used again by every call on a thread.
#[derive(Default)]
struct Buffers {
    integers: Vec<i64>,
    corrections: Vec<i64>,
    doubles: Vec<f64>,
    exceptions: Vec<(usize, f64)>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Larger buffers are given back after use.
const KEPT_VALUES: usize = 1 << 14;

impl Buffers {
    fn with<T>(action: impl FnOnce(&mut Self) -> T) -> T {
        BUFFERS.with_borrow_mut(|buffers| {
            buffers.integers.clear();
            buffers.corrections.clear();
            buffers.doubles.clear();
            buffers.exceptions.clear();
            let result = action(buffers);
            if buffers.integers.capacity().max(buffers.doubles.capacity()) > KEPT_VALUES {
                *buffers = Self::default();
            }
            result
        })
    }
}

/// Writes the values and gives the header, in which [`CALLERS_BIT`] is free.
pub(crate) fn encode(values: &[f64], bytes: &mut Vec<u8>) -> u8 {
    Buffers::with(|Buffers { integers, corrections, doubles, exceptions }| {
        exceptions.extend(values.iter().copied().enumerate().filter(|(_, value)| is_exceptional(*value)));
        let values = if exceptions.is_empty() || exceptions.len() > values.len() / VALUES_PER_EXCEPTION {
            exceptions.clear();
            values
        } else {
            doubles.extend(values.iter().copied().filter(|value| !is_exceptional(*value)));
            doubles
        };
        bytes.push(Scale::choose(values, integers, corrections).code());
        let mut flags = 0;
        if !exceptions.is_empty() {
            flags |= EXCEPTIONS_BIT;
            put_exceptions(exceptions, bytes);
        }
        if !corrections.is_empty() {
            integers::put_part(corrections, bytes);
        }
        integers::encode(integers, bytes) | flags
    })
}

/// Writes the values so that others can follow.
pub(crate) fn put_part(values: &[f64], bytes: &mut Vec<u8>) {
    let mut coded = Vec::new();
    bytes.push(encode(values, &mut coded));
    put_varint(bytes, coded.len() as u64);
    bytes.extend_from_slice(&coded);
}

/// Reads what [`put_part`] wrote.
pub(crate) fn read_part(reader: &mut Reader<'_>, count: usize, values: &mut Vec<f64>) -> Result<(), DecodeError> {
    let (header, coded) = integers::skip_part(reader)?;
    decode(header, Reader::new(coded), count, values)
}

/// Reads `count` values and puts them at the end of `values`. The reader has nothing but these.
pub(crate) fn decode(header: u8, mut reader: Reader<'_>, count: usize, values: &mut Vec<f64>) -> Result<(), DecodeError> {
    let scale = Scale::from_code(reader.byte()?).ok_or(DecodeError::Malformed("unknown scale"))?;
    Buffers::with(|Buffers { integers, corrections, doubles, exceptions }| {
        if header & EXCEPTIONS_BIT != 0 {
            read_exceptions(&mut reader, count, exceptions)?;
        }
        let usual = count.checked_sub(exceptions.len()).ok_or(DecodeError::Malformed("too many exceptional values"))?;
        if scale.has_corrections() {
            integers::read_part(&mut reader, usual, corrections)?;
        }
        integers::decode(header, reader, usual, integers)?;
        if exceptions.is_empty() {
            scale.to_doubles(integers, corrections, values);
            return Ok(());
        }
        scale.to_doubles(integers, corrections, doubles);
        values.reserve(count);
        let mut rest = &doubles[..];
        for &(gap, value) in &*exceptions {
            let (before, after) = rest.split_at_checked(gap).ok_or(DecodeError::Malformed("a position is out of range"))?;
            values.extend_from_slice(before);
            values.push(value);
            rest = after;
        }
        values.extend_from_slice(rest);
        Ok(())
    })
}

/// Values that no number of digits makes an integer.
fn is_exceptional(value: f64) -> bool {
    !value.is_finite() || value.to_bits() == NEGATIVE_ZERO
}

const NEGATIVE_ZERO: u64 = 1 << 63;
/// The bits of exceptional values that are usual; others are written in full. The first is Prometheus's stale marker, the
/// third its NaN.
const USUAL_EXCEPTIONS: [u64; 6] = [
    0x7ff0_0000_0000_0002,
    0x7ff8_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    f64::INFINITY.to_bits(),
    f64::NEG_INFINITY.to_bits(),
    NEGATIVE_ZERO,
];
const OTHER_BITS: u8 = USUAL_EXCEPTIONS.len().to_le_bytes()[0];

/// The count, then for each the number of usual values since the one before, and what it is.
fn put_exceptions(exceptions: &[(usize, f64)], bytes: &mut Vec<u8>) {
    put_varint(bytes, exceptions.len() as u64);
    let mut next = 0;
    for &(position, value) in exceptions {
        put_varint(bytes, (position - next) as u64);
        next = position + 1;
        let bits = value.to_bits();
        if let Some((code, _)) = (0..).zip(USUAL_EXCEPTIONS).find(|(_, usual)| *usual == bits) {
            bytes.push(code);
        } else {
            bytes.push(OTHER_BITS);
            bytes.extend_from_slice(&bits.to_le_bytes());
        }
    }
}

fn read_exceptions(reader: &mut Reader<'_>, count: usize, exceptions: &mut Vec<(usize, f64)>) -> Result<(), DecodeError> {
    // Each takes two bytes at least, so the bytes bound them as well.
    let exceptional = reader.count(count.min(reader.rest().len()))?;
    for _ in 0..exceptional {
        let gap = reader.count(count)?;
        let bits = match reader.byte()? {
            OTHER_BITS => u64::from_le_bytes(reader.array()?),
            code => *USUAL_EXCEPTIONS.get(usize::from(code)).ok_or(DecodeError::Malformed("unknown exceptional value"))?,
        };
        exceptions.push((gap, f64::from_bits(bits)));
    }
    Ok(())
}

//! The coding of one column of a block.
//!
//! A column is: its checksum, which the checksum of the block's times is the seed of; the header of its integers; its
//! scale or the mark of a counter; the index of its set of times, unless that is the first; exceptional values, if there
//! are any; its integers.

use std::cell::RefCell;

use crate::DecodeError;
use crate::bytes::{CHECKSUM_BYTES, Reader, check, put_checksum, put_varint};
use crate::integers;
use crate::scale::{COUNTER, Scale};
use crate::times::{MAX_SETS, Times};

/// In the header: the column does not have the block's first set of times.
const SET_BIT: u8 = 0b1000_0000;
/// In the header: some values stand apart from the integers.
const EXCEPTIONS_BIT: u8 = 0b0100_0000;
const _: () = assert!(SET_BIT | EXCEPTIONS_BIT == integers::CALLERS_BITS);

/// In a gauge, how many values there must be for each that stands apart.
const VALUES_PER_EXCEPTION: usize = 4;

/// Memory that is used again by every call on a thread.
#[derive(Default)]
struct Buffers {
    integers: Vec<i64>,
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

/// Writes a gauge's values.
pub(crate) fn encode_gauge(values: &[f64], set: usize, times_checksum: u32, bytes: &mut Vec<u8>) {
    Buffers::with(|Buffers { integers, doubles, exceptions }| {
        exceptions.extend(values.iter().copied().enumerate().filter(|(_, value)| is_exceptional(*value)));
        let values = if exceptions.is_empty() || exceptions.len() > values.len() / VALUES_PER_EXCEPTION {
            exceptions.clear();
            values
        } else {
            doubles.extend(values.iter().copied().filter(|value| !is_exceptional(*value)));
            doubles
        };
        let scale = Scale::choose(values, integers);
        encode(scale.code(), integers, exceptions, set, times_checksum, bytes);
    });
}

/// Writes a counter's deltas.
pub(crate) fn encode_counter(deltas: &[i64], set: usize, times_checksum: u32, bytes: &mut Vec<u8>) {
    Buffers::with(|Buffers { integers, .. }| {
        integers.extend_from_slice(deltas);
        encode(COUNTER, integers, &[], set, times_checksum, bytes);
    });
}

fn encode(scale: u8, integers: &mut [i64], exceptions: &[(usize, f64)], set: usize, times_checksum: u32, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.resize(start + CHECKSUM_BYTES, 0);
    let header = bytes.len();
    bytes.push(0);
    bytes.push(scale);
    let mut flags = 0;
    if set > 0 {
        flags |= SET_BIT;
        put_varint(bytes, set as u64);
    }
    if !exceptions.is_empty() {
        flags |= EXCEPTIONS_BIT;
        put_exceptions(exceptions, bytes);
    }
    bytes[header] = integers::encode(integers, bytes) | flags;
    put_checksum(&mut bytes[start..], times_checksum);
}

/// Puts a gauge's samples at the end of both lists. After an error the lists are as they were.
pub fn decode_gauge(times: &Times, column: &[u8], timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), DecodeError> {
    if column.is_empty() {
        return Ok(());
    }
    let (header, scale, set, reader) = open(times, column)?;
    let scale =
        if scale == COUNTER { Err(DecodeError::Kind) } else { Scale::from_code(scale).ok_or(DecodeError::Malformed("unknown scale")) }?;
    let lengths = (timestamps_ms.len(), values.len());
    let result = Buffers::with(|buffers| read_gauge(header, scale, times.len_of(set)?, reader, buffers, values));
    undo_on_error(result.and_then(|()| times.decode_set(set, timestamps_ms)), lengths, timestamps_ms, values)
}

/// Puts a counter's samples, with what each adds to the total, at the end of both lists. After an error the lists are as they were.
pub fn decode_counter(times: &Times, column: &[u8], timestamps_ms: &mut Vec<i64>, deltas: &mut Vec<i64>) -> Result<(), DecodeError> {
    if column.is_empty() {
        return Ok(());
    }
    let (header, scale, set, reader) = open(times, column)?;
    if scale != COUNTER {
        return Err(DecodeError::Kind);
    }
    if header & EXCEPTIONS_BIT != 0 {
        return Err(DecodeError::Malformed("a counter has no exceptional values"));
    }
    let lengths = (timestamps_ms.len(), deltas.len());
    let result = integers::decode(header, reader, times.len_of(set)?, deltas);
    undo_on_error(result.and_then(|()| times.decode_set(set, timestamps_ms)), lengths, timestamps_ms, deltas)
}

/// How many samples a column has, without decoding it.
pub fn samples_of(times: &Times, column: &[u8]) -> Result<usize, DecodeError> {
    if column.is_empty() {
        return Ok(0);
    }
    let (_, _, set, _) = open(times, column)?;
    times.len_of(set)
}

fn open<'a>(times: &Times, column: &'a [u8]) -> Result<(u8, u8, usize, Reader<'a>), DecodeError> {
    let (_, body) = check(column, times.checksum())?;
    let mut reader = Reader::new(body);
    let header = reader.byte()?;
    let scale = reader.byte()?;
    let set = if header & SET_BIT == 0 { 0 } else { reader.count(MAX_SETS)? };
    Ok((header, scale, set, reader))
}

fn undo_on_error<T>(
    result: Result<(), DecodeError>,
    lengths: (usize, usize),
    timestamps_ms: &mut Vec<i64>,
    values: &mut Vec<T>,
) -> Result<(), DecodeError> {
    if result.is_err() {
        timestamps_ms.truncate(lengths.0);
        values.truncate(lengths.1);
    }
    result
}

fn read_gauge(
    header: u8,
    scale: Scale,
    count: usize,
    mut reader: Reader<'_>,
    buffers: &mut Buffers,
    values: &mut Vec<f64>,
) -> Result<(), DecodeError> {
    if header & EXCEPTIONS_BIT == 0 {
        integers::decode(header, reader, count, &mut buffers.integers)?;
        scale.to_doubles(&buffers.integers, values);
        return Ok(());
    }
    read_exceptions(&mut reader, count, &mut buffers.exceptions)?;
    let usual = count.checked_sub(buffers.exceptions.len()).ok_or(DecodeError::Malformed("too many exceptional values"))?;
    integers::decode(header, reader, usual, &mut buffers.integers)?;
    scale.to_doubles(&buffers.integers, &mut buffers.doubles);
    values.reserve(count);
    let mut rest = &buffers.doubles[..];
    for &(gap, value) in &buffers.exceptions {
        let (before, after) = rest.split_at_checked(gap).ok_or(DecodeError::Malformed("a position is out of range"))?;
        values.extend_from_slice(before);
        values.push(value);
        rest = after;
    }
    values.extend_from_slice(rest);
    Ok(())
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

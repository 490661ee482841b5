//! One column of a block.
//!
//! A column is: its checksum, which the checksum of the block's times is the seed of; a header; the index of its set of
//! times, unless that is the first; what kind of values it has, which a gauge's scale says without a byte of its own; the
//! values.

use crate::bytes::{CHECKSUM_BYTES, Reader, check, put_checksum, put_varint};
use crate::times::{MAX_SETS, Times};
use crate::{DecodeError, doubles, integers};

/// In the header: the column does not have the block's first set of times. The other bits are those of the values.
const SET_BIT: u8 = doubles::CALLERS_BIT;

/// What kind of values a column has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    Counter,
    GaugeRollup,
    CounterRollup,
}

impl Kind {
    /// A byte that no scale has as its code.
    fn mark(self) -> Option<u8> {
        match self {
            Self::Gauge => None,
            Self::Counter => Some(255),
            Self::GaugeRollup => Some(254),
            Self::CounterRollup => Some(253),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let first = reader.rest().first().ok_or(DecodeError::Truncated)?;
        let marked = [Self::Counter, Self::GaugeRollup, Self::CounterRollup].into_iter().find(|kind| kind.mark() == Some(*first));
        if marked.is_some() {
            reader.byte()?;
        }
        Ok(marked.unwrap_or(Self::Gauge))
    }
}

/// A column that was opened: its values are not decoded yet.
pub(crate) struct Opened<'a> {
    pub(crate) header: u8,
    pub(crate) set: usize,
    pub(crate) count: usize,
    pub(crate) values: Reader<'a>,
}

/// Writes a column, whose values `put_values` writes; it gives their header.
pub(crate) fn encode(kind: Kind, set: usize, times_checksum: u32, bytes: &mut Vec<u8>, put_values: impl FnOnce(&mut Vec<u8>) -> u8) {
    let start = bytes.len();
    bytes.resize(start + CHECKSUM_BYTES + 1, 0);
    let mut flags = 0;
    if set > 0 {
        flags |= SET_BIT;
        put_varint(bytes, set as u64);
    }
    bytes.extend(kind.mark());
    bytes[start + CHECKSUM_BYTES] = put_values(bytes) | flags;
    put_checksum(&mut bytes[start..], times_checksum);
}

/// Checks a column that is not empty.
pub(crate) fn open<'a>(times: &Times, column: &'a [u8], kind: Kind) -> Result<Opened<'a>, DecodeError> {
    let (found, opened) = open_any(times, column)?;
    if found == kind { Ok(opened) } else { Err(DecodeError::Kind) }
}

fn open_any<'a>(times: &Times, column: &'a [u8]) -> Result<(Kind, Opened<'a>), DecodeError> {
    let (_, body) = check(column, times.checksum())?;
    let mut values = Reader::new(body);
    let header = values.byte()?;
    let set = if header & SET_BIT == 0 { 0 } else { values.count(MAX_SETS)? };
    let kind = Kind::read(&mut values)?;
    Ok((kind, Opened { header, set, count: times.len_of(set)?, values }))
}

/// Puts a gauge's samples at the end of both lists. After an error the lists are as they were.
pub fn decode_gauge(times: &Times, column: &[u8], timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), DecodeError> {
    if column.is_empty() {
        return Ok(());
    }
    let Opened { header, set, count, values: reader } = open(times, column, Kind::Gauge)?;
    let lengths = (timestamps_ms.len(), values.len());
    let result = doubles::decode(header, reader, count, values).and_then(|()| times.decode_set(set, timestamps_ms));
    undo_on_error(result, lengths, timestamps_ms, values)
}

/// Puts a counter's samples, with what each adds to the total, at the end of both lists. After an error the lists are as they were.
pub fn decode_counter(times: &Times, column: &[u8], timestamps_ms: &mut Vec<i64>, deltas: &mut Vec<i64>) -> Result<(), DecodeError> {
    if column.is_empty() {
        return Ok(());
    }
    let Opened { header, set, count, values: reader } = open(times, column, Kind::Counter)?;
    let lengths = (timestamps_ms.len(), deltas.len());
    let result = integers::decode(header, reader, count, deltas).and_then(|()| times.decode_set(set, timestamps_ms));
    undo_on_error(result, lengths, timestamps_ms, deltas)
}

/// How many samples, or buckets, a column has, without decoding it.
pub fn samples_of(times: &Times, column: &[u8]) -> Result<usize, DecodeError> {
    if column.is_empty() { Ok(0) } else { open_any(times, column).map(|(_, opened)| opened.count) }
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

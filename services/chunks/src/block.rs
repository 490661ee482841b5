//! Writing a block: the samples of up to 64 series in one window of time.

use crate::bytes::{CHECKSUM_BYTES, Reader, check, put_checksum, put_varint};
use crate::column::{self, Kind};
use crate::{DecodeError, doubles, integers, times};

/// How many columns a block may have.
pub const MAX_COLUMNS: usize = 64;

/// How many samples a column may have: more than two hours have milliseconds.
pub const MAX_SAMPLES: usize = 1 << 23;

/// The samples of one series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Column<'a> {
    /// When they were measured, as unix time; strictly increasing.
    pub timestamps_ms: &'a [i64],
    /// What was measured; as many values as there are times.
    pub values: ColumnValues<'a>,
}

/// The values of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ColumnValues<'a> {
    /// Values as they are, to the bit.
    Gauge(&'a [f64]),
    /// What each sample adds to the counter's total.
    Counter(&'a [i64]),
}

impl ColumnValues<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Gauge(values) => values.len(),
            Self::Counter(deltas) => deltas.len(),
        }
    }
}

/// A coded block, in parts that can be read each without the other columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncodedBlock {
    /// The times, for [`crate::Times::decode`].
    pub times: Vec<u8>,
    /// Where each column begins in `data`, and the end of the last. A column without samples has no bytes.
    pub offsets: Vec<u32>,
    /// The columns, one after the other, for [`crate::decode_gauge`] and [`crate::decode_counter`].
    pub data: Vec<u8>,
}

impl EncodedBlock {
    /// The bytes of one column; none for a column that the block does not have.
    pub fn column(&self, index: usize) -> &[u8] {
        match self.offsets.get(index..index + 2) {
            Some(&[start, end]) => self.data.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }
}

/// Codes the columns of a block. A column without samples keeps its place for a series that has none.
///
/// # Panics
/// If there are more than [`MAX_COLUMNS`] columns or a column has more than [`MAX_SAMPLES`] samples, as many values as
/// times are missing, or times are not strictly increasing: see [`crate::merge_gauge`].
pub fn encode(columns: &[Column<'_>]) -> EncodedBlock {
    assert!(columns.len() <= MAX_COLUMNS, "a block has at most {MAX_COLUMNS} columns");
    for column in columns {
        assert_eq!(column.timestamps_ms.len(), column.values.len(), "each sample has a time and a value");
        assert!(column.timestamps_ms.len() <= MAX_SAMPLES, "a column has at most {MAX_SAMPLES} samples");
        assert!(column.timestamps_ms.is_sorted_by(|before, after| before < after), "a column's times are strictly increasing");
    }
    let times: Vec<&[i64]> = columns.iter().map(|column| column.timestamps_ms).collect();
    assemble(&times, |index, set, times_checksum, bytes| match columns[index].values {
        ColumnValues::Gauge(values) => {
            column::encode(Kind::Gauge, set, times_checksum, bytes, |bytes| doubles::encode(values, bytes));
        }
        ColumnValues::Counter(deltas) => {
            column::encode(Kind::Counter, set, times_checksum, bytes, |bytes| integers::encode(&mut deltas.to_vec(), bytes));
        }
    })
}

/// A block of columns with these times. `put_column` writes a column with its index, the index of its set of times and
/// their checksum; it is not asked for columns without times.
pub(crate) fn assemble(columns: &[&[i64]], put_column: impl Fn(usize, usize, u32, &mut Vec<u8>)) -> EncodedBlock {
    let times = times::encode(columns);
    let mut data = Vec::new();
    let mut offsets = vec![0];
    for (index, (column, &set)) in columns.iter().zip(&times.set_of_column).enumerate() {
        if !column.is_empty() {
            put_column(index, set, times.checksum, &mut data);
        }
        offsets.push(u32::try_from(data.len()).expect("a block is smaller than 4 GiB"));
    }
    EncodedBlock { times: times.bytes, offsets, data }
}

/// Codes a list of integers that belongs to no block, such as the times of reports. Any order, any values.
///
/// # Panics
/// If there are more than [`MAX_SAMPLES`].
pub fn encode_integers(values: &[i64]) -> Vec<u8> {
    assert!(values.len() <= MAX_SAMPLES, "a list has at most {MAX_SAMPLES} integers");
    let mut bytes = vec![0; CHECKSUM_BYTES + 1];
    put_varint(&mut bytes, values.len() as u64);
    bytes[CHECKSUM_BYTES] = integers::encode(&mut values.to_vec(), &mut bytes);
    put_checksum(&mut bytes, INTEGERS_SEED);
    bytes
}

/// Reads what [`encode_integers`] wrote and puts it at the end of the list.
pub fn decode_integers(bytes: &[u8], values: &mut Vec<i64>) -> Result<(), DecodeError> {
    let (_, body) = check(bytes, INTEGERS_SEED)?;
    let mut reader = Reader::new(body);
    let header = reader.byte()?;
    let count = reader.count(MAX_SAMPLES)?;
    let length = values.len();
    integers::decode(header, reader, count, values).inspect_err(|_| values.truncate(length))
}

/// Different from that of blocks, so that neither is taken for the other. It is the version of the format as well.
const INTEGERS_SEED: u32 = 1;

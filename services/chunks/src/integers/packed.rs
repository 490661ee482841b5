//! Residuals as pco writes them.
//!
//! pco is called without its own modes and predictions. That is quick, and its header's first byte, which chooses them,
//! is always zero and not stored: no stored bytes can ask for a dictionary or a window, for which pco would allocate
//! up to 260 MB.

use std::cell::RefCell;

use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DecompressorScratch, DeltaSpec, ModeSpec, PagingSpec};

use super::Form;
use crate::DecodeError;

/// pco's version of its format, as it writes it in front of a file.
const PCO_VERSION: [u8; 2] = [4, 1];

/// The byte that chooses neither a mode nor a prediction.
const CLASSIC: u8 = 0;

/// No column that pco writes is shorter than this.
pub(super) const MIN_BYTES: usize = 6;

const BIN_COUNT_BITS: u32 = 15;
const TABLE_SIZE_BITS: u32 = 4;

/// The largest table of states that pco's format has.
const MAX_TABLE_SIZE_LOG: u32 = 14;

/// An integer as wide as residuals may be.
trait Residual: Number + Default {
    const BITS: u32;

    fn from_difference(difference: u64) -> Self;

    fn into_difference(self) -> u64;

    fn buffer(buffers: &mut Buffers) -> (&mut Vec<Self>, &mut Vec<u8>, &mut DecompressorScratch);
}

/// Memory that is used again by every call on a thread.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    scratch: DecompressorScratch,
    residuals8: Vec<u8>,
    residuals16: Vec<u16>,
    residuals32: Vec<u32>,
    residuals64: Vec<u64>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Larger buffers are given back after use.
const KEPT_VALUES: usize = 1 << 14;

macro_rules! impl_residual {
    ($type:ty, $buffer:ident) => {
        impl Residual for $type {
            const BITS: u32 = <$type>::BITS;

            #[expect(clippy::allow_attributes, reason = "not every width truncates")]
            #[allow(clippy::cast_possible_truncation, reason = "the form was chosen by the largest difference")]
            fn from_difference(difference: u64) -> Self {
                difference as Self
            }

            #[expect(clippy::allow_attributes, reason = "not every width is converted")]
            #[allow(clippy::useless_conversion, reason = "u64 is one of the widths")]
            fn into_difference(self) -> u64 {
                u64::from(self)
            }

            fn buffer(buffers: &mut Buffers) -> (&mut Vec<Self>, &mut Vec<u8>, &mut DecompressorScratch) {
                (&mut buffers.$buffer, &mut buffers.bytes, &mut buffers.scratch)
            }
        }
    };
}

impl_residual!(u8, residuals8);
impl_residual!(u16, residuals16);
impl_residual!(u32, residuals32);
impl_residual!(u64, residuals64);

pub(super) fn encode(form: Form, residuals: &[i64], min: i64, bytes: &mut Vec<u8>) {
    BUFFERS.with_borrow_mut(|buffers| match form {
        Form::Packed8 => encode_as::<u8>(buffers, residuals, min, bytes),
        Form::Packed16 => encode_as::<u16>(buffers, residuals, min, bytes),
        Form::Packed32 => encode_as::<u32>(buffers, residuals, min, bytes),
        _ => encode_as::<u64>(buffers, residuals, min, bytes),
    });
}

fn encode_as<R: Residual>(buffers: &mut Buffers, residuals: &[i64], min: i64, bytes: &mut Vec<u8>) {
    let (differences, packed, _) = R::buffer(buffers);
    differences.clear();
    differences.extend(residuals.iter().map(|residual| R::from_difference(residual.abs_diff(min))));
    packed.clear();
    let config = ChunkConfig::default()
        .with_mode_spec(ModeSpec::Classic)
        .with_delta_spec(DeltaSpec::NoOp)
        .with_paging_spec(PagingSpec::EqualPagesUpTo(usize::MAX))
        .with_enable_8_bit(true);
    let mut compressor =
        FileCompressor::default().chunk_compressor(differences, &config).expect("the configuration and the count are valid");
    compressor.write_meta(&mut *packed).expect("a vector takes all bytes");
    compressor.write_page(0, &mut *packed).expect("a vector takes all bytes");
    let (&first, rest) = packed.split_first().expect("pco writes a header");
    assert_eq!(first, CLASSIC, "pco was told to use neither a mode nor a prediction");
    bytes.extend_from_slice(rest);
    keep_small(differences);
    keep_small(packed);
}

pub(super) fn decode(form: Form, packed: &[u8], min: i64, count: usize, values: &mut Vec<i64>) -> Result<(), DecodeError> {
    BUFFERS.with_borrow_mut(|buffers| match form {
        Form::Packed8 => decode_as::<u8>(buffers, packed, min, count, values),
        Form::Packed16 => decode_as::<u16>(buffers, packed, min, count, values),
        Form::Packed32 => decode_as::<u32>(buffers, packed, min, count, values),
        _ => decode_as::<u64>(buffers, packed, min, count, values),
    })
}

fn decode_as<R: Residual>(buffers: &mut Buffers, packed: &[u8], min: i64, count: usize, values: &mut Vec<i64>) -> Result<(), DecodeError> {
    check_header(packed, R::BITS)?;
    let (differences, with_mode, scratch) = R::buffer(buffers);
    with_mode.clear();
    with_mode.push(CLASSIC);
    with_mode.extend_from_slice(packed);
    differences.clear();
    differences.resize(count, R::default());
    read(with_mode, scratch, differences).ok_or(DecodeError::Malformed("pco refuses it"))?;
    values.extend(differences.iter().map(|difference| min.wrapping_add_unsigned(difference.into_difference())));
    keep_small(differences);
    keep_small(with_mode);
    Ok(())
}

fn read<R: Residual>(packed: &[u8], scratch: &mut DecompressorScratch, differences: &mut [R]) -> Option<()> {
    let (file, _) = FileDecompressor::new(&PCO_VERSION[..]).ok()?;
    let (chunk, page) = file.chunk_decompressor::<R, _>(packed).ok()?;
    let mut page = chunk.page_decompressor_with_scratch(page, differences.len(), scratch).ok()?;
    let progress = page.read(differences).ok()?;
    (progress.finished && progress.n_processed == differences.len() && page.into_src().is_empty()).then_some(())
}

/// Checks the sizes that pco allocates memory by.
fn check_header(packed: &[u8], width: u32) -> Result<(), DecodeError> {
    let header = packed.first_chunk::<3>().ok_or(DecodeError::Truncated)?;
    let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    let table_size_log = header & ((1 << TABLE_SIZE_BITS) - 1);
    let bins = header >> TABLE_SIZE_BITS & ((1 << BIN_COUNT_BITS) - 1);
    if table_size_log > MAX_TABLE_SIZE_LOG || bins == 0 || bins > 1 << table_size_log {
        return Err(DecodeError::Malformed("pco's table is too large"));
    }
    let table_bits = u64::from(bins) * u64::from(width + table_size_log);
    if table_bits > 8 * packed.len() as u64 { Err(DecodeError::Truncated) } else { Ok(()) }
}

fn keep_small<T>(buffer: &mut Vec<T>) {
    if buffer.capacity() > KEPT_VALUES {
        *buffer = Vec::new();
    }
}

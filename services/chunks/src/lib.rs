//! The coding of sealed history.
//!
//! A block holds the samples of up to 64 series in one window of time, by column: the times of all of them once, and a
//! compressed column of values for each series. One series is read with the block's times and its own column, without the
//! others ([`EncodedBlock`]). Every value comes back to the bit, NaN and stale markers included.
//!
//! ```
//! use golectra_chunks::{Column, ColumnValues, Times, decode_gauge, encode};
//!
//! let timestamps_ms = [10_000, 20_000, 30_001];
//! let block = encode(&[
//!     Column { timestamps_ms: &timestamps_ms, values: ColumnValues::Gauge(&[12.34, 12.35, f64::NAN]) },
//!     Column { timestamps_ms: &timestamps_ms, values: ColumnValues::Counter(&[3, 0, 4]) },
//! ]);
//! let times = Times::decode(&block.times)?;
//! let (mut times_read, mut values_read) = (Vec::new(), Vec::new());
//! decode_gauge(&times, block.column(0), &mut times_read, &mut values_read)?;
//! assert_eq!(times_read, timestamps_ms);
//! assert_eq!(values_read[..2], [12.34, 12.35]);
//! # Ok::<_, golectra_chunks::DecodeError>(())
//! ```
//!
//! The crate is pure: no I/O, no clock. Stored bytes are not trusted: each part has a checksum, every count is checked
//! before memory is allocated by it, and whatever the bytes are, decoding ends with an error or with samples.
#![deny(missing_docs)]

mod block;
mod bytes;
mod column;
mod doubles;
mod error;
mod integers;
mod merge;
pub mod rollup;
mod scale;
mod times;

pub use block::{Column, ColumnValues, EncodedBlock, MAX_COLUMNS, MAX_SAMPLES, decode_integers, encode, encode_integers};
pub use column::{decode_counter, decode_gauge, samples_of};
pub use error::DecodeError;
pub use merge::{merge_counter, merge_gauge};
pub use times::Times;

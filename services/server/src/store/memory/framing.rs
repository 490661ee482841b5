//! Records in the files of this store: the payload's length and its CRC-32 (both 32 bits, little endian) and the payload.
//!
//! The journal and the history's files are made of them. What is cut off or has a wrong checksum is damaged.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read as _};
use std::path::Path;

use flate2::Crc;
use golectra_protocol::Source;

/// The bytes before a payload.
pub(super) const HEAD_BYTES: usize = 8;
/// What a reader reads at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Appends a record with what `payload` appends.
pub(super) fn append(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; HEAD_BYTES]);
    payload(out);
    let (head, body) = out[start..].split_at_mut(HEAD_BYTES);
    let length = u32::try_from(body.len()).expect("a record is far smaller than 4 GiB");
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&sum(body).to_le_bytes());
}

/// The length and the checksum of a payload.
pub(super) fn head(bytes: [u8; HEAD_BYTES]) -> (u32, u32) {
    let [l0, l1, l2, l3, s0, s1, s2, s3] = bytes;
    (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([s0, s1, s2, s3]))
}

/// The checksum of a payload.
pub(super) fn sum(payload: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(payload);
    crc.sum()
}

/// Appends a source's name as [`Rest::source`] reads it.
pub(super) fn source_name(out: &mut Vec<u8>, source: &Source) {
    let name = source.as_str();
    out.push(u8::try_from(name.len()).expect("a source has at most 253 bytes"));
    out.extend(name.as_bytes());
}

/// The error for a file that has something of another version. It stays as it is.
pub(super) fn foreign(path: &Path) -> io::Error {
    let name = path.file_name().unwrap_or_default().display();
    io::Error::new(ErrorKind::InvalidData, format!("{name} was written by a newer version of golectra-server: start that version"))
}

/// Reads records until the first that is damaged.
pub(super) struct RecordReader {
    pub(super) input: BufReader<File>,
    /// Up to here every record was good.
    pub(super) good_bytes: u64,
    /// The file's length.
    pub(super) bytes: u64,
    payload: Vec<u8>,
}

impl RecordReader {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { input: BufReader::with_capacity(BUFFER_BYTES, file), good_bytes: 0, bytes, payload: Vec::new() })
    }

    /// What the next payload means to `decode`; `None` at the end or where the damage begins.
    pub(super) fn next<T>(&mut self, decode: impl FnOnce(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        let left = self.bytes - self.good_bytes;
        if left < HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = [0; HEAD_BYTES];
        self.input.read_exact(&mut bytes)?;
        let (length, checksum) = head(bytes);
        // A damaged length must not ask for memory that the file can't fill.
        if u64::from(length) > left - HEAD_BYTES as u64 {
            return Ok(None);
        }
        self.payload.resize(length as usize, 0);
        self.input.read_exact(&mut self.payload)?;
        if sum(&self.payload) != checksum {
            return Ok(None);
        }
        let record = decode(&self.payload);
        if record.is_some() {
            self.good_bytes += HEAD_BYTES as u64 + u64::from(length);
        }
        Ok(record)
    }
}

/// What is left to read of a payload.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn text(&mut self, bytes: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(bytes)?).ok()
    }

    pub(super) fn source(&mut self) -> Option<Source> {
        let bytes = self.byte()?;
        Source::from_stored(self.text(bytes.into())?).ok()
    }
}

//! The format of the spool's files.
//!
//! A file is a header followed by records. A record is a head of 16 bytes (marker, payload length, CRC-32 of the payload,
//! CRC-32 of the twelve bytes before) and its payload. All numbers are little-endian. What fails its check is skipped byte by
//! byte up to the next head that passes, so that damage loses only the records that it is in, even where a record was
//! appended behind an incomplete one.

use std::io::{self, Read};

use golectra_protocol::{IdempotencyKey, MetricId};

use crate::batch::Deltas;

/// The first bytes of a file: a readable name, the version of the format, and a CRC-32 of both.
pub(super) const FILE_HEADER_BYTES: usize = 20;
const NAME: &[u8; 15] = b"golectra spool ";
const VERSION: u8 = b'1';

const MARKER: [u8; 4] = [0xa7, b'g', b'l', 0x9c];
pub(super) const HEAD_BYTES: usize = 16;

/// Larger than any batch; a longer record is damage.
pub(super) const MAX_PAYLOAD_BYTES: usize = 32 << 20;

const BATCH: u8 = 1;
const SETTLED: u8 = 2;
const SENT: u8 = 3;
const BOOT: u8 = 4;
const KEY_BYTES: usize = 36;

/// How much is read from a file at a time.
const CHUNK_BYTES: usize = 32 << 10;

/// Records of one file, by their offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offsets {
    pub(super) segment: u64,
    pub(super) offsets: Vec<u32>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// A sealed batch.
    Batch {
        key: IdempotencyKey,
        deltas: Deltas,
        /// Dropped batches whose deltas are in this one.
        replaces: Vec<Offsets>,
        body: &'a [u8],
    },
    /// Batches of this file that are not needed any more, by their offsets.
    Settled(Vec<u32>),
    /// Batches of this file that may have reached a server, other than to be refused because of the clock.
    Sent(Vec<u32>),
    /// The boot id of the host while this file was written. After another start of the host, `Sent` records may be missing.
    Boot(&'a str),
}

/// The header of a new file.
pub(super) fn file_header() -> [u8; FILE_HEADER_BYTES] {
    header_of(VERSION)
}

fn header_of(version: u8) -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..15].copy_from_slice(NAME);
    header[15] = version;
    let sum = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Whether a file begins with an intact header of another version.
pub(super) fn is_of_another_version(start: &[u8]) -> bool {
    start.len() >= FILE_HEADER_BYTES && start[15] != VERSION && start[..FILE_HEADER_BYTES] == header_of(start[15])
}

/// A batch as a record. None when it is larger than a record may be.
pub(super) fn encode_batch(key: IdempotencyKey, deltas: &Deltas, replaces: &[Offsets], body: &[u8]) -> Option<Vec<u8>> {
    let mut record = begin(BATCH, KEY_BYTES + 64 + body.len());
    record.extend_from_slice(key.to_string().as_bytes());
    put_count(&mut record, deltas.iter().len());
    for (id, delta) in deltas.iter() {
        put_count(&mut record, id.as_str().len());
        record.extend_from_slice(id.as_str().as_bytes());
        record.extend_from_slice(&delta.to_le_bytes());
    }
    put_count(&mut record, replaces.len());
    for Offsets { segment, offsets } in replaces {
        record.extend_from_slice(&segment.to_le_bytes());
        put_count(&mut record, offsets.len());
        put_offsets(&mut record, offsets);
    }
    record.extend_from_slice(body);
    finish(record)
}

/// A note that batches are settled, as a record.
pub(super) fn encode_settled(offsets: &[u32]) -> Option<Vec<u8>> {
    encode_offsets(SETTLED, offsets)
}

/// A note that batches may have been sent, as a record.
pub(super) fn encode_sent(offsets: &[u32]) -> Option<Vec<u8>> {
    encode_offsets(SENT, offsets)
}

/// The boot id of the host, as a record.
pub(super) fn encode_boot(boot_id: &str) -> Option<Vec<u8>> {
    let mut record = begin(BOOT, boot_id.len());
    record.extend_from_slice(boot_id.as_bytes());
    finish(record)
}

fn encode_offsets(kind: u8, offsets: &[u32]) -> Option<Vec<u8>> {
    let mut record = begin(kind, offsets.len() * 4);
    put_offsets(&mut record, offsets);
    finish(record)
}

fn begin(kind: u8, payload_bytes: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD_BYTES + 1 + payload_bytes);
    record.extend_from_slice(&[0; HEAD_BYTES]);
    record.push(kind);
    record
}

fn put_count(record: &mut Vec<u8>, count: usize) {
    // A count that does not fit belongs to a payload that `finish` refuses.
    record.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_offsets(record: &mut Vec<u8>, offsets: &[u32]) {
    for offset in offsets {
        record.extend_from_slice(&offset.to_le_bytes());
    }
}

fn finish(mut record: Vec<u8>) -> Option<Vec<u8>> {
    let payload = &record[HEAD_BYTES..];
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD_BYTES)?;
    let sum = crc32fast::hash(payload);
    record[..4].copy_from_slice(&MARKER);
    record[4..8].copy_from_slice(&length.to_le_bytes());
    record[8..12].copy_from_slice(&sum.to_le_bytes());
    let head_sum = crc32fast::hash(&record[..12]);
    record[12..16].copy_from_slice(&head_sum.to_le_bytes());
    Some(record)
}

/// The head of a record: the length and the CRC-32 of its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) payload_bytes: usize,
    sum: u32,
}

impl Head {
    /// Reads an intact head at the start of `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD_BYTES>()?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[..4] != MARKER || number(12) != crc32fast::hash(&head[..12]) {
            return None;
        }
        let payload_bytes = usize::try_from(number(4)).ok().filter(|bytes| *bytes <= MAX_PAYLOAD_BYTES)?;
        Some(Self { payload_bytes, sum: number(8) })
    }

    /// Whether this is the payload that belongs to the head.
    pub(super) fn holds(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes && crc32fast::hash(payload) == self.sum
    }
}

/// Reads a payload. None when it is not one of this format.
pub(super) fn decode(payload: &[u8]) -> Option<Record<'_>> {
    let mut rest = Rest(payload);
    match rest.bytes(1)?[0] {
        BATCH => {
            let key = std::str::from_utf8(rest.bytes(KEY_BYTES)?).ok()?;
            let key = IdempotencyKey::parse(key).ok()?;
            let mut deltas = Deltas::default();
            for _ in 0..rest.count()? {
                let length = rest.count()?;
                let id = MetricId::parse(std::str::from_utf8(rest.bytes(length)?).ok()?).ok()?;
                deltas.add(&id, i64::from_le_bytes(rest.array()?));
            }
            let mut replaces = Vec::new();
            for _ in 0..rest.count()? {
                let segment = u64::from_le_bytes(rest.array()?);
                let bytes = rest.count()?.checked_mul(4)?;
                replaces.push(Offsets { segment, offsets: offsets(rest.bytes(bytes)?)? });
            }
            Some(Record::Batch { key, deltas, replaces, body: rest.0 })
        }
        SETTLED => offsets(rest.0).map(Record::Settled),
        SENT => offsets(rest.0).map(Record::Sent),
        BOOT => std::str::from_utf8(rest.0).ok().map(Record::Boot),
        _ => None,
    }
}

fn offsets(bytes: &[u8]) -> Option<Vec<u32>> {
    let (whole, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| whole.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

/// The part of a payload that is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }
}

/// Reads a file record by record, with a buffer of a few dozen KiB or one record.
pub(super) struct Scanner<R> {
    source: R,
    buffer: Vec<u8>,
    /// The position in the buffer.
    at: usize,
    /// The same position in the file.
    offset: u64,
    ended: bool,
}

/// What the scanner found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// An intact record.
    Payload {
        /// The offset of its head in the file.
        offset: u64,
        payload: &'a [u8],
    },
    /// This many bytes in a row that are not part of an intact record.
    Damage(u64),
}

impl<R: Read> Scanner<R> {
    /// Starts at the first byte of a file.
    pub(super) fn new(source: R) -> io::Result<Self> {
        let mut scanner = Self { source, buffer: Vec::new(), at: 0, offset: 0, ended: false };
        scanner.fill(FILE_HEADER_BYTES)?;
        if scanner.unread().starts_with(&file_header()) {
            scanner.skip(FILE_HEADER_BYTES);
        }
        Ok(scanner)
    }

    /// Whether the file has another version of this format. Must be called before `next`.
    pub(super) fn is_of_another_version(&self) -> bool {
        self.offset == 0 && is_of_another_version(self.unread())
    }

    /// The next record or stretch of damage; none at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Found<'_>>> {
        let mut damage = 0;
        loop {
            self.fill(HEAD_BYTES)?;
            if self.unread().is_empty() {
                return Ok((damage > 0).then_some(Found::Damage(damage)));
            }
            if let Some(head) = Head::parse(self.unread()) {
                let end = HEAD_BYTES + head.payload_bytes;
                self.fill(end)?;
                if self.unread().get(HEAD_BYTES..end).is_some_and(|payload| head.holds(payload)) {
                    // The next call finds the record again.
                    if damage > 0 {
                        return Ok(Some(Found::Damage(damage)));
                    }
                    let (start, offset) = (self.at + HEAD_BYTES, self.offset);
                    self.skip(end);
                    return Ok(Some(Found::Payload { offset, payload: &self.buffer[start..self.at] }));
                }
            }
            let unread = self.unread();
            let skipped = unread.iter().skip(1).position(|byte| *byte == MARKER[0]).map_or(unread.len(), |position| position + 1);
            self.skip(skipped);
            damage += skipped as u64;
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
        self.offset += bytes as u64;
    }

    /// Reads until the buffer has this many unread bytes or the file ends.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if self.unread().len() >= wanted || self.ended {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        while self.buffer.len() < wanted && !self.ended {
            let chunk = CHUNK_BYTES.max(wanted - self.buffer.len()) as u64;
            self.ended = (&mut self.source).take(chunk).read_to_end(&mut self.buffer)? == 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

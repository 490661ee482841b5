//! What stands in the journal, byte by byte.
//!
//! A frame is the payload's length and its CRC-32 (both 32 bits, little endian) and the payload, whose first byte is its
//! tag. A frame that is cut off, whose sum is wrong, or whose payload says nothing valid ends the journal there.

use flate2::Crc;
use golectra_protocol::{IdempotencyKey, Metrics, Source, Value};
use uuid::Uuid;

use super::keys::ShortDigest;

/// The bytes before a payload.
pub(super) const FRAME_HEAD_BYTES: usize = 8;
/// How many bytes the frame of a head has.
pub(super) const HEAD_FRAME_BYTES: usize = FRAME_HEAD_BYTES + 1 + MAGIC.len() + 32;
/// How many keys share a frame.
pub(super) const KEYS_A_FRAME: usize = 1000;

/// The bytes of a write beside its source and metrics, and of a metric beside its id.
const WRITE_HEAD_BYTES: usize = 1 + 8 + 1 + 16 + 1 + 16;
const METRIC_HEAD_BYTES: usize = 1 + 8 + 1;
const MAGIC: &[u8; 18] = b"golectra journal 1";
const HEAD: u8 = 1;
const SOURCE: u8 = 2;
const KEYS: u8 = 3;
const WRITE: u8 = 4;
const GAUGE: u8 = 0;
const COUNTER: u8 = 1;

/// A batch as the journal keeps it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Write {
    pub(super) seen_millis: u64,
    pub(super) source: Source,
    pub(super) key: IdempotencyKey,
    pub(super) keyed: bool,
    pub(super) digest: ShortDigest,
    pub(super) metrics: Metrics,
}

/// A source with what the snapshot file does not tell of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourceHead {
    pub(super) first_seen_millis: u64,
    pub(super) last_seen_millis: u64,
    /// The oldest accepted time.
    pub(super) floor_millis: u64,
    pub(super) name: Source,
}

/// One frame's payload.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    /// The SHA-256 of the snapshot file that the journal continues.
    Head([u8; 32]),
    /// The next source: keys name it by how many came before it.
    Source(SourceHead),
    /// Remembered keys with their sources.
    Keys(Vec<(u32, IdempotencyKey, ShortDigest)>),
    /// A write since the snapshot.
    Write(Write),
}

/// Appends a frame with what `payload` appends.
fn frame(out: &mut Vec<u8>, tag: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; FRAME_HEAD_BYTES]);
    out.push(tag);
    payload(out);
    let (head, body) = out[start..].split_at_mut(FRAME_HEAD_BYTES);
    let length = u32::try_from(body.len()).expect("a batch is far smaller than 4 GiB");
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&sum(body).to_le_bytes());
}

/// The checksum of a payload.
pub(super) fn sum(payload: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(payload);
    crc.sum()
}

pub(super) fn encode_head(out: &mut Vec<u8>, snapshot: &[u8; 32]) {
    frame(out, HEAD, |out| {
        out.extend(MAGIC);
        out.extend(snapshot);
    });
}

pub(super) fn encode_source(out: &mut Vec<u8>, source: &SourceHead) {
    frame(out, SOURCE, |out| {
        for time in [source.first_seen_millis, source.last_seen_millis, source.floor_millis] {
            out.extend(time.to_le_bytes());
        }
        text(out, source.name.as_str());
    });
}

pub(super) fn encode_keys(out: &mut Vec<u8>, keys: &[(u32, IdempotencyKey, ShortDigest)]) {
    frame(out, KEYS, |out| {
        for (source, key, digest) in keys {
            out.extend(source.to_le_bytes());
            out.extend(key.uuid().as_bytes());
            out.extend(digest);
        }
    });
}

pub(super) fn encode_write(out: &mut Vec<u8>, batch: &super::Batch, seen_millis: u64) {
    let ids: usize = batch.metrics.iter().map(|metric| metric.id.len()).sum();
    out.reserve_exact(FRAME_HEAD_BYTES + WRITE_HEAD_BYTES + batch.source.as_str().len() + METRIC_HEAD_BYTES * batch.metrics.len() + ids);
    frame(out, WRITE, |out| {
        out.extend(seen_millis.to_le_bytes());
        text(out, batch.source.as_str());
        out.extend(batch.key.uuid().as_bytes());
        out.push(u8::from(batch.keyed));
        out.extend(super::keys::short(&batch.digest));
        for metric in &batch.metrics {
            let (kind, value) = match metric.value {
                Value::Gauge(value) => (GAUGE, value.to_bits().to_le_bytes()),
                Value::Counter(delta) => (COUNTER, delta.to_le_bytes()),
            };
            let mut head = [0; METRIC_HEAD_BYTES];
            (head[0], head[METRIC_HEAD_BYTES - 1]) = (kind, short_len(metric.id));
            head[1..METRIC_HEAD_BYTES - 1].copy_from_slice(&value);
            out.extend_from_slice(&head);
            out.extend_from_slice(metric.id.as_bytes());
        }
    });
}

/// A text of at most 255 bytes.
fn text(out: &mut Vec<u8>, text: &str) {
    out.push(short_len(text));
    out.extend(text.as_bytes());
}

fn short_len(text: &str) -> u8 {
    u8::try_from(text.len()).expect("sources and ids have at most 255 bytes")
}

/// Reads a payload whose sum was right.
pub(super) fn decode(payload: &[u8]) -> Option<Record> {
    let mut rest = Rest(payload);
    let record = match rest.byte()? {
        HEAD => {
            (rest.take(MAGIC.len())? == MAGIC).then_some(())?;
            Record::Head(rest.array()?)
        }
        SOURCE => Record::Source(SourceHead {
            first_seen_millis: rest.u64()?,
            last_seen_millis: rest.u64()?,
            floor_millis: rest.u64()?,
            name: Source::from_stored(rest.text()?).ok()?,
        }),
        KEYS => {
            let mut keys = Vec::with_capacity(rest.0.len() / 36);
            while !rest.0.is_empty() {
                keys.push((u32::from_le_bytes(rest.array()?), rest.key()?, rest.array()?));
            }
            Record::Keys(keys)
        }
        WRITE => Record::Write(rest.write()?),
        _ => return None,
    };
    rest.0.is_empty().then_some(record)
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.byte()?;
        std::str::from_utf8(self.take(length.into())?).ok()
    }

    fn key(&mut self) -> Option<IdempotencyKey> {
        IdempotencyKey::from_uuid(Uuid::from_bytes(self.array()?)).ok()
    }

    fn write(&mut self) -> Option<Write> {
        let seen_millis = self.u64()?;
        let source = Source::from_stored(self.text()?).ok()?;
        let key = self.key()?;
        let keyed = match self.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let digest = self.array()?;
        // A guess at ids of 22 bytes; shorter ones make it grow.
        let mut metrics = Metrics::with_capacity(self.0.len() / (METRIC_HEAD_BYTES + 22), self.0.len());
        while !self.0.is_empty() {
            let value = match self.byte()? {
                GAUGE => Value::gauge(f64::from_bits(self.u64()?)).ok()?,
                COUNTER => Value::counter(i64::from_le_bytes(self.array()?)).ok()?,
                _ => return None,
            };
            metrics.push_parsed(self.text()?, value).ok()?;
        }
        Some(Write { seen_millis, source, key, keyed, digest, metrics })
    }
}

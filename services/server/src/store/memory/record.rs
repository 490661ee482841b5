//! The journal's records, byte by byte.
//!
//! A frame is a record of [`framing`] whose payload's first byte is its tag. A frame that is cut off, whose checksum is wrong, or whose payload
//! is not valid ends the journal there. A payload whose checksum is right and that only another version can have written is none of that.

use golectra_protocol::{IdempotencyKey, Metrics, Source, Value};
use uuid::Uuid;

use super::Batch;
use super::framing::{self, HEAD_BYTES, Rest, source_name};
use super::keys::ShortDigest;
use crate::store::lifetime::{Mark, ReportingClock};

/// How many bytes the frame of a head has.
pub(super) const HEAD_FRAME_BYTES: usize = HEAD_BYTES + 1 + MAGIC.len() + 32;
/// How many keys share a frame.
pub(super) const KEYS_A_FRAME: usize = 1000;

/// The bytes of a write beside its source and metrics, and of a metric beside its id and its own time.
const WRITE_HEAD_BYTES: usize = 1 + 8 + 1 + 16 + 1 + 16;
const METRIC_HEAD_BYTES: usize = 1 + 8 + 2;
const TIME_BYTES: usize = 8;
const MAGIC: &[u8; 18] = b"golectra journal 2";
/// What the head begins with, whatever the version.
const FAMILY: &[u8] = b"golectra journal ";
const HEAD: u8 = 1;
const SOURCE: u8 = 2;
const KEYS: u8 = 3;
const WRITE: u8 = 4;
const MARK: u8 = 5;
const EXPIRY: u8 = 6;
const FORGET: u8 = 7;
const GAUGE: u8 = 0;
const COUNTER: u8 = 1;
/// Set in a write's flags where its key is remembered, and where its samples have times of their own.
const KEYED: u8 = 1;
const TIMED: u8 = 2;

/// A batch as the journal keeps it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WriteRecord {
    pub(super) seen_millis: u64,
    pub(super) source: Source,
    pub(super) key: IdempotencyKey,
    pub(super) keyed: bool,
    pub(super) digest: ShortDigest,
    pub(super) metrics: Metrics,
}

/// A source with what the snapshot file does not tell of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourceRecord {
    pub(super) first_seen_millis: u64,
    pub(super) last_seen_millis: u64,
    /// The oldest accepted time.
    pub(super) floor_millis: u64,
    pub(super) clock: ReportingClock,
    /// The current reporting period.
    pub(super) period: u64,
    pub(super) name: Source,
}

/// Series that follow each other in the snapshot file and that were set by the same write and reported in the same period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReportRun {
    pub(super) series: u32,
    pub(super) arrival: u64,
    pub(super) period: u8,
}

/// One frame's payload.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    /// The SHA-256 of the snapshot file that the journal continues.
    Head([u8; 32]),
    /// The next source: keys name it by how many came before it. Its reports cover all of its series.
    Source(SourceRecord, Vec<ReportRun>),
    /// Remembered keys with their sources.
    Keys(Vec<(u32, IdempotencyKey, ShortDigest)>),
    /// A write since the snapshot.
    Write(WriteRecord),
    /// A source's reporting clock was marked.
    Mark(Source),
    /// The series of a source that were not reported after this period left it.
    Expiry(Source, u64),
    /// A source was forgotten.
    Forget(Source),
    /// Something whose checksum is right and that this version does not know.
    Foreign,
}

/// Appends a frame with what `payload` appends.
fn frame(out: &mut Vec<u8>, tag: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    framing::append(out, |out| {
        out.push(tag);
        payload(out);
    });
}

pub(super) fn encode_head(out: &mut Vec<u8>, snapshot: &[u8; 32]) {
    frame(out, HEAD, |out| {
        out.extend(MAGIC);
        out.extend(snapshot);
    });
}

pub(super) fn encode_source(out: &mut Vec<u8>, source: &SourceRecord, reports: &[ReportRun]) {
    frame(out, SOURCE, |out| {
        let clock = &source.clock;
        let head = [source.first_seen_millis, source.last_seen_millis, source.floor_millis, clock.reporting_millis, source.period];
        for number in head {
            out.extend(number.to_le_bytes());
        }
        source_name(out, &source.name);
        out.extend(u32::try_from(clock.marks.len()).expect("the marks of a clock are few").to_le_bytes());
        for mark in &clock.marks {
            out.extend(mark.reporting_millis.to_le_bytes());
            out.extend(mark.arrival.to_le_bytes());
        }
        for run in reports {
            out.extend(run.series.to_le_bytes());
            out.extend(run.arrival.to_le_bytes());
            out.push(run.period);
        }
    });
}

pub(super) fn encode_mark(out: &mut Vec<u8>, source: &Source) {
    frame(out, MARK, |out| source_name(out, source));
}

pub(super) fn encode_expiry(out: &mut Vec<u8>, source: &Source, expired_period: u64) {
    frame(out, EXPIRY, |out| {
        source_name(out, source);
        out.extend(expired_period.to_le_bytes());
    });
}

pub(super) fn encode_forget(out: &mut Vec<u8>, source: &Source) {
    frame(out, FORGET, |out| source_name(out, source));
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

pub(super) fn encode_write(out: &mut Vec<u8>, batch: &Batch, seen_millis: u64) {
    let metrics = &batch.metrics;
    let ids: usize = metrics.iter().map(|metric| metric.id.len()).sum();
    let of_metric = METRIC_HEAD_BYTES + if metrics.has_times() { TIME_BYTES } else { 0 };
    out.reserve_exact(HEAD_BYTES + WRITE_HEAD_BYTES + batch.source.as_str().len() + of_metric * metrics.len() + ids);
    frame(out, WRITE, |out| {
        out.extend(seen_millis.to_le_bytes());
        source_name(out, &batch.source);
        out.extend(batch.key.uuid().as_bytes());
        out.push((u8::from(batch.keyed) * KEYED) | (u8::from(metrics.has_times()) * TIMED));
        out.extend(super::keys::short(&batch.digest));
        for (index, metric) in metrics.iter().enumerate() {
            let (kind, value) = match metric.value {
                Value::Gauge(value) => (GAUGE, value.to_bits().to_le_bytes()),
                Value::Counter(delta) => (COUNTER, delta.to_le_bytes()),
            };
            let mut head = [kind; METRIC_HEAD_BYTES];
            head[1..9].copy_from_slice(&value);
            head[9..].copy_from_slice(&u16::try_from(metric.id.len()).expect("an id has at most 4,096 bytes").to_le_bytes());
            out.extend_from_slice(&head);
            out.extend_from_slice(metric.id.as_bytes());
            if let Some(at_millis) = metrics.at_millis(index) {
                out.extend(at_millis.to_le_bytes());
            }
        }
    });
}

/// Reads a payload whose checksum was right.
pub(super) fn decode(payload: &[u8]) -> Option<Record> {
    let mut rest = Rest(payload);
    let record = match rest.byte()? {
        HEAD => {
            if !rest.0.starts_with(MAGIC) && rest.0.starts_with(FAMILY) {
                return Some(Record::Foreign);
            }
            (rest.take(MAGIC.len())? == MAGIC).then_some(())?;
            Record::Head(rest.array()?)
        }
        SOURCE => {
            let (source, reports) = rest.source_record()?;
            Record::Source(source, reports)
        }
        KEYS => {
            let mut keys = Vec::with_capacity(rest.0.len() / 36);
            while !rest.0.is_empty() {
                keys.push((rest.u32()?, rest.key()?, rest.array()?));
            }
            Record::Keys(keys)
        }
        WRITE => match rest.write()? {
            Record::Foreign => return Some(Record::Foreign),
            write => write,
        },
        MARK => Record::Mark(rest.source()?),
        EXPIRY => Record::Expiry(rest.source()?, rest.u64()?),
        FORGET => Record::Forget(rest.source()?),
        _ => return Some(Record::Foreign),
    };
    rest.0.is_empty().then_some(record)
}

impl Rest<'_> {
    fn key(&mut self) -> Option<IdempotencyKey> {
        IdempotencyKey::from_uuid(Uuid::from_bytes(self.array()?)).ok()
    }

    fn source_record(&mut self) -> Option<(SourceRecord, Vec<ReportRun>)> {
        let [first_seen_millis, last_seen_millis, floor_millis] = [self.u64()?, self.u64()?, self.u64()?];
        let (reporting_millis, period, name) = (self.u64()?, self.u64()?, self.source()?);
        let mut clock = ReportingClock { reporting_millis, ..ReportingClock::default() };
        for _ in 0..self.u32()? {
            clock.marks.push_back(Mark { reporting_millis: self.u64()?, arrival: self.u64()? });
        }
        let mut reports = Vec::new();
        while !self.0.is_empty() {
            reports.push(ReportRun { series: self.u32()?, arrival: self.u64()?, period: self.byte()? });
        }
        Some((SourceRecord { first_seen_millis, last_seen_millis, floor_millis, clock, period, name }, reports))
    }

    fn write(&mut self) -> Option<Record> {
        let seen_millis = self.u64()?;
        let source = self.source()?;
        let key = self.key()?;
        let flags = self.byte()?;
        if flags > KEYED | TIMED {
            return Some(Record::Foreign);
        }
        let digest = self.array()?;
        // A guess at ids of 22 bytes; shorter ones make it grow.
        let mut metrics = Metrics::with_capacity(self.0.len() / (METRIC_HEAD_BYTES + 22), self.0.len());
        while !self.0.is_empty() {
            let value = match self.byte()? {
                GAUGE => Value::Gauge(f64::from_bits(self.u64()?)),
                COUNTER => Value::counter(i64::from_le_bytes(self.array()?)).ok()?,
                _ => return Some(Record::Foreign),
            };
            let bytes = u16::from_le_bytes(self.array()?);
            let id = self.text(bytes.into())?;
            if flags & TIMED == 0 {
                metrics.push_parsed(id, value).ok()?;
            } else {
                metrics.push_parsed_at(id, value, i64::from_le_bytes(self.array()?)).ok()?;
            }
        }
        Some(Record::Write(WriteRecord { seen_millis, source, key, keyed: flags & KEYED != 0, digest, metrics }))
    }
}

//! The snapshot file: a JSON array of metric objects, one a line, each with its `source` (absent for the unnamed one)
//! and `at`, the time of its value in unix milliseconds.
//!
//! A value that JSON has no number for (NaN, an infinity) is a string of its bits: `"0x7ff8000000000000"`. The total of counters that are
//! gone is a counter of the unnamed source with `"retired":true`; whoever does not know the word reads a sum that is right.
//!
//! A file without these fields loads too, and so does one that the original wrote: keys match without regard to case. Reading and
//! writing stream: the text of the whole file is never in memory. As long as the lines are as they were written, each is
//! parsed on its own, which is several times as fast as parsing a stream; from the first other line on, the rest of the file is parsed
//! as a stream.

use std::fmt;
use std::io::{self, BufRead, Cursor, Read, Write};

use golectra_protocol::json::Text;
use golectra_protocol::{Kind, MAX_ID_BYTES, Metric, MetricId, Source, Value};
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

/// One object of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SnapshotRow {
    pub(super) source: Source,
    pub(super) metric: Metric,
    pub(super) at_millis: Option<u64>,
    /// The sum of counters that are gone.
    pub(super) retired: bool,
}

/// More than any line of the file has: an id of which each byte is escaped with six, a source, and the rest.
const MAX_LINE_BYTES: u64 = MAX_ID_BYTES as u64 * 6 + 1024;

/// Passes bytes on and remembers their digest and number.
pub(super) struct Hashing<T> {
    inner: T,
    digest: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, digest: Sha256::new(), bytes: 0 }
    }

    /// The SHA-256 of all that passed, and how many bytes that were.
    pub(super) fn finish(self) -> ([u8; 32], u64) {
        (self.digest.finalize().into(), self.bytes)
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.passed(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.passed(&bytes[..read]);
        Ok(read)
    }
}

/// Writes the file row by row.
pub(super) struct SnapshotWriter<W> {
    out: W,
    rows: u64,
}

impl<W: Write> SnapshotWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, rows: 0 }
    }

    pub(super) fn row(&mut self, source: &Source, id: &str, value: Value, at_millis: u64) -> io::Result<()> {
        self.id(id)?;
        let out = &mut self.out;
        match value {
            Value::Gauge(value) if !value.is_finite() => write!(out, ",\"type\":\"gauge\",\"value\":\"{:#018x}\"", value.to_bits())?,
            Value::Gauge(value) => {
                out.write_all(b",\"type\":\"gauge\",\"value\":")?;
                serde_json::to_writer(&mut *out, &value)?;
            }
            Value::Counter(total) => write!(out, ",\"type\":\"counter\",\"delta\":{total}")?,
        }
        if !source.is_unnamed() {
            // A source's characters need no escape.
            write!(out, ",\"source\":\"{source}\"")?;
        }
        write!(out, ",\"at\":{at_millis}}}")
    }

    /// The sum of counters of this id that are gone.
    pub(super) fn retired(&mut self, id: &str, sum: i64) -> io::Result<()> {
        self.id(id)?;
        write!(self.out, ",\"type\":\"counter\",\"delta\":{sum},\"retired\":true}}")
    }

    /// Begins a row.
    fn id(&mut self, id: &str) -> io::Result<()> {
        self.out.write_all(if self.rows == 0 { b"[\n{\"id\":" } else { b",\n{\"id\":" })?;
        self.rows += 1;
        Ok(serde_json::to_writer(&mut self.out, id)?)
    }

    /// Ends the array.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Why a file could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The system does not give its bytes.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no snapshot: what is wrong, and where.
    #[error("{0}")]
    Damaged(String),
}

impl From<serde_json::Error> for ReadError {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Io => Self::Io(error.into()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// Reads the file to its end and hands out each row.
pub(super) fn read(mut input: impl BufRead, mut each: impl FnMut(SnapshotRow) -> Result<(), String>) -> Result<(), ReadError> {
    let mut last_source = Source::unnamed();
    let mut line = Vec::new();
    let mut next_line = |line: &mut Vec<u8>| {
        line.clear();
        // No line of this store's is longer; a file that is one long line is not read into memory.
        input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)
    };
    next_line(&mut line)?;
    let mut index = 0;
    let mut before = String::new();
    let mut lines_before = 0;
    if line == b"[\n" {
        next_line(&mut line)?;
        while let Some(object) = line.strip_suffix(b",\n").and_then(|object| serde_json::from_slice::<Object>(object).ok()) {
            object.row(&mut last_source).and_then(&mut each).map_err(|reason| ReadError::Damaged(at_item(index, &reason)))?;
            index += 1;
            next_line(&mut line)?;
        }
        (before, lines_before) = ("[".to_owned(), index + 1);
    }
    // Empty lines in place of those that were read, so that an error names the right one.
    let empty = io::repeat(b'\n').take(lines_before);
    let mut reader = serde_json::Deserializer::from_reader(Cursor::new(before).chain(empty).chain(Cursor::new(line)).chain(input));
    // The original writes `null` when it holds nothing.
    (&mut reader).deserialize_option(RowVisitor { each, index, last_source })?;
    Ok(reader.end()?)
}

fn at_item(index: u64, reason: &str) -> String {
    format!("item {index}: {reason}")
}

struct RowVisitor<F> {
    each: F,
    /// The next row's, of which there must be one when it is not the first: a comma came before it.
    index: u64,
    last_source: Source,
}

impl<'de, F: FnMut(SnapshotRow) -> Result<(), String>> Visitor<'de> for RowVisitor<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of metric objects")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let first = self.index;
        while let Some(object) = seq.next_element::<Object>()? {
            let row = object.row(&mut self.last_source).and_then(&mut self.each);
            row.map_err(|reason| A::Error::custom(at_item(self.index, &reason)))?;
            self.index += 1;
        }
        let none = first > 0 && self.index == first;
        if none { Err(A::Error::custom(at_item(first, "there is none behind the comma"))) } else { Ok(()) }
    }
}

fn text<'a>(field: Option<&'a Text<'_>>) -> Option<&'a str> {
    field.map(|text| text.0.as_ref())
}

/// An object's fields as they stand; null is as good as absent.
#[derive(Default)]
struct Object<'a> {
    id: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    value: Option<GaugeValue>,
    delta: Option<i64>,
    source: Option<Text<'a>>,
    at_millis: Option<u64>,
    retired: Option<bool>,
}

impl Object<'_> {
    /// The row of these fields. Rows of one source follow each other, so the last one's is taken where it is the same.
    fn row(self, last_source: &mut Source) -> Result<SnapshotRow, String> {
        let said = |error: &dyn fmt::Display| error.to_string();
        let id = MetricId::parse(text(self.id.as_ref()).unwrap_or_default()).map_err(|e| said(&e))?;
        let kind = Kind::parse(text(self.kind.as_ref()).ok_or("\"type\" is missing")?).map_err(|e| said(&e))?;
        let value = match kind {
            Kind::Gauge => Value::Gauge(self.value.ok_or("a gauge needs a number in \"value\"")?.0),
            Kind::Counter => {
                let total = self.delta.ok_or("a counter needs a whole number in \"delta\"")?;
                Value::counter(total).map_err(|e| said(&e))?
            }
        };
        let retired = self.retired.unwrap_or(false);
        if retired && kind == Kind::Gauge {
            return Err("only a counter is \"retired\"".into());
        }
        let source = text(self.source.as_ref()).unwrap_or_default();
        if source != last_source.as_str() {
            *last_source = Source::from_stored(source).map_err(|e| said(&e))?;
        }
        Ok(SnapshotRow { source: last_source.clone(), metric: Metric { id, value }, at_millis: self.at_millis, retired })
    }
}

/// A double as a number, or as a string of its bits.
struct GaugeValue(f64);

impl<'de> serde::Deserialize<'de> for GaugeValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = GaugeValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a string such as \"0x7ff8000000000000\" with a double's bits")
            }

            fn visit_f64<E>(self, value: f64) -> Result<GaugeValue, E> {
                Ok(GaugeValue(value))
            }

            #[expect(clippy::cast_precision_loss, reason = "a whole number in JSON is the nearest double")]
            fn visit_u64<E>(self, value: u64) -> Result<GaugeValue, E> {
                Ok(GaugeValue(value as f64))
            }

            #[expect(clippy::cast_precision_loss, reason = "a whole number in JSON is the nearest double")]
            fn visit_i64<E>(self, value: i64) -> Result<GaugeValue, E> {
                Ok(GaugeValue(value as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<GaugeValue, E> {
                let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 16 && digits.bytes().all(|c| c.is_ascii_hexdigit()));
                let bits = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                bits.map(|bits| GaugeValue(f64::from_bits(bits))).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl<'de> serde::Deserialize<'de> for Object<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a metric object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object::default();
                while let Some(Text(key)) = map.next_key()? {
                    let is = |name| key.eq_ignore_ascii_case(name);
                    if is("id") {
                        object.id = map.next_value()?;
                    } else if is("type") {
                        object.kind = map.next_value()?;
                    } else if is("value") {
                        object.value = map.next_value()?;
                    } else if is("delta") {
                        object.delta = map.next_value()?;
                    } else if is("source") {
                        object.source = map.next_value()?;
                    } else if is("at") {
                        object.at_millis = map.next_value()?;
                    } else if is("retired") {
                        object.retired = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests;

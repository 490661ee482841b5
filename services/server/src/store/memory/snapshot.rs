//! The snapshot file: a JSON array of metric objects, one a line, each with its `source` (absent for the unnamed one)
//! and `at`, the time of its last batch in unix milliseconds.
//!
//! A file without these two loads too, and so does one that the original wrote: keys match without regard to case.
//! Both ways stream: no text of the whole file is ever held.

use std::fmt;
use std::io::{self, Read, Write};

use golectra_protocol::{Kind, Metric, MetricId, Source, Value};
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

/// One object of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) source: Source,
    pub(super) metric: Metric,
    pub(super) at_millis: Option<u64>,
}

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
        let out = &mut self.out;
        out.write_all(if self.rows == 0 { b"[\n" } else { b",\n" })?;
        self.rows += 1;
        out.write_all(b"{\"id\":")?;
        serde_json::to_writer(&mut *out, id)?;
        match value {
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

    /// Ends the array.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads the file to its end and hands out each row. An error says what is wrong and where.
pub(super) fn read(input: impl Read, each: impl FnMut(Row) -> Result<(), String>) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_reader(input);
    // The original writes `null` when it holds nothing.
    (&mut reader).deserialize_option(Rows { each, index: 0 })?;
    reader.end()
}

struct Rows<F> {
    each: F,
    index: u64,
}

impl<'de, F: FnMut(Row) -> Result<(), String>> Visitor<'de> for Rows<F> {
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
        while let Some(object) = seq.next_element::<Object>()? {
            let row = object.row().and_then(&mut self.each);
            row.map_err(|reason| A::Error::custom(format_args!("item {}: {reason}", self.index)))?;
            self.index += 1;
        }
        Ok(())
    }
}

/// An object's fields as they stand; null is as good as absent.
#[derive(Default)]
struct Object {
    id: Option<String>,
    kind: Option<String>,
    value: Option<f64>,
    delta: Option<i64>,
    source: Option<String>,
    at_millis: Option<u64>,
}

impl Object {
    fn row(self) -> Result<Row, String> {
        let said = |error: &dyn fmt::Display| error.to_string();
        let id = MetricId::parse(&self.id.unwrap_or_default()).map_err(|e| said(&e))?;
        let kind = Kind::parse(&self.kind.ok_or("\"type\" is missing")?).map_err(|e| said(&e))?;
        let value = match kind {
            Kind::Gauge => Value::gauge(self.value.ok_or("a gauge needs a number in \"value\"")?),
            Kind::Counter => Value::counter(self.delta.ok_or("a counter needs a whole number in \"delta\"")?),
        };
        let source = Source::from_stored(&self.source.unwrap_or_default()).map_err(|e| said(&e))?;
        Ok(Row { source, metric: Metric { id, value: value.map_err(|e| said(&e))? }, at_millis: self.at_millis })
    }
}

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a metric object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object::default();
                while let Some(mut key) = map.next_key::<String>()? {
                    key.make_ascii_lowercase();
                    match key.as_str() {
                        "id" => object.id = map.next_value()?,
                        "type" => object.kind = map.next_value()?,
                        "value" => object.value = map.next_value()?,
                        "delta" => object.delta = map.next_value()?,
                        "source" => object.source = map.next_value()?,
                        "at" => object.at_millis = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
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

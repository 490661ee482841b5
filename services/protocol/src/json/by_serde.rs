//! Parses metrics with serde_json; this parser defines the accepted JSON and the error texts.
//!
//! `scan` parses the usual form of bodies; everything else is parsed here, so that errors have a single source.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{DecodeError, ItemError, Text};
use crate::id::canonical;
use crate::{Kind, Metric, MetricId, Metrics, Selector, Value};

/// One metric object.
pub(super) fn metric(body: &[u8]) -> Result<Metric, DecodeError> {
    Ok(whole(body, Fields { numbers: true })?.metric()?)
}

/// An object's id and type.
pub(super) fn selector(body: &[u8]) -> Result<Selector, DecodeError> {
    let raw = whole(body, Fields { numbers: false })?;
    Ok(Selector { id: raw.id()?, kind: raw.kind()? })
}

/// An array of metric objects.
pub(super) fn batch(body: &[u8], max_items: usize) -> Result<Metrics, DecodeError> {
    let mut refused = None;
    let batch = whole(body, Batch { max_items, refused: &mut refused });
    match (refused, batch) {
        (Some(error), _) | (None, Err(error)) => Err(error),
        (None, Ok(items)) if items.is_empty() => Err(DecodeError::Empty),
        (None, Ok(items)) => Ok(items),
    }
}

/// Parses one JSON text up to its end.
fn whole<'de, S: DeserializeSeed<'de>>(body: &'de [u8], seed: S) -> Result<S::Value, DecodeError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| DecodeError::Shape(format!("invalid JSON: {error}")))
}

/// The fields of a metric object before validation.
#[derive(Default)]
struct Raw<'de> {
    id: Option<Cow<'de, str>>,
    kind: Option<Cow<'de, str>>,
    value: Option<f64>,
    delta: Option<i64>,
}

impl Raw<'_> {
    fn id(&self) -> Result<MetricId, ItemError> {
        Ok(MetricId::parse(self.id.as_deref().unwrap_or_default())?)
    }

    fn kind(&self) -> Result<Kind, ItemError> {
        Ok(Kind::parse(self.kind.as_deref().ok_or(ItemError::NoKind)?)?)
    }

    fn value(&self) -> Result<Value, ItemError> {
        Ok(match self.kind()? {
            Kind::Gauge => Value::gauge(self.value.ok_or(ItemError::NoValue)?)?,
            Kind::Counter => Value::counter(self.delta.ok_or(ItemError::NoDelta)?)?,
        })
    }

    fn metric(&self) -> Result<Metric, ItemError> {
        Ok(Metric { id: self.id()?, value: self.value()? })
    }

    fn push_to(&self, metrics: &mut Metrics) -> Result<(), ItemError> {
        let id = canonical(self.id.as_deref().unwrap_or_default())?;
        metrics.push(&id, self.value()?);
        Ok(())
    }
}

/// Deserializes the fields of a metric object; the numbers only if they are needed.
#[derive(Clone, Copy)]
struct Fields {
    numbers: bool,
}

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Raw<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a metric object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
        let mut raw = Raw::default();
        while let Some(Text(key)) = map.next_key()? {
            if key.eq_ignore_ascii_case("id") {
                raw.id = map.next_value::<Option<Text>>()?.map(|t| t.0).or(raw.id);
            } else if key.eq_ignore_ascii_case("type") {
                raw.kind = map.next_value::<Option<Text>>()?.map(|t| t.0).or(raw.kind);
            } else if self.numbers && key.eq_ignore_ascii_case("value") {
                raw.value = map.next_value()?;
            } else if self.numbers && key.eq_ignore_ascii_case("delta") {
                raw.delta = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(raw)
    }
}

/// Deserializes an array of metric objects. Its own errors are stored in `refused`, since serde_json's errors carry only text.
struct Batch<'a> {
    max_items: usize,
    refused: &'a mut Option<DecodeError>,
}

impl<'de> DeserializeSeed<'de> for Batch<'_> {
    type Value = Metrics;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Metrics, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Batch<'_> {
    type Value = Metrics;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of metric objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Metrics, A::Error> {
        let mut items = Metrics::default();
        loop {
            let index = items.len();
            let refusal = match seq.next_element_seed(Fields { numbers: true }) {
                Ok(None) => return Ok(items),
                Ok(Some(_)) if index == self.max_items => DecodeError::TooMany(self.max_items),
                Ok(Some(raw)) => match raw.push_to(&mut items) {
                    Ok(()) => continue,
                    Err(error) => DecodeError::ItemAt { index, reason: error.to_string() },
                },
                Err(error) => DecodeError::ItemAt { index, reason: error.to_string() },
            };
            *self.refused = Some(refusal);
            return Err(A::Error::custom("refused"));
        }
    }
}

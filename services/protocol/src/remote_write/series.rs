//! What both messages become.

use super::wire::{Field, Fields, WireError};
use super::{DecodeError, Decoded, Failure, Metadata};
use crate::IdError;

/// The label that has the metric's name.
const NAME_LABEL: &str = "__name__";

/// How many bytes may be taken before `room` is asked for the first time.
const FIRST_BYTES: usize = 16 << 10;

/// What an error quotes of a text at most, in characters.
const QUOTED_CHARS: usize = 64;

/// The memory that a message may take.
pub(super) struct Memory<R> {
    limit: usize,
    room: R,
    granted: usize,
}

impl<R: FnMut(usize) -> bool> Memory<R> {
    pub(super) fn new(limit: usize, room: R) -> Self {
        Self { limit, room, granted: FIRST_BYTES.min(limit) }
    }

    /// Makes sure that so many bytes may be taken in all. Room is asked for in steps that double, as lists grow.
    fn cover(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes <= self.granted {
            return Ok(());
        }
        if bytes > self.limit {
            return Err(Failure::Memory(DecodeError::TooLarge(self.limit)));
        }
        let wanted = bytes.max(self.granted.saturating_mul(2)).min(self.limit);
        if !(self.room)(wanted) {
            return Err(Failure::Memory(DecodeError::NoRoom(wanted)));
        }
        self.granted = wanted;
        Ok(())
    }
}

/// Why a series is left out.
pub(super) enum BadSeries {
    NoName,
    /// A label's key or value is not UTF-8.
    Utf8,
    /// A label has no key.
    NoKey,
    /// A reference to a symbol that there isn't.
    Symbol,
    /// A label without a value's reference.
    OddReferences,
    Twice(String),
    Id(IdError, String),
}

impl BadSeries {
    fn sentence(&self) -> String {
        match self {
            Self::NoName => format!("a series has no label {NAME_LABEL}"),
            Self::Utf8 => "a label is not UTF-8".into(),
            Self::NoKey => "a label's name is empty".into(),
            Self::Symbol => "a label refers to a symbol that the message does not have".into(),
            Self::OddReferences => "a label refers to a name without a value".into(),
            Self::Twice(key) => format!("a series has the label {key:?} twice"),
            Self::Id(error, name) => format!("series {name:?}: {error}"),
        }
    }
}

/// What is decoded so far.
pub(super) struct Builder<R> {
    pub(super) decoded: Decoded,
    memory: Memory<R>,
    metadata_bytes: usize,
}

impl<R: FnMut(usize) -> bool> Builder<R> {
    pub(super) fn new(memory: Memory<R>) -> Self {
        Self { decoded: Decoded::default(), memory, metadata_bytes: 0 }
    }

    /// Makes sure that there is room for what is there and so many bytes more.
    pub(super) fn cover(&mut self, more: usize) -> Result<(), Failure> {
        self.memory.cover(self.decoded.metrics.held_bytes() + self.metadata_bytes + more)
    }

    /// Takes a series with its samples. The labels may be in any order.
    pub(super) fn push<'a>(
        &mut self,
        labels: Result<&mut Vec<(&'a str, &'a str)>, BadSeries>,
        samples: &[(i64, f64)],
    ) -> Result<(), Failure> {
        if samples.is_empty() {
            return Ok(());
        }
        let taken = match labels {
            Ok(labels) => {
                let text: usize = labels.iter().map(|(key, value)| key.len() + value.len() + 4).sum();
                self.cover(text + samples.len() * (16 + size_of::<i64>()))?;
                take_name(labels).and_then(|name| {
                    let metrics = &mut self.decoded.metrics;
                    metrics.push_samples(name, labels, samples).map_err(|error| BadSeries::Id(error, quoted(name)))
                })
            }
            Err(bad) => Err(bad),
        };
        if let Err(bad) = taken {
            let invalid = &mut self.decoded.invalid;
            invalid.samples += samples.len();
            invalid.first.get_or_insert_with(|| bad.sentence());
        }
        Ok(())
    }

    /// Takes what is said about a metric, once for as many series as follow each other.
    pub(super) fn push_metadata(&mut self, one: Metadata) -> Result<(), Failure> {
        if one.name.is_empty() || self.decoded.metadata.last() == Some(&one) {
            return Ok(());
        }
        self.metadata_bytes += size_of::<Metadata>() + one.name.len() + one.help.len() + one.unit.len();
        self.cover(0)?;
        self.decoded.metadata.push(one);
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}

/// Brings labels into order, without the empty ones, and takes the name out of them.
fn take_name<'a>(labels: &mut Vec<(&'a str, &'a str)>) -> Result<&'a str, BadSeries> {
    // Senders are to sort them.
    if !labels.is_sorted() {
        labels.sort_unstable();
    }
    if let Some(pair) = labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(BadSeries::Twice(quoted(pair[0].0)));
    }
    if labels.first().is_some_and(|(key, _)| key.is_empty()) {
        return Err(BadSeries::NoKey);
    }
    let mut name = "";
    labels.retain(|(key, value)| {
        if *key == NAME_LABEL {
            name = value;
            return false;
        }
        !value.is_empty()
    });
    if name.is_empty() { Err(BadSeries::NoName) } else { Ok(name) }
}

/// Reads a sample: its value is field 1 and its time field 2 in both messages.
pub(super) fn sample(message: &[u8]) -> Result<(i64, f64), WireError> {
    let (mut at_millis, mut value) = (0, 0.0);
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => value = field.double()?,
            2 => at_millis = field.varint()?.cast_signed(),
            _ => {}
        }
    }
    Ok((at_millis, value))
}

/// A text that may be damaged without harm to what matters.
pub(super) fn lossy(field: Field<'_>) -> Result<String, WireError> {
    Ok(String::from_utf8_lossy(field.bytes()?).into_owned())
}

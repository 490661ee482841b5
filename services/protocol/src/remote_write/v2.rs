//! `io.prometheus.write.v2.Request`: labels refer to a table of symbols.

use std::str::from_utf8;

use super::series::{BadSeries, Builder, Memory, sample};
use super::wire::{Field, Fields, WireError, varint};
use super::{Decoded, Failure, Metadata, MetadataKind};

/// A text of the table; none where it is not UTF-8.
type Symbol<'a> = Option<&'a str>;

/// The endings of the series of a histogram or summary, whose metadata is about all of them.
const ENDINGS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// Decodes a message.
pub(super) fn decode<R: FnMut(usize) -> bool>(body: &[u8], memory: Memory<R>) -> Result<Decoded, Failure> {
    let mut builder = Builder::new(memory);
    let symbols = symbols(body, &mut builder)?;
    let mut series = Series { symbols: &symbols, references: Vec::new(), labels: Vec::new(), samples: Vec::new() };
    let mut fields = Fields::of(body);
    while let Some((number, field)) = fields.next()? {
        if number == 5 {
            series.decode(field.bytes()?, symbols.len() * size_of::<Symbol<'_>>(), &mut builder)?;
        }
    }
    Ok(builder.decoded)
}

/// The table, which fields of other numbers may come before.
fn symbols<'a, R: FnMut(usize) -> bool>(body: &'a [u8], builder: &mut Builder<R>) -> Result<Vec<Symbol<'a>>, Failure> {
    let mut symbols = Vec::new();
    let mut fields = Fields::of(body);
    while let Some((number, field)) = fields.next()? {
        if number == 4 {
            if symbols.len() == symbols.capacity() {
                builder.cover(symbols.len() * size_of::<Symbol<'_>>() * 2)?;
            }
            symbols.push(from_utf8(field.bytes()?).ok());
        }
    }
    match symbols.first() {
        None | Some(Some("")) => Ok(symbols),
        Some(_) => Err(WireError("its first symbol is not empty").into()),
    }
}

/// The series under way; its lists are used again for the next one.
struct Series<'a> {
    symbols: &'a [Symbol<'a>],
    references: Vec<u32>,
    labels: Vec<(&'a str, &'a str)>,
    samples: Vec<(i64, f64)>,
}

impl Series<'_> {
    fn decode<R: FnMut(usize) -> bool>(&mut self, message: &[u8], held: usize, builder: &mut Builder<R>) -> Result<(), Failure> {
        self.references.clear();
        self.samples.clear();
        let mut metadata = None;
        let mut fields = Fields::of(message);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (1, Field::Bytes(mut packed)) => {
                    builder.cover(held + packed.len() * size_of::<(&str, &str)>())?;
                    while !packed.is_empty() {
                        self.references.push(reference(varint(&mut packed)?)?);
                    }
                }
                (1, field) => self.references.push(reference(field.varint()?)?),
                (2, field) => self.samples.push(sample(field.bytes()?)?),
                (3, _) => builder.decoded.histograms += 1,
                (4, _) => builder.decoded.exemplars += 1,
                (5, field) => metadata = Some(field.bytes()?),
                _ => {}
            }
            if self.samples.len().is_power_of_two() || self.references.len().is_power_of_two() {
                // Two bytes are a reference or a sample of 16; a list has up to twice the room that it needs.
                let own = self.references.len() * size_of::<(&str, &str)>() + self.samples.len() * size_of::<(i64, f64)>();
                builder.cover(held + 2 * own)?;
            }
        }
        let labels = self.find_labels();
        if let (Some(message), Ok(())) = (metadata, &labels)
            && let Some(one) = self.metadata(message)?
        {
            builder.push_metadata(one)?;
        }
        builder.push(labels.map(|()| &mut self.labels), &self.samples)
    }

    /// Looks up the labels.
    fn find_labels(&mut self) -> Result<(), BadSeries> {
        self.labels.clear();
        let (pairs, rest) = self.references.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(BadSeries::OddReferences);
        }
        let symbol = |reference: u32| self.symbols.get(reference as usize).ok_or(BadSeries::Symbol)?.ok_or(BadSeries::Utf8);
        for [key, value] in pairs {
            self.labels.push((symbol(*key)?, symbol(*value)?));
        }
        Ok(())
    }

    /// What is said about the series' metric, where something is.
    fn metadata(&self, message: &[u8]) -> Result<Option<Metadata>, WireError> {
        let (mut kind, mut help, mut unit) = (MetadataKind::Unknown, 0, 0);
        let mut fields = Fields::of(message);
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => kind = MetadataKind::of_number(field.varint()?),
                3 => help = reference(field.varint()?)?,
                4 => unit = reference(field.varint()?)?,
                _ => {}
            }
        }
        let text = |reference: u32| self.symbols.get(reference as usize).copied().flatten().unwrap_or_default().to_owned();
        let (help, unit) = (text(help), text(unit));
        let Some((_, name)) = self.labels.iter().find(|(key, _)| *key == "__name__") else { return Ok(None) };
        if kind == MetadataKind::Unknown && help.is_empty() && unit.is_empty() {
            return Ok(None);
        }
        let has_parts = matches!(kind, MetadataKind::Histogram | MetadataKind::GaugeHistogram | MetadataKind::Summary);
        let name = ENDINGS.iter().filter(|_| has_parts).find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        Ok(Some(Metadata { name: name.to_owned(), kind, help, unit }))
    }
}

fn reference(value: u64) -> Result<u32, WireError> {
    u32::try_from(value).map_err(|_| WireError("a reference to a symbol is out of range"))
}

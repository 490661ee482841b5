//! `prometheus.WriteRequest`.

use std::str::from_utf8;

use super::series::{BadSeries, Builder, Memory, lossy, sample};
use super::wire::{Fields, WireError};
use super::{Decoded, Failure, Metadata, MetadataKind};

/// Decodes a message.
pub(super) fn decode<R: FnMut(usize) -> bool>(body: &[u8], memory: Memory<R>) -> Result<Decoded, Failure> {
    let mut builder = Builder::new(memory);
    // Used again for each series.
    let (mut labels, mut samples) = (Vec::new(), Vec::new());
    let mut fields = Fields::of(body);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => series(field.bytes()?, &mut builder, &mut labels, &mut samples)?,
            3 => {
                let one = metadata(field.bytes()?)?;
                builder.push_metadata(one)?;
            }
            _ => {}
        }
    }
    Ok(builder.decoded)
}

fn series<'a, R: FnMut(usize) -> bool>(
    message: &'a [u8],
    builder: &mut Builder<R>,
    labels: &mut Vec<(&'a str, &'a str)>,
    samples: &mut Vec<(i64, f64)>,
) -> Result<(), Failure> {
    labels.clear();
    samples.clear();
    let mut bad = None;
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => match label(field.bytes()?)? {
                Some(label) => labels.push(label),
                None => bad = Some(BadSeries::Utf8),
            },
            2 => samples.push(sample(field.bytes()?)?),
            3 => builder.decoded.exemplars += 1,
            4 => builder.decoded.histograms += 1,
            _ => {}
        }
        if (labels.len() + samples.len()).is_power_of_two() {
            // Two bytes are a label or a sample of 16 or more; a list has up to twice the room that it needs.
            builder.cover(2 * (labels.len() * size_of::<(&str, &str)>() + samples.len() * size_of::<(i64, f64)>()))?;
        }
    }
    builder.push(bad.map_or(Ok(labels), Err), samples)
}

/// A label; none where it is not UTF-8.
fn label(message: &[u8]) -> Result<Option<(&str, &str)>, WireError> {
    let (mut key, mut value) = (&b""[..], &b""[..]);
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => key = field.bytes()?,
            2 => value = field.bytes()?,
            _ => {}
        }
    }
    Ok(from_utf8(key).ok().zip(from_utf8(value).ok()))
}

fn metadata(message: &[u8]) -> Result<Metadata, WireError> {
    let mut one = Metadata { name: String::new(), kind: MetadataKind::Unknown, help: String::new(), unit: String::new() };
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => one.kind = MetadataKind::of_number(field.varint()?),
            2 => one.name = lossy(field)?,
            4 => one.help = lossy(field)?,
            5 => one.unit = lossy(field)?,
            _ => {}
        }
    }
    Ok(one)
}

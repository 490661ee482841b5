//! The fast parser: metric objects in their usual form, in one pass over the bytes.
//!
//! It accepts objects of `id`, `type`, `value` and `delta`, each at most once, in any order, with any white space. It never
//! returns an error: `None` means that the other parser must be used. Its results equal serde_json's.

mod number;

use std::borrow::Cow;

use crate::{Kind, MAX_ID_BYTES, Metric, MetricId, Metrics, Value};

/// The approximate length of a metric in a batch, used to allocate memory once.
const USUAL_ITEM_BYTES: usize = 56;
/// The approximate length of its id.
const USUAL_ID_BYTES: usize = 20;

/// Parses one metric object.
pub(super) fn metric(body: &[u8]) -> Option<Metric> {
    let mut scan = Scan::new(body)?;
    let (id, value) = scan.item()?;
    scan.end()?;
    Some(Metric { id: id.parse()?, value })
}

/// Parses an array of 1 to `max_items` metric objects.
pub(super) fn batch(body: &[u8], max_items: usize) -> Option<Metrics> {
    if body.len() > Metrics::MAX_TEXT_BYTES {
        return None;
    }
    let mut scan = Scan::new(body)?;
    let usual = (body.len() / USUAL_ITEM_BYTES + 1).min(max_items);
    let mut metrics = Metrics::with_capacity(usual, usual * USUAL_ID_BYTES);
    scan.byte(b'[')?;
    loop {
        if metrics.len() == max_items {
            return None;
        }
        let (id, value) = scan.item()?;
        match id {
            Id::Plain(id) => metrics.push(id, value),
            Id::Written(id) => metrics.push_parsed(&id, value).ok()?,
        }
        if !scan.comma_or(b']')? {
            scan.end()?;
            return Some(metrics);
        }
    }
}

/// An id in the body.
enum Id<'a> {
    /// Visible ASCII without braces, which is valid and canonical.
    Plain(&'a str),
    /// Any other text, which has to be parsed.
    Written(Cow<'a, str>),
}

impl Id<'_> {
    fn parse(&self) -> Option<MetricId> {
        match self {
            Self::Plain(id) => Some(MetricId::from_canonical(id)),
            Self::Written(id) => MetricId::parse(id).ok(),
        }
    }
}

/// A body and the current position in it.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

/// A field's name.
enum Key {
    Id,
    Kind,
    Value,
    Delta,
}

impl<'a> Scan<'a> {
    fn new(body: &'a [u8]) -> Option<Self> {
        Some(Self { text: std::str::from_utf8(body).ok()?, at: 0 })
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space.
    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips white space and expects this byte.
    #[inline]
    fn byte(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Expects exactly these bytes; white space before them was skipped.
    #[inline]
    fn word<const N: usize>(&mut self, word: &[u8; N]) -> bool {
        // The length is known at compile time, so the comparison is inlined.
        let is = self.rest().first_chunk() == Some(word);
        if is {
            self.at += N;
        }
        is
    }

    /// Whether a comma comes next; false if it is this closing byte.
    #[inline]
    fn comma_or(&mut self, end: u8) -> Option<bool> {
        self.space();
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b',' => Some(true),
            byte if byte == end => Some(false),
            _ => None,
        }
    }

    /// Expects only white space up to the end of the body.
    fn end(&mut self) -> Option<()> {
        self.space();
        self.rest().is_empty().then_some(())
    }

    /// Parses a metric object.
    #[inline]
    fn item(&mut self) -> Option<(Id<'a>, Value)> {
        let (mut id, mut kind, mut value, mut delta) = (None, None, None, None);
        self.byte(b'{')?;
        loop {
            let key = self.key()?;
            self.byte(b':')?;
            self.space();
            match key {
                Key::Id if id.is_none() => id = Some(self.id()?),
                Key::Kind if kind.is_none() => kind = Some(self.kind()?),
                Key::Value if value.is_none() => value = Some(self.double()?),
                Key::Delta if delta.is_none() => delta = Some(self.integer()?),
                _ => return None,
            }
            if !self.comma_or(b'}')? {
                break;
            }
        }
        let value = match kind? {
            Kind::Gauge => Value::Gauge(value?),
            Kind::Counter => Value::Counter(delta?),
        };
        Some((id?, value))
    }

    #[inline]
    fn key(&mut self) -> Option<Key> {
        self.byte(b'"')?;
        if self.word(b"id\"") {
            return Some(Key::Id);
        }
        if self.word(b"type\"") {
            return Some(Key::Kind);
        }
        if self.word(b"value\"") {
            return Some(Key::Value);
        }
        if self.word(b"delta\"") {
            return Some(Key::Delta);
        }
        self.key_in_other_case()
    }

    #[cold]
    fn key_in_other_case(&mut self) -> Option<Key> {
        let key = self.rest().split(|byte| *byte == b'"').next()?;
        self.at += key.len() + 1;
        match key.to_ascii_lowercase().as_slice() {
            b"id" => Some(Key::Id),
            b"type" => Some(Key::Kind),
            b"value" => Some(Key::Value),
            b"delta" => Some(Key::Delta),
            _ => None,
        }
    }

    #[inline]
    fn kind(&mut self) -> Option<Kind> {
        if self.word(b"\"gauge\"") {
            Some(Kind::Gauge)
        } else if self.word(b"\"counter\"") {
            Some(Kind::Counter)
        } else {
            None
        }
    }

    #[inline]
    fn id(&mut self) -> Option<Id<'a>> {
        if !self.word(b"\"") {
            return None;
        }
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut at = start;
        let mut braces = 0;
        while let Some(eight) = bytes.get(at..at + 8) {
            let word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
            let ends = not_plain(word);
            if ends != 0 {
                let ahead = ends.trailing_zeros() / 8;
                braces |= equal(word, b'{') & !(u64::MAX << (ahead * 8));
                at += ahead as usize;
                break;
            }
            braces |= equal(word, b'{');
            at += 8;
        }
        // Fewer than eight bytes are left at the end of the body; they are parsed like any other id.
        if bytes.get(at) == Some(&b'"') && braces == 0 && (1..=MAX_ID_BYTES).contains(&(at - start)) {
            self.at = at + 1;
            return Some(Id::Plain(&self.text[start..at]));
        }
        self.written_id()
    }

    /// Parses an id with labels, escapes or characters beyond ASCII.
    fn written_id(&mut self) -> Option<Id<'a>> {
        let start = self.at;
        let mut escaped = false;
        let mut bytes = self.rest().iter();
        let len = loop {
            match *bytes.next()? {
                b'"' => break self.rest().len() - bytes.len() - 1,
                b'\\' => {
                    escaped = true;
                    bytes.next()?;
                }
                ..0x20 => return None,
                _ => {}
            }
        };
        self.at = start + len + 1;
        let written = &self.text[start..start + len];
        if escaped { unescape(written).map(|id| Id::Written(Cow::Owned(id))) } else { Some(Id::Written(Cow::Borrowed(written))) }
    }

    #[inline]
    fn double(&mut self) -> Option<f64> {
        let (value, len) = number::double(&self.text[self.at..])?;
        self.at += len;
        Some(value)
    }

    #[inline]
    fn integer(&mut self) -> Option<i64> {
        let (value, len) = number::integer(self.rest())?;
        self.at += len;
        Some(value)
    }
}

/// Unescapes a string: the escapes that labels need are handled here, others by serde_json.
fn unescape(written: &str) -> Option<String> {
    let mut out = String::with_capacity(written.len());
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.as_bytes().first()? {
            byte @ (b'"' | b'\\' | b'/') => out.push(char::from(*byte)),
            _ => return serde_json::from_str(&format!("\"{written}\"")).ok(),
        }
        rest = &after[1..];
    }
    out.push_str(rest);
    Some(out)
}

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);

/// The highest bit of each byte that equals this one. Exact up to the first such byte; bytes above it may be false positives.
#[inline]
const fn equal(word: u64, byte: u8) -> u64 {
    let differ = word ^ u64::from_le_bytes([byte; 8]);
    differ.wrapping_sub(ONES) & !differ & HIGHS
}

/// The highest bit of each byte that is a quote, a backslash, a control character or beyond ASCII; exact up to the first.
#[inline]
const fn not_plain(word: u64) -> u64 {
    let control = word.wrapping_sub(u64::from_le_bytes([0x20; 8])) & !word & HIGHS;
    control | (word & HIGHS) | equal(word, b'"') | equal(word, b'\\') | equal(word, 0x7f)
}

#[cfg(test)]
mod tests;

//! A series as a line names it: `name{label="value",…}`, or `{"name","label"="value",…}` with names that are not plain.

use std::borrow::Cow;

use super::{BLANKS, FamilyType, Reason, float};
use crate::IdParts;

/// The label of a histogram's bucket.
const BUCKET_LABEL: &str = "le";

/// The label of a summary's quantile.
const QUANTILE_LABEL: &str = "quantile";

/// The label that holds the name itself.
const NAME_LABEL: &str = "__name__";

/// A series as it stands in the body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Series<'a> {
    pub(super) text: &'a str,
    pub(super) family: FamilyType,
}

impl<'a> Series<'a> {
    /// The name and the labels as they stand in the body. Two texts may name one series, with the labels in another order.
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// The name where it stands before the labels; None where it is in quotes among them.
    pub fn plain_name(&self) -> Option<&'a str> {
        plain_len(self.text, true).map(|len| &self.text[..len])
    }

    /// The name and the labels without quotes and escapes. The bound of a bucket or a quantile is written as OpenMetrics does, `1.0`
    /// for `1`. Fails if two labels have the same name.
    pub fn parts(&self) -> Result<IdParts<'a>, Reason> {
        let (mut name, mut labels) = (Cow::Borrowed(""), Vec::new());
        scan(self.text, |piece| match piece {
            Piece::Name(text) => name = unescape(text),
            Piece::Label(key, value) => labels.push((unescape(key), unescape(value))),
        })?;
        labels.sort_unstable();
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) || labels.iter().any(|(key, _)| key == NAME_LABEL) {
            return Err(Reason::LabelTwice);
        }
        let bound = match self.family {
            FamilyType::Histogram => BUCKET_LABEL,
            FamilyType::Summary => QUANTILE_LABEL,
            FamilyType::Other => "",
        };
        for (_, value) in labels.iter_mut().filter(|(key, _)| key == bound) {
            if let Some(normalized) = float::normalized(value) {
                *value = Cow::Owned(normalized);
            }
        }
        labels.retain(|(_, value)| !value.is_empty());
        Ok(IdParts { name, labels })
    }
}

/// A part of a series, with its escapes.
enum Piece<'a> {
    Name(&'a str),
    Label(&'a str, &'a str),
}

/// The length of the series at the start of a line.
pub(super) fn len(line: &str) -> Result<usize, Reason> {
    scan(line, |_| {})
}

/// The length of a set of labels, from brace to brace.
pub(super) fn labels_len(text: &str) -> Result<usize, Reason> {
    let mut names = 0;
    let len = braces(text, |piece| names += usize::from(matches!(piece, Piece::Name(_))))?;
    if names == 0 { Ok(len) } else { Err(Reason::LabelName) }
}

/// Reads the series at the start of a line; its length.
fn scan<'a>(line: &'a str, mut piece: impl FnMut(Piece<'a>)) -> Result<usize, Reason> {
    let plain = plain_len(line, true).unwrap_or_default();
    let after = line[plain..].trim_start_matches(BLANKS);
    let mut names = usize::from(plain > 0);
    if plain > 0 {
        piece(Piece::Name(&line[..plain]));
    }
    if !after.starts_with('{') {
        return if plain > 0 { Ok(plain) } else { Err(Reason::Name) };
    }
    let len = braces(after, |part| {
        names += usize::from(matches!(part, Piece::Name(_)));
        piece(part);
    })?;
    if names == 1 { Ok(line.len() - after.len() + len) } else { Err(Reason::NameCount) }
}

/// Reads the labels in braces, and a name in quotes among them; the length with the braces.
fn braces<'a>(text: &'a str, mut piece: impl FnMut(Piece<'a>)) -> Result<usize, Reason> {
    let mut rest = text.strip_prefix('{').ok_or(Reason::LabelName)?.trim_start_matches(BLANKS);
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(text.len() - after.len());
        }
        let quoted = rest.starts_with('"');
        let len = if quoted { quoted_len(rest) } else { plain_len(rest, false) }.ok_or(Reason::LabelName)?;
        let name = if quoted { &rest[1..len - 1] } else { &rest[..len] };
        if name.is_empty() {
            return Err(Reason::LabelName);
        }
        rest = rest[len..].trim_start_matches(BLANKS);
        if quoted && rest.starts_with([',', '}']) {
            piece(Piece::Name(name));
        } else {
            rest = rest.strip_prefix('=').ok_or(Reason::LabelEquals)?.trim_start_matches(BLANKS);
            let len = quoted_len(rest).ok_or(Reason::LabelValue)?;
            piece(Piece::Label(name, &rest[1..len - 1]));
            rest = rest[len..].trim_start_matches(BLANKS);
        }
        // Prometheus accepts labels without a comma between them, and one after the last.
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start_matches(BLANKS);
    }
}

/// The length of a plain name, or with `colons` of a plain name of a metric; None if there is none.
pub(super) fn plain_len(text: &str, colons: bool) -> Option<usize> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colons && byte == b':');
    let starts = text.bytes().next().is_some_and(|byte| fits(byte) && !byte.is_ascii_digit());
    starts.then(|| text.bytes().position(|byte| !fits(byte)).unwrap_or(text.len()))
}

/// The length of a text in quotes, with the quotes; None if there is none or it does not end.
pub(super) fn quoted_len(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('"')?;
    let mut at = 0;
    loop {
        at += inner.as_bytes()[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if inner.as_bytes()[at] == b'"' {
            return Some(at + 2);
        }
        // The escaped character may be the first byte of a longer one, whose other bytes are neither quotes nor backslashes.
        at += 2;
        if at > inner.len() {
            return None;
        }
    }
}

/// Replaces the escapes; a backslash before any other character stays.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(escaped @ ('\\' | '"')) => out.push(escaped),
            other => {
                out.push('\\');
                out.extend(other);
            }
        }
    }
    Cow::Owned(out)
}

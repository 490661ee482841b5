//! Metric ids: a plain name, or a name with labels in Prometheus's notation.
//!
//! Labels are kept in sorted order without white space, so that one label set is one series however it was written.
//! The notation is that of the Prometheus text exposition format: `name{key="value",…}`, keys `[a-zA-Z_][a-zA-Z0-9_]*`,
//! values with the escapes `\\`, `\"` and `\n`, a trailing comma allowed.

use std::borrow::{Borrow, Cow};
use std::fmt;

/// The longest id, in bytes of UTF-8.
const MAX_BYTES: usize = 255;

/// A valid metric id in its canonical form: 1-255 bytes, no control characters, labels sorted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricId(Box<str>);

/// Why a text is no metric id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The id is missing or has no character.
    #[error("a metric's id must not be empty")]
    Empty,
    /// The id has this many bytes.
    #[error("a metric's id has at most {MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// The id has a control character (U+0000-U+001F, U+007F-U+009F).
    #[error("a metric's id must not contain control characters")]
    Control,
}

impl MetricId {
    /// Reads an id and brings its labels into their canonical order. Braces that do not parse as labels make it a plain name, kept as it is.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        canonical(text).map(|id| Self(id.into()))
    }

    /// Takes an id that is canonical.
    pub(crate) fn from_canonical(id: &str) -> Self {
        Self(id.into())
    }

    /// The id in its canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its labels.
    pub fn name(&self) -> &str {
        split(&self.0).filter(|(_, inside)| label_set(inside).is_some()).map_or(&self.0, |(name, _)| name)
    }

    /// The labels in sorted order, keys and values as they stand between the quotes (escapes included).
    pub fn labels(&self) -> Vec<(&str, &str)> {
        split(&self.0).and_then(|(_, inside)| label_set(inside)).unwrap_or_default()
    }
}

impl fmt::Display for MetricId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for MetricId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// So that maps of ids are asked with text.
impl Borrow<str> for MetricId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The id in its canonical form, borrowed where it is written so.
pub(crate) fn canonical(text: &str) -> Result<Cow<'_, str>, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(IdError::TooLong(text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Control);
    }
    if split(text).is_none_or(|(_, inside)| stands_sorted(inside)) {
        return Ok(Cow::Borrowed(text));
    }
    Ok(sorted(text).map_or(Cow::Borrowed(text), Cow::Owned))
}

/// Whether labels are written as they are kept, which is how most programs write them: then nothing is copied.
fn stands_sorted(inside: &str) -> bool {
    let mut rest = inside;
    let mut before = "";
    loop {
        let Some((key, after)) = rest.split_once("=\"") else { return false };
        let Some(end) = closing_quote(after) else { return false };
        if !is_key(key) || key <= before {
            return false;
        }
        match after.as_bytes().get(end + 1) {
            None => return true,
            Some(b',') => (before, rest) = (key, &after[end + 2..]),
            Some(_) => return false,
        }
    }
}

fn is_key(key: &str) -> bool {
    let letter = |byte: u8| byte == b'_' || byte.is_ascii_alphabetic();
    key.bytes().next().is_some_and(letter) && key.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// The text with its labels in order, where it has some that parse.
fn sorted(text: &str) -> Option<String> {
    let (name, inside) = split(text)?;
    let labels = label_set(inside)?;
    let mut out = String::with_capacity(text.len());
    out.push_str(name);
    for (i, (key, value)) in labels.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        out.push_str(key);
        out.push_str("=\"");
        out.push_str(value);
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    Some(out)
}

/// Splits `name{inside}`; the name must have a character.
fn split(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once('{')?;
    let inside = rest.strip_suffix('}')?;
    (!name.is_empty()).then_some((name, inside))
}

/// The labels in sorted order, where they parse and each key stands once.
fn label_set(inside: &str) -> Option<Vec<(&str, &str)>> {
    let mut labels = parse_labels(inside)?;
    labels.sort_unstable();
    labels.windows(2).all(|pair| pair[0].0 != pair[1].0).then_some(labels)
}

/// The labels in the order they are written.
fn parse_labels(inside: &str) -> Option<Vec<(&str, &str)>> {
    let mut labels = Vec::new();
    let mut rest = inside.trim_matches(' ');
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_matches(' ');
        if !is_key(key) {
            return None;
        }
        let quoted = after.trim_start_matches(' ').strip_prefix('"')?;
        let end = closing_quote(quoted)?;
        labels.push((key, &quoted[..end]));
        rest = quoted[end + 1..].trim_start_matches(' ');
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start_matches(' ');
        }
    }
    Some(labels)
}

/// Where the value that starts here ends: the byte index of its closing quote.
fn closing_quote(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((i, b)) = bytes.next() {
        match b {
            b'"' => return Some(i),
            b'\\' if !matches!(bytes.next(), Some((_, b'\\' | b'"' | b'n'))) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> MetricId {
        MetricId::parse(text).unwrap()
    }

    #[test]
    fn one_label_set_is_one_id_however_it_is_written() {
        let sorted = "http_requests{code=\"200\",path=\"/a,b=\\\"{}\"}";
        for text in
            [sorted, "http_requests{path=\"/a,b=\\\"{}\",code=\"200\"}", "http_requests{ path = \"/a,b=\\\"{}\" , code = \"200\" , }"]
        {
            assert_eq!(id(text).as_str(), sorted, "{text}");
        }
        assert_eq!(id("up{}").as_str(), "up");
        assert_eq!(id(sorted).name(), "http_requests");
        assert_eq!(id(sorted).labels(), [("code", "200"), ("path", "/a,b=\\\"{}")]);
    }

    #[test]
    fn braces_that_do_not_parse_are_a_plain_name() {
        for text in [
            "a{",
            "a}",
            "a{b}",
            "a{b=}",
            "a{b=\"c}",
            "a{b=\"c\"",
            "a{b=\"c\"}d",
            "{b=\"c\"}",
            "a{1b=\"c\"}",
            "a{b=\"c\"d=\"e\"}",
            "a{b=\"\\t\"}",
            "a{b=\"1\",b=\"2\"}",
            "a{,}",
            "a{=\"c\"}",
            "a{b=\"c\",,}",
            "{}",
        ] {
            assert_eq!(id(text).as_str(), text);
            assert_eq!((id(text).name(), id(text).labels()), (text, vec![]));
        }
    }

    #[test]
    fn length_and_control_characters_are_checked() {
        assert_eq!(MetricId::parse(""), Err(IdError::Empty));
        assert!(MetricId::parse(&"x".repeat(255)).is_ok());
        assert_eq!(MetricId::parse(&"x".repeat(256)), Err(IdError::TooLong(256)));
        assert_eq!(MetricId::parse(&"é".repeat(128)), Err(IdError::TooLong(256)));
        for text in ["a\0", "a\nb", "\u{7f}", "\u{85}", "\t"] {
            assert_eq!(MetricId::parse(text), Err(IdError::Control), "{text:?}");
        }
        assert!(MetricId::parse("температура <b>°C</b> 🦀").is_ok());
    }

    proptest! {
        #[test]
        fn a_canonical_id_is_its_own_canonical_form(text in "[a-c{}=\",\\\\n _0-9é]{1,40}") {
            let once = id(&text);
            prop_assert_eq!(id(once.as_str()), once);
        }

        #[test]
        fn labels_that_stand_sorted_are_what_sorting_gives(text in "[a-c{=\",\\\\n _0-9é}]{1,20}", pairs in "[ab]=\"[a-z,]{0,2}\"(,[bc] ?=\"x\",?){0,2}") {
            for text in [text, format!("m{{{pairs}}}")] {
                if split(&text).is_some_and(|(_, inside)| stands_sorted(inside)) {
                    let sorted = sorted(&text);
                    prop_assert_eq!(sorted.as_deref(), Some(text.as_str()));
                }
            }
        }

        #[test]
        fn the_order_of_labels_does_not_matter(
            pairs in proptest::collection::btree_map("[a-z_][a-z0-9_]{0,5}", "[a-z {},=é]{0,6}", 1..5),
            swap in any::<prop::sample::Index>(),
        ) {
            let mut written: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
            let sorted = format!("m{{{}}}", written.join(","));
            let turn = swap.index(written.len());
            written.rotate_left(turn);
            let turned = format!("m{{{}}}", written.join(", "));
            let read = id(&turned);
            prop_assert_eq!(read.as_str(), sorted);
        }
    }
}

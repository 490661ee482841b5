//! Metric ids: a name, or a name with labels in Prometheus's notation.
//!
//! A label set has one id, however it was written: labels are sorted and written without white space. The notation is that of
//! the Prometheus text exposition format, `name{key="value",…}`, with the escapes `\\`, `\"` and `\n` in values; a trailing
//! comma is allowed. Names and keys that are not plain are quoted, as in Prometheus 3: `{"a.b","k.l"="v"}`. A name is plain if
//! it matches `[a-zA-Z_:][a-zA-Z0-9_:]*`, a key if it matches `[a-zA-Z_][a-zA-Z0-9_]*`. A label with an empty value is ignored,
//! as in Prometheus. An id whose braces do not parse is a name as a whole.

use std::borrow::{Borrow, Cow};
use std::fmt;

/// The longest id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 4096;

/// The label in which Prometheus stores the metric's name; no id has a label with this key.
const NAME_LABEL: &str = "__name__";

/// A valid metric id in its canonical form: 1 to [`MAX_ID_BYTES`] bytes, labels sorted, no control characters in its name and keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricId(Box<str>);

/// Why a text is not a valid metric id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The id is missing or empty.
    #[error("a metric's id must not be empty")]
    Empty,
    /// The id is too long; it has this many bytes.
    #[error("a metric's id has at most {MAX_ID_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// The name or a label's key has a control character (U+0000-U+001F, U+007F-U+009F), or a label's value has a NUL.
    #[error("a metric's name must not contain control characters, and a label's value no NUL")]
    Control,
}

/// The parts of an id: its name and its labels, without quotes and escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdParts<'a> {
    /// The name without labels.
    pub name: Cow<'a, str>,
    /// Keys and values, sorted by key, without duplicate keys and empty values.
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> IdParts<'a> {
    /// Splits an id in its canonical form.
    pub fn of(id: &'a str) -> Self {
        parse(id).unwrap_or_else(|| Self { name: Cow::Borrowed(id), labels: Vec::new() })
    }

    /// The name alone of an id in its canonical form, without an allocation for most ids.
    pub fn name_of(id: &'a str) -> Cow<'a, str> {
        match id.find('{') {
            None => Cow::Borrowed(id),
            Some(brace) if is_written_canonically(id) => Cow::Borrowed(&id[..brace]),
            Some(_) => Self::of(id).name,
        }
    }

    /// The value of a label; None if the id has no such label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.binary_search_by(|(other, _)| other.as_ref().cmp(key)).ok().map(|at| self.labels[at].1.as_ref())
    }
}

impl MetricId {
    /// Parses an id and converts it to its canonical form.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        canonical(text).map(|id| Self(id.into()))
    }

    /// The id of a name and labels in any order; labels with an empty value are left out.
    pub fn from_parts<'a>(name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, IdError> {
        let mut labels: Vec<_> = labels
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| (Cow::Borrowed(key), Cow::Borrowed(value)))
            .collect();
        labels.sort_unstable();
        labels.dedup_by(|next, kept| next.0 == kept.0);
        let text = if name.is_empty() { return Err(IdError::Empty) } else { write(&IdParts { name: Cow::Borrowed(name), labels }) };
        canonical(&text).map(|id| Self(id.into()))
    }

    /// Wraps an id that is canonical.
    pub(crate) fn from_canonical(id: &str) -> Self {
        Self(id.into())
    }

    /// The id in its canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name and the labels, without quotes and escapes.
    pub fn parts(&self) -> IdParts<'_> {
        IdParts::of(&self.0)
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

/// Allows looking up ids in maps by text.
impl Borrow<str> for MetricId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The id in its canonical form, borrowed if it is canonical already.
pub(crate) fn canonical(text: &str) -> Result<Cow<'_, str>, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong(text.len()));
    }
    if is_written_canonically(text) {
        return Ok(Cow::Borrowed(text));
    }
    let Some(parts) = parse(text) else {
        return if text.chars().any(char::is_control) { Err(IdError::Control) } else { Ok(Cow::Borrowed(text)) };
    };
    let unfit = |name: &str| name.chars().any(char::is_control);
    if unfit(&parts.name) || parts.labels.iter().any(|(key, value)| unfit(key) || value.contains('\0')) {
        return Err(IdError::Control);
    }
    let written = write(&parts);
    // Quotes and escapes may have made it longer.
    if written.len() > MAX_ID_BYTES { Err(IdError::TooLong(written.len())) } else { Ok(Cow::Owned(written)) }
}

/// A quick check whether a text is canonical, in the form in which most programs write ids: a name without braces, or a plain
/// name with sorted plain labels. False for some canonical texts.
fn is_written_canonically(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some(brace) = bytes.iter().position(|byte| *byte == b'{') else {
        return !text.chars().any(char::is_control);
    };
    if !is_plain(&text[..brace], true) || bytes[bytes.len() - 1] != b'}' {
        return false;
    }
    let (mut rest, mut before) = (&text[brace + 1..text.len() - 1], "");
    loop {
        let Some((key, after)) = rest.split_once("=\"") else { return false };
        let Some(end) = closing_quote(after) else { return false };
        let value = &after.as_bytes()[..end];
        if !is_plain(key, false) || key <= before || key == NAME_LABEL || end == 0 || value.iter().any(|byte| matches!(byte, 0 | b'\n')) {
            return false;
        }
        match after.as_bytes().get(end + 1) {
            None => return true,
            Some(b',') => (before, rest) = (key, &after[end + 2..]),
            Some(_) => return false,
        }
    }
}

/// Whether a name (colons allowed) or a key (not allowed) is plain.
fn is_plain(name: &str, colons: bool) -> bool {
    let letter = |byte: u8| byte == b'_' || (colons && byte == b':') || byte.is_ascii_alphabetic();
    name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// Parses `name{…}` or `{"name",…}`; None if the text is neither.
fn parse(text: &str) -> Option<IdParts<'_>> {
    let (name, rest) = text.split_once('{')?;
    let mut rest = rest.strip_suffix('}')?.trim_matches(' ');
    let mut name = if name.is_empty() { None } else { Some(Cow::Borrowed(name)) };
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let end = closing_quote(quoted)?;
            (unescape(&quoted[..end]), quoted[end + 1..].trim_start_matches(' '))
        } else {
            let end = rest.find('=')?;
            let key = rest[..end].trim_end_matches(' ');
            (Cow::Borrowed(Some(key).filter(|key| is_plain(key, false))?), &rest[end..])
        };
        let after = if let Some(value) = after.strip_prefix('=') {
            let quoted = value.trim_start_matches(' ').strip_prefix('"')?;
            let end = closing_quote(quoted)?;
            labels.push((key, unescape(&quoted[..end])));
            &quoted[end + 1..]
        } else {
            // A quoted text without a value is the name.
            name = if name.is_none() { Some(key) } else { return None };
            after
        };
        rest = after.trim_start_matches(' ');
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start_matches(' ');
        }
    }
    let name = name.filter(|name| !name.is_empty())?;
    labels.sort_unstable();
    let each_once = labels.windows(2).all(|pair| pair[0].0 != pair[1].0);
    if !each_once || labels.iter().any(|(key, _)| key.is_empty() || key == NAME_LABEL) {
        return None;
    }
    labels.retain(|(_, value)| !value.is_empty());
    Some(IdParts { name, labels })
}

/// Formats an id.
fn write(parts: &IdParts<'_>) -> String {
    let labels_len = parts.labels.iter().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>();
    let mut out = String::with_capacity(parts.name.len() + 8 + labels_len);
    write_to(&mut out, &parts.name, parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
    out
}

/// Formats the id of a name and sorted labels. A name that is not plain is quoted if there are labels, or if it would be parsed as a name with
/// labels.
fn write_to<'a>(out: &mut String, name: &str, labels: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
    let is_plain_name = is_plain(name, true);
    if labels.len() == 0 && (is_plain_name || parse(name).is_none()) {
        return out.push_str(name);
    }
    let mut first = true;
    if is_plain_name {
        out.push_str(name);
        out.push('{');
    } else {
        out.push('{');
        quote(out, name);
        first = false;
    }
    for (key, value) in labels {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        if is_plain(key, false) {
            out.push_str(key);
        } else {
            quote(out, key);
        }
        out.push('=');
        quote(out, value);
    }
    out.push('}');
}

/// Puts the canonical id of a name and its labels at the end of a text. The labels are in order, each key once, and no value is empty. After an
/// error the text is as it was.
pub(crate) fn append(out: &mut String, name: &str, labels: &[(&str, &str)]) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::Empty);
    }
    let has_control = |name: &str| !is_plain(name, true) && name.chars().any(char::is_control);
    if has_control(name) || labels.iter().any(|(key, value)| has_control(key) || value.as_bytes().contains(&0)) {
        return Err(IdError::Control);
    }
    let start = out.len();
    write_to(out, name, labels.iter().copied());
    let written = out.len() - start;
    if written > MAX_ID_BYTES {
        out.truncate(start);
        return Err(IdError::TooLong(written));
    }
    Ok(())
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    if !text.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The text between quotes, unescaped.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                other => other.unwrap_or('\\'),
            },
            c => c,
        });
    }
    Cow::Owned(out)
}

/// The end of the value that starts here: the byte index of its closing quote.
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

    fn parts(text: &str) -> (String, Vec<(String, String)>) {
        let id = id(text);
        let parts = id.parts();
        (parts.name.into_owned(), parts.labels.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    #[test]
    fn a_label_set_has_one_id_however_it_is_written() {
        let sorted = "http_requests{code=\"200\",path=\"/a,b=\\\"{}\"}";
        for text in [
            sorted,
            "http_requests{path=\"/a,b=\\\"{}\",code=\"200\"}",
            "http_requests{ path = \"/a,b=\\\"{}\" , code = \"200\" , }",
            "{\"http_requests\", code=\"200\", \"path\"=\"/a,b=\\\"{}\"}",
            "http_requests{code=\"200\",path=\"/a,b=\\\"{}\",zone=\"\"}",
        ] {
            assert_eq!(id(text).as_str(), sorted, "{text}");
        }
        assert_eq!(id("up{}").as_str(), "up");
        assert_eq!(id("up{a=\"\"}").as_str(), "up", "a label with an empty value is ignored");
        let (name, labels) = parts(sorted);
        assert_eq!(name, "http_requests");
        assert_eq!(labels, [("code".into(), "200".into()), ("path".into(), "/a,b=\"{}".into())]);
        assert_eq!(id(sorted).parts().label("code"), Some("200"));
        assert_eq!(id(sorted).parts().label("zone"), None);
    }

    #[test]
    fn names_and_keys_that_are_not_plain_are_quoted() {
        let quoted = "{\"a.b\",\"k.l\"=\"v\",z=\"1\"}";
        for text in [quoted, "{\"a.b\", z=\"1\", \"k.l\"=\"v\"}", "a.b{z=\"1\",\"k.l\"=\"v\"}", "{z=\"1\",\"a.b\",\"k.l\"=\"v\"}"] {
            assert_eq!(id(text).as_str(), quoted, "{text}");
        }
        assert_eq!(parts(quoted), ("a.b".into(), vec![("k.l".into(), "v".into()), ("z".into(), "1".into())]));
        assert_eq!(id("{\"a.b\"}").as_str(), "a.b");
        assert_eq!(id("{\"plain\"}").as_str(), "plain");
        assert_eq!(id("r:x{\"a\"=\"1\"}").as_str(), "r:x{a=\"1\"}");
        assert_eq!(id("{\"a{b=\\\"c\\\"}\"}").as_str(), "{\"a{b=\\\"c\\\"}\"}", "unquoted it would be a name with a label");
        assert_eq!(parts("{\"a{b=\\\"c\\\"}\"}"), ("a{b=\"c\"}".into(), vec![]));
        assert_eq!(id("температура °C").as_str(), "температура °C");
        assert_eq!(MetricId::from_parts("a.b", [("z", "1"), ("k.l", "v"), ("none", "")]).unwrap().as_str(), quoted);
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
            "{\"a\",\"b\"}",
            "a{\"b\"}",
            "{\"\",b=\"c\"}",
            "a{\"\"=\"c\"}",
            "a{__name__=\"b\"}",
        ] {
            assert_eq!(id(text).as_str(), text);
            assert_eq!(parts(text), (text.to_owned(), vec![]));
        }
    }

    #[test]
    fn length_and_control_characters_are_checked() {
        assert_eq!(MetricId::parse(""), Err(IdError::Empty));
        assert!(MetricId::parse(&"x".repeat(MAX_ID_BYTES)).is_ok());
        assert_eq!(MetricId::parse(&"x".repeat(MAX_ID_BYTES + 1)), Err(IdError::TooLong(MAX_ID_BYTES + 1)));
        assert_eq!(MetricId::parse(&"é".repeat(MAX_ID_BYTES / 2 + 1)), Err(IdError::TooLong(MAX_ID_BYTES + 2)));
        for text in ["a\0", "a\nb", "\u{7f}", "\u{85}", "\t", "a\t{b=\"c\"}", "{\"a\t\",b=\"c\"}", "a{\"b\t\"=\"c\"}", "a{b=\"\0\"}"] {
            assert_eq!(MetricId::parse(text), Err(IdError::Control), "{text:?}");
        }
        assert!(MetricId::parse("температура <b>°C</b> 🦀").is_ok());
    }

    #[test]
    fn a_value_is_any_text_except_nul_and_its_line_ends_are_escaped() {
        assert_eq!(id("a{b=\"\u{1}\t\u{7f}é\"}").as_str(), "a{b=\"\u{1}\t\u{7f}é\"}");
        assert_eq!(id("a{b=\"1\n2\"}").as_str(), "a{b=\"1\\n2\"}");
        assert_eq!(id("a{b=\"1\n2\"}"), id("a{b=\"1\\n2\"}"));
        assert_eq!(parts("a{b=\"1\\n2\\\\\"}").1, [("b".into(), "1\n2\\".into())]);
        let longer = format!("a{{b=\"{}\"}}", "\n".repeat(MAX_ID_BYTES / 2));
        assert!(
            matches!(MetricId::parse(&longer), Err(IdError::TooLong(bytes)) if bytes > MAX_ID_BYTES),
            "with its escapes it is too long"
        );
    }

    proptest! {
        #[test]
        fn a_canonical_id_is_its_own_canonical_form(text in "[a-c{}=\",\\\\n\n _0-9é.:]{1,40}|[ab.]?\\{(\"?[ab.]\"?(=\"[a.\n]{0,2}\")?,?){0,4}\\}") {
            if let Ok(once) = MetricId::parse(&text) {
                prop_assert_eq!(&id(once.as_str()), &once);
                let parts = once.parts();
                let labels = parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
                prop_assert_eq!(MetricId::from_parts(&parts.name, labels).unwrap(), once.clone());
            }
        }

        #[test]
        fn the_quick_check_agrees_with_the_parser(text in "[a-c{=\",\\\\n _0-9é}]{1,20}", pairs in "[ab]=\"[a-z,]{0,2}\"(,[bc] ?=\"x\",?){0,2}") {
            for text in [text, format!("m{{{pairs}}}")] {
                if is_written_canonically(&text) {
                    let written = parse(&text).map_or_else(|| text.clone(), |parts| write(&parts));
                    prop_assert_eq!(written, text);
                }
            }
        }

        #[test]
        fn the_order_of_labels_does_not_matter(
            pairs in proptest::collection::btree_map("[a-z_][a-z0-9_]{0,5}", "[a-z {},=é]{1,6}", 1..5),
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

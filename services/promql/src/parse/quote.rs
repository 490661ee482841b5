//! Names and texts as PromQL writes them.

use std::fmt::{self, Write};

/// Whether a text can stand in front of the braces of a selector.
pub(crate) fn is_metric_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| is_name_start(first) || first == b':') && bytes.all(|byte| is_name_byte(byte) || byte == b':')
}

/// Whether a text can be a label's name without quotes.
pub(crate) fn is_label_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(is_name_start) && bytes.all(is_name_byte)
}

pub(crate) fn is_name_start(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphabetic()
}

pub(crate) fn is_name_byte(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit()
}

/// A text in double quotes.
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

/// A label's name, in quotes if it needs them.
pub(crate) struct LabelName<'a>(pub &'a str);

impl fmt::Display for LabelName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_label_name(self.0) { f.write_str(self.0) } else { Quoted(self.0).fmt(f) }
    }
}

/// Why a quoted text can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnquoteError(pub &'static str);

/// What a quoted text says. The text starts and ends with the same quote, which the lexer made sure of.
pub(crate) fn unquote(text: &str) -> Result<String, UnquoteError> {
    let quote = text.as_bytes()[0];
    let inner = &text[1..text.len() - 1];
    if quote == b'`' || !inner.contains('\\') {
        return Ok(inner.to_owned());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'\\' {
            rest = unescape(rest, quote, &mut bytes)?;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| UnquoteError("the text is not valid UTF-8"))
}

/// Reads what stands behind a backslash and returns what is left.
fn unescape<'a>(rest: &'a [u8], quote: u8, bytes: &mut Vec<u8>) -> Result<&'a [u8], UnquoteError> {
    let (&kind, tail) = rest.split_first().ok_or(UnquoteError("escape sequence not terminated"))?;
    let simple = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' => b'\\',
        _ if kind == quote => quote,
        b'0'..=b'7' => return number_escape(rest, 3, 8, bytes),
        b'x' => return number_escape(tail, 2, 16, bytes),
        b'u' => return number_escape(tail, 4, 16, bytes),
        b'U' => return number_escape(tail, 8, 16, bytes),
        _ => return Err(UnquoteError("unknown escape sequence")),
    };
    bytes.push(simple);
    Ok(tail)
}

/// An escape of so many digits: a byte if there are at most three, a character otherwise.
fn number_escape<'a>(rest: &'a [u8], digits: usize, radix: u32, bytes: &mut Vec<u8>) -> Result<&'a [u8], UnquoteError> {
    let (number, tail) = rest.split_at_checked(digits).ok_or(UnquoteError("escape sequence not terminated"))?;
    let mut code: u32 = 0;
    for digit in number {
        let digit = char::from(*digit).to_digit(radix).ok_or(UnquoteError("illegal character in escape sequence"))?;
        code = code.wrapping_mul(radix) | digit;
    }
    if digits <= 3 {
        bytes.push(u8::try_from(code).map_err(|_| UnquoteError("escape sequence is larger than a byte"))?);
    } else {
        let character = char::from_u32(code).ok_or(UnquoteError("escape sequence is an invalid Unicode code point"))?;
        bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_escape_is_read() {
        let read = unquote(r#""\a\b\f\n\r\t\v\\\"\x41\102\u00e4\U0001F600""#).unwrap();
        assert_eq!(read, "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"AB\u{e4}\u{1F600}");
        assert_eq!(unquote(r"'it\'s'").unwrap(), "it's");
        assert_eq!(unquote(r"`\n`").unwrap(), r"\n");
        assert_eq!(unquote(r#""\xc3\xa4""#).unwrap(), "\u{e4}");
    }

    #[test]
    fn wrong_escapes_are_named() {
        for (text, error) in [
            (r#""\q""#, "unknown escape sequence"),
            (r#""\'""#, "unknown escape sequence"),
            (r#""\x4""#, "escape sequence not terminated"),
            (r#""\xzz""#, "illegal character in escape sequence"),
            (r#""\777""#, "escape sequence is larger than a byte"),
            (r#""\ud800""#, "escape sequence is an invalid Unicode code point"),
            (r#""\xff""#, "the text is not valid UTF-8"),
        ] {
            assert_eq!(unquote(text), Err(UnquoteError(error)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(text in ".*") {
            prop_assert_eq!(unquote(&Quoted(&text).to_string()).unwrap(), text);
        }
    }
}

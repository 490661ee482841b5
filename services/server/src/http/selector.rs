//! Parses Prometheus's series selectors, the values of `match[]`: `mem{pod=~"web-.*"}`, `{__name__="mem",pod!=""}`,
//! `{"a.b","k.l"="v"}`.
//!
//! It parses only the selector itself: no offset, range or comment. The length and the number of conditions are limited, and
//! regular expressions, which take memory, are compiled later by [`Selector::matchers`].

use std::iter::Peekable;
use std::str::CharIndices;

use golectra_promql::{METRIC_NAME, MatchOp, Matcher, PatternError};

/// The longest selector, in bytes.
pub const MAX_SELECTOR_BYTES: usize = 8 * 1024;

/// A selector: a series matches if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    conditions: Vec<Condition>,
}

/// A matcher whose regular expression is not compiled yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    label: String,
    op: MatchOp,
    value: String,
}

/// Why a text is not a valid selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text is longer than [`MAX_SELECTOR_BYTES`].
    #[error("the selector has {0} bytes, at most {MAX_SELECTOR_BYTES} are allowed")]
    TooLong(usize),
    /// Unexpected text.
    #[error("at character {position}: expected {expected}, found {found}")]
    Unexpected {
        /// The position in characters, from 1.
        position: usize,
        /// What was expected.
        expected: &'static str,
        /// The text found there, quoted.
        found: String,
    },
    /// The name is given more than once: before the braces, alone in quotes, or as a label.
    #[error("at character {0}: the metric's name is given twice")]
    SecondName(usize),
    /// Series without any of these labels would match.
    #[error("at least one condition must not match the empty text, such as pod!=\"\"; without match[] all series are listed")]
    MatchesAll,
}

impl Selector {
    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong(text.len()));
        }
        let conditions = Reader::new(text).selector()?;
        Ok(Self { conditions })
    }

    /// The number of conditions.
    pub fn len(&self) -> usize {
        self.conditions.len()
    }

    /// The conditions as matchers, with their regular expressions compiled.
    pub fn matchers(self) -> Result<Vec<Matcher>, MatchersError> {
        let matchers: Result<Vec<_>, _> = self.conditions.into_iter().map(|one| Matcher::new(one.op, &one.label, &one.value)).collect();
        let matchers = matchers?;
        // As in Prometheus: a selector that matches everything is more often a mistake than intended.
        if matchers.iter().all(|matcher| matcher.matches("")) { Err(SelectorError::MatchesAll.into()) } else { Ok(matchers) }
    }
}

/// Why a selector can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MatchersError {
    /// It is not a valid selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A regular expression is invalid or too large.
    #[error(transparent)]
    Regex(#[from] PatternError),
}

/// Parses a selector from left to right.
struct Reader<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, rest: text.char_indices().peekable() }
    }

    fn selector(mut self) -> Result<Vec<Condition>, SelectorError> {
        let mut conditions = Vec::new();
        self.skip_space();
        let name = self.identifier(true).map(|name| equal(METRIC_NAME, name.to_owned()));
        conditions.extend(name);
        self.skip_space();
        if self.take('{') {
            self.conditions(&mut conditions)?;
        } else if conditions.is_empty() {
            return Err(self.unexpected("a metric's name or '{'"));
        }
        self.skip_space();
        let expected = "the end of the selector";
        if self.rest.peek().is_some() { Err(self.unexpected(expected)) } else { Ok(conditions) }
    }

    /// Parses the conditions after the opening brace, and the closing brace.
    fn conditions(&mut self, conditions: &mut Vec<Condition>) -> Result<(), SelectorError> {
        let mut has_name = !conditions.is_empty();
        loop {
            self.skip_space();
            if self.take('}') {
                return Ok(());
            }
            let start = self.offset();
            let quoted = matches!(self.peek(), Some('"' | '\'' | '`'));
            let label = if quoted {
                self.string()?
            } else {
                self.identifier(false).ok_or_else(|| self.unexpected("a label's name, a quoted name or '}'"))?.to_owned()
            };
            self.skip_space();
            let condition = match self.operator() {
                Some(op) => {
                    self.skip_space();
                    Condition { label, op, value: self.string()? }
                }
                // A quoted text without an operator is the metric's name.
                None if quoted && matches!(self.peek(), Some(',' | '}')) => equal(METRIC_NAME, label),
                None => return Err(self.unexpected("one of =, !=, =~ and !~")),
            };
            if condition.label == METRIC_NAME && condition.op == MatchOp::Equal && std::mem::replace(&mut has_name, true) {
                return Err(SelectorError::SecondName(self.position_of(start)));
            }
            conditions.push(condition);
            self.skip_space();
            if !self.take(',') && self.peek() != Some('}') {
                return Err(self.unexpected("',' or '}'"));
            }
        }
    }

    fn operator(&mut self) -> Option<MatchOp> {
        let ops = [("=~", MatchOp::Match), ("!~", MatchOp::NotMatch), ("!=", MatchOp::NotEqual), ("=", MatchOp::Equal)];
        let rest = &self.text[self.offset()..];
        let (sign, op) = ops.into_iter().find(|(sign, _)| rest.starts_with(sign))?;
        self.rest.nth(sign.len() - 1);
        Some(op)
    }

    /// A name without quotes; colons are allowed in a metric's name.
    fn identifier(&mut self, colons: bool) -> Option<&'a str> {
        let start = self.offset();
        let begins = |c: char| c == '_' || (colons && c == ':') || c.is_ascii_alphabetic();
        self.rest.next_if(|(_, c)| begins(*c))?;
        while self.rest.next_if(|(_, c)| begins(*c) || c.is_ascii_digit()).is_some() {}
        Some(&self.text[start..self.offset()])
    }

    /// A quoted text: with Go's escapes in `"…"` and `'…'`, without escapes in backticks.
    fn string(&mut self) -> Result<String, SelectorError> {
        let Some((_, quote)) = self.rest.next_if(|(_, c)| matches!(c, '"' | '\'' | '`')) else {
            return Err(self.unexpected("a text in quotes"));
        };
        // Escapes may give a character byte by byte.
        let start = self.offset();
        let mut bytes = Vec::new();
        loop {
            match self.peek() {
                Some(c) if c == quote => break,
                Some('\\') if quote != '`' => self.escape(quote, &mut bytes)?,
                None | Some('\n') if quote != '`' => return Err(self.unexpected("the closing quote")),
                None => return Err(self.unexpected("the closing backtick")),
                Some(c) => {
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    self.rest.next();
                }
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| self.unexpected_at(start, "escapes that spell UTF-8"))?;
        self.rest.next();
        Ok(text)
    }

    /// Parses an escape, from its backslash on.
    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), SelectorError> {
        let start = self.offset();
        self.rest.next();
        let plain = match self.peek() {
            Some('a') => 7,
            Some('b') => 8,
            Some('f') => 12,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 11,
            Some('\\') => b'\\',
            Some(c) if c == quote => {
                if quote == '"' {
                    b'"'
                } else {
                    b'\''
                }
            }
            Some('0'..='7') => return self.number(start, 3, 8, bytes),
            Some(kind @ ('x' | 'u' | 'U')) => {
                self.rest.next();
                return self.number(
                    start,
                    if kind == 'x' {
                        2
                    } else if kind == 'u' {
                        4
                    } else {
                        8
                    },
                    16,
                    bytes,
                );
            }
            _ => return Err(self.unexpected_at(start, "one of Go's escapes, such as \\\\ or \\n")),
        };
        bytes.push(plain);
        self.rest.next();
        Ok(())
    }

    /// Parses the digits of an escape: three octal or two hex digits give a byte, more hex digits a character.
    fn number(&mut self, start: usize, digits: usize, radix: u32, bytes: &mut Vec<u8>) -> Result<(), SelectorError> {
        let expected = "an escape of a byte or a character, such as \\xff or \\u00e9";
        let mut value = 0;
        for _ in 0..digits {
            let digit = self.peek().and_then(|c| c.to_digit(radix)).ok_or_else(|| self.unexpected_at(start, expected))?;
            value = value * radix + digit;
            self.rest.next();
        }
        if digits <= 3 {
            bytes.push(u8::try_from(value).map_err(|_| self.unexpected_at(start, expected))?);
        } else {
            let c = char::from_u32(value).ok_or_else(|| self.unexpected_at(start, expected))?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, c)| *c)
    }

    fn take(&mut self, expected: char) -> bool {
        self.rest.next_if(|(_, c)| *c == expected).is_some()
    }

    fn skip_space(&mut self) {
        while self.rest.next_if(|(_, c)| matches!(c, ' ' | '\t' | '\n' | '\r')).is_some() {}
    }

    /// The position of the rest, in bytes.
    fn offset(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    /// The number of the character at this byte, from 1.
    fn position_of(&self, offset: usize) -> usize {
        self.text[..offset].chars().count() + 1
    }

    fn unexpected(&mut self, expected: &'static str) -> SelectorError {
        let offset = self.offset();
        self.unexpected_at(offset, expected)
    }

    fn unexpected_at(&self, offset: usize, expected: &'static str) -> SelectorError {
        let found = self.text[offset..].chars().next().map_or_else(|| "the end".to_owned(), |c| format!("{c:?}"));
        SelectorError::Unexpected { position: self.position_of(offset), expected, found }
    }
}

fn equal(label: &str, value: String) -> Condition {
    Condition { label: label.to_owned(), op: MatchOp::Equal, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The conditions of a selector, as `label op value`.
    fn read(text: &str) -> Vec<(String, MatchOp, String)> {
        let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        selector.conditions.into_iter().map(|one| (one.label, one.op, one.value)).collect()
    }

    fn condition(label: &str, op: MatchOp, value: &str) -> (String, MatchOp, String) {
        (label.to_owned(), op, value.to_owned())
    }

    #[test]
    fn selectors_are_parsed_as_in_prometheus() {
        use MatchOp::{Equal, Match, NotEqual, NotMatch};
        let name = |name| condition("__name__", Equal, name);
        for (text, conditions) in [
            ("mem", vec![name("mem")]),
            (" job:mem:sum{} ", vec![name("job:mem:sum")]),
            ("mem{pod=~\"web-.*\"}", vec![name("mem"), condition("pod", Match, "web-.*")]),
            ("mem { pod != '' ,\n ns !~ `a\\d` , }", vec![name("mem"), condition("pod", NotEqual, ""), condition("ns", NotMatch, "a\\d")]),
            ("{__name__=\"mem\",pod!=\"\"}", vec![name("mem"), condition("pod", NotEqual, "")]),
            ("{__name__=~\"mem|cpu\"}", vec![condition("__name__", Match, "mem|cpu")]),
            ("mem{__name__!=\"x\"}", vec![name("mem"), condition("__name__", NotEqual, "x")]),
            ("{\"a.b\",\"k.l\"=\"v\"}", vec![name("a.b"), condition("k.l", Equal, "v")]),
            ("{z=\"1\", \"температура °C\" }", vec![condition("z", Equal, "1"), name("температура °C")]),
            ("m{a!=\"x\",a!=\"y\"}", vec![name("m"), condition("a", NotEqual, "x"), condition("a", NotEqual, "y")]),
        ] {
            assert_eq!(read(text), conditions, "{text}");
        }
    }

    #[test]
    fn escapes_are_those_of_go() {
        for (written, value) in [
            (r#""a\\b\"c\n""#, "a\\b\"c\n"),
            (r"'it\'s'", "it's"),
            (r#""it's""#, "it's"),
            (r#"'say "x"'"#, "say \"x\""),
            (r"`a\b`", r"a\b"),
            ("`a\nb`", "a\nb"),
            (r#""\a\b\f\r\t\v""#, "\u{7}\u{8}\u{c}\r\t\u{b}"),
            (r#""\x41\101\u00e9\U0001F980""#, "AAé🦀"),
            (r#""\xc3\xa9""#, "é"),
        ] {
            assert_eq!(read(&format!("{{l={written}}}")), [condition("l", MatchOp::Equal, value)], "{written}");
        }
    }

    #[test]
    fn errors_say_where_and_what_was_expected() {
        for (text, sentence) in [
            ("", "at character 1: expected a metric's name or '{', found the end"),
            ("1a", "at character 1: expected a metric's name or '{', found '1'"),
            ("a.b", "at character 2: expected the end of the selector, found '.'"),
            ("a[5m]", "at character 2: expected the end of the selector, found '['"),
            ("a offset 5m", "at character 3: expected the end of the selector, found 'o'"),
            ("a{b=\"c\"} # comment", "at character 10: expected the end of the selector, found '#'"),
            ("a{", "at character 3: expected a label's name, a quoted name or '}', found the end"),
            ("a{b", "at character 4: expected one of =, !=, =~ and !~, found the end"),
            ("a{b:c=\"d\"}", "at character 4: expected one of =, !=, =~ and !~, found ':'"),
            ("a{b>\"c\"}", "at character 4: expected one of =, !=, =~ and !~, found '>'"),
            ("a{b==\"c\"}", "at character 5: expected a text in quotes, found '='"),
            ("a{b=c}", "at character 5: expected a text in quotes, found 'c'"),
            ("é{b=c}", "at character 1: expected a metric's name or '{', found 'é'"),
            ("{\"é\"=c}", "at character 6: expected a text in quotes, found 'c'"),
            ("a{b=\"c}", "at character 8: expected the closing quote, found the end"),
            ("a{b=\"c\nd\"}", "at character 7: expected the closing quote, found '\\n'"),
            ("a{b=`c}", "at character 8: expected the closing backtick, found the end"),
            ("a{b=\"c\"", "at character 8: expected ',' or '}', found the end"),
            ("a{b=\"c\" d=\"e\"}", "at character 9: expected ',' or '}', found 'd'"),
            ("a{,}", "at character 3: expected a label's name, a quoted name or '}', found ','"),
            ("a{b=\"c\",,}", "at character 9: expected a label's name, a quoted name or '}', found ','"),
            ("a{b=\"\\d\"}", "at character 6: expected one of Go's escapes, such as \\\\ or \\n, found '\\\\'"),
            ("a{b=\"\\'\"}", "at character 6: expected one of Go's escapes, such as \\\\ or \\n, found '\\\\'"),
            ("a{b=\"\\400\"}", "at character 6: expected an escape of a byte or a character, such as \\xff or \\u00e9, found '\\\\'"),
            ("a{b=\"\\ud800\"}", "at character 6: expected an escape of a byte or a character, such as \\xff or \\u00e9, found '\\\\'"),
            ("a{b=\"\\x4\"}", "at character 6: expected an escape of a byte or a character, such as \\xff or \\u00e9, found '\\\\'"),
            ("a{b=\"\\xff\"}", "at character 6: expected escapes that spell UTF-8, found '\\\\'"),
            ("a{\"b\"}", "at character 3: the metric's name is given twice"),
            ("{\"a\",\"b\"}", "at character 6: the metric's name is given twice"),
            ("a{x=\"1\",__name__=\"b\"}", "at character 9: the metric's name is given twice"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().to_string(), sentence, "{text}");
        }
        assert_eq!(Selector::parse(&"a".repeat(MAX_SELECTOR_BYTES + 1)), Err(SelectorError::TooLong(MAX_SELECTOR_BYTES + 1)));
        assert_eq!(Selector::parse(&"a".repeat(MAX_SELECTOR_BYTES)).unwrap().len(), 1);
    }

    #[test]
    fn a_selector_needs_a_condition_that_excludes_the_empty_text() {
        for text in ["{}", "{a=\"\"}", "{a=~\".*\"}", "{a!=\"x\"}", "{a!~\"x\",b=\"\"}", "{\"\"}"] {
            let error = Selector::parse(text).unwrap().matchers().unwrap_err();
            assert!(matches!(error, MatchersError::Selector(SelectorError::MatchesAll)), "{text}: {error}");
        }
        for text in ["{a!=\"\"}", "{a=~\".+\"}", "{a=\"\",b=\"1\"}", "a{b=\"\"}"] {
            assert!(Selector::parse(text).unwrap().matchers().is_ok(), "{text}");
        }
        let error = Selector::parse("a{b=~\"(\"}").unwrap().matchers().unwrap_err();
        assert!(matches!(&error, MatchersError::Regex(_)) && error.to_string().contains("\"(\""), "{error}");
    }

    proptest! {
        #[test]
        fn it_does_not_panic_on_any_text(text in "[a-c{}=!~,\"'`\\\\x1u7 \n.é]{0,30}|\\PC{0,40}") {
            let _ = Selector::parse(&text);
        }

        #[test]
        fn quoted_texts_round_trip(name in "\\PC{1,20}", label in "\\PC{1,10}", value in any::<String>()) {
            let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
            prop_assume!(label != METRIC_NAME);
            let read = read(&format!("{{{},{}!={}}}", quote(&name), quote(&label), quote(&value)));
            prop_assert_eq!(read, [condition(METRIC_NAME, MatchOp::Equal, &name), condition(&label, MatchOp::NotEqual, &value)]);
        }
    }
}

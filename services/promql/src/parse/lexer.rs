//! Splits a query into tokens.

use super::ParseError;
use super::number;
use super::quote::{self, is_name_byte, is_name_start};
use crate::position::Span;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name or a keyword; keywords are told apart where they may stand.
    Identifier,
    Number(f64),
    /// In milliseconds.
    Duration(i64),
    Text(String),
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    At,
    /// `=`
    Equal,
    /// `==`
    EqualEqual,
    NotEqual,
    /// `=~`
    Match,
    /// `!~`
    NotMatch,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Caret,
    End,
}

/// A token and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    pub(crate) span: Span,
}

/// All tokens of a query, with [`Token::End`] as the last one.
pub(crate) fn lex(query: &str) -> Result<Vec<Lexeme>, ParseError> {
    let mut lexer = Lexer { query, bytes: query.as_bytes(), at: 0, in_brackets: false };
    let mut lexemes = Vec::new();
    loop {
        let lexeme = lexer.next()?;
        let end = lexeme.token == Token::End;
        lexemes.push(lexeme);
        if end {
            return Ok(lexemes);
        }
    }
}

struct Lexer<'a> {
    query: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// A colon is a token of its own between brackets and part of a name elsewhere.
    in_brackets: bool,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<Lexeme, ParseError> {
        self.skip_space_and_comments();
        let start = self.at;
        let token = match self.bytes.get(start) {
            None => Token::End,
            Some(b'"' | b'\'' | b'`') => self.text()?,
            Some(byte) if byte.is_ascii_digit() || (*byte == b'.' && self.peek(1).is_ascii_digit()) => self.number_or_duration()?,
            Some(byte) if is_name_start(*byte) || (*byte == b':' && !self.in_brackets) => {
                let colons = !self.in_brackets;
                self.at += self.bytes[start..].iter().take_while(|byte| is_name_byte(**byte) || (colons && **byte == b':')).count();
                Token::Identifier
            }
            Some(byte) => self.sign(*byte)?,
        };
        Ok(Lexeme { token, span: Span::new(start, self.at) })
    }

    /// The byte so far ahead, or 0 at the end.
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or_default()
    }

    fn skip_space_and_comments(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'#' => self.at += self.bytes[self.at..].iter().take_while(|byte| !matches!(byte, b'\n' | b'\r')).count(),
                _ => break,
            }
        }
    }

    fn sign(&mut self, first: u8) -> Result<Token, ParseError> {
        let (token, len) = match (first, self.peek(1)) {
            (b'(', _) => (Token::LeftParen, 1),
            (b')', _) => (Token::RightParen, 1),
            (b'{', _) => (Token::LeftBrace, 1),
            (b'}', _) => (Token::RightBrace, 1),
            (b'[', _) => (Token::LeftBracket, 1),
            (b']', _) => (Token::RightBracket, 1),
            (b',', _) => (Token::Comma, 1),
            (b':', _) => (Token::Colon, 1),
            (b'@', _) => (Token::At, 1),
            (b'=', b'=') => (Token::EqualEqual, 2),
            (b'=', b'~') => (Token::Match, 2),
            (b'=', _) => (Token::Equal, 1),
            (b'!', b'=') => (Token::NotEqual, 2),
            (b'!', b'~') => (Token::NotMatch, 2),
            (b'<', b'=') => (Token::LessEqual, 2),
            (b'<', _) => (Token::Less, 1),
            (b'>', b'=') => (Token::GreaterEqual, 2),
            (b'>', _) => (Token::Greater, 1),
            (b'+', _) => (Token::Plus, 1),
            (b'-', _) => (Token::Minus, 1),
            (b'*', _) => (Token::Star, 1),
            (b'/', _) => (Token::Slash, 1),
            (b'%', _) => (Token::Percent, 1),
            (b'^', _) => (Token::Caret, 1),
            _ => {
                let character = self.query[self.at..].chars().next().unwrap_or_default();
                let span = Span::new(self.at, self.at + character.len_utf8());
                return Err(ParseError::new(self.query, span, format!("unexpected character: {character:?}")));
            }
        };
        self.in_brackets = match token {
            Token::LeftBracket => true,
            Token::RightBracket => false,
            _ => self.in_brackets,
        };
        self.at += len;
        Ok(token)
    }

    fn number_or_duration(&mut self) -> Result<Token, ParseError> {
        let start = self.at;
        let hexadecimal = self.peek(0) == b'0' && self.peek(1).eq_ignore_ascii_case(&b'x');
        loop {
            let byte = self.peek(0);
            let is_sign_of_exponent = matches!(byte, b'+' | b'-')
                && !hexadecimal
                && self.bytes[self.at - 1].eq_ignore_ascii_case(&b'e')
                && self.bytes[start..self.at - 1].iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'_'));
            if !(is_name_byte(byte) || byte == b'.' || (self.at > start && is_sign_of_exponent)) {
                break;
            }
            self.at += 1;
        }
        let text = &self.query[start..self.at];
        if let Some(value) = number::parse_number(text) {
            return Ok(Token::Number(value));
        }
        if let Some(ms) = number::parse_duration(text) {
            return Ok(Token::Duration(ms));
        }
        Err(ParseError::new(self.query, Span::new(start, self.at), format!("bad number or duration syntax: {text:?}")))
    }

    fn text(&mut self) -> Result<Token, ParseError> {
        let start = self.at;
        let quote = self.bytes[start];
        let unterminated =
            |what: &str| ParseError::new(self.query, Span::new(start, self.query.len()), format!("unterminated {what} string"));
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(byte) if *byte == quote => break,
                Some(b'\\') if quote != b'`' => self.at += 2,
                None | Some(b'\n') if quote != b'`' => return Err(unterminated("quoted")),
                None => return Err(unterminated("raw")),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let span = Span::new(start, self.at);
        let text = quote::unquote(&self.query[start..self.at]).map_err(|error| ParseError::new(self.query, span, error.0))?;
        Ok(Token::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(query: &str) -> Vec<Token> {
        lex(query).unwrap().into_iter().map(|lexeme| lexeme.token).collect()
    }

    #[test]
    fn colons_are_part_of_names_but_not_between_brackets() {
        assert_eq!(tokens("a:b"), [Token::Identifier, Token::End]);
        let subquery = [
            Token::Identifier,
            Token::LeftBracket,
            Token::Duration(300_000),
            Token::Colon,
            Token::Duration(60_000),
            Token::RightBracket,
            Token::End,
        ];
        assert_eq!(tokens("a[5m:1m]"), subquery);
    }

    #[test]
    fn signs_belong_to_exponents_only() {
        assert_eq!(tokens("1e+3"), [Token::Number(1000.0), Token::End]);
        assert_eq!(tokens("1+3"), [Token::Number(1.0), Token::Plus, Token::Number(3.0), Token::End]);
        assert_eq!(tokens("0x1e+3"), [Token::Number(30.0), Token::Plus, Token::Number(3.0), Token::End]);
    }

    #[test]
    fn comments_end_with_the_line() {
        assert_eq!(tokens("a # b\n+ 1"), [Token::Identifier, Token::Plus, Token::Number(1.0), Token::End]);
    }

    #[test]
    fn errors_have_a_position() {
        for (query, error) in [
            ("a + \u{e4}", "1:5: parse error: unexpected character: 'ä'"),
            ("a{b=\"c", "1:5: parse error: unterminated quoted string"),
            ("'\\", "1:1: parse error: unterminated quoted string"),
            ("`a", "1:1: parse error: unterminated raw string"),
            ("\n  5q", "2:3: parse error: bad number or duration syntax: \"5q\""),
            ("\"\\q\"", "1:1: parse error: unknown escape sequence"),
        ] {
            assert_eq!(lex(query).unwrap_err().to_string(), error);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(query in "\\PC*|[a-z0-9_:.\"'`\\\\(){}\\[\\]=!~<>+*/%^@,# \n-]*") {
            if let Ok(lexemes) = lex(&query) {
                prop_assert!(lexemes.iter().all(|lexeme| query.get(lexeme.span.start..lexeme.span.end).is_some()));
            }
        }
    }
}

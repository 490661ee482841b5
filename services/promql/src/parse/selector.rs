//! Selectors and lists of labels.

use super::ParseError;
use super::ast::{Modifiers, Selector};
use super::grammar::Parser;
use super::lexer::Token;
use super::quote::is_label_name;
use crate::labels::METRIC_NAME;
use crate::matcher::{MatchOp, Matcher};

impl Parser<'_> {
    /// A name, matchers in braces, or both.
    pub(super) fn selector(&mut self) -> Result<Selector, ParseError> {
        let start = self.span();
        let mut name = None;
        if self.peek() == &Token::Identifier {
            name = Some(self.text().to_owned());
            self.advance();
        } else if self.peek() != &Token::LeftBrace {
            return Err(self.unexpected("", "a selector"));
        }
        let mut matchers = Vec::new();
        if self.take(&Token::LeftBrace) {
            self.matchers(&mut matchers)?;
        }
        let span = start.to(self.last_span());
        if let Some(name) = &name {
            if let Some(other) = matchers.iter().find(|matcher| matcher.name() == METRIC_NAME) {
                let message = format!("metric name must not be set twice: {name:?} or {:?}", other.value());
                return Err(self.error_at(span, message));
            }
            matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        // Otherwise a typo would select everything.
        if matchers.iter().all(|matcher| matcher.matches("")) {
            return Err(self.error_at(span, "vector selector must contain at least one non-empty matcher"));
        }
        Ok(Selector { name, matchers, modifiers: Modifiers::default() })
    }

    fn matchers(&mut self, matchers: &mut Vec<Matcher>) -> Result<(), ParseError> {
        while !self.take(&Token::RightBrace) {
            if !matchers.is_empty() {
                self.expect(&Token::Comma, "label matching", "\",\" or \"}\"")?;
                if self.take(&Token::RightBrace) {
                    break;
                }
            }
            matchers.push(self.matcher()?);
        }
        Ok(())
    }

    fn matcher(&mut self) -> Result<Matcher, ParseError> {
        let start = self.span();
        let (name, quoted) = match self.peek() {
            Token::Identifier if is_label_name(self.text()) => (self.text().to_owned(), false),
            Token::Text(name) => (name.clone(), true),
            _ => return Err(self.unexpected("label matching", "a label's name or \"}\"")),
        };
        self.advance();
        let op = match self.peek() {
            Token::Equal => MatchOp::Equal,
            Token::NotEqual => MatchOp::NotEqual,
            Token::Match => MatchOp::Match,
            Token::NotMatch => MatchOp::NotMatch,
            // A quoted text alone is the metric's name.
            Token::Comma | Token::RightBrace if quoted => return Ok(Matcher::equal(METRIC_NAME, &name)),
            _ => return Err(self.unexpected("label matching", "a label matching operator")),
        };
        self.advance();
        let Token::Text(value) = self.peek().clone() else {
            return Err(self.unexpected("label matching", "string"));
        };
        self.advance();
        let span = start.to(self.last_span());
        if name.is_empty() {
            return Err(self.error_at(span, "a label's name must not be empty"));
        }
        let matcher = Matcher::new(op, &name, &value).map_err(|error| self.error_at(span, error.to_string()))?;
        if matcher.compiled_bytes() > 0 {
            self.count_pattern(matcher.compiled_bytes(), span)?;
        }
        Ok(matcher)
    }

    /// Labels in parentheses, as `by`, `on` and their like take them.
    pub(super) fn label_list(&mut self) -> Result<Vec<String>, ParseError> {
        self.expect(&Token::LeftParen, "grouping opts", "\"(\"")?;
        let mut labels = Vec::new();
        while !self.take(&Token::RightParen) {
            if !labels.is_empty() {
                self.expect(&Token::Comma, "grouping opts", "\",\" or \")\"")?;
                if self.take(&Token::RightParen) {
                    break;
                }
            }
            match self.peek() {
                Token::Identifier if is_label_name(self.text()) => labels.push(self.text().to_owned()),
                Token::Text(name) if !name.is_empty() => labels.push(name.clone()),
                _ => return Err(self.unexpected("grouping opts", "label")),
            }
            self.advance();
        }
        Ok(labels)
    }
}

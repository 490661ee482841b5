//! What reading any such file takes: errors with lines, and expressions.

use golectra_promql::Query;
use golectra_promql::parse::ParseLimits;
use golectra_promql::parse::ast::ValueType;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

use super::{FileError, MAX_FILE_BYTES};

/// Reads one file.
#[derive(Clone, Copy)]
pub struct YamlReader<'a> {
    /// The file's name.
    pub file: &'a str,
}

impl YamlReader<'_> {
    /// What is in a file of `what`, such as "rules".
    pub fn read<T: DeserializeOwned>(self, what: &str, text: &str) -> Result<T, FileError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(self.error(0, format!("a file of {what} has at most {MAX_FILE_BYTES} bytes")));
        }
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(0, |location| location.line());
            self.error(line, error.to_string())
        })
    }

    /// An error in this line, counted from 1; 0 stands for the whole file.
    pub fn error(self, line: u64, problem: String) -> FileError {
        FileError { file: self.file.to_owned(), line, problem }
    }

    /// An error at this place.
    pub fn at<T>(self, place: &Spanned<T>, problem: impl Into<String>) -> FileError {
        self.error(place.referenced.line(), problem.into())
    }

    /// Checks an expression that stands at a place, as `text` where that has something in place of variables. Returns it parsed.
    pub fn check_expr<T>(self, place: &Spanned<T>, text: &str) -> Result<Query, FileError> {
        let query = Query::parse(text.trim(), &ParseLimits::default()).map_err(|error| self.at(place, format!("expr: {error}")))?;
        match query.expr().value_type() {
            ValueType::InstantVector | ValueType::Scalar => Ok(query),
            other => Err(self.at(place, format!("expr: it must give an instant vector or a scalar, and gives a {other}"))),
        }
    }
}

//! The text in which programs expose their metrics: Prometheus's text format (0.0.4 and 1.0.0, with the quoted names of
//! Prometheus 3) and OpenMetrics 1.0.
//!
//! What Prometheus accepts is accepted here and gives the same samples. The parser is a little more lenient: lines may begin with
//! blanks and end with CR LF, OpenMetrics may have blank lines, plain comments and several spaces in a row, and a UNIT line is
//! not checked. Timestamps and exemplars are checked and left out. What is refused is refused as a whole, as in Prometheus,
//! because a body with an error is often one that was cut off or is no exposition at all.
//!
//! The parser reads what others wrote: it never panics, and its time is linear in the length of the text. It makes no
//! allocation for a sample: a [`Series`] is the text of the name and the labels as they stand in the body, which is checked
//! but taken apart only by [`Series::parts`]. A caller that remembers series by their text does that once for each.

mod float;
mod series;

use std::fmt;

pub use self::series::Series;

/// Which of the two formats a body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// The format that an answer's Content-Type tells; a missing or general one is read as Prometheus's text format, as most
    /// programs that were written by hand mean it. None for a format that is something else, such as protobuf or HTML.
    pub fn of_content_type(content_type: Option<&str>) -> Option<Self> {
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => Some(Self::OpenMetrics),
            "" | "text/plain" | "application/octet-stream" | "binary/octet-stream" => Some(Self::Text),
            _ => None,
        }
    }
}

/// The type of the metric family that a TYPE line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FamilyType {
    Histogram,
    Summary,
    Other,
}

/// A value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    /// The series.
    pub series: Series<'a>,
    /// The value; NaN and infinities are values too.
    pub value: f64,
}

/// Why a body is refused, and the line, from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ExpositionError {
    /// The line.
    pub line: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Bytes that are not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// The line starts with something else than a name.
    #[error("expected the name of a metric")]
    Name,
    /// There are two names, or none.
    #[error("expected exactly one name of the metric")]
    NameCount,
    /// A label's name is missing.
    #[error("expected the name of a label or a closing brace")]
    LabelName,
    /// The equals sign after a label's name is missing.
    #[error("expected an equals sign after the name of a label")]
    LabelEquals,
    /// A label's value is not in quotes.
    #[error("expected the value of a label in quotes")]
    LabelValue,
    /// Two labels have one name.
    #[error("two labels have the same name")]
    LabelTwice,
    /// The value is missing or no number.
    #[error("expected a number after the series")]
    Value,
    /// What follows the value is no timestamp.
    #[error("expected a timestamp or the end of the line after the value")]
    Timestamp,
    /// An exemplar is not complete.
    #[error("expected an exemplar, such as # {{trace_id=\"a1\"}} 0.5")]
    Exemplar,
    /// A TYPE line with an unknown type.
    #[error("expected the name and the type of a metric after TYPE")]
    Type,
    /// The text of OpenMetrics ends without its last line.
    #[error("expected the line # EOF at the end: the text was cut off")]
    NoEof,
    /// Something follows the last line of OpenMetrics.
    #[error("expected nothing after the line # EOF")]
    AfterEof,
}

/// The samples of a body, in its order. After an error there are no more.
#[derive(Clone)]
pub struct Exposition<'a> {
    format: Format,
    rest: Option<&'a str>,
    line: usize,
    family: FamilyType,
    ended: bool,
}

impl fmt::Debug for Exposition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").field("format", &self.format).field("line", &self.line).finish_non_exhaustive()
    }
}

impl<'a> Exposition<'a> {
    /// The samples of a body in this format.
    ///
    /// ```
    /// # use golectra_protocol::exposition::{Exposition, Format};
    /// let mut samples = Exposition::new(b"# TYPE up gauge\nup{job=\"a\"} 1\n", Format::Text)?;
    /// let sample = samples.next().unwrap()?;
    /// assert_eq!((sample.series.text(), sample.value), ("up{job=\"a\"}", 1.0));
    /// assert_eq!(sample.series.parts()?.label("job"), Some("a"));
    /// assert!(samples.next().is_none());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(body: &'a [u8], format: Format) -> Result<Self, ExpositionError> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let line = body[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
            ExpositionError { line, reason: Reason::NotUtf8 }
        })?;
        Ok(Self { format, rest: Some(text), line: 0, family: FamilyType::Other, ended: false })
    }

    /// The line of the last sample, from 1.
    pub const fn line(&self) -> usize {
        self.line
    }

    /// The next line; an empty one after the last line feed is none.
    fn next_line(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let (line, rest) = match rest.split_once('\n') {
            Some((line, rest)) => (line, Some(rest)),
            None if rest.is_empty() => (rest, None),
            None => (rest, Some("")),
        };
        self.rest = rest;
        if rest.is_none() && line.is_empty() {
            return None;
        }
        self.line += 1;
        Some(line)
    }

    fn parse(&mut self, line: &'a str) -> Result<Option<Sample<'a>>, Reason> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = line.trim_start_matches(BLANKS);
        if self.ended && !line.is_empty() {
            return Err(Reason::AfterEof);
        }
        match line.as_bytes().first() {
            None => Ok(None),
            Some(b'#') => self.comment(&line[1..]).map(|()| None),
            Some(_) => self.sample(line).map(Some),
        }
    }

    /// A comment, a HELP, UNIT or TYPE line, or the end.
    fn comment(&mut self, text: &str) -> Result<(), Reason> {
        if self.format == Format::OpenMetrics && text.trim_end_matches(BLANKS) == " EOF" {
            self.ended = true;
            return Ok(());
        }
        let blank = text.starts_with(BLANKS);
        let Some(rest) = text.trim_start_matches(BLANKS).strip_prefix("TYPE").filter(|_| blank) else { return Ok(()) };
        // Like `#TYPE`, `# TYPES` is a comment.
        if !rest.starts_with(BLANKS) {
            return Ok(());
        }
        let rest = rest.trim_start_matches(BLANKS);
        let name = if rest.starts_with('"') { series::quoted_len(rest) } else { series::plain_len(rest, true) };
        let family = name.filter(|len| *len > 0).and_then(|len| rest.get(len..)).ok_or(Reason::Type)?;
        self.family = match (family.trim_matches(BLANKS), self.format) {
            ("histogram", _) => FamilyType::Histogram,
            ("summary", _) => FamilyType::Summary,
            ("counter" | "gauge", _)
            | ("untyped", Format::Text)
            | ("unknown" | "gaugehistogram" | "info" | "stateset", Format::OpenMetrics) => FamilyType::Other,
            _ => return Err(Reason::Type),
        };
        Ok(())
    }

    fn sample(&self, line: &'a str) -> Result<Sample<'a>, Reason> {
        let end = series::len(line)?;
        let series = Series { text: &line[..end], family: self.family };
        let (value, rest) = token(&line[end..]);
        let value = float::parse(value).ok_or(Reason::Value)?;
        self.check_rest(rest)?;
        Ok(Sample { series, value })
    }

    /// Checks what follows a value: a timestamp, and in OpenMetrics an exemplar.
    fn check_rest(&self, rest: &str) -> Result<(), Reason> {
        let (first, after) = token(rest);
        if first.is_empty() {
            return Ok(());
        }
        if self.format == Format::Text {
            let is_timestamp = first.parse::<i64>().is_ok();
            return if is_timestamp && token(after).0.is_empty() { Ok(()) } else { Err(Reason::Timestamp) };
        }
        if first.starts_with('#') {
            return exemplar(rest);
        }
        float::parse(first).filter(|seconds| seconds.is_finite()).ok_or(Reason::Timestamp)?;
        match token(after).0 {
            "" => Ok(()),
            next if next.starts_with('#') => exemplar(after),
            _ => Err(Reason::Timestamp),
        }
    }
}

impl<'a> Iterator for Exposition<'a> {
    type Item = Result<Sample<'a>, ExpositionError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(line) = self.next_line() {
            match self.parse(line) {
                Ok(None) => {}
                Ok(Some(sample)) => return Some(Ok(sample)),
                Err(reason) => {
                    self.rest = None;
                    self.ended = true;
                    return Some(Err(ExpositionError { line: self.line, reason }));
                }
            }
        }
        if self.format == Format::OpenMetrics && !self.ended {
            self.ended = true;
            return Some(Err(ExpositionError { line: self.line + 1, reason: Reason::NoEof }));
        }
        None
    }
}

/// What separates the parts of a line.
const BLANKS: [char; 2] = [' ', '\t'];

/// The text up to the next blank, and the rest.
fn token(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(BLANKS);
    text.split_at(text.find(BLANKS).unwrap_or(text.len()))
}

/// Checks an exemplar: a set of labels, a value and perhaps a timestamp.
fn exemplar(text: &str) -> Result<(), Reason> {
    let labels = text.trim_start_matches(BLANKS).strip_prefix('#').ok_or(Reason::Exemplar)?.trim_start_matches(BLANKS);
    let end = series::labels_len(labels).map_err(|_| Reason::Exemplar)?;
    let (value, rest) = token(&labels[end..]);
    let (timestamp, rest) = token(rest);
    let is_number = |text: &str| float::parse(text).is_some();
    let complete = is_number(value) && (timestamp.is_empty() || is_number(timestamp)) && token(rest).0.is_empty();
    if complete { Ok(()) } else { Err(Reason::Exemplar) }
}

#[cfg(test)]
mod tests;

//! The two formats of exports.

use std::io::Write as _;
use std::str::FromStr;

use golectra_promql::Labels;

use crate::history::number::write_value;
use crate::store::history::ExactValues;

/// Writing to memory does not fail.
const NO_FAILURE: &str = "writing to memory does not fail";

/// A line of JSON has at most so many samples.
pub(super) const LINE_SAMPLES: usize = 1_000;

/// The bits of Prometheus's stale marker.
const STALE: u64 = 0x7ff0_0000_0000_0002;
/// The bits of the one NaN that Prometheus sends otherwise.
const NAN: u64 = 0x7ff8_0000_0000_0001;

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line a sample, the first with the columns' names.
    Csv,
    /// An object a line, with samples of one series.
    JsonLines,
}

/// What a format should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected csv or jsonl")]
pub struct FormatError;

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::JsonLines),
            _ => Err(FormatError),
        }
    }
}

impl Format {
    /// Writes what stands before the first line.
    pub(super) fn begin(self, out: &mut Vec<u8>) {
        if self == Self::Csv {
            out.extend_from_slice(b"id,type,series,timestamp_ms,value\n");
        }
    }
}

/// Writes lines of one series.
pub(super) struct SeriesLines {
    format: Format,
    /// What each line begins with.
    beginning: Vec<u8>,
}

impl SeriesLines {
    pub(super) fn new(format: Format, source: &str, number: u32, labels: &Labels, values: &ExactValues) -> Self {
        let kind = match values {
            ExactValues::Gauge(_) => "gauge",
            ExactValues::Counter(_) => "counter",
        };
        let mut beginning = Vec::new();
        match format {
            Format::Csv => {
                let series = labels.to_string();
                write!(beginning, "{source}/{number},{kind},\"{}\",", series.replace('"', "\"\"")).expect(NO_FAILURE);
            }
            Format::JsonLines => {
                write!(beginning, "{{\"id\":\"{source}/{number}\",\"type\":\"{kind}\",\"metric\":{{").expect(NO_FAILURE);
                for (place, (name, value)) in labels.iter().enumerate() {
                    if place > 0 {
                        beginning.push(b',');
                    }
                    write_text(&mut beginning, name);
                    beginning.push(b':');
                    write_text(&mut beginning, value);
                }
                beginning.extend_from_slice(b"},\"timestamps_ms\":[");
            }
        }
        Self { format, beginning }
    }

    /// Writes samples with these times; the value of the first is the one at this place.
    pub(super) fn write(&self, out: &mut Vec<u8>, timestamps_ms: &[i64], values: &ExactValues, first: usize) {
        match self.format {
            Format::Csv => {
                for (at_ms, place) in timestamps_ms.iter().zip(first..) {
                    out.extend_from_slice(&self.beginning);
                    write!(out, "{at_ms},").expect(NO_FAILURE);
                    write_exact(out, values, place, "");
                    out.push(b'\n');
                }
            }
            Format::JsonLines => {
                out.extend_from_slice(&self.beginning);
                for (place, at_ms) in timestamps_ms.iter().enumerate() {
                    write!(out, "{}{at_ms}", if place > 0 { "," } else { "" }).expect(NO_FAILURE);
                }
                out.extend_from_slice(b"],\"values\":[");
                for place in first..first + timestamps_ms.len() {
                    if place > first {
                        out.push(b',');
                    }
                    write_exact(out, values, place, "\"");
                }
                out.extend_from_slice(b"]}\n");
            }
        }
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("texts always encode");
}

/// Writes the value at a place: the shortest text that reads back to the same number, or a word that stands for its bits, in quotes.
fn write_exact(out: &mut Vec<u8>, values: &ExactValues, place: usize, quote: &str) {
    match values {
        ExactValues::Counter(totals) => write!(out, "{}", totals[place]).expect(NO_FAILURE),
        ExactValues::Gauge(values) if values[place].is_finite() => write_value(out, values[place]),
        ExactValues::Gauge(values) => {
            let written = match values[place].to_bits() {
                STALE => write!(out, "{quote}stale{quote}"),
                NAN => write!(out, "{quote}NaN{quote}"),
                bits if values[place].is_nan() => write!(out, "{quote}{bits:#018x}{quote}"),
                _ if values[place] > 0.0 => write!(out, "{quote}+Inf{quote}"),
                _ => write!(out, "{quote}-Inf{quote}"),
            };
            written.expect(NO_FAILURE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(format: Format, values: &ExactValues) -> String {
        let labels = Labels::new([("__name__", "m"), ("l", "a\"b\\\n,é")]);
        let mut out = Vec::new();
        let times: Vec<i64> = (0..)
            .take(match values {
                ExactValues::Gauge(values) => values.len(),
                ExactValues::Counter(totals) => totals.len(),
            })
            .collect();
        SeriesLines::new(format, "n", 7, &labels, values).write(&mut out, &times, values, 0);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_value_has_one_text() {
        let gauge = ExactValues::Gauge(vec![
            0.1,
            -0.0,
            5e-324,
            1e23,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::from_bits(STALE),
            f64::from_bits(NAN),
            f64::from_bits(0xfff8_0000_0000_0000),
        ]);
        let series = r#""m{l=""a\""b\\\n,é""}""#;
        let texts = ["0.1", "-0", "5e-324", "1e+23", "+Inf", "-Inf", "stale", "NaN", "0xfff8000000000000"];
        let expected: Vec<String> = texts.iter().enumerate().map(|(at, text)| format!("n/7,gauge,{series},{at},{text}\n")).collect();
        assert_eq!(lines(Format::Csv, &gauge), expected.concat());
        assert_eq!(
            lines(Format::JsonLines, &gauge),
            concat!(
                r#"{"id":"n/7","type":"gauge","metric":{"__name__":"m","l":"a\"b\\\n,é"},"timestamps_ms":[0,1,2,3,4,5,6,7,8],"values":"#,
                r#"[0.1,-0,5e-324,1e+23,"+Inf","-Inf","stale","NaN","0xfff8000000000000"]}"#,
                "\n"
            )
        );
        let counter = ExactValues::Counter(vec![0, i64::MAX]);
        assert_eq!(lines(Format::Csv, &counter), format!("n/7,counter,{series},0,0\nn/7,counter,{series},1,9223372036854775807\n"));
        assert!(lines(Format::JsonLines, &counter).ends_with("\"values\":[0,9223372036854775807]}\n"));
    }
}

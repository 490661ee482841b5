//! Reads series with their values, such as `up{job="x"} 1+2x3 _ stale`.

use golectra_promql::parse::{ParseLimits, parse_selector};
use golectra_promql::staleness::STALE;
use golectra_promql::{Labels, MatchOp};
use regex::Regex;

/// A value at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    None,
    Float(f64),
    /// A native histogram, which this crate does not know.
    Histogram,
}

/// Labels and values of a line.
pub fn parse(line: &str) -> Result<(Labels, Vec<Value>), String> {
    let end = labels_end(line);
    let labels = labels(line[..end].trim())?;
    Ok((labels, values(&line[end..])?))
}

/// Where the labels end: behind the closing brace, or at the first space.
fn labels_end(line: &str) -> usize {
    let Some(open) = line.find('{').filter(|open| !line[..*open].contains(char::is_whitespace)) else {
        return line.find(char::is_whitespace).unwrap_or(line.len());
    };
    let mut quote = None;
    let mut escaped = false;
    for (index, character) in line[open..].char_indices() {
        match (quote, character) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(quoted), character) if quoted == character => quote = None,
            (None, '"' | '\'' | '`') => quote = Some(character),
            (None, '}') => return open + index + 1,
            _ => {}
        }
    }
    line.len()
}

fn labels(text: &str) -> Result<Labels, String> {
    if text.is_empty() || text == "{}" {
        return Ok(Labels::empty());
    }
    let matchers = parse_selector(text, &ParseLimits::default()).map_err(|error| format!("{text:?}: {error}"))?;
    if matchers.iter().any(|matcher| matcher.op() != MatchOp::Equal) {
        return Err(format!("{text:?} gives no values to labels"));
    }
    Ok(Labels::new(matchers.iter().map(|matcher| (matcher.name(), matcher.value()))))
}

/// A number as PromQL writes it.
pub fn number(text: &str) -> Result<f64, String> {
    text.trim().parse::<f64>().map_err(|_| format!("{text:?} is no number"))
}

fn values(text: &str) -> Result<Vec<Value>, String> {
    let number = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI]nf|[nN]a[nN])";
    let sequence = Regex::new(&format!(r"^({number})(?:([+-])({number}))?(?:x(\d+))?$")).unwrap();
    let blanks = Regex::new(r"^_(?:x(\d+))?$").unwrap();
    let histograms = Regex::new(r"^\{\{[^}]*\}\}(?:[+-]\{\{[^}]*\}\})?(?:x(\d+))?").unwrap();
    let count = |count: Option<regex::Match<'_>>| count.map(|count| count.as_str().parse::<usize>().unwrap());
    let mut values = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(histogram) = histograms.captures(rest) {
            values.extend(vec![Value::Histogram; count(histogram.get(1)).map_or(1, |count| count + 1)]);
            rest = rest[histogram[0].len()..].trim_start();
            continue;
        }
        let word = rest.split_whitespace().next().unwrap_or_default();
        rest = rest[word.len()..].trim_start();
        if word == "stale" {
            values.push(Value::Float(STALE));
        } else if let Some(blank) = blanks.captures(word) {
            values.extend(vec![Value::None; count(blank.get(1)).unwrap_or(1)]);
        } else if let Some(parts) = sequence.captures(word) {
            let start = self::number(&parts[1])?;
            let change = match (parts.get(2), parts.get(3)) {
                (Some(sign), Some(change)) => self::number(change.as_str())? * if sign.as_str() == "-" { -1.0 } else { 1.0 },
                _ => 0.0,
            };
            let mut value = start;
            for _ in 0..=count(parts.get(4)).unwrap_or_default() {
                values.push(Value::Float(value));
                value += change;
            }
        } else {
            return Err(format!("invalid values {word:?}"));
        }
    }
    Ok(values)
}

#[test]
fn sequences_are_expanded() {
    let floats = |numbers: &[f64]| numbers.iter().copied().map(Value::Float).collect::<Vec<_>>();
    let (labels, values) = parse(r#"up{a="x y}", b='1'} 1+2x2 5 3-1x1 7x1 -1.5e+2"#).unwrap();
    assert_eq!(labels, Labels::new([("__name__", "up"), ("a", "x y}"), ("b", "1")]));
    assert_eq!(values, floats(&[1.0, 3.0, 5.0, 5.0, 3.0, 2.0, 7.0, 7.0, -150.0]));
    assert_eq!(
        parse("{} _ _x2 {{sum:1 count:2}}x1").unwrap().1,
        [Value::None, Value::None, Value::None, Value::Histogram, Value::Histogram]
    );
}

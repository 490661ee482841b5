//! The functions that templates have beside those of Go.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use golectra_promql::expand_template;
use golectra_promql::parse::parse_duration;
use gotmpl::{FuncMap, TemplateError, Value};
use regex::{Captures, Regex};

use super::humanize;

/// The functions of Go's own.
pub const BUILT_IN: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf", "println", "slice",
    "urlquery",
];

/// How much memory a regular expression may take.
const MAX_PATTERN_BYTES: usize = 1 << 20;

type Called = Result<Value, TemplateError>;

/// Those of Prometheus that need nothing but their arguments, and those of Go's own that do something else here.
pub fn all() -> FuncMap {
    let mut map = FuncMap::new();
    let mut add = |name: &str, function: fn(&[Value]) -> Called| _ = map.insert(name.to_owned(), Arc::new(function));
    add("humanize", |args| number(args, humanize::humanize));
    add("humanize1024", |args| number(args, humanize::humanize1024));
    add("humanizeDuration", |args| number(args, humanize::duration));
    add("humanizePercentage", |args| number(args, humanize::percentage));
    add("humanizeTimestamp", |args| number(args, humanize::timestamp));
    add("title", |args| string(args, title));
    add("toUpper", |args| string(args, str::to_uppercase));
    add("toLower", |args| string(args, str::to_lowercase));
    add("stripPort", |args| string(args, |host| without_port(host).to_owned()));
    add("stripDomain", |args| string(args, without_domain));
    add("safeHtml", |args| string(args, str::to_owned));
    add("urlQueryEscape", |args| string(args, |text| form_urlencoded::byte_serialize(text.as_bytes()).collect()));
    add("parseDuration", |args| {
        let text = text(args, 0)?;
        let ms = parse_duration(&text).ok_or_else(|| TemplateError::Exec(format!("{text:?} is no duration")))?;
        #[expect(clippy::cast_precision_loss, reason = "durations are far below 2^53 ms")]
        Ok(Value::Float(ms as f64 / 1000.0))
    });
    add("match", |args| Ok(Value::Bool(pattern(&text(args, 0)?)?.is_match(&text(args, 1)?))));
    add("reReplaceAll", |args| {
        let (pattern, replacement, value) = (pattern(&text(args, 0)?)?, text(args, 1)?, text(args, 2)?);
        let replaced = pattern.replace_all(&value, |captures: &Captures<'_>| {
            let mut out = String::new();
            expand_template(captures, &replacement, &mut out);
            out
        });
        Ok(Value::String(replaced.into_owned().into()))
    });
    add("args", |args| {
        Ok(Value::Map(Arc::new(args.iter().enumerate().map(|(index, arg)| (format!("arg{index}").into(), arg.clone())).collect())))
    });
    // Replaces Go's own, which gives no value for a missing key of this map: in Prometheus a missing label is an empty text.
    add("index", |args| {
        argument(args, 1)?;
        let mut value = argument(args, 0)?.clone();
        for key in &args[1..] {
            value = match value.index(key)? {
                Value::Nil => Value::String("".into()),
                found => found,
            };
        }
        Ok(value)
    });
    add("now", |_| Ok(Value::Float(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))));
    map
}

fn pattern(text: &str) -> Result<Regex, TemplateError> {
    regex::RegexBuilder::new(text).size_limit(MAX_PATTERN_BYTES).build().map_err(|error| TemplateError::Exec(error.to_string()))
}

fn argument(args: &[Value], index: usize) -> Result<&Value, TemplateError> {
    args.get(index)
        .ok_or_else(|| TemplateError::Exec(format!("a function needs at least {} arguments, this one has {}", index + 1, args.len())))
}

fn text(args: &[Value], index: usize) -> Result<String, TemplateError> {
    Ok(argument(args, index)?.to_string())
}

fn string(args: &[Value], function: impl Fn(&str) -> String) -> Called {
    Ok(Value::String(function(&text(args, 0)?).into()))
}

fn number(args: &[Value], function: impl Fn(f64) -> String) -> Called {
    let value = argument(args, 0)?;
    let number = match value {
        #[expect(clippy::cast_precision_loss, reason = "as Prometheus converts them")]
        Value::Int(number) => *number as f64,
        #[expect(clippy::cast_precision_loss, reason = "as Prometheus converts them")]
        Value::Uint(number) => *number as f64,
        Value::Float(number) => *number,
        other => other.to_string().parse().map_err(|_| TemplateError::Exec(format!("{:?} is no number", other.to_string())))?,
    };
    Ok(Value::String(function(number).into()))
}

/// Each word with a capital letter.
fn title(text: &str) -> String {
    let mut starts = true;
    text.chars()
        .flat_map(|c| {
            let first = starts && c.is_alphanumeric();
            starts = !(c.is_alphanumeric() || c == '_' || c == '\'');
            if first { c.to_uppercase().collect::<Vec<_>>() } else { vec![c] }
        })
        .collect()
}

/// The host of `host:port` or `[host]:port`; a text that is neither as it is.
fn without_port(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address,
            None if host.contains(':') => text,
            None => host,
        },
        _ => text,
    }
}

/// A host's name up to its first point, with its port; an address as it is.
fn without_domain(text: &str) -> String {
    let host = without_port(text);
    if host.parse::<std::net::IpAddr>().is_ok() {
        return text.to_owned();
    }
    let port = text.strip_prefix(host).unwrap_or_default();
    format!("{}{port}", host.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_their_ports_and_domains() {
        for (text, host, short) in [
            ("a.b.c:80", "a.b.c", "a:80"),
            ("a", "a", "a"),
            ("10.0.0.1:80", "10.0.0.1", "10.0.0.1:80"),
            ("[::1]:80", "::1", "[::1]:80"),
            ("::1", "::1", "::1"),
        ] {
            assert_eq!((without_port(text), without_domain(text).as_str()), (host, short), "{text}");
        }
        assert_eq!(title("one two-three it's"), "One Two-Three It's");
    }
}

//! Patterns as Go reads them.
//!
//! Prometheus's regular expressions are those of Go's `regexp`, anchored at both ends and with `.` matching line breaks
//! too. The crate `regex` reads nearly the same language; what differs is translated here:
//! `\d`, `\s`, `\w` and `\b` mean ASCII in Go, `\<` and `\>` are literal, `\Q…\E` quotes, `{` is literal where it starts no
//! repetition, and between brackets `[`, `&&`, `--` and `~~` have no meaning of their own.

use std::fmt::Write;
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexBuilder};

/// How much memory one compiled pattern may take; the lazily built automaton may take as much again. A pattern is compiled
/// within the first of these that suffices, since the crate does not tell what it took.
const COMPILED_BYTES: [usize; 4] = [32 << 10, 128 << 10, 512 << 10, MAX_COMPILED_BYTES];
const MAX_COMPILED_BYTES: usize = 2 << 20;

/// A `$` in a template that means something to Go: `$$`, `${name}` or `$name`, whose name is as long as possible.
static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$(?:\$|\{([\p{L}\p{Nd}_]+)\}|([\p{L}\p{Nd}_]+))").expect("a valid pattern"));

/// Why a pattern is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid regular expression {pattern:?}: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

/// A compiled pattern that has to match the whole of a value.
#[derive(Clone)]
pub(crate) struct Pattern {
    kind: Kind,
    prefix: String,
}

#[derive(Clone)]
enum Kind {
    /// One of these texts.
    Literals(Vec<String>),
    Regex(CompiledRegex),
}

/// A compiled regular expression.
#[derive(Clone)]
pub(crate) struct CompiledRegex {
    pub(crate) regex: Regex,
    /// At most so much memory is taken by it.
    pub(crate) max_bytes: usize,
}

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, PatternError> {
        let kind = match alternatives(pattern) {
            Some(alternatives) => Kind::Literals(alternatives),
            None => Kind::Regex(compile(pattern)?),
        };
        Ok(Self { kind, prefix: literal_prefix(pattern) })
    }

    pub(crate) fn is_match(&self, value: &str) -> bool {
        match &self.kind {
            Kind::Literals(alternatives) => alternatives.iter().any(|alternative| alternative == value),
            Kind::Regex(compiled) => compiled.regex.is_match(value),
        }
    }

    pub(crate) fn alternatives(&self) -> Option<&[String]> {
        match &self.kind {
            Kind::Literals(alternatives) => Some(alternatives),
            Kind::Regex(_) => None,
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How much memory it takes at most once it is compiled; 0 where nothing has to be.
    pub(crate) fn compiled_bytes(&self) -> usize {
        match &self.kind {
            Kind::Literals(_) => 0,
            Kind::Regex(compiled) => compiled.max_bytes,
        }
    }
}

/// A regular expression for the whole of a value, as `label_replace` uses it.
pub(crate) fn compile(pattern: &str) -> Result<CompiledRegex, PatternError> {
    let error = |reason: String| PatternError { pattern: pattern.to_owned(), reason };
    let translated = translate(pattern).map_err(|reason| error(reason.to_owned()))?;
    let anchored = format!("^(?s:{translated})$");
    for max_bytes in COMPILED_BYTES {
        // A smaller cache of the automaton than the second one would only make it slow.
        let automaton_bytes = max_bytes.max(COMPILED_BYTES[1]);
        match RegexBuilder::new(&anchored).size_limit(max_bytes).dfa_size_limit(automaton_bytes).build() {
            Ok(regex) => return Ok(CompiledRegex { regex, max_bytes }),
            Err(regex::Error::CompiledTooBig(_)) if max_bytes < MAX_COMPILED_BYTES => {}
            Err(problem) => return Err(error(describe(&problem))),
        }
    }
    unreachable!("the largest limit gives a result")
}

/// Appends a template to `out`, with what was captured in place of its references. It is read as Go's `Regexp.Expand` reads it; the crate `regex` takes other
/// names.
pub fn expand_template(captures: &Captures<'_>, template: &str, out: &mut String) {
    let mut end = 0;
    for reference in REFERENCE.captures_iter(template) {
        let whole = reference.get(0).expect("the whole match is always there");
        out.push_str(&template[end..whole.start()]);
        end = whole.end();
        out.push_str(reference.get(1).or_else(|| reference.get(2)).map_or("$", |name| captured(captures, name.as_str())));
    }
    out.push_str(&template[end..]);
}

/// What the group of this number or name captured; nothing if there is no such group.
fn captured<'c>(captures: &'c Captures<'_>, name: &str) -> &'c str {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    let group = if is_number { name.parse().ok().and_then(|number| captures.get(number)) } else { captures.name(name) };
    group.map_or("", |group| group.as_str())
}

fn describe(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => format!("it needs more than {limit} bytes compiled"),
        // The crate draws the pattern with a marker over several lines; the last one says what is wrong.
        other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

const MEANINGFUL: &str = r"\.+*?()|[]{}^$";

/// The values of a pattern that is nothing but literal texts with `|` between them.
fn alternatives(pattern: &str) -> Option<Vec<String>> {
    let inner = pattern.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(pattern);
    inner
        .chars()
        .all(|character| character == '|' || !MEANINGFUL.contains(character))
        .then(|| inner.split('|').map(str::to_owned).collect())
}

/// The literal text that every match starts with.
fn literal_prefix(pattern: &str) -> String {
    if pattern.contains('|') {
        return String::new();
    }
    let literal_len = pattern.find(|character| MEANINGFUL.contains(character)).unwrap_or(pattern.len());
    let mut prefix = pattern[..literal_len].to_owned();
    // A repetition belongs to the character in front of it.
    if pattern[literal_len..].starts_with(['*', '?', '{']) {
        prefix.pop();
    }
    prefix
}

/// The pattern in the syntax of the crate `regex`.
fn translate(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut open_groups: usize = 0;
    // How much of the pattern was left at the first character of the current class.
    let mut class_start = None;
    while let Some(character) = rest.chars().next() {
        let tail = &rest[character.len_utf8()..];
        rest = match (character, class_start) {
            ('\\', class) => translate_escape(tail, class.is_some(), &mut out),
            ('[', None) => {
                let negated = tail.strip_prefix('^');
                out.push_str(if negated.is_some() { "[^" } else { "[" });
                let tail = negated.unwrap_or(tail);
                class_start = Some(tail.len());
                tail
            }
            ('[', Some(_)) => {
                let named = tail.starts_with(':')
                    && tail.find(":]").is_some_and(|end| tail[1..end].bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'^'));
                if named {
                    let end = tail.find(":]").unwrap_or_default() + 2;
                    out.push('[');
                    out.push_str(&tail[..end]);
                    &tail[end..]
                } else {
                    out.push_str(r"\[");
                    tail
                }
            }
            // The first character of a class is literal even if it is the bracket that closes one.
            (']', Some(start)) if rest.len() == start => {
                out.push_str(r"\]");
                tail
            }
            (']', Some(_)) => {
                class_start = None;
                out.push(']');
                tail
            }
            ('&' | '~', Some(_)) => {
                out.push('\\');
                out.push(character);
                tail
            }
            // A literal at the start of a class, otherwise a range that ends with a minus.
            ('-', Some(start)) if tail.starts_with('-') => {
                let first = rest.len() == start;
                out.push_str(if first { r"\-" } else { r"-\-" });
                if first { tail } else { &tail[1..] }
            }
            ('{', None) if !starts_repetition(tail) => {
                out.push_str(r"\{");
                tail
            }
            ('}', None) if !out_has_open_brace(&out) => {
                out.push_str(r"\}");
                tail
            }
            (other, class) => {
                // A parenthesis too many would close the group that anchors the pattern.
                match (other, class) {
                    ('(', None) => open_groups += 1,
                    (')', None) => open_groups = open_groups.checked_sub(1).ok_or("unopened group")?,
                    _ => {}
                }
                out.push(other);
                tail
            }
        };
    }
    Ok(out)
}

/// Translates what stands behind a backslash and returns what is left.
fn translate_escape<'a>(tail: &'a str, in_class: bool, out: &mut String) -> &'a str {
    let Some(kind) = tail.chars().next() else {
        out.push('\\');
        return tail;
    };
    let after = &tail[kind.len_utf8()..];
    let replacement = match (kind, in_class) {
        ('d', _) => "[0-9]",
        ('D', _) => "[^0-9]",
        ('s', _) => r"[\t\n\f\r ]",
        ('S', _) => r"[^\t\n\f\r ]",
        ('w', _) => "[0-9A-Za-z_]",
        ('W', _) => "[^0-9A-Za-z_]",
        ('b', false) => r"(?-u:\b)",
        // The crate takes these for the borders of words. By their codes they stand for themselves wherever they are.
        ('<', _) => r"\x3C",
        ('>', _) => r"\x3E",
        ('Q', false) => {
            let (quoted, after) = after.split_once(r"\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            return after;
        }
        // Letters with a meaning, and a class of characters such as \p{Greek} or \x{41} with its braces.
        ('p' | 'P' | 'x', _) if after.starts_with('{') => {
            let end = after.find('}').map_or(after.len(), |end| end + 1);
            let _ = write!(out, "\\{kind}{}", &after[..end]);
            return &after[end..];
        }
        _ => {
            out.push('\\');
            out.push(kind);
            return after;
        }
    };
    out.push_str(replacement);
    after
}

/// Whether a repetition such as `3}`, `3,}` or `3,5}` follows.
fn starts_repetition(tail: &str) -> bool {
    tail.split_once('}').is_some_and(|(inner, _)| {
        let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
        !low.is_empty() && low.bytes().chain(high.bytes()).all(|byte| byte.is_ascii_digit())
    })
}

/// Whether the last brace that was written is an open one that starts a repetition.
fn out_has_open_brace(out: &str) -> bool {
    out.rfind('{').is_some_and(|open| !out[..open].ends_with('\\') && !out[open..].contains('}'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, value: &str) -> bool {
        Pattern::new(pattern).unwrap().is_match(value)
    }

    #[test]
    fn patterns_match_whole_values_and_line_breaks() {
        assert!(matches("a.c", "a\nc"));
        assert!(!matches("b", "abc"));
        assert!(!matches("a|b", "ab"));
        assert!(!matches("a", "a\n"));
        assert!(matches("(?i:PRO).*", "production"));
        assert!(matches("((?i)PRO).*", "production"));
        assert!(matches("", ""));
    }

    #[test]
    fn classes_are_ascii_as_in_go() {
        assert!(!matches(r"\d", "٣"));
        assert!(!matches(r"\w+", "ä"));
        assert!(matches(r"\W", "ä"));
        assert!(matches(r"[\w.]+", "a.b"));
        assert!(!matches(r"[^\d]", "1"));
        assert!(matches(r"[^\W]", "a"));
        assert!(!matches(r"[^\W]", "-"));
        assert!(matches(r"a\b.*", "a b"));
    }

    #[test]
    fn what_go_reads_literally_is_literal() {
        assert!(matches(r"a{b}", "a{b}"));
        assert!(matches(r"a{,2}", "a{,2}"));
        assert!(matches(r"a{2}", "aa"));
        assert!(matches(r"a{2,}", "aaa"));
        assert!(matches(r"[[]", "["));
        assert!(matches(r"[]a]+", "]a"));
        assert!(matches(r"[^]a]+", "bc"));
        assert!(matches(r"[a&&b]+", "a&b"));
        assert!(matches(r"[a~~b]+", "a~b"));
        assert!(matches(r"[!--]+", "-#!"));
        assert!(matches(r"[--/]+", "-./"));
        assert!(matches(r"[\w-.]+", "a-.b"));
        assert!(matches(r"[[:alpha:]x]+", "abx"));
        assert!(matches(r"\Qa.b*\Ec", "a.b*c"));
        assert!(matches(r"\Qa", "a"));
        assert!(matches(r"\x{41}\p{Greek}", "Aα"));
        assert!(matches(r"}", "}"));
        assert!(matches(r"\<a\>", "<a>") && !matches(r"\<a\>", "a"));
        assert!(matches(r"[\<]", "<") && matches(r"[^\<\>]", "a") && !matches(r"[^\<\>]", ">"));
        assert!(Pattern::new(r"(?\<name>a)").is_err());
    }

    #[test]
    fn templates_are_read_as_go_reads_them() {
        let regex = compile("(?P<first>[a-z]+)-(?P<_2>[a-z]+)(-[0-9]+)?").unwrap().regex;
        let captures = regex.captures("ab-cd").unwrap();
        for (template, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$1/$2", "ab/cd"),
            ("$0", "ab-cd"),
            ("${1}x$first-${_2}$_2", "abxab-cdcd"),
            // A name is as long as possible.
            ("[$1x][$10][$1_][$firsté][$first_]", "[][][][][]"),
            ("$1-$2.$1 $1$2", "ab-cd.ab abcd"),
            // There is no such group, or it captured nothing.
            ("[$3][$4][$none][${none}][$99999999999999999999]", "[][][][][]"),
            // Zeros in front make no number.
            ("[$01][${01}][$00][${0}]", "[][][][ab-cd]"),
            // Any letter and any decimal digit is part of a name, other numbers are not.
            ("[$ä][${ä}][$1ä][$1٣][$1²]", "[][][][][ab²]"),
            // Nothing but a name may be between braces.
            ("${} ${a-b} ${1 $1} ${1", "${} ${a-b} ${1 ab} ${1"),
            ("${$1} ${first[0]} $[1] $.", "${ab} ${first[0]} $[1] $."),
            ("$$ $$1 $$$1 $$$ $", "$ $1 $ab $$ $"),
        ] {
            let mut out = String::new();
            expand_template(&captures, template, &mut out);
            assert_eq!(out, expected, "{template}");
        }
    }

    #[test]
    fn errors_name_the_pattern() {
        assert_eq!(Pattern::new("(").err().unwrap().to_string(), r#"invalid regular expression "(": unclosed group"#);
        assert!(Pattern::new("a)(b").is_err());
        let bomb = Pattern::new("((a{1000}){1000}){1000}").err().unwrap();
        assert!(bomb.to_string().contains("it needs more than 2097152 bytes compiled"), "{bomb}");
    }

    #[test]
    fn the_memory_of_a_compiled_pattern_is_known_by_its_order() {
        let bytes = |pattern: &str| Pattern::new(pattern).unwrap().compiled_bytes();
        assert_eq!(bytes("a|b"), 0);
        assert_eq!(bytes("a.*"), COMPILED_BYTES[0]);
        assert!(bytes("(a{100}){50}.*") > COMPILED_BYTES[0]);
    }

    #[test]
    fn literals_are_found() {
        let find = |pattern: &str| (alternatives(pattern), literal_prefix(pattern));
        assert_eq!(find("(a|b)"), (Some(vec!["a".into(), "b".into()]), String::new()));
        assert_eq!(find("abc"), (Some(vec!["abc".into()]), "abc".into()));
        assert_eq!(find("ab*"), (None, "a".into()));
        assert_eq!(find("ab+"), (None, "ab".into()));
        assert_eq!(find("ab{2}"), (None, "a".into()));
        assert_eq!(find("a.*|b"), (None, String::new()));
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(template in "[$1{}a_é]*") {
            let regex = compile("(.*)").unwrap().regex;
            expand_template(&regex.captures("value").unwrap(), &template, &mut String::new());
        }

        #[test]
        fn no_pattern_makes_it_panic(pattern in "\\PC*|[a-z0-9\\\\.+*?()|\\[\\]{}^$&~:QE,-]*", value in "[a-z{}\\[\\]]*") {
            if let Ok(compiled) = Pattern::new(&pattern) {
                compiled.is_match(&value);
            }
        }

        #[test]
        fn quoted_text_matches_itself(value in "\\PC*") {
            prop_assert!(matches(&regex::escape(&value), &value));
        }

        #[test]
        fn the_prefix_is_one(pattern in "[ab]{0,3}[*+?.]?[ab]{0,2}", value in "[ab]{0,5}") {
            if let Ok(compiled) = Pattern::new(&pattern)
                && compiled.is_match(&value)
            {
                prop_assert!(value.starts_with(compiled.prefix()));
            }
        }
    }
}

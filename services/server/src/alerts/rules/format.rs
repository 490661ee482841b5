//! Rule files: YAML as Prometheus reads it, checked as `promtool check rules` checks it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use golectra_promql::parse::parse_duration;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Rule, RuleGroup, RuleKind};
use crate::alerts::template::Template;
use crate::folder::{FileError, YamlReader};

/// The most rules of a file.
pub const MAX_RULES: usize = 2_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    groups: Vec<RawGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    name: Spanned<String>,
    interval: Option<Spanned<String>>,
    query_offset: Option<Spanned<String>>,
    #[serde(default)]
    limit: usize,
    #[serde(default)]
    labels: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    rules: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    record: Option<Spanned<String>>,
    alert: Option<Spanned<String>>,
    expr: Spanned<String>,
    r#for: Option<Spanned<String>>,
    keep_firing_for: Option<Spanned<String>>,
    #[serde(default)]
    labels: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    annotations: BTreeMap<String, Spanned<String>>,
}

/// Reads a file. The first thing that is wrong with it is its error, and none of its rules counts then.
pub fn parse(file: &str, text: &str) -> Result<Vec<RuleGroup>, FileError> {
    let reader = Reader(YamlReader { file });
    let raw: RawFile = reader.0.read("rules", text)?;
    if raw.groups.iter().map(|group| group.rules.len()).sum::<usize>() > MAX_RULES {
        return Err(reader.0.error(0, format!("a file has at most {MAX_RULES} rules")));
    }
    let mut names = BTreeSet::new();
    let mut groups = Vec::with_capacity(raw.groups.len());
    for group in raw.groups {
        if !names.insert(group.name.value.clone()) {
            return Err(reader.0.at(&group.name, format!("the group {:?} is there twice", group.name.value)));
        }
        groups.push(reader.group(group)?);
    }
    Ok(groups)
}

struct Reader<'a>(YamlReader<'a>);

impl Reader<'_> {
    fn group(&self, raw: RawGroup) -> Result<RuleGroup, FileError> {
        if raw.name.value.is_empty() {
            return Err(self.0.at(&raw.name, "a group needs a name"));
        }
        let interval_ms = self.duration(raw.interval.as_ref())?;
        if let (Some(0), Some(place)) = (interval_ms, &raw.interval) {
            return Err(self.0.at(place, "an interval is longer than 0s"));
        }
        let group_labels = self.labels(&raw.labels)?;
        let (mut keys, mut identities) = (BTreeMap::new(), BTreeMap::new());
        let mut rules = Vec::with_capacity(raw.rules.len());
        for rule in raw.rules {
            let mut rule = self.rule(rule, &group_labels)?;
            rule.key = numbered(rule.name.clone(), &mut keys);
            let labels: Vec<String> = rule.labels.iter().map(|(name, value)| format!("{name}={:?}", value.source())).collect();
            rule.identity = numbered(format!("{}{{{}}}", rule.name, labels.join(",")), &mut identities);
            rules.push(rule);
        }
        Ok(RuleGroup {
            file: self.0.file.to_owned(),
            name: raw.name.value,
            interval: interval_ms.map(|ms| Duration::from_millis(ms.unsigned_abs())),
            query_offset_ms: self.duration(raw.query_offset.as_ref())?.unwrap_or(0),
            limit: raw.limit,
            rules,
        })
    }

    fn rule(&self, raw: Spanned<RawRule>, group_labels: &BTreeMap<String, Template>) -> Result<Rule, FileError> {
        let place = Spanned::new((), raw.referenced, raw.defined);
        let raw = raw.value;
        let (name, is_alert) = match (&raw.alert, &raw.record) {
            (Some(alert), None) => (alert, true),
            (None, Some(record)) => (record, false),
            _ => return Err(self.0.at(&place, "a rule has either alert or record")),
        };
        if name.value.is_empty() {
            return Err(self.0.at(name, "a rule needs a name"));
        }
        let query = self.0.check_expr(&raw.expr, &raw.expr.value)?;
        let mut labels = group_labels.clone();
        labels.extend(self.labels(&raw.labels)?);
        let kind = if is_alert {
            RuleKind::Alerting {
                hold_ms: self.duration(raw.r#for.as_ref())?.unwrap_or(0),
                keep_firing_ms: self.duration(raw.keep_firing_for.as_ref())?.unwrap_or(0),
                annotations: self.templates(&raw.annotations)?,
            }
        } else {
            for (field, given) in [("for", &raw.r#for), ("keep_firing_for", &raw.keep_firing_for)] {
                if let Some(given) = given {
                    return Err(self.0.at(given, format!("a recording rule has no {field}")));
                }
            }
            if let Some(first) = raw.annotations.values().next() {
                return Err(self.0.at(first, "a recording rule has no annotations"));
            }
            if name.value.contains(['{', '}']) || name.value.chars().any(char::is_control) {
                return Err(self.0.at(name, format!("{:?} is no name of a metric", name.value)));
            }
            RuleKind::Recording
        };
        Ok(Rule {
            key: String::new(),
            identity: String::new(),
            name: name.value.clone(),
            expr: raw.expr.value.trim().to_owned(),
            reads: !query.expr().selectors().is_empty(),
            labels,
            kind,
        })
    }

    fn labels(&self, raw: &BTreeMap<String, Spanned<String>>) -> Result<BTreeMap<String, Template>, FileError> {
        for (name, value) in raw {
            if name.is_empty() || name == "__name__" || name.chars().any(char::is_control) {
                return Err(self.0.at(value, format!("{name:?} can't be the name of a label")));
            }
        }
        self.templates(raw)
    }

    fn templates(&self, raw: &BTreeMap<String, Spanned<String>>) -> Result<BTreeMap<String, Template>, FileError> {
        let template = |(name, text): (&String, &Spanned<String>)| {
            let template = Template::parse(&text.value).map_err(|error| self.0.at(text, format!("{name}: {error}")))?;
            Ok((name.clone(), template))
        };
        raw.iter().map(template).collect()
    }

    fn duration(&self, text: Option<&Spanned<String>>) -> Result<Option<i64>, FileError> {
        let Some(text) = text else { return Ok(None) };
        // Prometheus reads 0 without a unit too.
        let ms = if text.value == "0" { Some(0) } else { parse_duration(&text.value) };
        ms.map(Some).ok_or_else(|| self.0.at(text, format!("{:?} is no duration such as 5m or 1h30m", text.value)))
    }
}

/// A text, with its number from the second time on that it is there.
fn numbered(text: String, counts: &mut BTreeMap<String, usize>) -> String {
    let count = counts.entry(text.clone()).or_default();
    *count += 1;
    if *count == 1 { text } else { format!("{text}#{count}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::MAX_FILE_BYTES;

    #[test]
    fn a_file_is_read_whole() {
        let text = "groups:\n- name: g\n  interval: 30s\n  limit: 5\n  labels: {team: a, tier: x}\n  rules:\n  - record: job:up:sum\n    expr: sum by (job) (up)\n  - alert: Down\n    expr: up == 0\n    for: 1h30m\n    keep_firing_for: 5m\n    labels: {severity: critical, tier: 1}\n    annotations:\n      summary: '{{ $labels.instance }} is down.'\n  - alert: Down\n    expr: up == 0\n  - alert: Down\n    expr: vector(1)\n";
        let groups = parse("f.yaml", text).unwrap();
        let [group] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!((group.name.as_str(), group.limit, group.interval), ("g", 5, Some(Duration::from_secs(30))));
        let keys: Vec<_> = group.rules.iter().map(|rule| rule.key.as_str()).collect();
        assert_eq!(keys, ["job:up:sum", "Down", "Down#2", "Down#3"]);
        let identities: Vec<_> = group.rules.iter().map(|rule| rule.identity.as_str()).collect();
        assert_eq!(
            identities,
            [
                r#"job:up:sum{team="a",tier="x"}"#,
                r#"Down{severity="critical",team="a",tier="1"}"#,
                r#"Down{team="a",tier="x"}"#,
                r#"Down{team="a",tier="x"}#2"#
            ]
        );
        let reads: Vec<_> = group.rules.iter().map(|rule| rule.reads).collect();
        assert_eq!(reads, [true, true, true, false]);
        let labels: Vec<_> = group.rules[1].labels.iter().map(|(name, value)| (name.as_str(), value.source())).collect();
        assert_eq!(labels, [("severity", "critical"), ("team", "a"), ("tier", "1")]);
        let RuleKind::Alerting { hold_ms, keep_firing_ms, annotations } = &group.rules[1].kind else { panic!("an alert") };
        assert_eq!((*hold_ms, *keep_firing_ms, annotations.len()), (5_400_000, 300_000, 1));
        assert!(parse("empty.yaml", "groups: []").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (line, problem, rule) in [
            (4, "either alert or record", "- expr: up"),
            (4, "either alert or record", "- alert: A\n    record: b\n    expr: up"),
            (5, "parse error", "- alert: A\n    expr: 'sum(up'"),
            (5, "gives a range vector", "- alert: A\n    expr: 'up[5m]'"),
            (6, "no duration", "- alert: A\n    expr: up\n    for: 5"),
            (6, "no for", "- record: a\n    expr: up\n    for: 5m"),
            (7, "summary", "- alert: A\n    expr: up\n    annotations:\n      summary: '{{ $labels.x '"),
            (7, "frobnicate", "- alert: A\n    expr: up\n    annotations:\n      summary: '{{ frobnicate $value }}'"),
            (7, "query", "- alert: A\n    expr: up\n    annotations:\n      summary: '{{ query \"up\" }}'"),
            (7, "undefined variable $label", "- alert: A\n    expr: up\n    annotations:\n      summary: '{{ $label.x }}'"),
            (6, "undefined variable $label", "- alert: A\n    expr: up\n    labels: {team: '{{ $label.x }}'}"),
            (6, "undefined variable $label", "- record: a\n    expr: up\n    labels: {team: '{{ $label.x }}'}"),
            (6, "unknown field", "- alert: A\n    expr: up\n    fore: 5m"),
            (6, "name of a label", "- alert: A\n    expr: up\n    labels: {__name__: x}"),
        ] {
            let error = parse("f.yaml", &format!("groups:\n- name: g\n  rules:\n  {rule}\n")).unwrap_err();
            assert!(error.problem.contains(problem), "{rule}: {error}");
            assert_eq!(error.line, line, "{rule}: {error}");
        }
        let twice = parse("f.yaml", "groups:\n- name: g\n- name: g\n").unwrap_err();
        assert_eq!((twice.line, twice.problem.as_str()), (3, "the group \"g\" is there twice"));
        assert!(parse("f.yaml", &" ".repeat(MAX_FILE_BYTES + 1)).unwrap_err().problem.contains("bytes"));
    }
}

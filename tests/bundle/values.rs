//! values.yaml, its schema and the table in README.md agree.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::render::{chart, ci_values, have_helm, parse, update};

const BEGIN: &str = "<!-- values: begin -->\n";
const END: &str = "<!-- values: end -->\n";

struct Row {
    path: String,
    default: Value,
    meaning: String,
}

/// Reads the comments that begin with two dashes, with the comment lines that follow.
fn rows(text: &str, values: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut meaning: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(first) = trimmed.strip_prefix("# -- ") {
            meaning = Some(first.to_owned());
        } else if let Some(more) = trimmed.strip_prefix("# ") {
            if let Some(meaning) = &mut meaning {
                let _ = write!(meaning, " {more}");
            }
        } else if let Some((key, _)) = trimmed.split_once(':').filter(|(key, _)| !key.starts_with('-') && !key.contains(' ')) {
            path.retain(|(depth, _)| *depth < indent);
            path.push((indent, key.to_owned()));
            if let Some(meaning) = meaning.take() {
                let keys: Vec<_> = path.iter().map(|(_, key)| key.as_str()).collect();
                let default = values.pointer(&format!("/{}", keys.join("/"))).unwrap_or_else(|| panic!("{keys:?} is no value")).clone();
                rows.push(Row { path: keys.join("."), default, meaning });
            }
        }
    }
    rows
}

/// values.yaml, as text and parsed.
pub fn load() -> (String, Value) {
    let text = fs::read_to_string(chart().join("values.yaml")).expect("values.yaml");
    let values = parse(&text).remove(0);
    (text, values)
}

/// The path and the default of each documented value.
pub fn documented() -> Vec<(String, Value)> {
    let (text, values) = load();
    rows(&text, &values).into_iter().map(|row| (row.path, row.default)).collect()
}

#[test]
fn every_value_is_documented_once() {
    let (text, values) = load();
    let rows = rows(&text, &values);
    let mut documented: Vec<_> = rows.iter().map(|row| row.path.as_str()).collect();
    let count = documented.len();
    documented.sort_unstable();
    documented.dedup();
    assert_eq!(documented.len(), count, "a value is documented twice");

    let mut missing = Vec::new();
    walk(&values, "", &mut |path, leaf| {
        let covered = documented.iter().any(|known| *known == path || path.starts_with(&format!("{known}.")));
        if leaf && !covered {
            missing.push(path.to_owned());
        }
    });
    assert!(missing.is_empty(), "no comment with two dashes: {missing:?}");
}

fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, bool)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, inner) in fields {
                walk(inner, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, visit);
            }
        }
        _ => visit(path, true),
    }
}

#[test]
fn the_readme_has_the_values() {
    let (text, values) = load();
    let mut table = String::from("| value | default | what it does |\n|---|---|---|\n");
    for Row { path, default, meaning } in rows(&text, &values) {
        let default = default.to_string().replace('|', "\\|");
        let _ = writeln!(table, "| `{path}` | `{default}` | {} |", meaning.replace('|', "\\|"));
    }
    let readme = chart().join("README.md");
    let written = fs::read_to_string(&readme).expect("charts/golectra/README.md");
    let (before, rest) = written.split_once(BEGIN).expect("the table's begin");
    let (now, after) = rest.split_once(END).expect("the table's end");
    if update() {
        fs::write(&readme, format!("{before}{BEGIN}{table}{END}{after}")).expect("README.md can be written");
    } else {
        assert_eq!(now, table, "charts/golectra/README.md is behind values.yaml: run this with UPDATE=1");
    }
}

#[test]
fn helm_lint_has_no_complaint() {
    if !have_helm() {
        return;
    }
    for (file, path) in ci_values() {
        let lint = Command::new("helm").args(["lint", "--strict", "--values", &path]).arg(chart()).output().expect("helm runs");
        let printed = String::from_utf8_lossy(&lint.stdout);
        assert!(lint.status.success() && !printed.contains("[WARNING]"), "{file}: {printed}{}", String::from_utf8_lossy(&lint.stderr));
    }
}

/// Every object in the schema lists its fields, or is a map or a section that is passed on unchanged.
#[test]
fn the_schema_is_strict_at_every_level() {
    let text = fs::read_to_string(chart().join("values.schema.json")).expect("values.schema.json");
    let schema: Value = serde_json::from_str(&text).expect("values.schema.json is JSON");
    let (_, values) = load();
    follow(&schema, &schema, &values, "");
}

fn follow(root: &Value, schema: &Value, value: &Value, path: &str) {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{path}: {reference} does not exist")),
        None => schema,
    };
    let Value::Object(fields) = value else { return };
    let passed_on = ["affinity", "backup", "extraSpec"].iter().any(|name| path.ends_with(name));
    let additional = schema.get("additionalProperties");
    assert!(passed_on || additional.is_some_and(|additional| additional != true), "{path}: unknown fields are accepted");
    for (key, inner) in fields {
        if let Some(known) = schema.pointer(&format!("/properties/{key}")) {
            follow(root, known, inner, &format!("{path}/{key}"));
        } else {
            assert!(additional.is_some_and(Value::is_object), "{path}/{key} is in values.yaml but not in the schema");
        }
    }
}

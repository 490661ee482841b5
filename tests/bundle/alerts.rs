//! Every alert is a valid rule, fires only when it should, has a runbook, and uses metrics that exist.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::dashboards::queries;
use crate::render::{ALL_APIS, chart, find, have, have_helm, rendered, root, text};

fn names_in(folder: &str, extension: &str) -> BTreeSet<String> {
    let suffix = format!(".{extension}");
    fs::read_dir(root().join(folder))
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .filter_map(|entry| entry.expect("entry").file_name().to_string_lossy().strip_suffix(&suffix).map(str::to_owned))
        .filter(|name| name != "README")
        .collect()
}

fn alerts() -> BTreeSet<String> {
    names_in("charts/golectra/alerts", "yaml")
}

/// The names of the rules that the server evaluates itself.
fn built_in_rules() -> BTreeSet<String> {
    let rules = fs::read_to_string(root().join(BUILT_IN).join("built-in.yaml")).expect("the server's rules");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

/// The folder of the rules that the server evaluates itself.
const BUILT_IN: &str = "services/server/src/alerts";

/// Prometheus reads the server's own rules, and they do there what they do in the server: a test of the server evaluates the same file.
#[test]
fn the_servers_own_rules_are_prometheuss() {
    if !have("promtool", "--version") {
        return;
    }
    for arguments in [["check", "rules", "built-in.yaml"], ["test", "rules", "built-in.test.yaml"]] {
        let output = Command::new("promtool").current_dir(root().join(BUILT_IN)).args(arguments).output().expect("promtool runs");
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    assert!(built_in_rules().len() >= 20);
}

#[test]
fn each_alert_has_a_runbook_and_a_test() {
    let alerts = alerts();
    assert!(alerts.len() >= 8);
    let all: BTreeSet<_> = alerts.union(&built_in_rules()).cloned().collect();
    assert_eq!(names_in("docs/runbooks", "md"), all, "docs/runbooks has one file for each alert");
    assert_eq!(names_in("tests/bundle/alerts", "yaml"), alerts, "tests/bundle/alerts has one file for each alert");
    for alert in &all {
        let runbook = fs::read_to_string(root().join(format!("docs/runbooks/{alert}.md"))).expect("the runbook");
        assert!(runbook.starts_with(&format!("# {alert}\n")), "docs/runbooks/{alert}.md does not begin with its alert");
        for part in ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"] {
            assert!(runbook.contains(part), "docs/runbooks/{alert}.md lacks {part:?}");
        }
    }
}

#[test]
fn each_rule_is_complete() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&ALL_APIS, &[]);
    let rules = find(&objects, "PrometheusRule/golectra")["spec"]["groups"][0]["rules"].as_array().expect("rules");
    let rendered_names: BTreeSet<_> = rules.iter().map(|rule| text(rule, "/alert").to_owned()).collect();
    assert_eq!(rendered_names, alerts(), "a file is named as its alert");
    for rule in rules {
        let alert = text(rule, "/alert");
        assert!(["warning", "critical"].contains(&text(rule, "/labels/severity")), "{alert}");
        assert!(text(rule, "/annotations/runbook_url").ends_with(&format!("/docs/runbooks/{alert}.md")), "{alert}");
        assert!(text(rule, "/annotations/summary").ends_with('.') && text(rule, "/annotations/description").ends_with('.'), "{alert}");
    }
}

/// promtool evaluates the rendered rules against the series in tests/bundle/alerts.
#[test]
fn rules_fire_when_they_should() {
    if !have_helm() || !have("promtool", "--version") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let objects = rendered(&ALL_APIS, &[]);
    let spec = &find(&objects, "PrometheusRule/golectra")["spec"];
    fs::write(folder.path().join("rules.yaml"), spec.to_string()).expect("JSON is YAML");
    for alert in alerts() {
        let file = format!("{alert}.yaml");
        fs::copy(root().join("tests/bundle/alerts").join(&file), folder.path().join(&file)).expect("the test can be copied");
    }
    let mut command = Command::new("promtool");
    command.current_dir(folder.path()).args(["test", "rules"]).args(alerts().iter().map(|alert| format!("{alert}.yaml")));
    let output = command.output().expect("promtool runs");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// The names of the metrics that the rules and the dashboard use.
fn used_metrics() -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut texts: Vec<String> =
        alerts().iter().map(|alert| fs::read_to_string(chart().join(format!("alerts/{alert}.yaml"))).expect("an alert")).collect();
    texts.extend(queries("golectra.json"));
    for expression in &texts {
        for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("golectra_") || word.starts_with("process_") {
                let histogram = ["_bucket", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
                used.insert(histogram.unwrap_or(word).to_owned());
            }
        }
    }
    used
}

/// The beginning that code adds to names, as `golectra_history_` in `format!("golectra_history_{name}")`.
fn added_prefixes(source: &str) -> impl Iterator<Item = &str> {
    source
        .split("format!(\"")
        .skip(1)
        .filter_map(|rest| rest.split_once("{name}\""))
        .map(|(prefix, _)| prefix)
        .filter(|prefix| prefix.starts_with("golectra_") && prefix.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()))
}

/// The names are in the programs' sources, whole or without the prefix that the same file adds.
#[test]
fn used_metrics_are_exported() {
    let mut missing = used_metrics();
    let mut folders = vec![root().join("services")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("services can be read") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).expect("a source");
                let own: BTreeSet<_> = added_prefixes(&source).chain([""]).collect();
                missing.retain(|name| {
                    // Helper functions that other files call add the short prefix.
                    let short = own.iter().copied().chain(["golectra_"]).filter_map(|prefix| name.strip_prefix(prefix));
                    !short.into_iter().any(|short| source.contains(&format!("\"{short}\"")))
                });
            }
        }
    }
    assert!(missing.is_empty(), "no service exports {missing:?}");
}

//! A label, an annotation or a variable of the user's replaces the chart's, and selectors go on selecting.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::objects::{assert_selectors_select, workloads};
use crate::render::{ALL_APIS, ci_values, find, have_helm, helm_template, name, parse, rendered, text};

fn rendered_with(values: &Value) -> Vec<Value> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), values.to_string()).expect("JSON is YAML");
    rendered(&ALL_APIS, &["--values", file.path().to_str().expect("text"), "--set", "keys.hash.value=h,keys.audit.value=a"])
}

/// Every label that the chart sets, with another value.
fn every_label() -> Value {
    let objects = rendered(&ALL_APIS, &[]);
    let mut labels = BTreeMap::new();
    for object in &objects {
        for (key, _) in object["metadata"]["labels"].as_object().into_iter().flatten() {
            labels.insert(key.clone(), "mine");
        }
    }
    assert!(labels.len() >= 8, "{labels:?}");
    json!(labels)
}

const SELECTED_BY: [&str; 3] = ["app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"];

/// A key that stands twice is an error already when a rendering is parsed.
#[test]
fn a_label_replaces_the_charts() {
    if !have_helm() {
        return;
    }
    let labels = every_label();
    // Labels of a narrower kind are left out, because they replace these in turn.
    let objects = rendered_with(&json!({
        "commonLabels": labels,
        "monitoring": {"labels": {"release": null}, "dashboard": {"labels": {"grafana_dashboard": null}}},
        "access": {"anonymous": true},
        "server": {"httpRoute": {"enabled": true, "parentRefs": [{"name": "public"}]}, "ingress": {"enabled": true, "hosts": ["a.example.com"]},
                   "autoscaling": {"enabled": true}},
    }));
    let standard = rendered(&ALL_APIS, &[]);
    for object in &objects {
        let selected = ["Service", "Pod"].contains(&text(object, "/kind"));
        for (key, value) in object["metadata"]["labels"].as_object().expect("labels") {
            let fixed = selected && SELECTED_BY.contains(&key.as_str());
            assert_eq!(value == "mine", !fixed, "{}: {key}: {value}", name(object));
        }
    }
    for workload in workloads(&objects) {
        let default = find(&standard, &name(workload));
        assert_eq!(workload["spec"]["selector"], default["spec"]["selector"], "{}: a selector cannot be changed", name(workload));
        for (key, value) in workload["spec"]["template"]["metadata"]["labels"].as_object().expect("labels") {
            assert_eq!(value == "mine", !SELECTED_BY.contains(&key.as_str()), "{}: {key}: {value}", name(workload));
        }
    }
    assert_selectors_select("every label replaced", &objects);
}

/// The narrower setting counts: a component's labels for its pods, the monitors' labels for monitors.
#[test]
fn narrower_labels_replace_common_ones() {
    if !have_helm() {
        return;
    }
    let mine = json!({"app.kubernetes.io/part-of": "narrow", "app.kubernetes.io/component": "narrow", "team": "narrow"});
    let objects = rendered_with(&json!({
        "commonLabels": {"app.kubernetes.io/part-of": "common", "team": "common"},
        "server": {"podLabels": mine}, "agent": {"podLabels": mine}, "auditSink": {"podLabels": mine},
        "monitoring": {"labels": mine, "dashboard": {"labels": mine}, "rules": {"labels": {"severity": "page"}}},
    }));
    for workload in workloads(&objects) {
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        assert_eq!((&labels["team"], &labels["app.kubernetes.io/part-of"]), (&json!("narrow"), &json!("narrow")), "{}", name(workload));
        assert_eq!(text(workload, "/metadata/labels/team"), "common", "{}", name(workload));
    }
    let monitors = ["ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"];
    for object in objects.iter().filter(|object| monitors.contains(&text(object, "/kind"))) {
        assert_eq!(text(object, "/metadata/labels/app.kubernetes.io~1part-of"), "narrow", "{}", name(object));
    }
    for rule in find(&objects, "PrometheusRule/golectra")["spec"]["groups"][0]["rules"].as_array().expect("rules") {
        assert_eq!(rule["labels"]["severity"], "page");
    }
    assert_selectors_select("narrower labels", &objects);
}

#[test]
fn an_annotation_replaces_the_charts() {
    if !have_helm() {
        return;
    }
    let mine = json!({"checksum/hash-key": "mine", "checksum/audit-key": "mine", "checksum/database": "mine", "note": "mine"});
    let objects = rendered_with(&json!({
        "server": {"podAnnotations": mine}, "agent": {"podAnnotations": mine}, "auditSink": {"podAnnotations": mine},
        "database": {"mode": "external", "external": {"dsn": "postgres://h/d"}},
    }));
    for workload in workloads(&objects) {
        assert_eq!(workload["spec"]["template"]["metadata"]["annotations"], mine, "{}", name(workload));
    }
}

/// Kubernetes would take the last of two variables of one name, but tools that merge by name refuse them.
#[test]
fn a_variable_replaces_the_charts() {
    if !have_helm() {
        return;
    }
    let extra = json!([
        {"name": "LOG_LEVEL", "value": "trace"},
        {"name": "METRICS_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "MINE", "value": "1"},
    ]);
    let objects = rendered_with(&json!({"server": {"extraEnv": extra}, "agent": {"extraEnv": extra}, "auditSink": {"extraEnv": extra}}));
    let standard = rendered(&ALL_APIS, &[]);
    let names = |workload: &Value| -> Vec<String> {
        let variables = workload["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables");
        variables.iter().map(|variable| text(variable, "/name").to_owned()).collect()
    };
    for workload in workloads(&objects) {
        let mut expected = names(find(&standard, &name(workload)));
        expected.push("MINE".to_owned());
        assert_eq!(names(workload), expected, "{}", name(workload));
        let variables = workload["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables");
        for variable in extra.as_array().expect("a list") {
            assert!(variables.contains(variable), "{}: {variable}", name(workload));
        }
    }
}

/// Kubernetes puts `$(NAME)` in only if the variable NAME stands before; otherwise it leaves the text as it is.
#[test]
fn a_variable_stands_before_those_that_use_it() {
    if !have_helm() {
        return;
    }
    let objects = rendered_with(&json!({
        "agent": {
            "scrape": {"urls": ["http://$(HOST_IP):9100/metrics"]},
            "extraEnv": [{"name": "MINE", "value": "$(HOST_IP)"}, {"name": "HOST_IP", "value": "10.0.0.9"}],
        },
        // One that replaces the chart's uses one that the chart does not have; two that use each other do no harm.
        "server": {"extraEnv": [
            {"name": "DATABASE_DSN", "value": "postgres://u:$(PASSWORD)@h/d"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "ONE", "value": "$(OTHER)"},
            {"name": "OTHER", "value": "$(ONE)"},
        ]},
    }));
    for (workload, wanted, before) in [
        ("DaemonSet/golectra-agent", json!({"name": "HOST_IP", "value": "10.0.0.9"}), &["SCRAPE", "KUBELET_URL", "MINE"][..]),
        (
            "Deployment/golectra-server",
            json!({"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
            &["DATABASE_DSN"][..],
        ),
    ] {
        let variables = find(&objects, workload)["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables");
        let places = |wanted: &str| -> Vec<usize> {
            let found = variables.iter().enumerate().filter(|(_, variable)| text(variable, "/name") == wanted);
            found.map(|(place, _)| place).collect()
        };
        let place = variables.iter().position(|variable| *variable == wanted).expect("the variable with its new value");
        assert_eq!(places(text(&wanted, "/name")), [place], "{workload}: once");
        for user in before {
            let users = places(user);
            assert!(users.len() == 1 && place < users[0], "{workload}: {user} is at {users:?}, what it uses at {place}");
        }
    }
    let server = find(&objects, "Deployment/golectra-server")["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
    assert!(server.contains(r#""ONE""#) && server.contains(r#""OTHER""#), "{server}");
}

/// Names that YAML would read as something else than text. A full name begins with a letter.
#[test]
fn names_that_look_like_other_values_stay_text() {
    if !have_helm() {
        return;
    }
    let rendered = helm_template(&ALL_APIS, &["--set-string", "fullnameOverride=null,nameOverride=456,commonLabels.team=789"]);
    for object in parse(&rendered.unwrap_or_else(|error| panic!("{error}"))) {
        let metadata = &object["metadata"];
        assert!(metadata["name"].is_string(), "{metadata}");
        for (key, value) in metadata["labels"].as_object().expect("labels") {
            assert!(value.is_string(), "{}: {key}: {value}", name(&object));
        }
    }
}

/// Everything in ci/ parses with no key twice, with and without labels that the chart has as well.
#[test]
fn no_rendering_has_a_key_twice() {
    if !have_helm() {
        return;
    }
    let labels = json!({"commonLabels": every_label(), "monitoring": {"labels": every_label(), "dashboard": {"labels": every_label()}}});
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), labels.to_string()).expect("JSON is YAML");
    for (_, path) in ci_values() {
        rendered(&ALL_APIS, &["--values", &path]);
        rendered(&ALL_APIS, &["--values", &path, "--values", file.path().to_str().expect("text")]);
    }
}

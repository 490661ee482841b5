//! The values that become the programs' settings, and those that were removed.

use std::process::Command;

use serde_json::Value;

use crate::render::{ALL_APIS, chart, find, have_helm, helm_template, rendered, text};

fn variable(objects: &[Value], workload: &str, wanted: &str) -> Option<String> {
    let variables = find(objects, workload)["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables").clone();
    variables.iter().find(|variable| text(variable, "/name") == wanted).map(|variable| text(variable, "/value").to_owned())
}

const SERVER: &str = "Deployment/golectra-server";

#[test]
fn retentions_reach_the_server_and_have_a_unit() {
    if !have_helm() {
        return;
    }
    let settings = [
        ("dedupWindow", "DEDUP_WINDOW"),
        ("retentionRaw", "RETENTION_RAW"),
        ("seriesExpiry", "SERIES_EXPIRY"),
        ("sourceExpiry", "SOURCE_EXPIRY"),
    ];
    let standard = rendered(&ALL_APIS, &[]);
    for (value, name) in settings {
        assert_eq!(variable(&standard, SERVER, name), None, "{name}: the server's own default");
        let objects = rendered(&ALL_APIS, &["--set", &format!("server.settings.{value}=1w2d")]);
        assert_eq!(variable(&objects, SERVER, name).as_deref(), Some("1w2d"));
        // 48 would be 48 of some unit: which one must be said.
        for bad in ["48", "2 weeks", "1h2d", "1.5d", "-1h"] {
            for set in ["--set", "--set-string"] {
                let error = helm_template(&ALL_APIS, &[set, &format!("server.settings.{value}={bad}")]).expect_err("it is refused");
                assert!(error.contains(&format!("'/server/settings/{value}'")), "{set} {value}={bad}: {error}");
            }
        }
    }
}

/// What helm prints after an install.
fn notes(arguments: &[&str]) -> String {
    let mut command = Command::new("helm");
    command.args(["install", "golectra"]).arg(chart()).args(["--dry-run=client", "--set", "database.mode=embedded"]).args(arguments);
    let output = command.env("KUBECONFIG", "/nonexistent").output().expect("helm runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("text");
    printed.split_once("NOTES:").unwrap_or_else(|| panic!("no notes in {printed}")).1.to_owned()
}

#[test]
fn a_removed_value_does_nothing_and_is_named_in_the_notes() {
    if !have_helm() {
        return;
    }
    let keys = ["--set", "keys.hash.value=h,keys.audit.value=a"];
    let standard = helm_template(&ALL_APIS, &keys).expect("it renders");
    for set in ["server.settings.historyRetention=72h", "server.settings.historyRetention=72", "server.settings.historyRetention="] {
        let rendered = helm_template(&ALL_APIS, &[&keys[..], &["--set", set]].concat()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(rendered, standard, "--set {set}");
    }
    let removed = "The value server.settings.historyRetention was removed and does nothing: set server.settings.dedupWindow and \
                   server.settings.retentionRaw instead.";
    assert!(notes(&["--set", "server.settings.historyRetention=72h"]).contains(removed));
    for arguments in [&[][..], &["--set", "server.settings.historyRetention="]] {
        assert!(!notes(arguments).contains("was removed"), "{arguments:?}");
    }
}

#[test]
fn the_notes_say_who_can_reach_the_server() {
    if !have_helm() {
        return;
    }
    let unauthenticated = "does not authenticate readers";
    assert!(!notes(&[]).contains(unauthenticated));
    let public = ["--set", "server.ingress.enabled=true,server.ingress.hosts[0]=a.example.com"];
    let compat = notes(&public);
    assert!(compat.contains(unauthenticated) && compat.contains("unsigned") && compat.contains("http://a.example.com/"), "{compat}");
    let required = notes(&[&public[..], &["--set", "signatures.mode=required"]].concat());
    assert!(required.contains(unauthenticated) && !required.contains("unsigned"), "{required}");
}

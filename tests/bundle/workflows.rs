//! The GitHub workflows: what holds a token is pinned, nothing is published untested, and no job may do more than it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::render::{parse, root, text};

/// The workflows with their file names: as written, and parsed.
fn workflows() -> BTreeMap<String, (String, Value)> {
    let folder = root().join(".github/workflows");
    let files: BTreeMap<_, _> = fs::read_dir(&folder)
        .expect(".github/workflows can be read")
        .map(|entry| {
            let path = entry.expect("its entries too").path();
            let written = fs::read_to_string(&path).expect("a workflow can be read");
            let parsed = parse(&written).remove(0);
            (path.file_name().expect("a file").to_string_lossy().into_owned(), (written, parsed))
        })
        .collect();
    assert!(files.contains_key("ci.yml") && files.contains_key("release.yml"), "{:?}", files.keys());
    files
}

fn jobs(workflow: &Value) -> impl Iterator<Item = (&String, &Value)> {
    workflow["jobs"].as_object().expect("jobs").iter()
}

/// Scopes that a `permissions` block may write to.
fn write_scopes(permissions: &Value) -> BTreeSet<&str> {
    match permissions {
        Value::Object(scopes) => scopes.iter().filter(|(_, access)| *access == "write").map(|(scope, _)| scope.as_str()).collect(),
        Value::String(all) if all == "write-all" => BTreeSet::from(["everything"]),
        _ => BTreeSet::new(),
    }
}

/// A tag can be moved to other code by whoever controls the action's repository; a commit cannot.
#[test]
fn third_party_actions_are_pinned_by_commit() {
    let mut pinned = BTreeMap::new();
    for (file, (written, _)) in workflows() {
        for line in written.lines() {
            let Some(action) = line.trim().trim_start_matches("- ").strip_prefix("uses: ") else { continue };
            // GitHub's own actions come from whoever runs the job anyway; ./ is this repository.
            if action.starts_with("actions/") || action.starts_with("./") {
                continue;
            }
            let (name, reference) = action.split_once('@').unwrap_or_else(|| panic!("{file}: {action} names no version"));
            let (commit, version) = reference.split_once(" # ").unwrap_or_else(|| panic!("{file}: {action} has no `# vX.Y.Z` behind it"));
            let is_commit = commit.len() == 40 && commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            assert!(is_commit, "{file}: {action} is not pinned by a full commit");
            let is_version = version.strip_prefix('v').is_some_and(|version| version.split('.').count() == 3);
            assert!(is_version, "{file}: {action}: {version} is not a full version");
            let first = pinned.entry(name.to_owned()).or_insert_with(|| reference.to_owned());
            assert_eq!(first, reference, "{file}: {name} is pinned to two commits");
        }
    }
    assert!(pinned.len() >= 5, "{pinned:?}");
}

/// Advisories appear without a commit.
#[test]
fn ci_runs_every_day() {
    let workflows = workflows();
    let (_, workflow) = &workflows["ci.yml"];
    let cron = text(workflow, "/on/schedule/0/cron");
    let fields: Vec<_> = cron.split(' ').collect();
    assert!(fields.len() == 5 && fields[2..] == ["*", "*", "*"], "{cron:?}");
}

/// Everything that a job waits for, directly or not.
fn needed(workflow: &Value, job: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![job.to_owned()];
    while let Some(job) = open.pop() {
        let needs = &workflow["jobs"][job.as_str()]["needs"];
        let names = needs.as_array().cloned().unwrap_or_else(|| vec![needs.clone()]);
        for name in names.iter().filter_map(Value::as_str) {
            if found.insert(name.to_owned()) {
                open.push(name.to_owned());
            }
        }
    }
    found
}

/// A job that can write anywhere publishes; before it every test must have passed, and a skipped or failed one stops it.
#[test]
fn nothing_is_published_before_the_tests_have_passed() {
    let workflows = workflows();
    let mut publishing = 0;
    for (file, (_, workflow)) in &workflows {
        for (name, job) in jobs(workflow).filter(|(_, job)| !write_scopes(&job["permissions"]).is_empty()) {
            publishing += 1;
            let needed = needed(workflow, name);
            for tests in ["./.github/workflows/ci.yml", "./.github/workflows/cluster.yml"] {
                let run = needed.iter().any(|job| workflow["jobs"][job.as_str()]["uses"] == tests);
                assert!(run, "{file}: {name} does not wait for {tests}: {needed:?}");
            }
            for job in needed.iter().map(|job| &workflow["jobs"][job.as_str()]).chain([job]) {
                assert!(job.get("if").is_none() && job.get("continue-on-error").is_none(), "{file}: {name} can run although tests failed");
            }
        }
    }
    assert_eq!(publishing, 2, "the images and the chart");

    for file in ["ci.yml", "cluster.yml"] {
        let (written, workflow) = &workflows[file];
        assert!(workflow["on"].as_object().expect("triggers").contains_key("workflow_call"), "{file} can be called");
        // github.workflow is the caller's name in a called workflow: two of one group would cancel each other.
        assert!(!text(workflow, "/concurrency/group").contains("github.workflow"), "{file} shares its group with its caller");
        assert!(written.contains(if file == "ci.yml" { "make test" } else { "make ${{" }), "{file} runs the tests");
    }
}

#[test]
fn permissions_are_minimal() {
    for (file, (_, workflow)) in workflows() {
        assert_eq!(workflow["permissions"], serde_json::json!({"contents": "read"}), "{file}: the permissions of every job");
        for (name, job) in jobs(&workflow) {
            let scopes = write_scopes(&job["permissions"]);
            let allowed = if file == "release.yml" { BTreeSet::from(["packages", "id-token", "attestations"]) } else { BTreeSet::new() };
            assert!(scopes.is_subset(&allowed), "{file}: {name} may write to {scopes:?}");
            for step in job["steps"].as_array().into_iter().flatten() {
                if text(step, "/uses").starts_with("actions/checkout@") {
                    assert_eq!(step["with"]["persist-credentials"], false, "{file}: {name} leaves its token in .git/config");
                }
            }
            let called = job.get("uses").is_some();
            assert!(called || job["timeout-minutes"].is_number(), "{file}: {name} has no time limit");
            assert!(!called || job.get("secrets").is_none(), "{file}: {name} hands secrets to tests");
        }
    }
}

//! Runs files in the promqltest language of the Prometheus project: this crate's own cases in `testdata`, and those in the
//! folder that PROMQL_TESTDATA names.

mod language;
mod run;
mod series;

use std::fs;
use std::io::Write;
use std::path::Path;

/// Runs every file of a folder. What is out of scope is listed, what fails makes the test fail.
fn run_folder(folder: &Path) {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "there are no cases in {}", folder.display());
    let mut failures = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let commands = language::parse(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let report = run::run(&commands);
        say(&format!("{name}: {} passed, {} failed, {} left out", report.passed, report.failures.len(), report.left_out.len()));
        for (line, reason) in &report.left_out {
            say(&format!("  {name}:{line} left out: {reason}"));
        }
        failures.extend(report.failures.into_iter().map(|(line, failure)| format!("{name}:{line}: {failure}")));
    }
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}

fn say(line: &str) {
    // Not by println!, which only shows if the test fails.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn own_cases() {
    run_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata"));
}

#[test]
fn cases_of_the_prometheus_project() {
    match std::env::var_os("PROMQL_TESTDATA").filter(|folder| !folder.is_empty()) {
        Some(folder) => run_folder(Path::new(&folder)),
        // Also with CI=true: the data is not part of this repository, and not everywhere beside it.
        None => say("left out: PROMQL_TESTDATA names no folder with the Prometheus project's promqltest files"),
    }
}

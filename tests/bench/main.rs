//! `make bench`: golectra beside a bare echo, VictoriaMetrics, Pushgateway and raw upserts, in one run on one machine.
//!
//! Every case is measured in rounds that take turns, so that a machine whose speed drifts does so for all of them. Each
//! contestant starts fresh, meets bodies that were made before the clock started and none of which is sent twice, and is
//! looked at afterwards to see that it did the work. docs/benchmarks.md says how to read what comes out.

mod bodies;
mod cases;
mod contestants;
mod echo;
mod history;
mod load;
mod machine;
mod measure;
mod options;
mod report;
mod unnest;
mod wire;

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use crate::cases::{Bench, say};
use crate::options::{Group, Options};
use crate::report::Report;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("echo") {
        let port = arguments.next().and_then(|port| port.parse().ok()).expect("echo is followed by a port");
        let error = echo::serve(port).expect_err("it serves until it is ended");
        eprintln!("echo: {error}");
        return ExitCode::FAILURE;
    }
    match Options::load() {
        Ok(options) => run(options),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: Options) -> ExitCode {
    let database = std::env::var("TEST_DATABASE_URL").ok();
    let machine = machine::describe(database.as_deref());
    let bench = Bench::new(options);
    let mut reports: Vec<(Group, Report)> = Vec::new();
    let mut failed = false;
    for group in bench.options.groups.clone() {
        let measure = match group {
            Group::Memory => cases::memory::run,
            Group::Growth => cases::growth::run,
            Group::Snapshot => cases::snapshot::run,
            Group::Postgres => cases::postgres::run,
            Group::Overload => cases::overload::run,
            Group::History => cases::history::run,
            Group::Beside => cases::beside::run,
            Group::Cluster => cases::cluster_day::run,
        };
        let mut report = Report::default();
        // What one group could not do takes nothing from the others, whose hour of work is worth keeping.
        if catch_unwind(AssertUnwindSafe(|| measure(&bench, &mut report))).is_err() {
            report.left_out(format!("{group:?} failed; the reason is in the run's output"));
            failed = true;
        }
        reports.push((group, report));
        // Written after each group, so that a run that is ended keeps what it has.
        if let Err(error) = save(&bench.options, &machine, &reports) {
            eprintln!("bench: {error}");
            failed = true;
        }
    }
    println!("{}", text(&machine, &bench.options, &reports));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What it was measured on and with, and the tables of all groups.
fn text(machine: &[String], options: &Options, reports: &[(Group, Report)]) -> String {
    let mut text = String::new();
    for line in machine.iter().chain([&settings(options)]) {
        let _ = writeln!(text, "- {line}");
    }
    for (_, report) in reports {
        let _ = write!(text, "\n{}{}.\n", report.markdown(), report.verdict());
    }
    text
}

fn settings(options: &Options) -> String {
    format!("{} rounds; {:.0} s a case on PostgreSQL, {:.0} s in memory", options.rounds, options.seconds, options.memory_seconds())
}

/// Leaves tables and rounds in the results' folder, and puts the tables of the newest group into docs/benchmarks.md where that was asked for.
fn save(options: &Options, machine: &[String], reports: &[(Group, Report)]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = root.join(&options.folder);
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let (tables, rounds) = (folder.join("results.md"), folder.join("rounds.json"));
    fs::write(&tables, text(machine, options, reports)).map_err(at(&tables))?;
    let figures: Vec<serde_json::Value> = reports.iter().flat_map(|(_, report)| report.json()).collect();
    let json = serde_json::json!({ "machine": machine, "figures": figures });
    fs::write(&rounds, format!("{json:#}\n")).map_err(at(&rounds))?;
    say(&format!("tables in {}, every round in {}", tables.display(), rounds.display()));
    let Some((group, report)) = reports.last().filter(|_| options.record) else { return Ok(()) };
    let name = group.name();
    if !report.is_whole() {
        return Err(format!("the tables of {name} in docs/benchmarks.md stay as they are: something was left out"));
    }
    let page = root.join("docs/benchmarks.md");
    let old = fs::read_to_string(&page).map_err(at(&page))?;
    let (begin, end) = (format!("<!-- {name}: written by make bench -->\n"), format!("<!-- {name}: until here -->\n"));
    let new = old.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        let on = machine.iter().chain([&settings(options)]).map(String::as_str).collect::<Vec<_>>().join("; ");
        Some(format!("{before}{begin}\n{}{}.\n\nMeasured on: {on}.\n\n{end}{after}", report.markdown(), report.verdict()))
    });
    fs::write(&page, new.ok_or(format!("docs/benchmarks.md has lost the lines between which the tables of {name} stand"))?)
        .map_err(at(&page))
}

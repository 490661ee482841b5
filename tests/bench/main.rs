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

const BEGIN: &str = "<!-- written by make bench -->\n";
const END: &str = "<!-- until here -->\n";

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
    let mut report = Report::default();
    let bench = Bench::new(options);
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
        // What one group could not do takes nothing from the others, whose hour of work is worth keeping.
        if catch_unwind(AssertUnwindSafe(|| measure(&bench, &mut report))).is_err() {
            report.left_out(format!("{group:?} failed; the reason is in the run's output"));
            failed = true;
        }
    }
    let text = text(&machine, &bench.options, &report);
    println!("{text}{}", report.verdict());
    if let Err(error) = save(&bench.options, &machine, &text, &report) {
        eprintln!("bench: {error}");
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn text(machine: &[String], options: &Options, report: &Report) -> String {
    let mut text = String::new();
    for line in machine {
        let _ = writeln!(text, "- {line}");
    }
    let (rounds, seconds, memory) = (options.rounds, options.seconds, options.memory_seconds());
    let _ = writeln!(text, "- {rounds} rounds; {seconds:.0} s a case on PostgreSQL, {memory:.0} s in memory\n");
    text.push_str(&report.markdown());
    text
}

/// Leaves tables and rounds in the results' folder, and puts the tables into docs/benchmarks.md where that was asked for.
fn save(options: &Options, machine: &[String], text: &str, report: &Report) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = root.join(&options.folder);
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let (tables, rounds) = (folder.join("results.md"), folder.join("rounds.json"));
    fs::write(&tables, text).map_err(at(&tables))?;
    let json = serde_json::json!({ "machine": machine, "figures": report.json() });
    fs::write(&rounds, format!("{json:#}\n")).map_err(at(&rounds))?;
    say(&format!("tables in {}, every round in {}", tables.display(), rounds.display()));
    if !options.record {
        return Ok(());
    }
    if !report.is_whole() {
        return Err("docs/benchmarks.md stays as it is: something was left out".to_owned());
    }
    let page = root.join("docs/benchmarks.md");
    let old = fs::read_to_string(&page).map_err(at(&page))?;
    let new = old.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}\n{text}{}.\n\n{END}{after}", report.verdict()))
    });
    fs::write(&page, new.ok_or("docs/benchmarks.md has lost the lines between which the tables stand")?).map_err(at(&page))
}

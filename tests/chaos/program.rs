//! golectra-loadgen itself: what it exits with, and that its ledger outlives it.

use std::time::Duration;

use golectra_tests::{Exit, Program, ProgramBuilder, Server, until};
use serde_json::Value;

use crate::load::LIMIT;

/// How long a short run may take.
const RUN_LIMIT: Duration = Duration::from_mins(2);

fn loadgen(server: &Server, flags: &[&str]) -> ProgramBuilder {
    ProgramBuilder::new("golectra-loadgen").env("ADDRESS", server.url()).env("JSON", "true").env("DURATION", "1s").flags(flags)
}

/// Lets a run come to its end: its exit code and what it printed.
fn outcome(program: &ProgramBuilder) -> (Exit, Value) {
    let mut run = program.start();
    let exit = run.wait(RUN_LIMIT);
    (exit, parsed(&run))
}

/// A server that refuses what is not signed takes its batches.
#[test]
fn it_signs_each_try() {
    let server = Server::builder().key(Some("secret")).env("SIGNATURES", "required").start();
    let (exit, found) = outcome(&loadgen(&server, &["--key=secret", "--cut-answers=0.1"]));
    assert_eq!(exit, Exit::Code(0), "{found}");
    let (exit, found) = outcome(&loadgen(&server, &["--key=secret", "--sign=false"]));
    assert_eq!(exit, Exit::Code(1), "{found}");
    assert!(found["report"]["errors"]["status 401"].as_u64() > Some(0), "{found}");
}

fn parsed(run: &Program) -> Value {
    serde_json::from_str(&run.stdout()).unwrap_or_else(|error| panic!("{error}\n{}", run.tail()))
}

#[test]
fn it_exits_0_when_the_books_balance_and_1_when_they_do_not() {
    let server = Server::builder().start();
    let (exit, found) = outcome(&loadgen(&server, &["--cut-answers=0.2"]));
    assert_eq!((exit, &found["ok"]), (Exit::Code(0), &Value::Bool(true)), "{found}");
    assert!(found["faults"]["cut_answers"].as_u64() > Some(0) && found["report"]["batches"]["replayed"].as_u64() > Some(0), "{found}");
    let (exit, found) = outcome(&loadgen(&server, &["--cut-answers=0.2", "--retry=fresh-key"]));
    assert_eq!((exit, &found["ok"]), (Exit::Code(1), &Value::Bool(false)), "{found}");
    assert!(found["check"]["counters"]["doubled"].as_u64() > Some(0), "{found}");
    let (exit, found) = outcome(&loadgen(&server, &["--cut-answers=0.2", "--keyed=false"]));
    assert_eq!(exit, Exit::Code(1), "{found}");
}

#[test]
fn it_exits_1_when_there_is_no_server_and_2_on_bad_arguments() {
    let mut server = Server::builder().start();
    server.kill();
    let mut run = loadgen(&server, &["--duration=200ms", "--retry-for=200ms", "--check-for=200ms"]).start();
    assert_eq!(run.wait(RUN_LIMIT), Exit::Code(1), "{}", run.tail());
    assert!(run.stderr().contains("does not list the series"), "{}", run.tail());
    for flags in [
        ["--metrics=0"].as_slice(),
        &["--series=70"],
        &["--counters=61"],
        &["--single"],
        &["--check"],
        &["--cut-answers=2"],
        &["--source=a b"],
    ] {
        let mut run = loadgen(&server, flags).start();
        assert_eq!(run.wait(RUN_LIMIT), Exit::Code(2), "{flags:?}\n{}", run.tail());
        assert_eq!(run.stderr().trim_end().lines().count(), 1, "not one sentence: {:?}", run.stderr());
    }
}

#[tokio::test]
async fn its_ledger_can_be_checked_after_it_was_killed() {
    let mut server = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true").start();
    let mut run = loadgen(&server, &["--ledger=ledger", "--duration=1h", "--cut-answers=0.1"]).start();
    let ledger = run.folder().join("ledger");
    until("batches are acknowledged", LIMIT, async || {
        let text = std::fs::read_to_string(&ledger).unwrap_or_default();
        text.lines().filter(|line| line.starts_with('a')).count() >= 50
    })
    .await;
    run.kill();
    server = server.crash_and_restart_with(&[]);
    let check = loadgen(&server, &["--check", "--ledger=ledger"]).folder(&run.shared_folder());
    let (exit, found) = outcome(&check);
    assert_eq!(exit, Exit::Code(0), "{found}");
    assert!(found["check"]["batches"]["acknowledged"].as_u64() >= Some(50), "{found}");
    // Without its snapshot and journal the server has nothing of it: the check would see that.
    let empty = Server::builder().start();
    let (exit, found) = outcome(&loadgen(&empty, &["--check", "--ledger=ledger"]).folder(&run.shared_folder()));
    assert_eq!(exit, Exit::Code(1), "{found}");
    assert!(found["check"]["batches"]["lost"].as_u64() >= Some(50), "{found}");
}

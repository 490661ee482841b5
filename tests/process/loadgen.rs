//! golectra-loadgen ends soon after a signal whatever its server does, and reports its results up to then.

use std::time::{Duration, Instant};

use golectra_tests::{Exit, Program, ProgramBuilder, Receiver, Reply, Server, free_port, until};
use serde_json::Value;

/// The program's limit of 5 s, with a margin for the machine.
const SIGNAL_LIMIT: Duration = Duration::from_secs(15);

const LIMIT: Duration = Duration::from_mins(1);

fn loadgen(address: &str) -> ProgramBuilder {
    ProgramBuilder::new("golectra-loadgen").env("ADDRESS", address).env("DURATION", "1h").env("AGENTS", 3).env("JSON", "true")
}

async fn sending(program: &Program) {
    until("batches are sent", LIMIT, async || program.stderr().contains("sending")).await;
}

/// The exit code and the report, which must be printed soon after the signal.
fn end(program: &mut Program, signal: i32) -> (Exit, Value) {
    let start = Instant::now();
    program.signal(signal);
    let exit = program.wait(LIMIT);
    let took = start.elapsed();
    assert!(took < SIGNAL_LIMIT, "it ended {took:?} after the signal");
    let report = serde_json::from_str(&program.stdout()).unwrap_or_else(|error| panic!("{error}: {}", program.tail()));
    (exit, report)
}

#[tokio::test]
async fn a_signal_ends_it_while_the_server_is_down() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut program = loadgen(&format!("127.0.0.1:{}", free_port())).start();
        sending(&program).await;
        let (exit, report) = end(&mut program, signal);
        assert_eq!(exit, Exit::Code(1));
        assert_eq!((&report["report"]["batches"]["begun"], &report["report"]["batches"]["given_up"]), (&3.into(), &3.into()));
        assert!(report["report"]["errors"]["not connected"].as_u64() > Some(0), "{report}");
        assert!(report["check_error"].as_str().is_some_and(|error| error.contains("0 of 3 sources")), "{report}");
    }
}

#[tokio::test]
async fn a_signal_ends_it_while_the_server_hangs() {
    let receiver = Receiver::start(|_| Reply::status(200).after(Duration::from_hours(1))).await;
    let mut program = loadgen(&receiver.url()).start();
    until("a batch is under way", LIMIT, async || !receiver.requests().is_empty()).await;
    sending(&program).await;
    let (exit, report) = end(&mut program, libc::SIGTERM);
    assert_eq!(exit, Exit::Code(1));
    assert_eq!(report["report"]["batches"]["given_up"], 3);
}

#[tokio::test]
async fn a_signal_ends_a_check_while_the_server_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let mut server = Server::builder().start();
    let run = loadgen(&server.url()).env("LEDGER", ledger.display()).env("BATCHES", 30).start().wait(LIMIT);
    assert_eq!(run, Exit::Code(0));
    let check = loadgen(&server.url()).env("LEDGER", ledger.display()).env("CHECK", "true");
    assert_eq!(check.start().wait(LIMIT), Exit::Code(0), "the server has everything");
    server.stop();
    let mut program = check.env("LOG_LEVEL", "info").start();
    until("it checks", LIMIT, async || program.stderr().contains("checking")).await;
    let (exit, report) = end(&mut program, libc::SIGTERM);
    assert_eq!(exit, Exit::Code(1));
    assert!(report["check_error"].as_str().is_some_and(|error| error.contains("0 of 3 sources were checked")), "{report}");
}

#[tokio::test]
async fn a_signal_to_a_healthy_run_still_checks_everything() {
    let server = Server::builder().start();
    let mut program = loadgen(&server.url()).env("INTERVAL", "50ms").start();
    until("batches arrive", LIMIT, async || server.client().counter("load_counter_0").await > 10).await;
    sending(&program).await;
    let (exit, report) = end(&mut program, libc::SIGTERM);
    assert_eq!(exit, Exit::Code(0), "{report}");
    assert_eq!((&report["check"]["sources"], &report["check_error"]), (&3.into(), &Value::Null));
    assert_eq!(report["report"]["batches"]["given_up"], 0);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut program = loadgen(&format!("127.0.0.1:{}", free_port())).start();
    sending(&program).await;
    program.signal(libc::SIGTERM);
    until("the first signal is noticed", LIMIT, async || program.stderr().contains("stopping")).await;
    program.signal(libc::SIGTERM);
    assert_eq!(program.wait(LIMIT), Exit::Code(1));
    // After the first signal alone it would give the batches up after 2 s, look for them in vain and report that.
    assert_eq!(program.stdout(), "", "it ends without a report");
}

#[tokio::test]
async fn the_report_is_printed_if_the_check_fails() {
    let receiver = Receiver::start(|request| Reply::status(if request.method == "POST" { 200 } else { 404 })).await;
    let mut program = loadgen(&receiver.url()).env("BATCHES", 9).env("CHECK_FOR", "1s").start();
    assert_eq!(program.wait(LIMIT), Exit::Code(1), "{}", program.tail());
    let report: Value = serde_json::from_str(&program.stdout()).unwrap();
    assert_eq!(report["report"]["batches"]["acknowledged"], 9);
    assert!(
        report["check_error"].as_str().is_some_and(|error| error.contains("0 of 3 sources were checked: the server does not list")),
        "{report}"
    );
}

#[tokio::test]
async fn the_server_forgets_the_sources_of_a_good_run() {
    let server = Server::builder().start();
    let sources = async || server.client().get("/api/v1/sources").send().await.expect(200).text().matches("load-").count();
    let run = |keep: bool| {
        let run = loadgen(&server.url()).env("BATCHES", 9);
        if keep { run.env("KEEP", "true") } else { run }.start().wait(LIMIT)
    };
    assert_eq!((run(true), sources().await), (Exit::Code(0), 3));
    assert_eq!((run(false), sources().await), (Exit::Code(0), 3), "those of the first run stay");
}

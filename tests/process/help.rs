//! The programs' output before they run or instead of running.

use std::time::Duration;

use golectra_tests::{Exit, ProgramBuilder, Server, until};

/// The time limit for a program that refuses to start, or that starts, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

const PROGRAMS: [&str; 3] = ["golectra-server", "golectra-agent", "golectra-audit-sink"];

#[test]
fn the_first_lines_name_the_build() {
    let server = Server::builder().start();
    let stdout = server.stdout();
    let lines: Vec<_> = stdout.lines().take(3).collect();
    for (line, name) in lines.iter().zip(["Build version: ", "Build date: ", "Build commit: "]) {
        let value = line.strip_prefix(name).unwrap_or_else(|| panic!("{name:?} is not how {line:?} begins"));
        assert!(!value.is_empty());
    }
    assert_eq!(lines.len(), 3);
}

#[test]
fn every_program_has_the_banner() {
    for program in PROGRAMS {
        let running = ProgramBuilder::new(program).env("ADDRESS", "127.0.0.1:0").start();
        // The banner is printed first, so it is complete once there is other output.
        let start = std::time::Instant::now();
        while running.stdout().lines().count() < 3 && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(10));
        }
        let stdout = running.stdout();
        assert!(
            stdout.starts_with("Build version: ") && stdout.contains("\nBuild date: ") && stdout.contains("\nBuild commit: "),
            "{stdout}"
        );
    }
}

#[test]
fn help_exits_0_and_names_every_variable() {
    let server = [
        "ADDRESS",
        "FILE_STORAGE_PATH",
        "DATABASE_DSN",
        "KEY",
        "KEYS_DIR",
        "SIGNATURES",
        "STORE_INTERVAL",
        "RESTORE",
        "AUDIT_FILE",
        "AUDIT_URL",
        "AUDIT_KEY",
        "METRICS_ADDRESS",
        "MAX_SERIES",
        "MAX_SERIES_PER_SOURCE",
        "MAX_BODY_BYTES",
        "MAX_BATCH_ITEMS",
        "MAX_CONNECTIONS",
        "HEADER_TIMEOUT",
        "BODY_TIMEOUT",
        "IDLE_TIMEOUT",
        "DEDUP_WINDOW",
        "RETENTION_RAW",
        "RETENTION_5M",
        "RETENTION_1H",
        "SERIES_EXPIRY",
        "SOURCE_EXPIRY",
        "SEAL_AFTER",
        "HISTORY_MAX_BYTES",
        "TRUSTED_PROXIES",
        "AUTH_HEADER",
        "AUTH_HEADER_ROLE",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let agent =
        ["ADDRESS", "KEY", "KEYS_DIR", "SIGNING_KEY_ID", "REPORT_INTERVAL", "POLL_INTERVAL", "RATE_LIMIT", "SOURCE", "METRICS_ADDRESS"];
    let sink = ["ADDRESS", "AUDIT_KEY", "METRICS_ADDRESS"];
    for (program, variables) in PROGRAMS.into_iter().zip([server.as_slice(), &agent, &sink]) {
        for flag in ["-h", "--help"] {
            let mut run = ProgramBuilder::new(program).env("KEY", "a secret").flags([flag]).start();
            assert_eq!(run.wait(LIMIT), Exit::Code(0), "{program} {flag}");
            let help = run.stdout();
            for variable in variables {
                assert!(
                    help.contains(&format!("[env: {variable}]")) || help.contains(&format!("{variable} ")),
                    "{variable} is not in\n{help}"
                );
            }
            assert!(!help.contains("a secret"));
        }
    }
}

#[test]
fn the_commands_of_the_server_are_in_its_help_and_have_their_own() {
    let help = |flags: &[&str]| {
        let mut run = ProgramBuilder::new("golectra-server").flags(flags.iter()).start();
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{flags:?}: {}", run.tail());
        run.stdout()
    };
    let server = help(&["-h"]);
    assert!(server.contains("golectra-server export") && server.contains("golectra-server selfcheck URL"), "{server}");
    assert!(help(&["export", "-h"]).contains("EXPORT_START"));
    for flags in [["selfcheck", "-h"].as_slice(), &["selfcheck", "http://localhost:1", "-h"]] {
        assert!(help(flags).contains("SIGNING_KEY_ID"));
    }
}

#[test]
fn the_contracts_flags_are_in_the_help() {
    for (program, flags) in [
        ("golectra-server", ["-a", "-f", "-d", "-k", "-i", "-r", "--audit-file", "--audit-url"].as_slice()),
        ("golectra-agent", &["-a", "-k", "-r", "-p", "-l"]),
    ] {
        let mut run = ProgramBuilder::new(program).flags(["-h"]).start();
        assert_eq!(run.wait(LIMIT), Exit::Code(0));
        for flag in flags {
            assert!(run.stdout().contains(flag), "{flag} is not in {}", run.stdout());
        }
    }
}

/// As with `golectra-server --help | head -1`: writing to the pipe fails once its reader has ended.
#[test]
fn a_closed_pipe_is_no_error() {
    for program in [PROGRAMS.as_slice(), &["golectra-loadgen"]].concat() {
        let help = ProgramBuilder::new(program).closed_output().flags(["--help"]).start().wait(LIMIT);
        assert_eq!(help, Exit::Code(0), "{program} --help");
        let refusal = ProgramBuilder::new(program).closed_output().flags(["--no-such-flag"]).start().wait(LIMIT);
        assert_eq!(refusal, Exit::Code(2), "{program} --no-such-flag");
    }
}

#[tokio::test]
async fn a_server_whose_output_is_closed_runs_and_ends_as_usual() {
    let mut server = ProgramBuilder::new("golectra-server").closed_output().env("ADDRESS", "127.0.0.1:0").start();
    let lock = server.folder().join("metrics-db.json.lock");
    until("the server has its files", LIMIT, async || lock.exists()).await;
    assert_eq!(server.stop(), Exit::Code(0));
}

/// The sentence with which a program refused to start.
fn refusal(program: &ProgramBuilder) -> String {
    let mut run = program.start();
    assert_eq!(run.wait(LIMIT), Exit::Code(2), "{}", run.tail());
    let stderr = run.stderr();
    assert_eq!(stderr.trim_end().lines().count(), 1, "not exactly one sentence: {stderr:?}");
    assert!(!stderr.contains("panicked") && !stderr.contains("swordfish"), "{stderr}");
    stderr
}

#[test]
fn an_unknown_flag_is_one_sentence_and_exit_2() {
    for program in PROGRAMS {
        for flag in ["-z", "--no-such-flag", "--no-such-flag=1", "-xyz=1"] {
            let sentence = refusal(&ProgramBuilder::new(program).flags([flag]));
            let name = flag.trim_start_matches('-').split('=').next().expect("a part");
            assert!(sentence.contains(name), "{program} {flag}: {sentence}");
        }
        refusal(&ProgramBuilder::new(program).flags(["stray"]));
    }
}

#[test]
fn a_bad_value_is_refused_with_one_sentence() {
    for (program, variable, value) in [
        ("golectra-server", "ADDRESS", "nowhere"),
        ("golectra-server", "ADDRESS", "127.0.0.1:99999"),
        ("golectra-server", "STORE_INTERVAL", "soon"),
        ("golectra-server", "STORE_INTERVAL", "-1"),
        ("golectra-server", "RESTORE", "perhaps"),
        ("golectra-server", "MAX_SERIES", "many"),
        ("golectra-server", "MAX_BODY_BYTES", "much"),
        // With these every write or every request would be refused, or the process would end without its last snapshot.
        ("golectra-server", "MAX_SERIES", "0"),
        ("golectra-server", "MAX_SERIES_PER_SOURCE", "0"),
        ("golectra-server", "MAX_BATCH_ITEMS", "0"),
        ("golectra-server", "MAX_BODY_BYTES", "0"),
        ("golectra-server", "HEADER_TIMEOUT", "0"),
        ("golectra-server", "BODY_TIMEOUT", "0s"),
        ("golectra-server", "SHUTDOWN_TIMEOUT", "0"),
        ("golectra-audit-sink", "MAX_BODY_BYTES", "0"),
        ("golectra-audit-sink", "HEADER_TIMEOUT", "0"),
        ("golectra-audit-sink", "BODY_TIMEOUT", "0"),
        ("golectra-audit-sink", "SHUTDOWN_TIMEOUT", "0"),
        ("golectra-server", "TRUSTED_PROXIES", "everyone"),
        ("golectra-server", "AUTH_HEADER", "Cookie"),
        ("golectra-server", "AUTH_HEADER_ROLE", "write"),
        ("golectra-server", "SIGNATURES", "perhaps"),
        ("golectra-server", "DEDUP_WINDOW", "48"),
        ("golectra-server", "RETENTION_RAW", "59m"),
        ("golectra-server", "SERIES_EXPIRY", "1.5d"),
        ("golectra-server", "SOURCE_EXPIRY", "a week"),
        // With these every audit event would be dropped.
        ("golectra-server", "AUDIT_DATABASE_MAX_BYTES", "0"),
        ("golectra-server", "AUDIT_QUEUE", "0"),
        // With these nothing would be logged, or no query would be answered.
        ("golectra-server", "LOG_LEVEL", "warning"),
        ("golectra-agent", "LOG_LEVEL", "inof"),
        ("golectra-server", "QUERY_TIMEOUT", "0"),
        ("golectra-server", "QUERY_MAX_BYTES", "0"),
        ("golectra-server", "LOG_LEVEL", "="),
        ("golectra-agent", "ADDRESS", "ftp://server"),
        ("golectra-agent", "REPORT_INTERVAL", "often"),
        ("golectra-agent", "POLL_INTERVAL", "0"),
        ("golectra-agent", "RATE_LIMIT", "0"),
        ("golectra-agent", "RATE_LIMIT", "-1"),
        ("golectra-agent", "SOURCE", "a b"),
        ("golectra-agent", "SIGNING_KEY_ID", "../a"),
        ("golectra-audit-sink", "ADDRESS", "nowhere"),
        // Accepted, these would be keys that everybody knows, or other keys than those that were meant.
        ("golectra-server", "KEY", "\n"),
        ("golectra-agent", "KEY", "\r\n"),
        ("golectra-server", "AUDIT_KEY", "whsec_swordfish!"),
        ("golectra-server", "AUDIT_KEY", "whsec_"),
        ("golectra-audit-sink", "AUDIT_KEY", "whsec_swordfish!"),
    ] {
        let sentence = refusal(&ProgramBuilder::new(program).env("KEY", "swordfish").env("AUDIT_KEY", "swordfish").env(variable, value));
        assert!(sentence.contains(variable), "{program} {variable}={value}: {sentence}");
    }
    for flags in [["-i", "soon"].as_slice(), &["-i=soon"], &["-r=perhaps"], &["-a="], &["-i"], &["-k=swordfish", "-a=x"], &["-k="]] {
        refusal(&ProgramBuilder::new("golectra-server").flags(flags));
    }
}

#[test]
fn valid_values_that_cannot_be_used_are_refused_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("tokens");
    std::fs::write(&wrong, "grafana:read\n").unwrap();
    let (wrong, nowhere) = (wrong.display().to_string(), folder.path().join("nowhere").display().to_string());
    for (variables, part) in [
        (vec![("RETENTION_5M", "1d")], "RETENTION_5M=1d is shorter than RETENTION_RAW="),
        (vec![("SHUTDOWN_LINGER", "10s")], "SHUTDOWN_LINGER=10s is too long for SHUTDOWN_TIMEOUT=20s"),
        (vec![("SHUTDOWN_LINGER", "3s"), ("SHUTDOWN_TIMEOUT", "6s")], "SHUTDOWN_LINGER=3s is too long for SHUTDOWN_TIMEOUT=6s"),
        (vec![("API_TOKENS_FILE", wrong.as_str())], "line 1: it does not have three parts"),
        (vec![("API_TOKENS_FILE", nowhere.as_str())], "can't be read"),
        (vec![("AUTH_HEADER", "X-Forwarded-User")], "AUTH_HEADER needs to know who may send it"),
        (vec![("AUTH_HEADER", "X-Forwarded-User"), ("TRUSTED_PROXIES", "0.0.0.0/0")], "TRUSTED_PROXIES has a network of all addresses"),
    ] {
        let program = variables.iter().fold(ProgramBuilder::new("golectra-server"), |program, (name, value)| program.env(name, value));
        let sentence = refusal(&program);
        assert!(sentence.contains(part), "{variables:?}: {sentence}");
    }
}

#[test]
fn a_removed_setting_is_one_sentence_that_names_its_successors() {
    // Ignoring it would change how long the operator's data is kept.
    let variable = refusal(&ProgramBuilder::new("golectra-server").env("HISTORY_RETENTION", "72h"));
    assert!(variable.contains("HISTORY_RETENTION was removed: set DEDUP_WINDOW and RETENTION_RAW instead"), "{variable}");
    let flag = refusal(&ProgramBuilder::new("golectra-server").flags(["--history-retention=72h"]));
    assert!(flag.contains("--history-retention was removed: set --dedup-window and --retention-raw instead"), "{flag}");
}

#[test]
fn a_bad_dsn_or_webhook_is_refused_without_its_password() {
    for (variable, value) in [
        ("DATABASE_DSN", "postgres://user:swordfish@127.0.0.1:notaport/db"),
        ("DATABASE_DSN", "mysql://user:swordfish@127.0.0.1/db"),
        ("DATABASE_DSN", "postgres://user:sword/fish@127.0.0.1/db"),
        ("DATABASE_DSN", "postgres://user:swordfish@127.0.0.1,127.0.0.2/db"),
        ("DATABASE_DSN", "postgres://user:swordfish@127.0.0.1/db?sslpassword=swordfish"),
        ("AUDIT_URL", "ftp://user:swordfish@127.0.0.1/"),
        ("AUDIT_URL", "swordfish"),
        ("HEARTBEAT_URL", "ftp://user:swordfish@127.0.0.1/"),
    ] {
        let mut run = ProgramBuilder::new("golectra-server").env("ADDRESS", "127.0.0.1:0").env(variable, value).start();
        assert_eq!(run.wait(LIMIT), Exit::Code(2), "{variable}={value}");
        let said = run.stderr();
        assert!(said.contains(variable) && !said.contains("swordfish"), "{said}");
    }
}

#[test]
fn what_an_export_can_not_use_is_refused_without_a_password() {
    let export = || ProgramBuilder::new("golectra-server").flags(["export"]);
    for (mut run, part) in [
        (export().env("DATABASE_DSN", "mysql://user:swordfish@127.0.0.1/db").start(), "DATABASE_DSN is not a PostgreSQL address"),
        (export().env("EXPORT_MATCH", "up{").start(), "match[]"),
    ] {
        assert_eq!(run.wait(LIMIT), Exit::Code(2), "{}", run.tail());
        let said = run.stderr();
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(said.starts_with("golectra-server export: ") && said.contains(part) && !said.contains("swordfish"), "{said}");
    }
}

#[test]
fn missing_keys_are_refused_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, nowhere) = (folder.path().display().to_string(), folder.path().join("nowhere").display().to_string());
    let (server, agent) = (|| ProgramBuilder::new("golectra-server"), || ProgramBuilder::new("golectra-agent"));
    let selfcheck = || server().flags(["selfcheck", "http://127.0.0.1:9"]);
    for (program, variables, part) in [
        (server(), vec![("SIGNATURES", "required")], "SIGNATURES=required needs a key: set KEY, or KEYS_DIR"),
        (server(), vec![("SIGNATURES", "required"), ("KEYS_DIR", &empty)], "SIGNATURES=required needs a key"),
        (server(), vec![("KEYS_DIR", &nowhere)], "KEYS_DIR can't be read"),
        (selfcheck(), vec![("KEYS_DIR", &nowhere)], "KEYS_DIR can't be read"),
        (agent(), vec![("KEYS_DIR", &nowhere), ("SIGNING_KEY_ID", "k")], "KEYS_DIR can't be read"),
        (agent(), vec![("KEYS_DIR", &empty)], "set SIGNING_KEY_ID"),
        (agent(), vec![("SIGNING_KEY_ID", "k"), ("KEY", "swordfish")], "set KEYS_DIR"),
    ] {
        let program = variables.iter().fold(program, |program, (name, value)| program.env(name, value));
        let mut run = program.start();
        assert_eq!(run.wait(LIMIT), Exit::Code(2), "{variables:?}");
        let said = run.stderr();
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(said.contains(part) && !said.contains("swordfish"), "{variables:?}: {said}");
    }
}

#[test]
fn the_error_for_a_port_in_use_names_it() {
    let first = Server::builder().start();
    let mut second = ProgramBuilder::new("golectra-server").env("ADDRESS", format!("127.0.0.1:{}", first.port())).start();
    assert!(matches!(second.wait(LIMIT), Exit::Code(1..)));
    assert!(second.stderr().contains(&first.port().to_string()), "{}", second.stderr());
}

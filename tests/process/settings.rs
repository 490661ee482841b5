//! The sources of settings and their forms.

use std::time::Duration;

use golectra_tests::{Agent, Client, Exit, Program, ProgramBuilder, Server, free_port, until};
use serde_json::json;

/// The time limit for a program to start and do its first work, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// Waits until the program answers on this port.
async fn answers(program: &Program, port: u16) -> Client {
    let client = Client::new(&format!("http://127.0.0.1:{port}"), None);
    until(&format!("an answer on port {port}: {}", program.tail()), LIMIT, async || {
        client.try_get("/ping/live").await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    client
}

fn server() -> ProgramBuilder {
    ProgramBuilder::new("golectra-server")
}

#[tokio::test]
async fn a_variable_wins_over_a_flag_and_an_empty_one_is_unset() {
    let (variable, flag) = (free_port(), free_port());
    let both = server().env("ADDRESS", format!("127.0.0.1:{variable}")).flags([format!("-a=127.0.0.1:{flag}")]).start();
    answers(&both, variable).await;
    assert!(Client::new(&format!("http://127.0.0.1:{flag}"), None).try_get("/ping/live").await.is_none());
    let empty = server().env("ADDRESS", "").env("KEY", "").flags([format!("-a=127.0.0.1:{flag}")]).start();
    let client = answers(&empty, flag).await;
    // The client without a key fails if an answer is hashed.
    client.get("/api/v1/snapshot").send().await.expect(200);
}

#[tokio::test]
async fn flags_are_parsed_in_every_form() {
    for name in ["-a", "-address", "--address"] {
        for joined in [true, false] {
            let port = free_port();
            let address = format!("127.0.0.1:{port}");
            let flags = if joined { vec![format!("{name}={address}")] } else { vec![name.to_owned(), address] };
            let program = server().flags(flags).flags(["-r=false", "-i=0", "-f", "x.json", "-audit-file=x.log", "-k=secret"]).start();
            let client = Client::new(&format!("http://127.0.0.1:{port}"), Some("secret"));
            answers_signed(&program, &client).await;
            client.updates(&json!([{"id": "a", "type": "gauge", "value": 1}])).await.expect(200);
            until("the audit file of its flag", LIMIT, async || {
                std::fs::read_to_string(program.folder().join("x.log")).is_ok_and(|text| text.ends_with('\n'))
            })
            .await;
        }
    }
}

async fn answers_signed(program: &Program, client: &Client) {
    until(&format!("an answer: {}", program.tail()), LIMIT, async || client.try_get("/ping/live").await.is_some()).await;
}

#[tokio::test]
async fn no_program_uses_the_line_end_after_a_key() {
    let server = Server::builder().key(Some("swordfish")).env("SIGNATURES", "required").start();
    for key in ["swordfish\n", "swordfish\r\n"] {
        let mut check = ProgramBuilder::new("golectra-server").flags(["selfcheck", &server.url()]).env("KEY", key).start();
        assert_eq!(check.wait(LIMIT), Exit::Code(0), "{}", check.tail());
        let load = ProgramBuilder::new("golectra-loadgen").flags(["-a", &server.url(), "--batches=3", "--duration=1s"]);
        let mut load = load.env("KEY", key).start();
        assert_eq!(load.wait(LIMIT), Exit::Code(0), "{}", load.tail());
        let agent = Agent::builder(&server.url()).env("SOURCE", format!("agent-{}", key.len())).env("KEY", key);
        let agent = agent.env("POLL_INTERVAL", "100ms").env("REPORT_INTERVAL", "200ms").start();
        until("reports that are accepted", LIMIT, async || {
            agent.metric("golectra_agent_reports_acknowledged_total").await.is_some_and(|delivered| delivered >= 2.0)
        })
        .await;
    }
}

#[tokio::test]
async fn localhost_and_a_bare_port_listen_on_ipv4() {
    for spelling in ["localhost:", ":", "0.0.0.0:", ""] {
        let port = free_port();
        let program = server().env("ADDRESS", format!("{spelling}{port}")).start();
        answers(&program, port).await;
    }
}

#[tokio::test]
async fn logs_contain_no_secrets() {
    let port = free_port();
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("k"), "swordfish\n").unwrap();
    let dsn = "postgres://user:swordfish@127.0.0.1:1/db?application_name=x";
    let program = server()
        .env("ADDRESS", format!("127.0.0.1:{port}"))
        .env("LOG_LEVEL", "trace")
        .env("KEY", "swordfish")
        .env("KEYS_DIR", keys.path().display())
        .env("AUDIT_KEY", "swordfish")
        .env("AUDIT_URL", "http://user:swordfish@127.0.0.1:1/")
        .env("DATABASE_DSN", dsn)
        .start();
    let client = Client::new(&format!("http://127.0.0.1:{port}"), Some("swordfish"));
    answers_signed(&program, &client).await;
    client.updates(&json!([{"id": "a", "type": "gauge", "value": 1}])).await.expect(503);
    client.get("/ping").send().await.expect(503);
    let metric = json!({"id": "a", "type": "gauge", "value": 1});
    client.post("/value").json(&metric).signed("k", "swordfish").send().await.expect(503);
    client.post("/value").json(&metric).signed("k", "another").send().await.expect(401);
    let said = program.stdout() + &program.stderr();
    let store = said.lines().find(|line| line.contains("metrics are kept in PostgreSQL")).unwrap_or_else(|| panic!("{said}"));
    for part in [r#""host":"127.0.0.1""#, r#""port":1"#, r#""database":"db""#, r#""schema":"golectra""#] {
        assert!(store.contains(part), "{part}: {store}");
    }
    assert!(said.lines().count() > 3 && !said.contains("swordfish"), "{said}");
}

#[tokio::test]
async fn a_dsn_with_another_drivers_pool_settings_says_once_that_they_have_no_effect() {
    let port = free_port();
    let dsn = "postgres://user:p@127.0.0.1:1/db?pool_max_conns=4711&statement_cache_mode=describe&application_name=x";
    let program = server().env("ADDRESS", format!("127.0.0.1:{port}")).env("DATABASE_DSN", dsn).start();
    answers(&program, port).await;
    until("the database is reported as not ready", LIMIT, async || program.stderr().contains("the database is not ready")).await;
    let said = program.stderr();
    assert_eq!(said.matches("pool_max_conns, statement_cache_mode").count(), 1, "{said}");
    assert!(!said.contains("4711") && !said.contains("describe"), "{said}");
}

#[tokio::test]
async fn the_file_of_the_memory_store_is_said_at_the_start() {
    let port = free_port();
    let program = server().env("ADDRESS", format!("127.0.0.1:{port}")).env("FILE_STORAGE_PATH", "kept.json").start();
    answers(&program, port).await;
    let said = program.stderr();
    let count = said.lines().filter(|line| line.contains("metrics are kept in memory") && line.contains("kept.json")).count();
    assert_eq!(count, 1, "{said}");
}

#[tokio::test]
async fn a_limit_below_what_agents_put_into_a_batch_is_said_at_the_start() {
    const SAID: &str = "MAX_BATCH_ITEMS is less than golectra's agents put into one batch";
    let low = Server::builder().env("MAX_BATCH_ITEMS", 4_999).start();
    until("the warning", LIMIT, async || low.stderr().contains(SAID)).await;
    let mut enough = Server::builder().env("MAX_BATCH_ITEMS", 5_000).start();
    assert_eq!(enough.stop(), Exit::Code(0));
    assert!(!enough.stderr().contains(SAID), "{}", enough.tail());
}

#[tokio::test]
async fn a_retention_below_what_reports_may_be_late_is_said_at_the_start() {
    const SAID: &str = "RETENTION_RAW is shorter than DEDUP_WINDOW";
    let short = Server::builder().env("RETENTION_RAW", "47h").start();
    until("the warning", LIMIT, async || short.stderr().contains(SAID)).await;
    let mut enough = Server::builder().env("RETENTION_RAW", "48h").start();
    assert_eq!(enough.stop(), Exit::Code(0));
    assert!(!enough.stderr().contains(SAID), "{}", enough.tail());
}

#[test]
fn why_a_program_can_not_run_is_said_whatever_the_filter_is() {
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap();
    for (program, name, value, said, code) in [
        ("golectra-server", "KEYS_DIR", "/nope".to_owned(), "golectra-server can't run", Exit::Code(2)),
        ("golectra-agent", "KEYS_DIR", "/nope".to_owned(), "the agent cannot start", Exit::Code(2)),
        ("golectra-audit-sink", "ADDRESS", address.to_string(), "the audit sink cannot start", Exit::Code(1)),
    ] {
        for filter in ["off", "info", "off,golectra_process=off"] {
            let mut run = ProgramBuilder::new(program).env("LOG_LEVEL", filter).env(name, &value).start();
            assert_eq!(run.wait(LIMIT), code, "{program}: {}", run.tail());
            let stderr = run.stderr();
            assert_eq!(stderr.matches(said).count(), 1, "{program}, {filter}: {stderr}");
        }
    }
}

#[tokio::test]
async fn logs_are_json_without_a_terminal() {
    let port = free_port();
    let program = server().env("ADDRESS", format!("127.0.0.1:{port}")).start();
    answers(&program, port).await;
    let said = program.stdout() + &program.stderr();
    let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("Build ")).collect();
    assert!(!lines.is_empty());
    for line in lines {
        let json: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(json["timestamp"].is_string() && json["level"].is_string(), "{line}");
    }
}

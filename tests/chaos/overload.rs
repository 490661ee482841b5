//! Five times as much as the server can take.

use std::time::{Duration, Instant};

use golectra_loadgen::{Address, Pace, Plan, Report, Retry};
use golectra_tests::{Database, Server, until};

use crate::load::{LIMIT, Load, SOME, start};
use crate::results::{LoadResults, say};
use crate::{amount, full};

/// The most memory that the server may take, beside what it may keep of the history.
const MEMORY: u64 = 256 << 20;

/// How soon it is to be itself again, beside other tests and alone.
fn recovery() -> Duration {
    Duration::from_secs(amount(30, 5))
}

/// Agents in the overload, each with a connection of its own.
const CROWD: u32 = 400;

fn plan(server: &Server) -> Plan {
    Plan { prepared: 512, retry: Retry::None, timeout: Duration::from_secs(30), ..Plan::new(Address::local(server.port())) }
}

/// What it takes from as many clients as keep it busy.
async fn capacity(server: &Server) -> f64 {
    let mut capacity = 20.0_f64;
    // The first time everything is new to it, its series above all.
    for seconds in [1, amount(1, 10)] {
        let source = Some("capacity".to_owned());
        let run = start(Plan { agents: 16, duration: Duration::from_secs(seconds), remember: false, source, ..plan(server) });
        capacity = capacity.max(run.finish().await.0.batches_per_second);
    }
    capacity
}

/// Only what the contract allows was answered.
fn is_allowed(report: &Report) -> bool {
    report.errors.keys().all(|what| ["status 429", "status 503"].contains(&what.as_str()))
}

async fn overloaded(scenario: &str, server: Server) {
    let (begin, capacity) = (Instant::now(), capacity(&server).await);
    let offered = capacity * 5.0;
    server.reset_peak();
    let interval = Duration::from_secs_f64(f64::from(CROWD) / offered);
    let crowd = Plan {
        agents: CROWD,
        connections: Some(CROWD),
        pace: Pace::Every(interval),
        duration: Duration::from_secs(amount(3, 60)),
        ..plan(&server)
    };
    let run = start(crowd);
    let (report, sent) = run.finish().await;
    let over = Instant::now();
    let client = server.client();
    until("a write is taken at once", LIMIT, async || {
        let (sent, answer) = (Instant::now(), client.post("/update/counter/after/1").send().await);
        answer.status == 200 && sent.elapsed() < Duration::from_millis(200)
    })
    .await;
    let recovered = over.elapsed();
    let peak = server.peak_rss();
    let check = sent.check(&Address::local(server.port()), LIMIT).await.expect("the server can be read");
    say(
        scenario,
        &format!(
            "takes {capacity:.0} batches/s, offered {offered:.0}/s for {:.0} s over {CROWD} connections: {} accepted ({:.0}/s), other answers {:?}, \
             p99 of accepted {:.3} s, peak memory {:.0} MiB, recovered after {:.2} s; acked {} <= stored {} <= issued {}, lost {}, doubled {}",
            report.seconds,
            report.batches.acknowledged,
            report.batches_per_second,
            report.errors,
            report.answers.p99_seconds,
            f64::from(u32::try_from(peak >> 10).expect("less than 4 TiB")) / 1024.0,
            recovered.as_secs_f64(),
            check.counters.acknowledged,
            check.counters.stored,
            check.counters.issued,
            check.counters.lost,
            check.counters.doubled,
        ),
    );
    assert!(is_allowed(&report), "{:?}", report.errors);
    assert!(check.passed(), "{check}");
    assert!(peak <= MEMORY, "{peak} bytes");
    assert!(recovered <= recovery(), "{recovered:?}");
    // A debug build on a busy machine is no measure of time.
    assert!(!full() || report.answers.p99_seconds < 1.0, "{report}");
    let load = Load::start(&[server.port()], SOME).await;
    load.goes_on().await;
    let results: LoadResults = load.finish().await;
    results.judge(scenario, "afterwards", begin);
}

#[tokio::test]
async fn overloaded_memory() {
    // A minute of it is more than the default of the history: what an overload takes shows where that is small.
    overloaded("overload, memory", Server::builder().env("HISTORY_MAX_BYTES", "16MiB").start()).await;
}

#[tokio::test]
async fn overloaded_postgres() {
    let Some(database) = Database::create() else { return };
    overloaded("overload, postgres", Server::builder().database(&database).start()).await;
}

//! What a save of a million series does to a writer beside it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use golectra_tests::{Client, KEY, Server, runtime};

use crate::bodies::{Format, Pool};
use crate::cases::{Bench, CONNECTIONS, bodies, say};
use crate::contestants::Started;
use crate::load::{self, Plan, Tally};
use crate::report::{Report, Section, Target, Unit};
use crate::wire::{Sources, Turn, golectra};

/// Sources of a thousand series each.
const SOURCES: usize = 1000;
/// Batches a second of the steady writer, sixty metrics each.
const PACE: f64 = 200.0;
/// How often a save begins; by default it is every five minutes.
const INTERVAL: &str = "5s";
/// How often /metrics is asked whether a save has ended: how well its time is known.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// At least this long, so that several saves begin and end.
const MIN_SECONDS: f64 = 20.0;

/// A save: when it was seen to have ended, at most one look late, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Save {
    took: Duration,
    end: Instant,
}

/// Measures once a round.
pub fn run(bench: &Bench, report: &mut Report) {
    let seconds = (bench.options.seconds / 2.0).max(MIN_SECONDS);
    // The writer's series are among those that exist.
    let light = Pool::prepare(bodies(PACE, seconds), Format::Batch, |_| &bench.thousand_series()[..60]);
    let (mut during, mut between, mut saving, mut blocked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.options.rounds {
        let server = Server::builder().key(Some(KEY)).env("STORE_INTERVAL", INTERVAL).metrics().start();
        let metrics = server.metrics_client();
        let started = Started::servers(vec![server]);
        fill(&started, bench.thousands());
        let (tally, saves, last) = write_and_watch(&started, metrics, &light, seconds);
        started.end();
        tally.all_accepted("the writer beside a save");
        assert!(!saves.is_empty(), "no save ended within {seconds} s");
        let start = tally.start.expect("it was started");
        let is_during = |sent: Duration, took: Duration| {
            let overlaps = |save: &Save| start + sent < save.end && start + sent + took + save.took + LOOK_EVERY > save.end;
            saves.iter().any(overlaps)
        };
        let split = |wanted: bool| {
            let all =
                tally.accepted.iter().map(|one| (Duration::from_micros(one.sent_micros.into()), Duration::from_micros(one.micros.into())));
            let longest = all.filter(|(sent, took)| is_during(*sent, *took) == wanted).map(|(_, took)| took).max();
            longest.unwrap_or_default().as_secs_f64() * 1000.0
        };
        during.push(split(true));
        between.push(split(false));
        let longest_save = saves.iter().map(|save| save.took.as_secs_f64()).fold(0.0, f64::max);
        saving.push(longest_save);
        blocked.extend(last);
        say(&format!(
            "round {}, {} saves of up to {longest_save:.2} s: longest write {:.1} ms during, {:.1} ms between",
            round + 1,
            saves.len(),
            during[round],
            between[round]
        ));
    }
    report.figure(
        Section::Snapshot,
        "longest write while a save runs, as its client sees it",
        Unit::Milliseconds,
        during,
        Some(Target::NeverAbove(10.0)),
    );
    report.figure(Section::Snapshot, "longest write between saves", Unit::Milliseconds, between, None);
    report.figure(
        Section::Snapshot,
        "longest wait of a writer for a save, as the server counts it",
        Unit::Milliseconds,
        blocked,
        Some(Target::NeverAbove(10.0)),
    );
    report.figure(Section::Snapshot, "longest save", Unit::Seconds, saving, None);
}

fn fill(started: &Started, pool: &Pool) {
    let plan = Plan { addresses: &started.addresses, connections: CONNECTIONS, pace: None, seconds: 60.0, pool, bodies: 0..SOURCES };
    let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", pool, Sources::Cycle(SOURCES), turn);
    load::run(&plan, &write).all_accepted("filling");
}

/// Writes at a steady pace over all sources, and watches on /metrics when saves end. The last is the server's own figure of how
/// long a save held up a writer, in milliseconds, where it has one.
fn write_and_watch(started: &Started, metrics: Client, light: &Pool, seconds: f64) -> (Tally, Vec<Save>, Option<f64>) {
    let seen = Arc::new(Mutex::new((Vec::new(), None)));
    let sink = Arc::clone(&seen);
    let watcher = runtime().spawn(async move {
        let mut count = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let text = metrics.get("/metrics").send().await.text();
            let end = Instant::now();
            let figure = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            let Some(saved) = figure("golectra_memory_snapshots_total ") else { continue };
            let took = figure("golectra_memory_snapshot_duration_seconds ").unwrap_or_default();
            let mut seen = sink.lock().expect("the writer only reads at the end");
            if count.replace(saved).is_some_and(|before| before < saved) {
                seen.0.push(Save { took: Duration::from_secs_f64(took), end });
            }
            seen.1 = figure("golectra_memory_snapshot_pause_seconds ").map(|pause| pause * 1000.0);
        }
    });
    let plan = Plan { addresses: &started.addresses, connections: 4, pace: Some(PACE), seconds, pool: light, bodies: 0..light.len() };
    let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", light, Sources::Cycle(SOURCES), turn);
    let tally = load::run(&plan, &write);
    watcher.abort();
    let (saves, last) = std::mem::take(&mut *seen.lock().expect("the watcher is gone"));
    (tally, saves, last)
}

//! What the reports of a cluster take in PostgreSQL: bytes of tables, and bytes of the write-ahead log.
//!
//! Some hours are written window by window. Each window is sealed, folded and rolled up before the next one comes, as it is at the pace of a clock. What the log
//! takes for a write depends on that pace: a quick writer shares transactions, and a page is logged whole once a checkpoint. So writes are also
//! measured at the pace of the cluster, from one checkpoint to the next.

use std::time::{Duration, Instant};

use golectra_loadgen::Address;
use golectra_tests::{Database, KEY, Server, runtime};

use crate::cases::history::{HOUR_MS, WINDOW_MS, bytes_of_tables, now_ms};
use crate::cases::postgres::fresh_database;
use crate::cases::{Bench, say};
use crate::history::node_data::RECORDED_SERIES;
use crate::history::reports::{Agent, NODE_INTERVAL_MS, POD_INTERVAL_MS, Sent, send, send_live};
use crate::report::{Report, Section, Unit};

const PODS_PER_NODE: usize = 30;
const SERIES_PER_POD: f64 = 12.0;
const DAY_SECONDS: f64 = 86_400.0;
const DAY_MS: i64 = 24 * HOUR_MS;
/// How long after its end a window is folded for sure.
const FOLDED_AFTER_MS: i64 = 15 * 60 * 1000;
/// How long a window may take to be sealed, folded and rolled up.
const SETTLE_LIMIT: Duration = Duration::from_mins(15);
/// How often there is a checkpoint meanwhile. At the pace of a clock there is at least one between any two rounds of sealing and folding, after
/// which each changed page is logged whole; here all rounds of a window take some ten seconds.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

/// What tables take, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    chunks: f64,
    keys: f64,
    rollups_5m: f64,
    rollups_1h: f64,
    all: f64,
}

impl Sizes {
    fn of(database: &Database) -> Self {
        let of = |tables| bytes_of_tables(database, tables);
        Self {
            chunks: of(Some("chunks")),
            keys: of(Some("sealed_reports")),
            rollups_5m: of(Some("rollups_5m")),
            rollups_1h: of(Some("rollups_1h")),
            all: of(None),
        }
    }
}

/// Measures once: tables and the log have the same bytes each time.
pub fn run(bench: &Bench, report: &mut Report) {
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        report.left_out("a cluster's bytes: TEST_DATABASE_URL is not set, which `make bench` sets");
        return;
    }
    let nodes = 5 * bench.options.history.0;
    // A quarter of the hours: 6 of a day.
    let windows = (bench.options.history.1 * HOUR_MS / 4 / WINDOW_MS).max(1);
    let mut agents: Vec<Agent> = (0..nodes).map(|number| Agent::new("node", number, RECORDED_SERIES, PODS_PER_NODE)).collect();
    // The same hours of a day each time: a day's last window is folded in another way.
    let end_ms = (now_ms() - FOLDED_AFTER_MS - windows * WINDOW_MS) / DAY_MS * DAY_MS + windows * WINDOW_MS;
    let database = fresh_database();
    let mut server = Server::builder().key(Some(KEY)).database(&database).env("SEAL_AFTER", "48h").start();
    let (mut all, mut log_of_writes, mut log_of_sealing) = (Sent::default(), 0.0, 0.0);
    let (mut server_cpu, mut database_cpu) = (0.0, 0.0);
    let (mut first, mut sizes) = (None, None);
    for window in 0..windows {
        let start_ms = end_ms - (windows - window) * WINDOW_MS;
        let address = Address::local(server.port());
        let (log, cpu, of_database) = (log_bytes(&database), server.cpu_seconds(), database.cpu_seconds());
        let sent = send(&mut agents, &address, start_ms, start_ms + WINDOW_MS);
        log_of_writes += log_bytes(&database) - log;
        server_cpu += server.cpu_seconds() - cpu;
        database_cpu += database.cpu_seconds() - of_database;
        all.samples += sent.samples;
        all.seconds += sent.seconds;
        checkpoint(&database);
        let log = log_bytes(&database);
        server = server.restart_with(&[("SEAL_AFTER", "2m")]);
        let took = settle(&database, start_ms + WINDOW_MS);
        log_of_sealing += log_bytes(&database) - log;
        server = server.restart_with(&[("SEAL_AFTER", "48h")]);
        // In the two hours of a window autovacuum does so by itself, so that the next window reuses what folding left behind.
        runtime().block_on(database.execute("VACUUM golectra.chunks, golectra.rollups_5m, golectra.rollups_1h"));
        let now = Sizes::of(&database);
        say(&format!(
            "window {} of {windows}: {} samples in {:.1} s, sealed and folded after {:.1} s: {now:.0?}, log {log_of_writes:.0} and {log_of_sealing:.0}",
            window + 1,
            sent.samples,
            sent.seconds,
            took.as_secs_f64()
        ));
        first.get_or_insert((all.samples, now));
        sizes = Some(now);
    }
    let live_seconds = 5.0 * bench.options.seconds;
    let live_start = now_ms() / POD_INTERVAL_MS * POD_INTERVAL_MS;
    checkpoint(&database);
    let log = log_bytes(&database);
    let live = send_live(&mut agents, &Address::local(server.port()), live_start, live_seconds);
    let log_of_live = log_bytes(&database) - log;
    let of_pods = ["chunks", "rollups_5m", "rollups_1h"].map(|table| share_of_pods(&database, table));
    server.kill();

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (nodes, hours, later_days, series, pods, node_seconds, pod_seconds) = (
        nodes as f64,
        (windows * WINDOW_MS / HOUR_MS) as f64,
        ((windows - 1).max(1) * WINDOW_MS) as f64 / DAY_MS as f64,
        RECORDED_SERIES as f64,
        PODS_PER_NODE as f64,
        NODE_INTERVAL_MS as f64 / 1000.0,
        POD_INTERVAL_MS as f64 / 1000.0,
    );
    let a_day = nodes * DAY_SECONDS * (series / node_seconds + pods * SERIES_PER_POD / pod_seconds);
    // The limits are for nodes, not for pods: the cases of history have them.
    let mut tell = |name: &str, unit, value: f64| report.figure(Section::Cluster, name, unit, vec![value], None);
    tell("hours that were written", Unit::Count, hours);
    tell("samples written by the clock", Unit::PerSecond, all.samples / all.seconds);
    tell("samples written per core of the server", Unit::PerSecond, all.samples / server_cpu);
    tell("samples written per core of the database", Unit::PerSecond, all.samples / database_cpu);
    let Some((sizes, first)) = sizes.zip(first) else { return };
    // What series, names and newest values take does not grow with time, nor the room that parts need until they are folded: the first window has paid for them.
    let (first_samples, first) = if windows > 1 { first } else { (0.0, Sizes::default()) };
    tell("bytes a sample of chunks", Unit::Hundredths, sizes.chunks / all.samples);
    tell("bytes a sample of keys", Unit::Hundredths, sizes.keys / all.samples);
    tell("bytes a sample of chunks and keys", Unit::Hundredths, (sizes.chunks + sizes.keys) / all.samples);
    tell("bytes a sample of both rollups", Unit::Hundredths, (sizes.rollups_5m + sizes.rollups_1h) / all.samples);
    tell("bytes a sample of all tables", Unit::Hundredths, sizes.all / all.samples);
    let growth = (sizes.all - first.all) / (all.samples - first_samples);
    tell("bytes a sample by which all tables grow", Unit::Hundredths, growth);
    tell("all tables grow, a day", Unit::Mebibytes, growth * a_day);
    tell("all tables grow, a day and node with its 30 pods", Unit::Mebibytes, growth * a_day / nodes);
    let tables = [
        ("chunks", sizes.chunks - first.chunks),
        ("5-minute rollups", sizes.rollups_5m - first.rollups_5m),
        ("1-hour rollups", sizes.rollups_1h - first.rollups_1h),
    ];
    for ((name, bytes), of_pods) in tables.into_iter().zip(of_pods) {
        tell(&format!("{name}, a day and node without its pods"), Unit::Kibibytes, bytes * (1.0 - of_pods) / nodes / later_days);
        tell(&format!("{name}, a day and pod"), Unit::Kibibytes, bytes * of_pods / (nodes * pods) / later_days);
    }
    tell("keys, a day and node with its pods", Unit::Kibibytes, (sizes.keys - first.keys) / nodes / later_days);
    tell("what does not grow: series, names, newest values", Unit::Mebibytes, sizes.all - growth * all.samples);
    let (written, sealed, at_pace) = (log_of_writes / all.samples, log_of_sealing / all.samples, log_of_live / live.samples);
    tell("log, bytes a sample: written as fast as possible", Unit::Hundredths, written);
    tell("log, bytes a sample: written at the pace of the cluster", Unit::Hundredths, at_pace);
    tell("log, bytes a sample: sealed, folded and rolled up", Unit::Hundredths, sealed);
    tell("log, a day", Unit::Mebibytes, (at_pace + sealed) * a_day);
    tell("log, a day and node with its 30 pods", Unit::Mebibytes, (at_pace + sealed) * a_day / nodes);
}

/// Which part of a table's rows is of pods. A block of 64 series that has some of both is of those of which it has more.
fn share_of_pods(database: &Database, table: &str) -> f64 {
    let parts = format!(
        "SELECT (1000000 * sum(pg_column_size(stored)) FILTER (WHERE is_of_pods) / sum(pg_column_size(stored)))::bigint
        FROM golectra.{table} AS stored
        JOIN (SELECT id / 64 AS block_id, avg(starts_with(metric, 'container_')::int) > 0.5 AS is_of_pods FROM golectra.series GROUP BY 1) AS block
            USING (block_id)"
    );
    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    let share = runtime().block_on(database.number(&parts)) as f64 / 1e6;
    share
}

/// Waits until what was before this is sealed, folded and rolled up; says how long it took.
fn settle(database: &Database, end_ms: i64) -> Duration {
    let begun = Instant::now();
    let mut last = begun;
    let query = unsettled(0, end_ms);
    while runtime().block_on(database.number(&query)) > 0 {
        assert!(begun.elapsed() < SETTLE_LIMIT, "a window is sealed and folded within {SETTLE_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(250));
        if last.elapsed() >= CHECKPOINT_EVERY {
            checkpoint(database);
            last = Instant::now();
        }
    }
    begun.elapsed()
}

/// The statement that returns 1 while samples of this time are still to be sealed or folded, and 0 afterwards.
pub fn unsettled(start_ms: i64, end_ms: i64) -> String {
    let (start, end) = (start_ms / 1000, end_ms / 1000);
    format!(
        "SELECT (EXISTS (SELECT 1 FROM golectra.frames WHERE at >= to_timestamp({start}) AND at < to_timestamp({end}))
            OR EXISTS (SELECT 1 FROM golectra.chunks WHERE part > 0 AND window_start >= to_timestamp({start}) AND window_start < to_timestamp({end})))::int::bigint"
    )
}

fn checkpoint(database: &Database) {
    runtime().block_on(database.execute("CHECKPOINT"));
}

/// How many bytes the write-ahead log has had so far.
fn log_bytes(database: &Database) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "bytes of a run")]
    let bytes = runtime().block_on(database.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")) as f64;
    bytes
}

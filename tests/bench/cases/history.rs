//! Nodes' metrics by remote-write, and queries of them by HTTP, beside Prometheus and VictoriaMetrics.
//!
//! There are three sets of samples: all series of some nodes for a day, which says what a sample costs; what is mostly asked for of many nodes, for a day;
//! and a month, which is long enough for rollups. Every contestant gets the same bytes in the same order while the others have nothing to do, each set
//! in a process and database of its own. Then all are left alone until each has sealed or compacted what it has: golectra does so in PostgreSQL after
//! the half hour in which samples came. Then each is asked the same expressions over the same time.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use golectra_tests::statistics::percentile;
use golectra_tests::{Client, Database, Program, ProgramBuilder, Server, free_port, runtime};

use crate::cases::{Bench, say};
use crate::history::node_data::{Node, RECORDED_SERIES};
use crate::history::questions::{LONG_QUESTIONS, QUESTIONS, Question, Set};
use crate::history::remote_write;
use crate::report::{Report, Section, Target, Unit};

/// Requests under way at once. They are of the same intervals, so that every contestant gets its samples in the order of time.
const REQUESTS_AT_ONCE: usize = 4;
/// How often each expression is asked.
const REPEATS: usize = 20;
/// How long all may take to seal or compact.
const SETTLE_LIMIT: Duration = Duration::from_mins(45);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contestant {
    GolectraPostgres,
    GolectraMemory,
    Prometheus,
    VictoriaMetrics,
}

impl Contestant {
    const ALL: [Self; 4] = [Self::GolectraPostgres, Self::GolectraMemory, Self::Prometheus, Self::VictoriaMetrics];

    fn is_golectra(self) -> bool {
        matches!(self, Self::GolectraPostgres | Self::GolectraMemory)
    }

    fn name(self) -> &'static str {
        match self {
            Self::GolectraPostgres => "golectra, PostgreSQL",
            Self::GolectraMemory => "golectra, memory",
            Self::Prometheus => "Prometheus",
            Self::VictoriaMetrics => "VictoriaMetrics",
        }
    }
}

/// An hour in milliseconds.
pub const HOUR_MS: i64 = 3_600_000;
/// What PostgreSQL's store folds together, in milliseconds.
pub const WINDOW_MS: i64 = 2 * HOUR_MS;

/// A contestant that runs.
struct Started {
    contestant: Contestant,
    url: String,
    program: Running,
    database: Option<Arc<Database>>,
}

enum Running {
    Server(Server),
    Program(Program),
}

/// What the samples of one contestant cost.
struct Written {
    samples: f64,
    seconds: f64,
    cpu_seconds: f64,
    database_cpu_seconds: f64,
    /// When the last answer came, in unix milliseconds.
    end_ms: i64,
}

/// Measures each contestant once: a run takes an hour and a half, and what is told is a ratio of times within it.
pub fn run(bench: &Bench, report: &mut Report) {
    let (nodes, hours) = bench.options.history;
    let day = Set {
        section: Section::History,
        nodes,
        series_per_node: RECORDED_SERIES,
        interval_ms: 10_000,
        intervals_per_request: 5,
        hours,
        questions: &QUESTIONS,
        tells_costs: true,
    };
    let many = Set { section: Section::Queries, nodes: 5 * nodes, series_per_node: 64, tells_costs: false, ..day };
    let month = Set {
        section: Section::LongQueries,
        nodes: 5 * nodes,
        series_per_node: 8,
        interval_ms: 60_000,
        intervals_per_request: 60,
        hours: 30 * hours,
        questions: &LONG_QUESTIONS,
        tells_costs: false,
    };
    let end_ms = now_ms() / month.interval_ms * month.interval_ms;
    let mut all = Vec::new();
    // PostgreSQL first: its samples are to come within one half hour.
    for contestant in Contestant::ALL {
        for set in [&many, &month, &day] {
            let Some(started) = start(contestant, set.hours) else {
                report.left_out(format!("{} is not installed, or TEST_DATABASE_URL is not set", contestant.name()));
                continue;
            };
            let written = write(&started, set, end_ms);
            all.push((set, started, written));
        }
    }
    settle(all.iter().map(|(_, started, written)| (started, written)));
    let mut medians = Medians::new();
    for (set, started, written) in &all {
        let name = started.contestant.name();
        for (question, p50) in measure(set, started, written, end_ms, report) {
            medians.insert((set.section as u8, name, question), p50);
        }
    }
    // What is missing to be as fast as Prometheus, question by question.
    for (set, started, _) in &all {
        let name = started.contestant.name();
        for question in set.questions.iter().filter(|_| started.contestant.is_golectra()) {
            let of = |contestant| medians.get(&(set.section as u8, contestant, question.name));
            if let Some((own, other)) = of(name).zip(of(Contestant::Prometheus.name())) {
                let what = format!("{}, p50 over Prometheus's", question.name);
                report.cell(set.section, name, what, Unit::Times, own / other, Some(Target::AtMost(1.0)));
            }
        }
    }
}

/// The median of each question's answers, by section and contestant.
type Medians = HashMap<(u8, &'static str, &'static str), f64>;

/// Asks the questions of a set; tells what came out, and the median of each question's answers in milliseconds.
fn measure(set: &Set, started: &Started, written: &Written, end_ms: i64, report: &mut Report) -> Vec<(&'static str, f64)> {
    let name = started.contestant.name();
    let mut figure =
        |what: String, unit: Unit, value: f64, target: Option<Target>| report.cell(set.section, name, what, unit, value, target);
    if set.tells_costs {
        tell_costs(started, written, &mut figure);
    }
    let mut medians = Vec::new();
    for question in set.questions {
        let (cpu_before, database_before) = (cpu(started), database_cpu(started));
        let (p50, p95) = ask(started, question, end_ms);
        #[expect(clippy::cast_precision_loss, reason = "twenty repeats")]
        let each = 1000.0 / (REPEATS + 1) as f64;
        let has_target = started.contestant == Contestant::GolectraPostgres && set.section != Section::History;
        let target = question.target_ms.filter(|_| has_target).map(Target::AtMost);
        figure(format!("{}, p50", question.name), Unit::Milliseconds, p50, None);
        figure(format!("{}, p95", question.name), Unit::Milliseconds, p95, target);
        let spent = cpu(started) - cpu_before + database_cpu(started) - database_before;
        figure(format!("{}, CPU time", question.name), Unit::Milliseconds, spent * each, None);
        medians.push((question.name, p50));
    }
    medians
}

/// Tells what a sample costs to write and to keep.
fn tell_costs(started: &Started, written: &Written, figure: &mut impl FnMut(String, Unit, f64, Option<Target>)) {
    let at_least = started.contestant.is_golectra().then_some(Target::AtLeast(500_000.0));
    figure("samples written by the clock".to_owned(), Unit::PerSecond, written.samples / written.seconds, None);
    figure("samples written per core of the server".to_owned(), Unit::PerSecond, written.samples / written.cpu_seconds, at_least);
    if let Some(database) = &started.database {
        let per_core = written.samples / written.database_cpu_seconds;
        figure("samples written per core of the database".to_owned(), Unit::PerSecond, per_core, None);
        for (what, tables, target) in
            [("chunks and keys", "chunks,sealed_reports", Target::AtMost(0.4)), ("rollups", "rollups_5m,rollups_1h", Target::AtMost(0.2))]
        {
            let bytes = bytes_of_tables(database, Some(tables));
            figure(format!("bytes a sample of {what}"), Unit::Hundredths, bytes / written.samples, Some(target));
        }
    }
    if let Some(bytes) = disk_bytes(started) {
        figure("bytes a sample on disk".to_owned(), Unit::Hundredths, bytes / written.samples, None);
    }
    figure("resident memory".to_owned(), Unit::Mebibytes, rss(started), None);
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    i64::try_from(since.as_millis()).expect("the clock is before the year 292 million")
}

fn start(contestant: Contestant, hours: i64) -> Option<Started> {
    let (program, url, database) = match contestant {
        Contestant::GolectraPostgres => {
            let database = Database::create()?;
            let server = limits(Server::builder().database(&database)).start();
            let url = server.url();
            (Running::Server(server), url, Some(database))
        }
        Contestant::GolectraMemory => {
            let server = limits(Server::builder()).env("HISTORY_MAX_BYTES", "2GiB").start();
            let url = server.url();
            (Running::Server(server), url, None)
        }
        Contestant::Prometheus => {
            let port = free_port();
            let builder = foreign("prometheus", "/usr/bin/prometheus")?;
            let file = "global: {scrape_interval: 1h}\n";
            let folder = Arc::new(tempfile::TempDir::with_prefix("golectra-bench-").expect("a folder"));
            std::fs::write(folder.path().join("prometheus.yml"), file).expect("a file can be written");
            let program = builder
                .folder(&folder)
                .flags([
                    "--config.file=prometheus.yml",
                    "--storage.tsdb.path=data",
                    "--web.enable-remote-write-receiver",
                    "--log.level=warn",
                ])
                .flags([format!("--web.listen-address=127.0.0.1:{port}"), format!("--storage.tsdb.retention.time={}h", hours + 48)])
                .start();
            (Running::Program(program), format!("http://127.0.0.1:{port}"), None)
        }
        Contestant::VictoriaMetrics => {
            let port = free_port();
            let program = foreign("victoria-metrics", "/usr/bin/victoria-metrics")?
                .flags(["-storageDataPath=data", "-retentionPeriod=1", "-loggerLevel=WARN", "-search.disableCache"])
                .flags([format!("-httpListenAddr=127.0.0.1:{port}")])
                .start();
            (Running::Program(program), format!("http://127.0.0.1:{port}"), None)
        }
    };
    let started = Started { contestant, url, program, database };
    wait_until_ready(&started);
    Some(started)
}

fn foreign(name: &'static str, path: &str) -> Option<ProgramBuilder> {
    Path::new(path).is_file().then(|| ProgramBuilder::foreign(name, path))
}

/// The golectra-server of these runs.
fn limits(server: golectra_tests::ServerBuilder) -> golectra_tests::ServerBuilder {
    // The month is older than samples are kept by default.
    server.env("SEAL_AFTER", "2m").env("RETENTION_RAW", "40d")
}

pub fn http() -> reqwest::Client {
    // The harness's client decides on the provider of TLS, which reqwest wants even without it.
    let _ = Client::new("http://127.0.0.1", None);
    reqwest::Client::builder().no_proxy().timeout(ANSWER_LIMIT).build().expect("a client can be built")
}

fn wait_until_ready(started: &Started) {
    let begun = Instant::now();
    let url = format!("{}/api/v1/query?query=1", started.url);
    while !runtime().block_on(async { http().get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) }) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} does not answer", started.contestant.name());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends all samples and waits for every answer.
fn write(started: &Started, set: &Set, end_ms: i64) -> Written {
    let mut nodes: Vec<(Node, Vec<Vec<u8>>)> = (0..set.nodes)
        .map(|number| {
            let node = Node::new(number, set.series_per_node);
            let labels = node.labels().iter().map(|labels| remote_write::labels(labels)).collect();
            (node, labels)
        })
        .collect();
    let (client, url) = (http(), format!("{}/api/v1/write", started.url));
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut samples, mut busy) = (0_usize, Duration::ZERO);
    let (cpu_before, database_before) = (cpu(started), database_cpu(started));
    let mut at_ms = end_ms - set.hours * HOUR_MS;
    while at_ms < end_ms {
        let intervals: Vec<i64> =
            (0..set.intervals_per_request).map(|index| at_ms + set.interval_ms * index).filter(|at| *at < end_ms).collect();
        for group in nodes.chunks_mut(REQUESTS_AT_ONCE) {
            let bodies: Vec<Vec<u8>> = group
                .iter_mut()
                .map(|(node, labels)| {
                    // A scrape is a few milliseconds early or late.
                    let rows: Vec<(i64, Vec<f64>)> = intervals.iter().map(|at| (at + rng.i64(0..4), node.advance())).collect();
                    samples += rows.len() * set.series_per_node;
                    let series = labels
                        .iter()
                        .enumerate()
                        .map(|(index, labels)| (labels.as_slice(), rows.iter().map(|(at, values)| (*at, values[index])).collect()));
                    remote_write::request(series)
                })
                .collect();
            // The making of bodies is no part of the time.
            let begun = Instant::now();
            runtime().block_on(join_all(bodies.into_iter().map(|body| send(&client, &url, body))));
            busy += begun.elapsed();
        }
        at_ms += set.interval_ms * set.intervals_per_request;
    }
    let (cpu_seconds, database_cpu_seconds) = (cpu(started) - cpu_before, database_cpu(started) - database_before);
    #[expect(clippy::cast_precision_loss, reason = "samples of a run")]
    let samples = samples as f64;
    say(&format!(
        "{}: {samples} samples in {:.1} s, CPU {cpu_seconds:.1} s + {database_cpu_seconds:.1} s",
        started.contestant.name(),
        busy.as_secs_f64()
    ));
    Written { samples, seconds: busy.as_secs_f64(), cpu_seconds, database_cpu_seconds, end_ms: now_ms() }
}

async fn send(client: &reqwest::Client, url: &str, body: Vec<u8>) {
    let begun = Instant::now();
    loop {
        let request = client
            .post(url)
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0")
            .body(body.clone());
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        if status.is_success() {
            return;
        }
        let text = answer.text().await.unwrap_or_default();
        assert!(matches!(status.as_u16(), 429 | 503) && begun.elapsed() < ANSWER_LIMIT, "a write was answered {status}: {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until all have sealed or compacted what they got.
fn settle<'a>(all: impl Iterator<Item = (&'a Started, &'a Written)>) {
    let begun = Instant::now();
    // Memory and VictoriaMetrics do not tell; what they do later is little.
    let least = Duration::from_mins(1);
    let mut left: Vec<_> = all.collect();
    while begun.elapsed() < least || !left.is_empty() {
        left.retain(|(started, written)| !is_settled(started, written));
        if begun.elapsed() > SETTLE_LIMIT {
            let busy: Vec<_> = left.iter().map(|(started, _)| started.contestant.name()).collect();
            say(&format!("not settled within {} s: {}", SETTLE_LIMIT.as_secs(), busy.join(", ")));
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    say(&format!("all have settled after {:.0} s", begun.elapsed().as_secs_f64()));
}

fn is_settled(started: &Started, written: &Written) -> bool {
    match (&started.database, started.contestant) {
        (Some(database), _) => {
            let left = format!(
                "SELECT (SELECT count(*) FROM golectra.frames WHERE at <= to_timestamp({}))
                    + (SELECT count(*) FROM golectra.chunks WHERE part > 0 AND window_start < now() - interval '4 hours')",
                written.end_ms / 1000 + 1
            );
            runtime().block_on(database.number(&left)) == 0
        }
        (None, Contestant::Prometheus) => {
            let oldest = metric(started, "prometheus_tsdb_head_min_time ").unwrap_or(0.0);
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century are exact")]
            let young = oldest > (now_ms() - 4 * HOUR_MS) as f64;
            young
        }
        (None, _) => true,
    }
}

/// A metric of the contestant's own.
fn metric(started: &Started, name: &str) -> Option<f64> {
    let url = format!("{}/metrics", started.url);
    let page = runtime().block_on(async { http().get(&url).send().await.ok()?.text().await.ok() })?;
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// What everything takes on disk, in bytes; None where nothing is on disk.
fn disk_bytes(started: &Started) -> Option<f64> {
    match (&started.database, &started.program) {
        (Some(database), _) => Some(bytes_of_tables(database, None)),
        (None, Running::Program(program)) => {
            let output = Command::new("du").args(["-sb", "--"]).arg(program.folder().join("data")).output().ok()?;
            String::from_utf8_lossy(&output.stdout).split_whitespace().next()?.parse().ok()
        }
        (None, Running::Server(_)) => None,
    }
}

/// What tables take with their partitions, TOAST and indexes; all of golectra's where none are named.
pub fn bytes_of_tables(database: &Database, tables: Option<&str>) -> f64 {
    let named = tables.map_or_else(String::new, |tables| {
        format!("AND regexp_replace(relname, '_(p?[0-9]+|default)$', '') = ANY(string_to_array('{tables}', ','))")
    });
    let statement = format!(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
        WHERE relnamespace = 'golectra'::regnamespace AND relkind IN ('r', 'm') {named}"
    );
    #[expect(clippy::cast_precision_loss, reason = "bytes of a run")]
    let bytes = runtime().block_on(database.number(&statement)) as f64;
    bytes
}

fn program(started: &Started) -> &Program {
    match &started.program {
        Running::Server(server) => server,
        Running::Program(program) => program,
    }
}

fn cpu(started: &Started) -> f64 {
    program(started).cpu_seconds()
}

fn rss(started: &Started) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "bytes of a process")]
    let bytes = program(started).rss() as f64;
    bytes
}

/// CPU time of all of PostgreSQL's processes that there are, in seconds; 0 without a database.
fn database_cpu(started: &Started) -> f64 {
    let Some(database) = &started.database else { return 0.0 };
    database.cpu_seconds()
}

/// The median and the 95th percentile of an expression's answers, in milliseconds.
fn ask(started: &Started, question: &Question, end_ms: i64) -> (f64, f64) {
    let client = http();
    let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let mut expression = String::new();
    for byte in question.expression.bytes() {
        let _ = write!(expression, "%{byte:02X}");
    }
    let url = match question.steps {
        None => format!("{}/api/v1/query?query={expression}&time={}", started.url, seconds(end_ms)),
        Some(steps) => {
            let (start, step) = (seconds(end_ms - question.back_ms), seconds(question.back_ms / steps));
            format!("{}/api/v1/query_range?query={expression}&start={start}&end={}&step={step}", started.url, seconds(end_ms))
        }
    };
    let mut micros = Vec::new();
    for repeat in 0..=REPEATS {
        let begun = Instant::now();
        let answer = runtime().block_on(async {
            let answer = client.get(&url).send().await.expect("an answer");
            (answer.status(), answer.text().await.expect("a text"))
        });
        assert!(answer.0.is_success(), "{}: {} was answered {}: {}", started.contestant.name(), question.expression, answer.0, answer.1);
        assert!(answer.1.contains("\"metric\""), "{}: {} has no result", started.contestant.name(), question.expression);
        // The first one finds cold caches.
        if repeat > 0 {
            micros.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
    let at = |share: f64, micros: &mut [u32]| f64::from(percentile(micros, share).unwrap_or(0)) / 1000.0;
    let (p50, p95) = (at(0.5, &mut micros), at(0.95, &mut micros));
    say(&format!("{}: {}: p50 {p50:.1} ms, p95 {p95:.1} ms", started.contestant.name(), question.name));
    (p50, p95)
}

//! The writer on PostgreSQL, alone and beside what else a server does: a dashboard, sealing, and queries that take long.
//!
//! A database is prepared once: a day of fifty nodes that is sealed, for queries, and some half hours before it that are not, for the sealer. Each run gets a
//! copy of it, so that all begin with the same, and sealing has work that no other run has done. The queries that run beside are of the day before, as the
//! writer's own samples are only seconds old.
//!
//! What a machine does in a minute differs more from run to run than what is looked for. So a run is compared with itself: queries are asked in every other
//! slot of time, and sealing has work for about half of the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use golectra_loadgen::Address;
use golectra_tests::statistics::percentile;
use golectra_tests::{Database, KEY, Server, encode, runtime, until};

use crate::cases::cluster_day::unsettled;
use crate::cases::history::{HOUR_MS, WINDOW_MS, http, now_ms};
use crate::cases::postgres::fresh_database;
use crate::cases::{Bench, CONNECTIONS, say};
use crate::contestants::{Contestant, Started};
use crate::history::node_data::RECORDED_SERIES;
use crate::history::reports::{Agent, send};
use crate::load::{Plan, Tally};
use crate::measure::measure;
use crate::report::{Report, Section, Target, Unit};
use crate::wire::{Sources, Turn, golectra};

/// The series of each node that queries are about.
const SERIES: usize = 64;
/// How often a dashboard asks for all of its graphs.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// Points of a graph.
const STEPS: i64 = 300;
/// How long sealing may take to begin, or to end.
const SETTLE_LIMIT: Duration = Duration::from_mins(20);

/// What runs beside the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Dashboard,
    Sealing,
    DashboardAndSealing,
    Heavy,
}

impl Beside {
    const ALL: [Self; 4] = [Self::Dashboard, Self::Sealing, Self::DashboardAndSealing, Self::Heavy];

    fn name(self) -> &'static str {
        match self {
            Self::Dashboard => "beside a dashboard of 20 graphs every 5 s",
            Self::Sealing => "beside sealing, folding and rolling up",
            Self::DashboardAndSealing => "beside the dashboard, sealing, folding and rolling up",
            Self::Heavy => "beside a sum of rates over 24 h, again and again",
        }
    }

    fn seals(self) -> bool {
        matches!(self, Self::Sealing | Self::DashboardAndSealing)
    }

    fn asks(self) -> bool {
        self != Self::Sealing
    }
}

/// What is copied for each run.
struct Prepared {
    database: Arc<Database>,
    /// The end of what queries are about, and how many hours that is.
    end_ms: i64,
    hours: i64,
    /// What is to be sealed.
    unsealed: (i64, i64),
}

/// What a run came to.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    /// Batches a second beside it, and in the same run without it.
    batches_per_second: f64,
    alone: f64,
    p99_millis: f64,
    /// Batches that were refused or not answered; the rate does not count them.
    not_accepted: f64,
    /// Samples that were sealed a second while there was something to seal; 0 where there was nothing.
    sealed_per_second: f64,
    /// The share of the run in which there was something to seal or fold.
    busy: f64,
    /// Answers of queries: their 95th percentile, how many came, and how many were none.
    query_p95_millis: f64,
    answers: f64,
    failed: f64,
}

/// Measures each case once a round.
pub fn run(bench: &Bench, report: &mut Report) {
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        report.left_out("beside the writer: TEST_DATABASE_URL is not set, which `make bench` sets");
        return;
    }
    let prepared = prepare(bench);
    bench.sixties();
    say("prepared what the writer is measured beside");
    let mut outcomes: Vec<(Beside, Outcome)> = Vec::new();
    for round in 0..bench.options.rounds {
        for turn in 0..Beside::ALL.len() {
            let beside = Beside::ALL[(turn + round) % Beside::ALL.len()];
            let outcome = one(bench, &prepared, beside);
            say(&format!("round {}, {}: {outcome:.2?}", round + 1, beside.name()));
            outcomes.push((beside, outcome));
        }
    }
    for beside in Beside::ALL {
        let of = |figure: fn(&Outcome) -> f64| -> Vec<f64> {
            outcomes.iter().filter(|(found, _)| *found == beside).map(|(_, outcome)| figure(outcome)).collect()
        };
        let mut tell = |what: &str, unit, rounds: Vec<f64>, target| {
            report.figure(Section::Beside, format!("60-metric batches {}{what}", beside.name()), unit, rounds, target);
        };
        tell(", of the rate alone", Unit::PerCent, of(|outcome| outcome.batches_per_second / outcome.alone), Some(Target::AtLeast(0.9)));
        tell(": batches", Unit::PerSecond, of(|outcome| outcome.batches_per_second), None);
        tell(": batches in the rest of the run", Unit::PerSecond, of(|outcome| outcome.alone), None);
        tell(": refused or not answered", Unit::Count, of(|outcome| outcome.not_accepted), Some(Target::NeverAbove(0.0)));
        tell(", p99 of the run", Unit::Milliseconds, of(|outcome| outcome.p99_millis), None);
        if beside.seals() {
            tell(": samples sealed meanwhile", Unit::PerSecond, of(|outcome| outcome.sealed_per_second), None);
            tell(": share of the run in which there was work", Unit::PerCent, of(|outcome| outcome.busy), None);
        }
        if beside.asks() {
            tell(": queries answered", Unit::Count, of(|outcome| outcome.answers), None);
            tell(": queries, p95", Unit::Milliseconds, of(|outcome| outcome.query_p95_millis), None);
            tell(": queries not answered", Unit::Count, of(|outcome| outcome.failed), Some(Target::NeverAbove(0.0)));
        }
    }
}

/// Writes the day that queries are about and the hours that are to be sealed.
fn prepare(bench: &Bench) -> Prepared {
    let nodes = 5 * bench.options.history.0;
    let hours = bench.options.history.1.min(24);
    let database = fresh_database();
    let server = server(&database, "2m");
    let end_ms = now_ms() / 10_000 * 10_000;
    let start_ms = end_ms - hours * HOUR_MS;
    let mut agents: Vec<Agent> = (0..nodes).map(|number| Agent::new("stored", number, SERIES, 0)).collect();
    let sent = send(&mut agents, &Address::local(server.port()), start_ms, end_ms);
    say(&format!("{} samples for queries in {:.1} s", sent.samples, sent.seconds));
    // The last half hour and the last window are not over.
    let over = (end_ms - HOUR_MS) / WINDOW_MS * WINDOW_MS;
    let query = unsettled(start_ms, over);
    runtime().block_on(until("the day is sealed and folded", SETTLE_LIMIT, async || database.number(&query).await == 0));
    let mut server = server.restart_with(&[("SEAL_AFTER", "48h")]);
    // As many half hours before it as are sealed in about half of a run.
    #[expect(clippy::cast_possible_truncation, reason = "a small number")]
    let half_hours = (bench.options.seconds / 2.0 / SECONDS_PER_HALF_HOUR).round().clamp(1.0, 16.0) as i64;
    let last = start_ms / WINDOW_MS * WINDOW_MS;
    let unsealed = (last - half_hours * HOUR_MS / 2, last);
    let mut agents: Vec<Agent> = (0..nodes).map(|number| Agent::new("unsealed", number, RECORDED_SERIES, 0)).collect();
    let sent = send(&mut agents, &Address::local(server.port()), unsealed.0, unsealed.1);
    say(&format!("{} samples to be sealed in {:.1} s", sent.samples, sent.seconds));
    server.stop();
    Prepared { database, end_ms, hours, unsealed }
}

/// How long half an hour of fifty nodes is sealed and folded beside a writer, about.
const SECONDS_PER_HALF_HOUR: f64 = 22.0;

/// A server that seals what is so old, with its audit trail on, as in the other cases on PostgreSQL.
fn server(database: &Arc<Database>, seal_after: &str) -> Server {
    Server::builder().key(Some(KEY)).database(database).metrics().env("AUDIT_FILE", "audit.ndjson").env("SEAL_AFTER", seal_after).start()
}

/// The prepared database once more. Its files are copied, so that the copies do not fill PostgreSQL's cache and its log.
fn copy(prepared: &Prepared) -> Arc<Database> {
    let (_, name) = prepared.database.url().split('?').next().and_then(|url| url.rsplit_once('/')).expect("the URL names the database");
    let knows_strategies = runtime().block_on(prepared.database.number("SELECT current_setting('server_version_num')::bigint")) >= 150_000;
    let strategy = if knows_strategies { " STRATEGY FILE_COPY" } else { "" };
    let database = Database::create_with(&format!("TEMPLATE {name}{strategy}")).expect("TEST_DATABASE_URL is set");
    runtime().block_on(database.execute("CHECKPOINT"));
    database
}

fn one(bench: &Bench, prepared: &Prepared, beside: Beside) -> Outcome {
    let database = copy(prepared);
    let server = server(&database, if beside.seals() { "2m" } else { "48h" });
    let metrics = server.metrics_client();
    let sealed = || {
        let answer = runtime().block_on(async { metrics.get("/metrics").send().await });
        answer.metric("golectra_history_sealed_samples_total").unwrap_or(0.0)
    };
    let (url, started) = (server.url(), Started::servers(vec![server]));
    if beside.seals() {
        let begun = Instant::now();
        while sealed() == 0.0 {
            assert!(begun.elapsed() < SETTLE_LIMIT, "sealing begins");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let pool = bench.sixties();
    let (connections, seconds) = (CONNECTIONS, bench.options.seconds);
    let plan = Plan { addresses: &started.addresses, connections, pace: None, seconds, pool, bodies: 0..pool.len() };
    let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", pool, Sources::PerConnection(CONNECTIONS), turn);
    let (stop, sealed_before, slots) = (AtomicBool::new(false), sealed(), Slots::begin());
    let (measured, tallies, queries, settled) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| if beside.seals() { settled_at(&database, prepared.unsealed, &stop) } else { None });
        let ask = scope.spawn(|| match beside {
            Beside::Dashboard | Beside::DashboardAndSealing => dashboard(&url, prepared, &slots, &stop),
            Beside::Heavy => heavy(&url, prepared, &slots, &stop),
            Beside::Sealing => Queries::default(),
        });
        let (measured, tallies) = measure(&started, &plan, &write);
        stop.store(true, Ordering::Relaxed);
        let queries = ask.join().expect("queries end");
        (measured, tallies, queries, watch.join().expect("the watch ends"))
    });
    let sealed = sealed() - sealed_before;
    say(&measured.line());
    let [warm_up, tally] = &tallies;
    assert!(!tally.accepted.is_empty(), "golectra on PostgreSQL took nothing: {:?}", tally.answers);
    started.check(Contestant::Golectra, &[warm_up, tally]);
    started.end();
    let start = tally.start.expect("the run began");
    let whole = Duration::from_secs_f64(tally.seconds);
    let settled = if beside.seals() { settled.map_or(whole, |settled| settled.saturating_duration_since(start)) } else { Duration::ZERO };
    // That sealing ended was seen a moment later.
    let is_alone = |at: Duration| (!beside.seals() || at > settled) && !(beside.asks() && queries.ran(start + at));
    let is_beside = |at: Duration| (!beside.seals() || at + SEEN_EVERY < settled) && (!beside.asks() || queries.ran(start + at));
    let (beside_rate, alone) = (rate(tally, is_beside), rate(tally, is_alone));
    if alone.is_nan() {
        say(&format!("sealing did not end within {seconds:.0} s, so that nothing was written alone: let GOLECTRA_BENCH_SECONDS be more"));
    }
    let busy = settled.min(whole);
    let mut micros = queries.micros;
    #[expect(clippy::cast_precision_loss, reason = "counts of batches and queries")]
    let (not_accepted, answers, failed) = (tally.not_accepted() as f64, micros.len() as f64, queries.failed as f64);
    Outcome {
        batches_per_second: beside_rate,
        alone,
        p99_millis: measured.p99_millis,
        not_accepted,
        sealed_per_second: if beside.seals() { sealed / busy.as_secs_f64() } else { 0.0 },
        busy: busy.as_secs_f64() / whole.as_secs_f64(),
        query_p95_millis: f64::from(percentile(&mut micros, 0.95).unwrap_or(0)) / 1000.0,
        answers,
        failed,
    }
}

/// Requests that were answered a second in those moments of the run that count. Not a number where none do.
fn rate(tally: &Tally, counts: impl Fn(Duration) -> bool) -> f64 {
    let millis = |at: u64| Duration::from_millis(at);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds")]
    let length = (tally.seconds * 1000.0) as u64;
    let counted: Vec<bool> = (0..length).map(|at| counts(millis(at))).collect();
    let is_counted = |at: u64| usize::try_from(at).ok().and_then(|at| counted.get(at)).is_some_and(|counts| *counts);
    let answered = tally.accepted.iter().filter(|one| is_counted((u64::from(one.sent_micros) + u64::from(one.micros)) / 1000)).count();
    #[expect(clippy::cast_precision_loss, reason = "counts of requests and of milliseconds")]
    let rate = answered as f64 / (counted.iter().filter(|counts| **counts).count() as f64 / 1000.0);
    rate
}

/// When nothing was left to be sealed or folded; None where that was not before the end of the run.
fn settled_at(database: &Database, (start_ms, end_ms): (i64, i64), stop: &AtomicBool) -> Option<Instant> {
    let query = unsettled(start_ms, end_ms);
    // One connection for all: making one costs more than the statement.
    let mut connection = runtime().block_on(database.connect());
    while !stop.load(Ordering::Relaxed) {
        let left: i64 = runtime().block_on(sqlx::query_scalar(&query).fetch_one(&mut connection)).expect("the query works");
        if left == 0 {
            return Some(Instant::now());
        }
        std::thread::sleep(SEEN_EVERY);
    }
    None
}

/// How often it is looked whether something is left to be sealed.
const SEEN_EVERY: Duration = Duration::from_millis(500);

/// The slots of a run, each as long as a refresh of the dashboard: in every other one queries are asked.
struct Slots {
    begun: Instant,
}

impl Slots {
    fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    /// Whether queries are asked now.
    fn asks(&self) -> bool {
        self.begun.elapsed().as_millis() / REFRESH_EVERY.as_millis() % 2 == 1
    }
}

/// What queries came to.
#[derive(Debug, Default)]
struct Queries {
    /// How long each answer took.
    micros: Vec<u32>,
    failed: usize,
    /// From when to when queries were asked.
    slots: Vec<(Instant, Instant)>,
}

/// The graphs of a dashboard: each expression over each time.
const GRAPHS: [&str; 5] = [
    "node_load1",
    "sum by (mode) (rate(node_cpu_seconds_total[5m]))",
    "sum by (instance) (rate(node_cpu_seconds_total{mode!=\"idle\"}[5m]))",
    "topk(5, rate(node_network_receive_bytes_total{device=\"eth0\"}[5m]))",
    "max(rate(node_network_transmit_bytes_total[5m]))",
];
const GRAPH_HOURS: [i64; 4] = [3, 6, 12, 24];

/// Asks for all graphs at once every five seconds, each time for a time that ends five seconds later.
fn dashboard(url: &str, prepared: &Prepared, slots: &Slots, stop: &AtomicBool) -> Queries {
    let (client, queries, begun) = (http(), Queries::default(), Instant::now());
    // So that the last refresh of a long run is still of what is stored.
    let first_end_ms = prepared.end_ms - HOUR_MS / 4;
    queries.in_slots(slots, stop, |queries| {
        let refreshed = Instant::now();
        let ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        let end_ms = (first_end_ms + ms).min(prepared.end_ms);
        let urls: Vec<String> = GRAPHS
            .iter()
            .flat_map(|graph| GRAPH_HOURS.map(|hours| range_query(url, graph, end_ms, hours.min(prepared.hours) * HOUR_MS)))
            .collect();
        queries.ask(&client, &urls);
        // A browser whose graphs are late leaves refreshes out.
        while refreshed.elapsed() < REFRESH_EVERY && slots.asks() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

/// Asks for the CPU time of all nodes and all of the stored day, one answer after the other.
fn heavy(url: &str, prepared: &Prepared, slots: &Slots, stop: &AtomicBool) -> Queries {
    let client = http();
    let url = range_query(url, "sum(rate(node_cpu_seconds_total[5m]))", prepared.end_ms, prepared.hours * HOUR_MS);
    Queries::default().in_slots(slots, stop, |queries| queries.ask(&client, std::slice::from_ref(&url)))
}

fn range_query(url: &str, expression: &str, end_ms: i64, back_ms: i64) -> String {
    let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let (expression, start, end, step) = (encode(expression), seconds(end_ms - back_ms), seconds(end_ms), seconds(back_ms / STEPS));
    format!("{url}/api/v1/query_range?query={expression}&start={start}&end={end}&step={step}")
}

impl Queries {
    /// Asks again and again, in every other slot.
    fn in_slots(mut self, slots: &Slots, stop: &AtomicBool, mut ask: impl FnMut(&mut Self)) -> Self {
        while !stop.load(Ordering::Relaxed) {
            if !slots.asks() {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let begun = Instant::now();
            while slots.asks() && !stop.load(Ordering::Relaxed) {
                ask(&mut self);
            }
            self.slots.push((begun, Instant::now()));
        }
        self
    }

    /// Whether they were asked at that time.
    fn ran(&self, at: Instant) -> bool {
        self.slots.iter().any(|(begun, ended)| (*begun..*ended).contains(&at))
    }

    /// Asks for all of these at once.
    fn ask(&mut self, client: &reqwest::Client, urls: &[String]) {
        let one = async |url: &String| {
            let begun = Instant::now();
            let answer = client.get(url).header("accept-encoding", "gzip").send().await.ok()?;
            let is_success = answer.status().is_success();
            let length = answer.bytes().await.ok()?.len();
            (is_success && length > 200).then(|| u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX))
        };
        for micros in runtime().block_on(join_all(urls.iter().map(one))) {
            match micros {
                Some(micros) => self.micros.push(micros),
                None => self.failed += 1,
            }
        }
    }
}

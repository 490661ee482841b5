//! The PostgreSQL store, answered after commit, beside raw upserts on the same PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use golectra_tests::statistics::ratios;
use golectra_tests::{Database, runtime, until};
use sqlx::Connection as _;

use crate::bodies::Pool;
use crate::cases::{Bench, CONNECTIONS, say};
use crate::contestants::{Contestant, Started};
use crate::load::Plan;
use crate::measure::measure;
use crate::report::{Report, Section, Target, Unit};
use crate::unnest;
use crate::wire::{Sources, Turn, golectra};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// An agent's batch on each of 64 connections.
    Sixty,
    /// A thousand series of each of 64 sources.
    Wide,
    /// One source's thousand series again and again.
    Same,
    /// Two servers, each agent writing through both.
    Two,
    /// Raw upserts of 64,000 rows, a thousand a statement.
    RawWide,
    /// Raw upserts of the same thousand rows.
    RawSame,
}

const CASES: [Case; 6] = [Case::Sixty, Case::Wide, Case::RawWide, Case::Same, Case::RawSame, Case::Two];

/// How long PostgreSQL may take to see that a server is gone.
const LIMIT: Duration = Duration::from_secs(30);

/// What a round of a case came to.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    rate: f64,
    p99_millis: f64,
    per_core: f64,
    deadlocks: f64,
    /// Requests that were refused or not answered; the rate does not count them.
    not_accepted: f64,
}

/// Measures each case once a round, each on a database of its own.
pub fn run(bench: &Bench, report: &mut Report) {
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        report.left_out("PostgreSQL: TEST_DATABASE_URL is not set, which `make bench` sets");
        return;
    }
    let mut outcomes: Vec<(Case, Outcome)> = Vec::new();
    for round in 0..bench.options.rounds {
        for turn in 0..CASES.len() {
            let case = CASES[(turn + round) % CASES.len()];
            let outcome = one(bench, case);
            say(&format!("round {}, PostgreSQL, {case:?}: {outcome:.1?}", round + 1));
            outcomes.push((case, outcome));
        }
    }
    let of = |case: Case, figure: fn(&Outcome) -> f64| -> Vec<f64> {
        outcomes.iter().filter(|(found, _)| *found == case).map(|(_, outcome)| figure(outcome)).collect()
    };
    let rate = |case| of(case, |outcome| outcome.rate);
    let p99 = |case| of(case, |outcome| outcome.p99_millis);
    let per_core = |case| of(case, |outcome| outcome.per_core);
    let half = Some(Target::AtLeast(0.5));
    report.figure(
        Section::Postgres,
        "PostgreSQL, 64k series, over raw upserts",
        Unit::Times,
        ratios(&rate(Case::Wide), &rate(Case::RawWide)),
        half,
    );
    report.figure(
        Section::Postgres,
        "PostgreSQL, the same rows, over raw upserts",
        Unit::Times,
        ratios(&rate(Case::Same), &rate(Case::RawSame)),
        half,
    );
    let mut tell = |name: &str, unit, rounds, target| report.figure(Section::Postgres, name, unit, rounds, target);
    tell("60-metric batches", Unit::PerSecond, rate(Case::Sixty), Some(Target::AtLeast(250e3)));
    tell("60-metric batches, p99", Unit::Milliseconds, p99(Case::Sixty), Some(Target::AtMost(50.0)));
    tell("60-metric batches, per core of the server", Unit::PerSecond, per_core(Case::Sixty), None);
    tell("64k series, 1,000-metric batches", Unit::PerSecond, rate(Case::Wide), Some(Target::AtLeast(300e3)));
    tell("64k series, p99", Unit::Milliseconds, p99(Case::Wide), None);
    tell("64k series, per core of the server", Unit::PerSecond, per_core(Case::Wide), None);
    tell("the same 1,000 rows", Unit::PerSecond, rate(Case::Same), Some(Target::AtLeast(1.5e6)));
    tell("the same 1,000 rows, p99", Unit::Milliseconds, p99(Case::Same), None);
    tell("the same 1,000 rows, per core of the server", Unit::PerSecond, per_core(Case::Same), None);
    tell("two servers, 60-metric batches", Unit::PerSecond, rate(Case::Two), None);
    tell("two servers, p99", Unit::Milliseconds, p99(Case::Two), None);
    tell("two servers, deadlocks", Unit::Count, of(Case::Two, |outcome| outcome.deadlocks), Some(Target::NeverAbove(0.0)));
    let refused = (0..bench.options.rounds).map(|round| {
        let of_round = &outcomes[round * CASES.len()..(round + 1) * CASES.len()];
        of_round.iter().map(|(_, outcome)| outcome.not_accepted).sum()
    });
    tell("requests refused or not answered, in all of these", Unit::Count, refused.collect(), Some(Target::NeverAbove(0.0)));
    tell("raw upserts, 64k rows, one connection", Unit::PerSecond, rate(Case::RawWide), None);
    tell("raw upserts, the same 1,000 rows, one connection", Unit::PerSecond, rate(Case::RawSame), None);
}

fn one(bench: &Bench, case: Case) -> Outcome {
    let database = fresh_database();
    let seconds = bench.options.seconds;
    let raw = |rows, series| Outcome {
        rate: unnest::measure(&database, rows, series, seconds),
        p99_millis: 0.0,
        per_core: 0.0,
        deadlocks: 0.0,
        not_accepted: 0.0,
    };
    match case {
        Case::Sixty => over_http(&database, 1, bench.sixties(), Sources::PerConnection(CONNECTIONS), seconds),
        Case::Wide => over_http(&database, 1, bench.thousands(), Sources::PerConnection(CONNECTIONS), seconds),
        Case::Same => over_http(&database, 1, bench.thousands(), Sources::One, seconds),
        // Connections go to the two in turn, so an odd number of agents meets both.
        Case::Two => over_http(&database, 2, bench.sixties(), Sources::PerConnection(CONNECTIONS / 2 - 1), seconds),
        Case::RawWide => raw(1000, 64_000),
        Case::RawSame => raw(1000, 1000),
    }
}

/// An empty database, and what others have written on disk, so that nobody pays for the one before.
pub fn fresh_database() -> Arc<Database> {
    let database = Database::create().expect("TEST_DATABASE_URL is set");
    let url = database.url().to_owned();
    let checkpoint = async move {
        let mut connection = sqlx::PgConnection::connect(&url).await?;
        sqlx::query("CHECKPOINT").execute(&mut connection).await?;
        connection.close().await
    };
    runtime().block_on(checkpoint).expect("the owner of PostgreSQL may write a checkpoint");
    database
}

fn over_http(database: &Arc<Database>, servers: usize, pool: &Pool, sources: Sources, seconds: f64) -> Outcome {
    let started = Started::servers((0..servers).map(|_| Started::on_database(database)).collect());
    let plan = Plan { addresses: &started.addresses, connections: CONNECTIONS, pace: None, seconds, pool, bodies: 0..pool.len() };
    let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", pool, sources, turn);
    let (measured, [warm_up, tally]) = measure(&started, &plan, &write);
    assert!(!tally.accepted.is_empty(), "golectra on PostgreSQL took nothing: {:?}", tally.answers);
    started.check(Contestant::Golectra, &[&warm_up, &tally]);
    started.end();
    // A connection's deadlocks are counted when it has ended.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let ended = async || database.number(open).await == 0;
    runtime().block_on(until("the servers' connections to PostgreSQL end", LIMIT, ended));
    let query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    #[expect(clippy::cast_precision_loss, reason = "counts of deadlocks and requests")]
    let (deadlocks, not_accepted) = (runtime().block_on(database.number(query)) as f64, tally.not_accepted() as f64);
    Outcome {
        rate: measured.metrics_per_second(),
        p99_millis: measured.p99_millis,
        per_core: measured.metrics_per_core(),
        deadlocks,
        not_accepted,
    }
}

//! Five times what the server can take, for a minute: what it answers, what it holds, how soon it is itself again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cases::postgres::fresh_database;
use crate::cases::{Bench, CONNECTIONS, bodies, say};
use crate::contestants::{Contestant, Started};
use crate::load::{self, Plan, Tally};
use crate::report::{Report, Section, Target, Unit};
use crate::wire::{Sources, Turn, golectra};

/// How much more than it can take.
const TIMES: f64 = 5.0;
/// So many requests may be under way at once; beyond, the load itself would wait.
const OVERLOAD_CONNECTIONS: usize = 1000;
/// Three of each connection.
const WARM_UP_BODIES: usize = 3 * CONNECTIONS;
/// Recovered: this many in a row were taken, each within `PROMPT`.
const PROBES: u32 = 5;
const PROMPT: Duration = Duration::from_millis(100);
/// Between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// After this long nobody waits any longer for the recovery.
const RECOVERY_LIMIT: Duration = Duration::from_mins(1);

/// Measures once a round, on the PostgreSQL store: what it can take is little enough to be offered five times over from the
/// same machine.
pub fn run(bench: &Bench, report: &mut Report) {
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        report.left_out("overload: TEST_DATABASE_URL is not set, which `make bench` sets");
        return;
    }
    let pool = bench.thousands();
    let (mut offered, mut accepted, mut shed, mut strange, mut mute) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut p99, mut peak, mut recovery) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.options.rounds {
        let database = fresh_database();
        let started = Started::servers(vec![Started::on_database(&database)]);
        let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", pool, Sources::PerConnection(CONNECTIONS), turn);
        let plan = |connections, pace, seconds, bodies| Plan { addresses: &started.addresses, connections, pace, seconds, pool, bodies };
        // The series are made before anything is counted.
        let warm_up = load::run(&plan(CONNECTIONS, None, bench.options.memory_seconds(), 0..WARM_UP_BODIES), &write);
        // A quarter of the bodies at most, so that there are enough for what follows.
        let calm = load::run(&plan(CONNECTIONS, None, bench.options.memory_seconds(), WARM_UP_BODIES..pool.len() / 4), &write);
        assert!(!calm.accepted.is_empty(), "golectra on PostgreSQL took nothing: {:?}", calm.answers);
        #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
        let capacity = calm.accepted.len() as f64 / calm.seconds;
        let sent = WARM_UP_BODIES + usize::try_from(calm.requests()).expect("a count of bodies");
        let count = bodies(capacity * TIMES, bench.options.seconds).min(pool.len() - sent - usize::from(u8::MAX));
        started.first().reset_peak();
        let tally = load::run(&plan(OVERLOAD_CONNECTIONS, Some(capacity * TIMES), bench.options.seconds, sent..sent + count), &write);
        #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
        {
            offered.push(tally.requests() as f64 / tally.seconds / capacity);
            accepted.push(tally.metrics as f64 / tally.seconds);
            strange.push((tally.requests() - expected(&tally.answers)) as f64);
            mute.push(tally.without_retry_after as f64);
            shed.push((tally.requests() - tally.accepted.len() as u64) as f64 / tally.requests() as f64);
            peak.push(started.first().peak_rss() as f64);
        }
        p99.push(tally.latency_millis(0.99));
        let (seconds, probes) = recover(|body| load::run(&plan(1, None, 10.0, body..body + 1), &write), sent + count, pool.len());
        recovery.push(seconds);
        say(&format!(
            "round {}, overload: {capacity:.0} requests/s can be taken, {:.1} times that offered: {:?}, {} without an answer, p99 {:.0} ms, peak {:.0} MiB, recovered after {:.2} s",
            round + 1,
            offered[round],
            tally.answers,
            tally.broken,
            p99[round],
            peak[round] / 1_048_576.0,
            recovery[round]
        ));
        started.check(Contestant::Golectra, &[&warm_up, &calm, &tally, &probes]);
        started.end();
    }
    let mut tell = |name: &str, unit, rounds, target| report.figure(Section::Overload, name, unit, rounds, target);
    tell("offered, of what it can take", Unit::Times, offered, None);
    tell("taken meanwhile", Unit::PerSecond, accepted, None);
    tell("refused", Unit::PerCent, shed, None);
    tell("answers other than 2xx, 429 and 503, or none", Unit::Count, strange, Some(Target::NeverAbove(0.0)));
    tell("429 and 503 without Retry-After", Unit::Count, mute, Some(Target::NeverAbove(0.0)));
    tell("p99 of what was taken", Unit::Milliseconds, p99, Some(Target::AtMost(1000.0)));
    tell("most resident memory", Unit::Mebibytes, peak, Some(Target::NeverAbove(256.0 * 1_048_576.0)));
    tell("recovery", Unit::Seconds, recovery, Some(Target::NeverAbove(5.0)));
}

/// How many answers are of the kinds that an overloaded server may give.
fn expected(answers: &BTreeMap<u16, u64>) -> u64 {
    answers.iter().filter(|(status, _)| matches!(status, 200..300 | 429 | 503)).map(|(_, count)| count).sum()
}

/// Probes until so many in a row are taken promptly. The time from the load's end to the first of them, and all probes.
fn recover(probe: impl Fn(usize) -> Tally, first: usize, last: usize) -> (f64, Tally) {
    let start = Instant::now();
    let (mut prompt, mut since, mut all) = (0, start, Tally::default());
    for body in first..last {
        let sent = Instant::now();
        let tally = probe(body);
        let well = tally.accepted.len() == 1 && tally.latency_millis(1.0) <= PROMPT.as_secs_f64() * 1000.0;
        all.deltas += tally.deltas;
        all.issued_deltas += tally.issued_deltas;
        if well && prompt == 0 {
            since = sent;
        }
        prompt = if well { prompt + 1 } else { 0 };
        if prompt == PROBES {
            return ((since - start).as_secs_f64(), all);
        }
        if start.elapsed() > RECOVERY_LIMIT {
            break;
        }
        std::thread::sleep(PROBE_EVERY);
    }
    (f64::INFINITY, all)
}

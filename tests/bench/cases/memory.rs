//! The memory store beside the bare echo, VictoriaMetrics and Pushgateway.

use std::collections::BTreeMap;

use golectra_tests::statistics::ratios;

use crate::bodies::{Format, Pool, sixty};
use crate::cases::{Bench, bodies, say};
use crate::contestants::Contestant::{self, Echo, Golectra, Pushgateway, VictoriaMetrics};
use crate::load::Plan;
use crate::measure::{Measured, measure};
use crate::report::{Report, Section, Target, Unit};
use crate::wire::Sources;

/// Bodies of Prometheus's text made for each second.
const TEXTS_PER_SECOND: f64 = 3_000.0;
/// Single updates made for each second.
const SINGLES_PER_SECOND: f64 = 60_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Body {
    Thousand,
    Sixty,
    Single,
    PackedSingle,
}

const RUNS: [(Contestant, Body); 10] = [
    (Echo, Body::Thousand),
    (Golectra, Body::Thousand),
    (VictoriaMetrics, Body::Thousand),
    (Pushgateway, Body::Thousand),
    (Echo, Body::Sixty),
    (Golectra, Body::Sixty),
    (Echo, Body::Single),
    (Golectra, Body::Single),
    (Echo, Body::PackedSingle),
    (Golectra, Body::PackedSingle),
];

/// A figure of a run.
type Rate = fn(&Measured) -> f64;

type Results = BTreeMap<(Contestant, Body), Vec<Measured>>;

/// Measures every run once a round, each round beginning with another one.
pub fn run(bench: &Bench, report: &mut Report) {
    let runs: Vec<_> = RUNS.into_iter().filter(|(contestant, _)| is_installed(*contestant, report)).collect();
    let seconds = bench.options.memory_seconds();
    let series = sixty();
    say("making single updates and texts");
    let texts = Pool::prepare(bodies(TEXTS_PER_SECOND, seconds), Format::Text, |_| bench.thousand_series());
    let singles = Pool::prepare(bodies(SINGLES_PER_SECOND, seconds), Format::Single, |_| &series);
    let packed_singles = Pool::prepare(bodies(SINGLES_PER_SECOND, seconds), Format::PackedSingle, |_| &series);
    let mut results = Results::new();
    for round in 0..bench.options.rounds {
        for turn in 0..runs.len() {
            let (contestant, body) = runs[(turn + round) % runs.len()];
            let (pool, path) = match body {
                Body::Thousand if contestant.takes_text() => (&texts, ""),
                Body::Thousand => (bench.thousands(), "/updates"),
                Body::Sixty => (bench.sixties(), "/updates"),
                Body::Single => (&singles, "/update"),
                Body::PackedSingle => (&packed_singles, "/update"),
            };
            let measured = one(contestant, pool, path, seconds);
            say(&format!("round {}, {body:?}, {}: {}", round + 1, contestant.name(), measured.line()));
            results.entry((contestant, body)).or_default().push(measured);
        }
    }
    tell_ratios(&results, report);
    tell_rates(&results, report);
}

fn is_installed(contestant: Contestant, report: &mut Report) -> bool {
    let missing = contestant.missing();
    if let Some(package) = missing {
        report.left_out(format!("{}, Debian's package {package}, is not installed", contestant.name()));
    }
    missing.is_none()
}

fn one(contestant: Contestant, pool: &Pool, path: &str, seconds: f64) -> Measured {
    let started = contestant.start();
    let connections = contestant.connections();
    let plan = Plan { addresses: &started.addresses, connections, pace: None, seconds, pool, bodies: 0..pool.len() };
    let write = |out: &mut Vec<u8>, turn| contestant.write(out, path, pool, Sources::PerConnection(connections), turn);
    let (measured, [warm_up, tally]) = measure(&started, &plan, &write);
    tally.all_accepted(contestant.name());
    started.check(contestant, &[&warm_up, &tally]);
    started.end();
    measured
}

fn rounds(results: &Results, contestant: Contestant, body: Body, of: Rate) -> Vec<f64> {
    results.get(&(contestant, body)).map(|runs| runs.iter().map(of).collect()).unwrap_or_default()
}

fn tell_ratios(results: &Results, report: &mut Report) {
    let mut tell = |name: &str, body, other, of: Rate, unit, target: Option<f64>| {
        let found = ratios(&rounds(results, Golectra, body, of), &rounds(results, other, body, of));
        report.figure(Section::Memory, name, unit, found, target.map(Target::AtLeast));
    };
    let (core, wall): (Rate, Rate) = (Measured::requests_per_core, Measured::requests_per_second);
    tell("60 metrics, of the bare echo's rate per core", Body::Sixty, Echo, core, Unit::PerCent, Some(0.45));
    tell("60 metrics, of the bare echo's rate by the clock", Body::Sixty, Echo, wall, Unit::PerCent, Some(0.45));
    tell("single update, of the bare echo's rate per core", Body::Single, Echo, core, Unit::PerCent, Some(0.8));
    tell("single update, of the bare echo's rate by the clock", Body::Single, Echo, wall, Unit::PerCent, Some(0.8));
    tell("single update, gzipped, of the bare echo's rate per core", Body::PackedSingle, Echo, core, Unit::PerCent, Some(0.8));
    tell("single update, gzipped, of the bare echo's rate by the clock", Body::PackedSingle, Echo, wall, Unit::PerCent, Some(0.8));
    tell("1,000 metrics, of the bare echo's rate per core", Body::Thousand, Echo, core, Unit::PerCent, None);
    tell("1,000 metrics, over VictoriaMetrics, per core", Body::Thousand, VictoriaMetrics, core, Unit::Times, Some(3.0));
    tell("1,000 metrics, over VictoriaMetrics, by the clock", Body::Thousand, VictoriaMetrics, wall, Unit::Times, Some(3.0));
    tell("1,000 metrics, over Pushgateway, per core", Body::Thousand, Pushgateway, core, Unit::Times, None);
    tell("1,000 metrics, over Pushgateway, by the clock", Body::Thousand, Pushgateway, wall, Unit::Times, None);
}

fn tell_rates(results: &Results, report: &mut Report) {
    for (contestant, body) in RUNS {
        let (what, of_core, of_wall): (_, Rate, Rate) = match body {
            Body::Thousand => ("1,000 metrics", Measured::metrics_per_core, Measured::metrics_per_second),
            Body::Sixty => ("60 metrics", Measured::metrics_per_core, Measured::metrics_per_second),
            Body::Single => ("single update", Measured::requests_per_core, Measured::requests_per_second),
            Body::PackedSingle => ("single update, gzipped", Measured::requests_per_core, Measured::requests_per_second),
        };
        let target = ((contestant, body) == (Golectra, Body::Thousand)).then_some(Target::AtLeast(3e6));
        let name = |how| format!("{what}, {}, {how}", contestant.name());
        report.figure(Section::Memory, name("per core"), Unit::PerSecond, rounds(results, contestant, body, of_core), target);
        report.figure(Section::Memory, name("by the clock"), Unit::PerSecond, rounds(results, contestant, body, of_wall), None);
    }
}

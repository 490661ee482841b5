//! What a series costs: heap and CPU time with 1k, 64k and 1M of them.

use golectra_tests::{KEY, Server, statistics::ratios};

use crate::bodies::{Format, Pool, Series, thousand};
use crate::cases::{Bench, CONNECTIONS, say};
use crate::contestants::{Contestant, Started};
use crate::load::{self, Plan};
use crate::measure::measure;
use crate::report::{Report, Section, Target, Unit};
use crate::wire::{Sources, Turn, golectra};

/// Sources of a thousand series each.
const SIZES: [(usize, &str); 3] = [(1, "1k"), (64, "64k"), (1000, "1M")];

/// How often a server is written to before its memory is looked at, so that what its buffers take is not counted as series.
const WARM_UP_BODIES: usize = 1000;

/// The bodies that make a million series.
const FILL_BODIES: usize = 1000;

/// Measures each size once a round.
pub fn run(bench: &Bench, report: &mut Report) {
    let pool = bench.thousands();
    let blocks: Vec<Vec<Series>> = (0..100).map(thousand).collect();
    let own_names = Pool::prepare(FILL_BODIES, Format::Batch, |index| &blocks[index % blocks.len()]);
    let mut cpu = SIZES.map(|_| Vec::new());
    let mut heap = SIZES.map(|_| Vec::new());
    let mut heap_of_own_names = Vec::new();
    for round in 0..bench.options.rounds {
        for turn in 0..SIZES.len() {
            let size = (turn + round) % SIZES.len();
            let (sources, name) = SIZES[size];
            let started = warmed_up(pool);
            let before = started.first().anonymous_rss();
            fill(&started, pool, sources, Sources::Cycle(sources));
            heap[size].push(grown(&started, before, sources));
            let plan = plan(&started, pool, FILL_BODIES..pool.len() - WARM_UP_BODIES, bench.options.memory_seconds());
            let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", pool, Sources::Cycle(sources), turn);
            let (measured, [_, tally]) = measure(&started, &plan, &write);
            tally.all_accepted("growth");
            started.end();
            say(&format!("round {}, {name} series: {:.0} B a series, {}", round + 1, heap[size][round], measured.line()));
            cpu[size].push(measured.cpu_nanos_per_metric());
        }
        let started = warmed_up(pool);
        let before = started.first().anonymous_rss();
        fill(&started, &own_names, FILL_BODIES, Sources::Blocks(100));
        heap_of_own_names.push(grown(&started, before, FILL_BODIES));
        started.end();
    }
    let [_, at_64k, at_1m] = &cpu;
    report.figure(Section::Growth, "CPU time a metric, 1M series over 64k", Unit::Times, ratios(at_1m, at_64k), Some(Target::AtMost(1.35)));
    for ((_, name), cpu) in SIZES.iter().zip(&cpu) {
        report.figure(Section::Growth, format!("CPU time a metric, {name} series"), Unit::Nanoseconds, cpu.clone(), None);
    }
    let [_, heap_64k, heap_1m] = heap;
    report.figure(Section::Growth, "heap a series, 64k series of 64 sources", Unit::Bytes, heap_64k, None);
    report.figure(Section::Growth, "heap a series, 1M series of 1,000 sources", Unit::Bytes, heap_1m, Some(Target::AtMost(120.0)));
    let name = "heap a series, 1M series of 10 sources, every name another";
    report.figure(Section::Growth, name, Unit::Bytes, heap_of_own_names, Some(Target::AtMost(120.0)));
}

fn plan<'a>(started: &'a Started, pool: &'a Pool, bodies: std::ops::Range<usize>, seconds: f64) -> Plan<'a> {
    Plan { addresses: &started.addresses, connections: CONNECTIONS, pace: None, seconds, pool, bodies }
}

/// A server with the thousand series of the source 0, whose buffers have their size.
fn warmed_up(pool: &Pool) -> Started {
    let started = Started::servers(vec![Server::builder().key(Some(KEY)).start()]);
    let bodies = pool.len() - WARM_UP_BODIES..pool.len();
    let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", pool, Sources::One, turn);
    let tally = load::run(&plan(&started, pool, bodies, 60.0), &write);
    tally.all_accepted(Contestant::Golectra.name());
    started
}

/// Writes the first bodies, each a thousand series.
fn fill(started: &Started, pool: &Pool, bodies: usize, sources: Sources) {
    let write = |out: &mut Vec<u8>, turn: Turn| golectra(out, "/updates", pool, sources, turn);
    load::run(&plan(started, pool, 0..bodies, 60.0), &write).all_accepted("filling");
}

/// Heap bytes a series since the warm-up, which left the first thousand of them.
fn grown(started: &Started, before: u64, thousands: usize) -> f64 {
    let bytes = started.first().anonymous_rss().saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "bytes of a process, a count of series")]
    let each = bytes as f64 / ((thousands - 1).max(1) * 1000) as f64;
    each
}

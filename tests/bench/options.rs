//! What a run is asked for, by GOLECTRA_BENCH_… variables.

use std::path::PathBuf;

/// The least that is recorded in docs/benchmarks.md: 40 s, three rounds.
const FULL_SECONDS: f64 = 40.0;
const FULL_ROUNDS: usize = 3;
/// A day of ten nodes.
const FULL_NODES: usize = 10;
const FULL_HOURS: i64 = 24;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The memory store beside the echo, VictoriaMetrics and Pushgateway.
    Memory,
    /// Memory and CPU time from 1k to 1M series.
    Growth,
    /// What a save of 1M series does to writers.
    Snapshot,
    /// The PostgreSQL store beside raw upserts.
    Postgres,
    /// Five times what the PostgreSQL store can take.
    Overload,
    /// A day of remote-write and queries of it beside Prometheus and VictoriaMetrics.
    History,
    /// What sealing and queries take from the writer.
    Beside,
    /// What a cluster's nodes and pods take in the database and in its log.
    Cluster,
}

const GROUPS: [(&str, Group); 8] = [
    ("memory", Group::Memory),
    ("growth", Group::Growth),
    ("snapshot", Group::Snapshot),
    ("postgres", Group::Postgres),
    ("overload", Group::Overload),
    ("history", Group::History),
    ("beside", Group::Beside),
    ("cluster", Group::Cluster),
];

/// What a run is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long each case on PostgreSQL and each overload lasts; the cases in memory last a sixth of it.
    pub seconds: f64,
    /// How often each case is measured.
    pub rounds: usize,
    /// How many nodes the cases of history have, and how many hours of samples.
    pub history: (usize, i64),
    /// What is measured.
    pub groups: Vec<Group>,
    /// Where the tables and every round's figures are left.
    pub folder: PathBuf,
    /// Whether docs/benchmarks.md gets the tables of these groups.
    pub record: bool,
}

impl Group {
    /// What it is called by.
    pub fn name(self) -> &'static str {
        GROUPS.iter().find(|(_, group)| *group == self).map_or("", |(name, _)| name)
    }
}

impl Options {
    /// Reads the variables; the error is a sentence.
    pub fn load() -> Result<Self, String> {
        let seconds = number("GOLECTRA_BENCH_SECONDS", FULL_SECONDS)?;
        let rounds = number("GOLECTRA_BENCH_ROUNDS", FULL_ROUNDS)?;
        if !(1.0..=3600.0).contains(&seconds) || !(1..=100).contains(&rounds) {
            return Err("GOLECTRA_BENCH_SECONDS is 1 to 3600 and GOLECTRA_BENCH_ROUNDS 1 to 100".to_owned());
        }
        let history = (number("GOLECTRA_BENCH_NODES", FULL_NODES)?, number("GOLECTRA_BENCH_HOURS", FULL_HOURS)?);
        if !(2..=1000).contains(&history.0) || !(1..=24 * 30).contains(&history.1) {
            return Err("GOLECTRA_BENCH_NODES is 2 to 1000 and GOLECTRA_BENCH_HOURS 1 to 720".to_owned());
        }
        let groups = match variable("GOLECTRA_BENCH_ONLY") {
            None => GROUPS.map(|(_, group)| group).to_vec(),
            Some(names) => names.split(',').map(group).collect::<Result<_, _>>()?,
        };
        let record = variable("GOLECTRA_BENCH_RECORD").is_some_and(|value| value == "1");
        if record && (seconds < FULL_SECONDS || rounds < FULL_ROUNDS || history != (FULL_NODES, FULL_HOURS) || cfg!(debug_assertions)) {
            return Err(
                "docs/benchmarks.md only takes whole groups: three rounds, 40 s a case, ten nodes for 24 h, an optimised build".to_owned()
            );
        }
        let folder = variable("GOLECTRA_BENCH_RESULTS").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
        Ok(Self { seconds, rounds, history, groups, folder, record })
    }

    /// How long a case in memory lasts: it is steady after a moment.
    pub fn memory_seconds(&self) -> f64 {
        (self.seconds / 6.0).max(1.0)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T, String> {
    variable(name).map_or(Ok(default), |text| text.trim().parse().map_err(|_| format!("{name}={text} is no number")))
}

fn group(name: &str) -> Result<Group, String> {
    let found = GROUPS.iter().find(|(known, _)| *known == name.trim());
    let names = GROUPS.map(|(known, _)| known).join(", ");
    found.map(|(_, group)| *group).ok_or_else(|| format!("GOLECTRA_BENCH_ONLY takes {names}, not {name}"))
}

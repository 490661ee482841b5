//! What is measured: one file a group, each interleaving its contestants round by round.

pub mod beside;
pub mod cluster_day;
pub mod growth;
pub mod history;
pub mod memory;
pub mod overload;
pub mod postgres;
pub mod snapshot;

use std::sync::OnceLock;

use crate::bodies::{Format, Pool, Series, sixty, thousand};
use crate::options::{Group, Options};

/// Connections of every closed load: sixty-four agents.
pub const CONNECTIONS: usize = 64;

/// Bodies that are made for each second of a case, more than any contestant has been seen to take. Where they are used up
/// all the same, the run ends with them and is as long as it was.
const THOUSANDS_PER_SECOND_IN_MEMORY: f64 = 8_000.0;
const SIXTIES_PER_SECOND_IN_MEMORY: f64 = 40_000.0;
const THOUSANDS_PER_SECOND_ON_POSTGRES: f64 = 3_000.0;
const SIXTIES_PER_SECOND_ON_POSTGRES: f64 = 12_000.0;

/// What the groups share: the options, and the bodies, which are made when they are first wanted.
pub struct Bench {
    pub options: Options,
    thousand_series: Vec<Series>,
    thousands: OnceLock<Pool>,
    sixties: OnceLock<Pool>,
}

impl Bench {
    pub fn new(options: Options) -> Self {
        Self { options, thousand_series: thousand(0), thousands: OnceLock::new(), sixties: OnceLock::new() }
    }

    /// Batches of the same thousand series.
    pub fn thousands(&self) -> &Pool {
        self.thousands.get_or_init(|| {
            let count = self.count(THOUSANDS_PER_SECOND_IN_MEMORY, THOUSANDS_PER_SECOND_ON_POSTGRES);
            say(&format!("making {count} bodies of 1,000 metrics"));
            Pool::prepare(count, Format::Batch, |_| &self.thousand_series)
        })
    }

    /// Batches of an agent's sixty series.
    pub fn sixties(&self) -> &Pool {
        self.sixties.get_or_init(|| {
            let (count, series) = (self.count(SIXTIES_PER_SECOND_IN_MEMORY, SIXTIES_PER_SECOND_ON_POSTGRES), sixty());
            say(&format!("making {count} bodies of 60 metrics"));
            Pool::prepare(count, Format::Batch, |_| &series)
        })
    }

    /// The series of every body of a thousand.
    pub fn thousand_series(&self) -> &[Series] {
        &self.thousand_series
    }

    fn count(&self, in_memory: f64, on_postgres: f64) -> usize {
        let wanted = |group: Group| self.options.groups.contains(&group);
        let memory = if wanted(Group::Memory) || wanted(Group::Growth) { bodies(in_memory, self.options.memory_seconds()) } else { 0 };
        let on_database = [Group::Postgres, Group::Overload, Group::Beside].into_iter().any(wanted);
        let postgres = if on_database { bodies(on_postgres, self.options.seconds) } else { 0 };
        // A thousand of them make a million series, a thousand more warm up, and something must be left to measure with.
        memory.max(postgres).max(4_000)
    }
}

/// How many bodies last this long.
pub fn bodies(per_second: f64, seconds: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred thousand at most")]
    let count = (per_second * seconds) as usize;
    count
}

/// Tells whoever watches; the report goes to stdout, this does not.
pub fn say(line: &str) {
    eprintln!("bench: {line}");
}

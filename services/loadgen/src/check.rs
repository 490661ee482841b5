//! Compares what is stored with what was sent: for every series of every source, acknowledged <= stored <= issued.

mod compare;
mod forget;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use golectra_protocol::Kind;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::compare::Comparison;
pub use self::forget::ForgetError;
use crate::ledger::{self, LedgerError, Record};
use crate::plan::Address;
use crate::wire;
use crate::workload::Workload;

/// How long one listing may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Between two tries of a listing.
const PAUSE: Duration = Duration::from_millis(200);

/// How many examples of what is wrong a result has.
const EXAMPLES: usize = 10;

/// What was sent and acknowledged, and so what may be stored.
#[derive(Debug, Clone)]
pub struct SentBatches {
    workload: Workload,
    records: Vec<Record>,
}

/// The server can't be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It does not list the series of a source.
    #[error("the server does not list the series of {source_name}: {reason}")]
    Read {
        /// The source.
        source_name: String,
        /// What it answered, or why it did not.
        reason: String,
    },
    /// It lists a part only.
    #[error("the server lists only a part of the series of {0}: give agents fewer series")]
    Truncated(String),
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Three sums, each at least as large as the one before: what was acknowledged, what is stored, what was issued.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Acknowledged.
    pub acknowledged: i64,
    /// Stored.
    pub stored: i64,
    /// Issued: what was sent, whether or not an acknowledgement came.
    pub issued: i64,
    /// Acknowledged and not stored, summed over the series where that is so.
    pub lost: i64,
    /// Stored and never issued, summed over the series where that is so.
    pub doubled: i64,
}

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Whether every source was read.
    pub complete: bool,
    /// Sources that were read.
    pub sources: usize,
    /// Series that were compared.
    pub series: usize,
    /// Batches, by the counters that grow by 1 a batch; all 0 in a run without counters.
    pub batches: Totals,
    /// All counters, by their deltas.
    pub counters: Totals,
    /// Gauges whose value is not one of those issued at or after the newest acknowledged one, or that are not there.
    pub stale_gauges: usize,
    /// The first few things that are wrong, a sentence each.
    pub examples: Vec<String>,
}

impl CheckResult {
    /// Whether nothing acknowledged was lost and nothing counted twice, as far as it was read.
    pub fn passed(&self) -> bool {
        self.lost_nothing() && self.doubled_nothing()
    }

    /// Whether everything acknowledged is stored, gauges included.
    pub fn lost_nothing(&self) -> bool {
        self.counters.lost == 0 && self.stale_gauges == 0
    }

    /// Whether no counter is higher than what was issued.
    pub fn doubled_nothing(&self) -> bool {
        self.counters.doubled == 0
    }
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "checked      {} series of {} sources", self.series, self.sources)?;
        for (name, totals) in [("batches", &self.batches), ("counters", &self.counters)] {
            let Totals { acknowledged, stored, issued, lost, doubled } = totals;
            writeln!(f, "{name:12} acknowledged {acknowledged} <= stored {stored} <= issued {issued}; lost {lost}, doubled {doubled}")?;
        }
        writeln!(f, "gauges       {} stale", self.stale_gauges)?;
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        let word = match (self.lost_nothing(), self.doubled_nothing()) {
            (true, true) if self.complete => "nothing acknowledged was lost, nothing was counted twice",
            (true, true) => "not complete; nothing lost and nothing counted twice so far",
            (false, true) => "LOST",
            (true, false) => "DOUBLED",
            (false, false) => "LOST and DOUBLED",
        };
        writeln!(f, "result       {word}")
    }
}

/// The answer of /api/v1/latest.
#[derive(Deserialize)]
struct Listing {
    series: Vec<Listed>,
    #[serde(default)]
    truncated: bool,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    value: Option<f64>,
    delta: Option<i64>,
}

impl SentBatches {
    pub(crate) fn new(workload: Workload, records: Vec<Record>) -> Self {
        Self { workload, records }
    }

    /// What the ledger of a run says, also of one that was killed.
    pub fn from_ledger(path: &Path) -> Result<Self, LedgerError> {
        let (workload, records) = ledger::read(path)?;
        Ok(Self { workload, records })
    }

    /// How many batches it remembers.
    pub fn batches(&self) -> usize {
        self.records.len()
    }

    /// How many sources a complete check reads.
    pub fn sources(&self) -> usize {
        let mut agents: Vec<u32> = self.records.iter().map(|record| record.agent).collect();
        agents.sort_unstable();
        agents.dedup();
        agents.len()
    }

    /// Reads every source's series from the server and compares them. A server that does not answer is asked again until the limit
    /// has passed since its last answer.
    pub async fn check(&self, address: &Address, limit: Duration) -> Result<CheckResult, CheckError> {
        let mut result = CheckResult::default();
        self.check_into(address, limit, &mut result).await?;
        Ok(result)
    }

    /// The same for callers that may stop before the end: what was compared until then stands in the result.
    pub async fn check_into(&self, address: &Address, limit: Duration, result: &mut CheckResult) -> Result<(), CheckError> {
        let mut by_agent: Vec<Vec<&Record>> = vec![Vec::new(); self.workload.agents as usize];
        for record in &self.records {
            by_agent[record.agent as usize].push(record);
        }
        for (agent, records) in (0..).zip(by_agent) {
            if !records.is_empty() {
                let stored = self.stored(address, agent, limit).await?;
                Comparison::new(&self.workload, agent, &records, &stored).compare(result);
                result.sources += 1;
            }
        }
        result.complete = true;
        Ok(())
    }

    /// What the server has of an agent: bits of the value, or the total, by series.
    async fn stored(&self, address: &Address, agent: u32, limit: Duration) -> Result<HashMap<u32, Stored>, CheckError> {
        let deadline = Instant::now() + limit;
        let source_name = self.workload.source(agent);
        let target = format!("/api/v1/latest?source={source_name}");
        let listing = loop {
            let reason = match wire::get(address, &target, READ_LIMIT.min(limit)).await {
                Ok(answer) if answer.status == 200 => match serde_json::from_slice::<Listing>(&answer.body) {
                    Ok(listing) => break listing,
                    Err(error) => error.to_string(),
                },
                Ok(answer) => format!("status {} {}", answer.status, String::from_utf8_lossy(&answer.body)),
                Err(failure) => failure.to_string(),
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(CheckError::Read { source_name, reason });
            }
            tokio::time::sleep(PAUSE).await;
        };
        if listing.truncated {
            return Err(CheckError::Truncated(source_name));
        }
        let stored = listing.series.into_iter().filter_map(|listed| {
            let series = self.workload.series_named(&listed.id)?;
            let kind = self.workload.kind(series);
            let value = match kind {
                Kind::Counter => Stored::Counter(listed.delta?),
                Kind::Gauge => Stored::Gauge(listed.value?),
            };
            (listed.kind == kind.as_str()).then_some((series, value))
        });
        Ok(stored.collect())
    }
}

/// What the server has of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored {
    Counter(i64),
    Gauge(f64),
}

/// Adds an example, unless there are enough.
fn example(result: &mut CheckResult, text: impl FnOnce() -> String) {
    if result.examples.len() < EXAMPLES {
        result.examples.push(text());
    }
}

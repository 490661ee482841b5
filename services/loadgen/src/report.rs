//! The result of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::latency::Latency;

/// What became of batches. Those begun are acknowledged, refused or given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Batches {
    /// Begun.
    pub begun: u64,
    /// Answered with a 2xx.
    pub acknowledged: u64,
    /// Of these, those that the server says it had applied after an earlier try.
    pub replayed: u64,
    /// Answered with a status that trying again can't change.
    pub refused: u64,
    /// Not acknowledged in time. Whether the server applied them is not known.
    pub given_up: u64,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// From the first batch to the last acknowledgement.
    pub seconds: f64,
    /// Simulated agents.
    pub agents: u32,
    /// Connections they shared.
    pub connections: u32,
    /// Metrics in each batch.
    pub metrics_a_batch: u32,
    /// Series of all agents.
    pub series: u64,
    /// What became of the batches.
    pub batches: Batches,
    /// Metrics of the acknowledged batches.
    pub metrics: u64,
    /// Acknowledged batches a second.
    pub batches_per_second: f64,
    /// Their metrics a second.
    pub metrics_per_second: f64,
    /// Requests sent, retries included.
    pub tries: u64,
    /// Requests that did not end in a 2xx, by what they ended in.
    pub errors: BTreeMap<String, u64>,
    /// From the request to its answer, of those that were accepted.
    pub answers: Latency,
    /// From the time a batch was due to its acknowledgement, retries included.
    pub deliveries: Latency,
    /// Why the ledger could not be written any more; the run ended there.
    pub ledger_error: Option<String>,
}

impl Report {
    /// How many tries ended in this; 0 when none did. The names are those of [`errors`](Self::errors).
    pub fn errors_named(&self, what: &str) -> u64 {
        self.errors.get(what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batches = &self.batches;
        writeln!(
            f,
            "{} agents over {} connections, {} metrics a batch, {} series, {:.1} s",
            self.agents, self.connections, self.metrics_a_batch, self.series, self.seconds
        )?;
        writeln!(f, "throughput   {:.0} metrics/s, {:.1} batches/s", self.metrics_per_second, self.batches_per_second)?;
        writeln!(
            f,
            "batches      {} begun, {} acknowledged ({} as repeats), {} refused, {} given up",
            batches.begun, batches.acknowledged, batches.replayed, batches.refused, batches.given_up
        )?;
        for (name, latency) in [("answers", &self.answers), ("deliveries", &self.deliveries)] {
            let millis = [latency.p50_seconds, latency.p90_seconds, latency.p99_seconds, latency.p999_seconds, latency.max_seconds]
                .map(|seconds| seconds * 1000.0);
            let [p50, p90, p99, p999, max] = millis;
            writeln!(f, "{name:12} p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")?;
        }
        let failed: u64 = self.errors.values().sum();
        write!(f, "errors       {failed} of {} tries", self.tries)?;
        for (index, (what, count)) in self.errors.iter().enumerate() {
            write!(f, "{} {what} {count}", if index == 0 { ":" } else { "," })?;
        }
        writeln!(f)?;
        if let Some(error) = &self.ledger_error {
            writeln!(f, "ledger       not written to the end: {error}")?;
        }
        Ok(())
    }
}

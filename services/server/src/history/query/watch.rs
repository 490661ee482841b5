//! What is known of each query afterwards: metrics, and a line in the log where it was slow.

use std::time::{Duration, Instant};

use crate::metrics::queries::{QueryKind, QueryMetrics};

/// So much of a query's text is logged.
const MAX_LOGGED_BYTES: usize = 2_000;

/// What a query took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Costs {
    /// Until it could run.
    pub queued: Duration,
    /// Until it was read and what it selects was known.
    pub prepared: Duration,
    /// Until what it selects was read from the store.
    pub read: Duration,
    /// Until it was evaluated.
    pub evaluated: Duration,
    /// Whether it ran on what processors had left, since writers were busy all the time.
    pub made_way: bool,
    /// For how long it paused in all because of that.
    pub paused: Duration,
    /// How many series it selected.
    pub series: usize,
    /// How many samples it read.
    pub samples: u64,
    /// The most memory that it held.
    pub peak_bytes: usize,
}

/// A query under way. Dropped without an outcome, its client went away.
pub struct Watch {
    metrics: QueryMetrics,
    kind: QueryKind,
    text: String,
    log_after: Duration,
    started: Instant,
    /// What it took so far.
    pub costs: Costs,
    outcome: &'static str,
}

impl Watch {
    /// Starts watching a query with this text.
    pub fn begin(metrics: &QueryMetrics, kind: QueryKind, text: &str, log_after: Duration) -> Self {
        metrics.begins();
        Self {
            metrics: metrics.clone(),
            kind,
            text: shortened(text),
            log_after,
            started: Instant::now(),
            costs: Costs::default(),
            outcome: "canceled",
        }
    }

    /// It ended: `ok`, or the reason why it has no answer.
    pub fn ends(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        if self.outcome != "ok" {
            self.metrics.rejected(self.outcome);
        }
        self.metrics.ends(self.kind, elapsed, self.costs.series, self.costs.samples);
        if elapsed < self.log_after {
            return;
        }
        let Costs { queued, prepared, read, evaluated, made_way, paused, series, samples, peak_bytes } = self.costs;
        tracing::warn!(
            kind = self.kind.as_str(),
            query = self.text,
            outcome = self.outcome,
            duration_ms = millis(elapsed),
            queued_ms = millis(queued),
            prepared_ms = millis(prepared),
            read_ms = millis(read),
            evaluated_ms = millis(evaluated),
            made_way,
            paused_ms = millis(paused),
            series,
            samples,
            peak_bytes,
            "a query took as long as QUERY_LOG_AFTER or longer"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The beginning of a text.
fn shortened(text: &str) -> String {
    if text.len() <= MAX_LOGGED_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_LOGGED_BYTES);
    format!("{}… ({} bytes)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shortened_between_characters() {
        assert_eq!(shortened("up"), "up");
        let long = "é".repeat(MAX_LOGGED_BYTES);
        let short = shortened(&long);
        assert!(short.len() < MAX_LOGGED_BYTES + 32 && short.ends_with("é… (4000 bytes)"), "{}", &short[short.len() - 30..]);
    }
}

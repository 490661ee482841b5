//! What happened in a run, counted as it happens.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::latency::Histogram;
use crate::report::{Batches, Report};

#[derive(Debug, Default)]
pub(super) struct RunCounts {
    pub(super) tries: u64,
    pub(super) batches: Batches,
    /// Tries that were not a 2xx, by what they were.
    pub(super) errors: BTreeMap<String, u64>,
    /// From a request's first byte to its 2xx.
    pub(super) answers: Histogram,
    /// From the time a batch was due to its acknowledgement, retries included.
    pub(super) deliveries: Histogram,
    pub(super) last: Option<Instant>,
}

impl RunCounts {
    pub(super) fn accepted(&mut self, replayed: bool, answer: Duration, delivery: Duration) {
        self.tries += 1;
        self.batches.acknowledged += 1;
        self.batches.replayed += u64::from(replayed);
        self.answers.record(answer);
        self.deliveries.record(delivery);
        self.last = Some(Instant::now());
    }

    pub(super) fn failed(&mut self, what: String) {
        self.tries += 1;
        *self.errors.entry(what).or_default() += 1;
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are for reading")]
    pub(super) fn report(&self, shared: &Shared, broken: Option<String>) -> Report {
        let end = self.last.unwrap_or_else(Instant::now);
        let seconds = (end - shared.start).as_secs_f64().max(1e-9);
        let batches = Batches { begun: shared.begun.load(std::sync::atomic::Ordering::Relaxed), ..self.batches };
        let metrics = batches.acknowledged * u64::from(shared.workload.metrics);
        Report {
            seconds,
            agents: shared.workload.agents,
            connections: shared.plan.connections(),
            metrics_a_batch: shared.workload.metrics,
            series: u64::from(shared.workload.agents) * u64::from(shared.workload.series),
            batches,
            metrics,
            batches_per_second: batches.acknowledged as f64 / seconds,
            metrics_per_second: metrics as f64 / seconds,
            tries: self.tries,
            errors: self.errors.clone(),
            answers: self.answers.latency(),
            deliveries: self.deliveries.latency(),
            ledger_error: broken,
        }
    }
}

//! One run of one contestant: load for a while, and what it cost whom.

use std::fmt::Write as _;

use golectra_tests::cpu_seconds;

use crate::contestants::Started;
use crate::load::{self, Plan, Tally};
use crate::wire::Turn;

/// Requests of each connection before the clock starts: connections are made, series exist, caches are warm.
/// VictoriaMetrics is at half of its speed for as long as it gets to know its series.
const WARM_UP_REQUESTS: usize = 20;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Measured {
    pub requests: f64,
    pub metrics: f64,
    pub seconds: f64,
    /// CPU time of the programs that were measured.
    pub server_cpu: f64,
    /// CPU time of this program, which sent.
    pub client_cpu: f64,
    pub p50_millis: f64,
    pub p99_millis: f64,
    pub max_millis: f64,
}

impl Measured {
    pub fn requests_per_second(&self) -> f64 {
        self.requests / self.seconds
    }

    pub fn requests_per_core(&self) -> f64 {
        self.requests / self.server_cpu
    }

    pub fn metrics_per_second(&self) -> f64 {
        self.metrics / self.seconds
    }

    pub fn metrics_per_core(&self) -> f64 {
        self.metrics / self.server_cpu
    }

    pub fn cpu_nanos_per_metric(&self) -> f64 {
        self.server_cpu * 1e9 / self.metrics
    }

    /// One line of it, for whoever watches.
    pub fn line(&self) -> String {
        let mut line = format!("{:.0} requests in {:.1} s", self.requests, self.seconds);
        let _ = write!(line, ", {:.0} metrics/s, {:.0} per core", self.metrics_per_second(), self.metrics_per_core());
        let _ = write!(line, ", CPU {:.1} s, the client's {:.1} s", self.server_cpu, self.client_cpu);
        let _ = write!(line, ", p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms", self.p50_millis, self.p99_millis, self.max_millis);
        line
    }
}

/// Warms up with the plan's first bodies, then sends the rest against the clock. Returns both tallies, so that what is there
/// afterwards can be held against all that was sent.
pub fn measure(started: &Started, plan: &Plan<'_>, write: &dyn Fn(&mut Vec<u8>, Turn)) -> (Measured, [Tally; 2]) {
    let first = plan.bodies.start;
    let warm = first + (plan.connections * WARM_UP_REQUESTS).min(plan.bodies.len() / 2);
    let warm_up = load::run(&Plan { bodies: first..warm, pace: None, ..*plan }, write);
    let before = (started.cpu_seconds(), cpu_seconds(std::process::id()));
    let tally = load::run(&Plan { bodies: warm..plan.bodies.end, ..*plan }, write);
    let after = (started.cpu_seconds(), cpu_seconds(std::process::id()));
    #[expect(clippy::cast_precision_loss, reason = "counts of requests and metrics")]
    let measured = Measured {
        requests: tally.accepted.len() as f64,
        metrics: tally.metrics as f64,
        seconds: tally.seconds,
        server_cpu: after.0 - before.0,
        client_cpu: after.1 - before.1,
        p50_millis: tally.latency_millis(0.5),
        p99_millis: tally.latency_millis(0.99),
        max_millis: tally.latency_millis(1.0),
    };
    (measured, [warm_up, tally])
}

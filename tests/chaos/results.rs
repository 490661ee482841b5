//! The results of a scenario under load, and printing them.

use std::io::Write as _;
use std::time::Instant;

use golectra_loadgen::{CheckResult, Report, Totals};

/// Prints a line in spite of the output capture of the test harness.
pub fn say(scenario: &str, line: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {scenario}: {line}");
}

/// The results of the clients with keys and of the naive client, which retries without keys.
pub struct LoadResults {
    pub keyed: Report,
    pub check: CheckResult,
    pub naive: Report,
    pub naive_check: CheckResult,
}

impl LoadResults {
    /// Prints the results. Panics if a value was lost or applied twice, or if the naive client did not over-count.
    #[track_caller]
    pub fn judge(&self, scenario: &str, faults: &str, start: Instant) {
        let Totals { acknowledged, stored, issued, lost, doubled } = self.check.counters;
        let batches = &self.keyed.batches;
        let naive = &self.naive_check.counters;
        say(
            scenario,
            &format!(
                "{faults}; {} batches, {} tries, {} repeats; acked {acknowledged} <= stored {stored} <= issued {issued}; \
                 lost {lost}, doubled {doubled}, stale gauges {}; naive control over-counted by {} of {}; {:.1} s",
                batches.begun,
                self.keyed.tries,
                batches.replayed,
                self.check.stale_gauges,
                naive.doubled,
                naive.issued,
                start.elapsed().as_secs_f64(),
            ),
        );
        assert!(batches.acknowledged > 0, "nothing was acknowledged: {}", self.keyed);
        assert!(self.check.passed(), "{}{}", self.keyed, self.check);
        assert!(self.naive_check.counters.doubled > 0, "the naive client did not over-count: {}{}", self.naive, self.naive_check);
        assert!(self.naive_check.counters.lost == 0, "acknowledged values of the naive client are lost: {}", self.naive_check);
    }
}

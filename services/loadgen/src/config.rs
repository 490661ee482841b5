//! The settings, and the plan that follows from them.

use std::path::PathBuf;
use std::str::FromStr;

use golectra_loadgen::{Address, Content, Faults, Pace, Plan, Retry, Signing};
use golectra_process::{Interval, KeyId, Keys, Secret};

golectra_process::settings! {
    /// golectra's load generator: simulated agents that remember what was acknowledged and check it afterwards.
    /// Exits 0 when nothing acknowledged was lost and nothing counted twice, 1 when something was or the check is not complete, 2 on bad
    /// settings. SIGINT or SIGTERM ends it within 5 s with a report of what is known by then; a second signal ends it at once.
    pub struct Settings {
        /// The server: http://host:port or host:port.
        #[arg(short = 'a')]
        pub address: Address = "localhost:8080",
        /// Key shared with the server: bodies carry a HashSHA256 made with it.
        #[arg(short = 'k')]
        pub key: Option<Secret>,
        /// Sign each try with KEY, or with the key that SIGNING_KEY_ID names (header Golectra-Signature).
        pub sign: bool = "true",
        /// A folder of keys to sign with: each file's name is a key's id, its content the key.
        pub keys_dir: Option<PathBuf>,
        /// Which key of the folder signs; without it KEY does, under the id `default`.
        pub signing_key_id: Option<KeyId>,
        /// How many agents, each a source of its own.
        pub agents: u32 = "10",
        /// Metrics in a batch.
        pub metrics: u32 = "60",
        /// How many of these are counters; a tenth by default.
        pub counters: Option<u32>,
        /// Series of each agent, a multiple of METRICS that batches take in turn; as many as METRICS by default.
        pub series: Option<u32>,
        /// Each agent sends once an interval, whether or not the server keeps up; 0: each connection sends as soon as its last batch is settled.
        pub interval: Interval = "0",
        /// How long new batches are begun.
        pub duration: Interval = "10s",
        /// How many batches are begun at most.
        pub batches: Option<u64>,
        /// Connections, shared by the agents, each with one request under way; one an agent by default, at most 64.
        pub connections: Option<u32>,
        /// Compress bodies, and ask for compressed answers.
        pub gzip: bool = "true",
        /// Send single metrics to /update instead of batches to /updates; METRICS must be 1.
        pub single: bool = "false",
        /// Give each batch an Idempotency-Key.
        pub keyed: bool = "true",
        /// What follows a missing acknowledgement: same-key, as golectra-agent does; fresh-key, as naive clients do, which counts twice; none.
        pub retry: Retry = "same-key",
        /// How long a batch is tried.
        pub retry_for: Interval = "60s",
        /// How long one try may take.
        pub timeout: Interval = "10s",
        /// Bodies made before the clock starts and sent again and again under keys of their own; 0: each batch has a body of its own.
        pub prepare: u32 = "0",
        /// What all values and faults follow from; random by default.
        pub seed: Option<u64>,
        /// What sources are called, before a dash and their number; load- and random letters by default.
        pub source: Option<String>,
        /// Leave the sources on the server. Without it the server is made to forget them after a run that ends with 0, except where SOURCE names them or a LEDGER may be checked later.
        pub keep: bool = "false",
        /// Remember every batch and check the server at the end; what the sources had before the run counts as doubled.
        pub verify: bool = "true",
        /// A new file that gets each intent and each acknowledgement, so that a killed run can be checked.
        pub ledger: Option<PathBuf>,
        /// Send nothing: check the server against the LEDGER of an earlier run.
        pub check: bool = "false",
        /// How long the server may take until it can be checked.
        pub check_for: Interval = "60s",
        /// Print one JSON object instead of text.
        pub json: bool = "false",
        /// Share of answers that are cut off, 0 to 1; the server has done its work.
        pub cut_answers: Probability = "0",
        /// Share of requests that are cut off.
        pub cut_requests: Probability = "0",
        /// Share of connections that are reset when the answer comes.
        pub resets: Probability = "0",
        /// Share of answers that wait.
        pub delays: Probability = "0",
        /// How long an answer waits at most.
        pub longest_delay: Interval = "1s",
    }
}

/// A number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probability(f64);

/// The text is no such number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a share from 0 to 1, such as 0.05")]
pub struct ProbabilityError;

impl FromStr for Probability {
    type Err = ProbabilityError;

    fn from_str(text: &str) -> Result<Self, ProbabilityError> {
        text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).map(Self).ok_or(ProbabilityError)
    }
}

impl Settings {
    /// What is to be sent. The error is that of the folder of keys, in a sentence.
    pub fn plan(&self) -> Result<Plan, String> {
        Ok(Plan {
            address: self.address.clone(),
            content: if self.single { Content::Single } else { Content::Batches },
            agents: self.agents,
            metrics: self.metrics,
            counters: self.counters,
            series: self.series,
            prepared: self.prepare,
            pace: if self.interval.is_zero() { Pace::Closed } else { Pace::Every(self.interval.duration()) },
            connections: self.connections,
            duration: self.duration.duration(),
            batches: self.batches,
            gzip: self.gzip,
            accept_gzip: self.gzip,
            key: self.key.clone(),
            signing: self.signing()?,
            keyed: self.keyed,
            retry: self.retry,
            retry_for: self.retry_for.duration(),
            timeout: self.timeout.duration(),
            seed: self.seed,
            source: self.source.clone(),
            remember: self.verify,
            ledger: self.ledger.clone(),
        })
    }

    fn signing(&self) -> Result<Option<Signing>, String> {
        if !self.sign {
            return Ok(None);
        }
        let keys = Keys::open(self.key.as_ref(), self.keys_dir.as_deref()).map_err(|error| error.to_string())?;
        let id = keys.signing_id(self.signing_key_id.as_ref()).map_err(|error| error.to_string())?;
        Ok(id.map(|id| Signing { keys, id }))
    }

    /// Whether the server is made to forget the sources after a run in which everything was right. A source with a name that was given may have been there
    /// before.
    pub fn forgets(&self) -> bool {
        !self.keep && self.source.is_none() && self.ledger.is_none()
    }

    /// The faults that the proxy causes; none when there are to be none.
    pub fn faults(&self) -> Option<Faults> {
        let faults = Faults {
            cut_answers: self.cut_answers.0,
            cut_requests: self.cut_requests.0,
            resets: self.resets.0,
            delays: self.delays.0,
            longest_delay: self.longest_delay.duration(),
        };
        (faults != Faults { longest_delay: faults.longest_delay, ..Faults::NONE }).then_some(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn the_documentation_has_the_table_of_settings() {
        let table = Settings::markdown();
        let document = include_str!("../../../docs/settings.md");
        assert!(document.contains(table.trim()), "docs/settings.md's table of golectra-loadgen should be:\n{table}");
    }

    #[test]
    fn defaults_are_a_plan_without_faults() {
        let settings = Settings::parse([""; 0], [("", ""); 0]).unwrap();
        assert!(settings.plan().is_ok_and(|plan| plan.workload().is_ok() && plan.signing.is_none()));
        assert_eq!(settings.faults(), None);
        assert!(settings.forgets());
        for kept in ["--keep", "--source=node", "--ledger=file"] {
            assert!(!Settings::parse([kept], [("", ""); 0]).unwrap().forgets(), "{kept}");
        }
        let settings = Settings::parse(["--cut-answers=0.5"], [("INTERVAL", "2s")]).unwrap();
        assert!(settings.faults().is_some_and(|faults| faults.cut_answers > 0.4));
        let error = Settings::parse(["--resets=1.5"], [("", ""); 0]).unwrap_err().to_string();
        assert!(error.contains("--resets") && error.contains("from 0 to 1"), "{error}");
    }
}

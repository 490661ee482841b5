//! What a run is to do, and the rules a plan keeps.

mod address;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::{KeyId, Keys, Secret};

pub use self::address::{Address, AddressError};
use crate::workload::Workload;

/// What is sent.
#[derive(Clone)]
pub enum Content {
    /// POST /updates: an array of metrics.
    Batches,
    /// POST /update: one metric.
    Single,
    /// POST to another path, for servers that speak something else: the body of each number, made once where bodies are
    /// prepared. Nothing of it can be checked afterwards.
    Custom {
        /// The request's target.
        path: String,
        /// The body's media type.
        content_type: String,
        /// Makes the body of a number.
        make: Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>,
    },
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batches => f.write_str("Batches"),
            Self::Single => f.write_str("Single"),
            Self::Custom { path, .. } => write!(f, "Custom({path})"),
        }
    }
}

/// When an agent sends its next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Closed loop: each connection as soon as its last batch is settled.
    Closed,
    /// Open loop: each agent once an interval, whether or not the server keeps up. Agents are spread over the interval; one
    /// that is late sends at once.
    Every(Duration),
}

/// What is done about a batch whose acknowledgement did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same bytes under the same key, later each time, until it is acknowledged: what golectra-agent does.
    SameKey,
    /// The same bytes under a new key: what a naive client does. It counts twice whatever was applied but not answered.
    FreshKey,
    /// Nothing.
    None,
}

/// The text names no way of retrying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected same-key, fresh-key or none")]
pub struct RetryError;

impl FromStr for Retry {
    type Err = RetryError;

    fn from_str(text: &str) -> Result<Self, RetryError> {
        match text {
            "same-key" => Ok(Self::SameKey),
            "fresh-key" => Ok(Self::FreshKey),
            "none" => Ok(Self::None),
            _ => Err(RetryError),
        }
    }
}

/// The key that signs.
#[derive(Debug, Clone)]
pub struct Signing {
    /// Where it is; a folder's key may change during the run.
    pub keys: Keys,
    /// Which it is.
    pub id: KeyId,
}

impl Signing {
    /// This key, under the id `default`. Must be called inside a runtime.
    pub fn with_key(key: &Secret) -> Self {
        Self { keys: Keys::open(Some(key), None).expect("only a folder can fail"), id: KeyId::default() }
    }
}

/// What a run is to do. `Plan { agents: 50, ..Plan::new(address) }` changes what should differ from the defaults.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch that a person sets by itself")]
pub struct Plan {
    /// The server, or the proxy before it.
    pub address: Address,
    /// What is sent: batches.
    pub content: Content,
    /// How many agents, each a source of its own: 10.
    pub agents: u32,
    /// Metrics in a batch: 60.
    pub metrics: u32,
    /// How many of these are counters; a tenth, and at least one, where it is none.
    pub counters: Option<u32>,
    /// Series of each agent, a multiple of `metrics`; as many as `metrics` where it is none.
    pub series: Option<u32>,
    /// Bodies made, compressed and hashed before the clock starts, and then sent again and again under keys of their own.
    /// 0: each batch gets a body of its own when it is sent. Rounded up to a multiple of the layouts.
    pub prepared: u32,
    /// When batches are sent: closed loop.
    pub pace: Pace,
    /// Connections, each with one request under way at most: one an agent, at most 64, where it is none.
    pub connections: Option<u32>,
    /// How long new batches are begun: 10 s.
    pub duration: Duration,
    /// How many batches are begun at most.
    pub batches: Option<u64>,
    /// Whether bodies are compressed: yes.
    pub gzip: bool,
    /// Whether compressed answers are asked for: yes.
    pub accept_gzip: bool,
    /// The key bodies are hashed with.
    pub key: Option<Secret>,
    /// What each try is signed with (Golectra-Signature): nothing.
    pub signing: Option<Signing>,
    /// Whether batches carry an Idempotency-Key: yes. Without one a retry counts twice.
    pub keyed: bool,
    /// What is done when an acknowledgement does not come: the same key again.
    pub retry: Retry,
    /// How long a batch is tried, from its first try: 60 s.
    pub retry_for: Duration,
    /// How long one try may take: 10 s.
    pub timeout: Duration,
    /// What all values follow from; random where it is none.
    pub seed: Option<u64>,
    /// What sources are called, before `-` and their number; `load-` and random letters where it is none, so that
    /// nothing of an earlier run is met.
    pub source: Option<String>,
    /// Whether batches are remembered, 24 bytes each, to be checked: yes.
    pub remember: bool,
    /// A file that gets each intent before it is sent and each acknowledgement, so that a killed run can be checked.
    pub ledger: Option<PathBuf>,
}

/// A plan that can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A count of none.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// More counters than metrics.
    #[error("a batch of {metrics} metrics can't have {counters} counters")]
    Counters {
        /// Metrics in a batch.
        metrics: u32,
        /// Counters asked for.
        counters: u32,
    },
    /// Series that do not fill whole batches.
    #[error("{series} series an agent are not a multiple of {metrics} metrics a batch")]
    Series {
        /// Series asked for.
        series: u32,
        /// Metrics in a batch.
        metrics: u32,
    },
    /// More than one metric where only one is sent.
    #[error("a single update carries 1 metric, not {0}")]
    Single(u32),
    /// A name that no source may have.
    #[error("the source {0:?} can't be one: letters, digits, '.', '-' and '_', at most 240 of them")]
    Source(String),
    /// More than the numbers of series or bodies hold.
    #[error("{0} is more than this program can count")]
    TooMany(&'static str),
    /// The ledger file could not be made.
    #[error("the ledger can't be written: {0}")]
    Ledger(String),
}

impl Plan {
    /// A plan for this server with every default.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            content: Content::Batches,
            agents: 10,
            metrics: 60,
            counters: None,
            series: None,
            prepared: 0,
            pace: Pace::Closed,
            connections: None,
            duration: Duration::from_secs(10),
            batches: None,
            gzip: true,
            accept_gzip: true,
            key: None,
            signing: None,
            keyed: true,
            retry: Retry::SameKey,
            retry_for: Duration::from_mins(1),
            timeout: Duration::from_secs(10),
            seed: None,
            source: None,
            remember: true,
            ledger: None,
        }
    }

    /// How many connections there are.
    pub fn connections(&self) -> u32 {
        self.connections.unwrap_or(self.agents.min(64))
    }

    /// The workload of its bodies, once it is clear that it can be carried out.
    pub fn workload(&self) -> Result<Workload, PlanError> {
        let counts = [
            (self.agents, "the number of agents"),
            (self.metrics, "the number of metrics"),
            (self.connections(), "the number of connections"),
        ];
        if let Some((_, what)) = counts.into_iter().find(|(count, _)| *count == 0) {
            return Err(PlanError::Zero(what));
        }
        if self.pace == Pace::Every(Duration::ZERO) {
            return Err(PlanError::Zero("the interval"));
        }
        let counters = self.counters.unwrap_or(self.metrics.div_ceil(10));
        if counters > self.metrics {
            return Err(PlanError::Counters { metrics: self.metrics, counters });
        }
        let series = self.series.unwrap_or(self.metrics);
        if series == 0 || !series.is_multiple_of(self.metrics) {
            return Err(PlanError::Series { series, metrics: self.metrics });
        }
        if matches!(self.content, Content::Single) && self.metrics != 1 {
            return Err(PlanError::Single(self.metrics));
        }
        let source = self.source.clone().unwrap_or_else(|| format!("load-{:08x}", fastrand::u32(..)));
        if source.len() > 240 || golectra_protocol::Source::parse(&source).is_err() {
            return Err(PlanError::Source(source));
        }
        let layouts = series / self.metrics;
        let prepared = self.prepared.div_ceil(layouts).checked_mul(layouts).ok_or(PlanError::TooMany("the number of prepared bodies"))?;
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        Ok(Workload { seed, source, agents: self.agents, metrics: self.metrics, counters, series, prepared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new("localhost:1".parse().unwrap())
    }

    #[test]
    fn defaults_are_a_plan() {
        let workload = plan().workload().unwrap();
        assert_eq!((workload.agents, workload.metrics, workload.counters, workload.series, workload.prepared), (10, 60, 6, 60, 0));
        assert_ne!(plan().workload().unwrap().source, workload.source);
        let workload = Plan { series: Some(180), prepared: 10, ..plan() }.workload().unwrap();
        assert_eq!((workload.layouts(), workload.prepared), (3, 12));
    }

    #[test]
    fn what_can_not_be_done_is_said() {
        let refused = [
            (Plan { agents: 0, ..plan() }, "the number of agents must be at least 1"),
            (Plan { connections: Some(0), ..plan() }, "the number of connections must be at least 1"),
            (Plan { pace: Pace::Every(Duration::ZERO), ..plan() }, "the interval must be at least 1"),
            (Plan { counters: Some(61), ..plan() }, "a batch of 60 metrics can't have 61 counters"),
            (Plan { series: Some(70), ..plan() }, "70 series an agent are not a multiple of 60 metrics a batch"),
            (Plan { content: Content::Single, ..plan() }, "a single update carries 1 metric, not 60"),
        ];
        for (plan, sentence) in refused {
            assert_eq!(plan.workload().unwrap_err().to_string(), sentence);
        }
        assert!(matches!(Plan { source: Some("a b".to_owned()), ..plan() }.workload(), Err(PlanError::Source(_))));
    }
}

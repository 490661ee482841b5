//! A run: agents that send, each connection a task of its own.

mod backoff;
mod counts;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::counts::RunCounts;
use self::worker::Worker;
use crate::check::SentBatches;
use crate::ledger::{Ledger, LedgerError};
use crate::plan::{Plan, PlanError};
use crate::report::Report;
use crate::request::RequestBuilder;
use crate::workload::Workload;

/// What all connections of a run share.
struct Shared {
    plan: Plan,
    workload: Workload,
    requests: RequestBuilder,
    ledger: Option<Ledger>,
    /// Cancelled when no more batches are to be begun.
    stop: CancellationToken,
    /// Cancelled when those under way are to be given up.
    give_up: CancellationToken,
    start: Instant,
    sources: Vec<String>,
    /// The number of each agent's next batch.
    numbers: Vec<AtomicU64>,
    /// Batches begun and settled so far.
    begun: AtomicU64,
    acknowledged: AtomicU64,
    failed_tries: AtomicU64,
    counts: Mutex<RunCounts>,
    /// Why the ledger can't be trusted any more.
    broken: Mutex<Option<LedgerError>>,
}

impl Shared {
    /// Counts a new batch in; false when there are to be no more.
    fn begin(&self) -> bool {
        let over = self.stop.is_cancelled() || self.start.elapsed() >= self.plan.duration;
        !over && self.plan.batches.is_none_or(|most| self.begun.load(Ordering::Relaxed) < most) && {
            let before = self.begun.fetch_add(1, Ordering::Relaxed);
            let within = self.plan.batches.is_none_or(|most| before < most);
            if !within {
                self.begun.fetch_sub(1, Ordering::Relaxed);
            }
            within
        }
    }

    fn progress(&self) -> Progress {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Progress { begun: read(&self.begun), acknowledged: read(&self.acknowledged), failed_tries: read(&self.failed_tries) }
    }

    /// Writes to the ledger, and ends the run when that fails: a batch that is sent without an entry can't be checked.
    fn in_ledger<T: Default>(&self, write: impl FnOnce(&Ledger) -> Result<T, LedgerError>) -> Option<T> {
        let Some(ledger) = &self.ledger else { return Some(T::default()) };
        write(ledger)
            .inspect_err(|error| {
                tracing::error!(%error, "the ledger can't be written: the run ends");
                self.broken.lock().expect("no holder panics").get_or_insert_with(|| error.clone());
                self.stop.cancel();
            })
            .ok()
    }
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Batches begun.
    pub begun: u64,
    /// Batches acknowledged.
    pub acknowledged: u64,
    /// Tries that were refused, or ended without a whole answer.
    pub failed_tries: u64,
}

/// Controls a run, and tells how far it has come, while something else waits for its end.
#[derive(Clone)]
pub struct RunHandle(Arc<Shared>);

impl RunHandle {
    /// How far it has come, also after its end.
    pub fn progress(&self) -> Progress {
        self.0.progress()
    }

    /// See [`Run::stop`].
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Ends the run at once. Batches that are not acknowledged count as given up.
    pub fn give_up(&self) {
        self.0.stop.cancel();
        self.0.give_up.cancel();
    }
}

/// A run under way. Dropping it ends it at once, without a report.
pub struct Run {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

impl Run {
    /// Makes the prepared bodies, which may take a while and does not yield, and starts the agents on the current runtime.
    pub fn start(plan: Plan) -> Result<Self, PlanError> {
        let workload = plan.workload()?;
        let checked = plan.remember && !matches!(plan.content, crate::Content::Custom { .. });
        let ledger = checked.then(|| Ledger::new(&workload, plan.ledger.as_deref())).transpose();
        let ledger = ledger.map_err(|error| PlanError::Ledger(error.to_string()))?;
        let requests = RequestBuilder::new(&plan, &workload);
        let shared = Arc::new(Shared {
            sources: (0..workload.agents).map(|agent| workload.source(agent)).collect(),
            numbers: (0..workload.agents).map(|_| AtomicU64::new(0)).collect(),
            stop: CancellationToken::new(),
            give_up: CancellationToken::new(),
            start: Instant::now(),
            begun: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            failed_tries: AtomicU64::new(0),
            counts: Mutex::default(),
            broken: Mutex::default(),
            plan,
            workload,
            requests,
            ledger,
        });
        let connections = shared.plan.connections();
        let workers = (0..connections).map(|connection| Worker::new(&shared, connection).work()).collect();
        Ok(Self { shared, workers })
    }

    /// The series and bodies of this run.
    pub fn workload(&self) -> &Workload {
        &self.shared.workload
    }

    /// What the requests made beforehand hold in memory, in bytes.
    pub fn prepared_bytes(&self) -> usize {
        self.shared.requests.prepared_bytes()
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.shared.progress()
    }

    /// Controls the run while something else waits for its end.
    pub fn handle(&self) -> RunHandle {
        RunHandle(Arc::clone(&self.shared))
    }

    /// No new batches from now on. Those under way are still tried for as long as the plan says.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Waits until every batch is settled: what happened, and what the server is to be checked against.
    pub async fn finish(mut self) -> (Report, SentBatches) {
        while let Some(worker) = self.workers.join_next().await {
            worker.expect("a connection's task does not panic");
        }
        let shared = &self.shared;
        let records = shared.ledger.as_ref().map(Ledger::take).unwrap_or_default();
        let broken = shared.broken.lock().expect("no holder panics").take();
        let report = shared.counts.lock().expect("no holder panics").report(shared, broken.map(|error| error.to_string()));
        (report, SentBatches::new(shared.workload.clone(), records))
    }
}

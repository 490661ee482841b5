//! Runs queries on history: so many at once, each within its time and all within one budget of memory.
//!
//! A query waits for its turn, then has a thread to itself until it is done: it is read there, what it selects is read from the
//! store, and it is evaluated, all at a lower priority than writes have. It ends early when its time is over, when memory is
//! used up and when its client leaves.

mod admission;
mod error;
mod export;
mod listing;
mod pace;
mod prefetch;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use golectra_process::trace;
use golectra_promql::parse::ast::ValueType;
use golectra_promql::{Engine, EvalError, Interrupt, Interrupted, Limits, MemoryBudget, Outcome, Query, Reservation, Steps};
use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field};

pub use self::error::QueryError;
pub use self::export::ExportQuestion;
pub use self::listing::{Listed, Listing, Truncated, matchers};
pub use self::watch::Costs;

use self::admission::{Admission, Admitted, RESERVED_FOR_RULES};
use self::error::Bounds;
use self::export::Exports;
use self::pace::{Allowance, Pace};
use self::watch::Watch;
use super::decode::Helpers;
use super::shared::SharedReads;
use super::threads::{Priority, STACK_BYTES, Threads};
use crate::metrics::queries::{QueryKind, QueryMetrics};
use crate::store::WriterLoad;
use crate::store::history::{History, HistoryError};

/// The most steps of a range query: 11,000 and the one at its start, as in Prometheus.
pub const MAX_STEPS: usize = 11_001;

/// How long a query that is over its time may take to notice, before it is left to itself.
const GRACE: Duration = Duration::from_secs(1);

/// What queries may cost, and what is said about them.
#[derive(Debug, Clone, Copy)]
pub struct QueryLimits {
    /// How many run at once.
    pub concurrency: usize,
    /// How long one may take, its waiting time included.
    pub timeout: Duration,
    /// How many series one may select.
    pub max_series: usize,
    /// How much memory all of them may take.
    pub max_bytes: usize,
    /// Those that take longer are logged.
    pub log_after: Duration,
    /// The step of a subquery that gives none; above 0.
    pub subquery_step: Duration,
}

/// Runs queries. Cheap to clone.
#[derive(Clone)]
pub struct Queries(Arc<Inner>);

struct Inner {
    history: Arc<dyn History>,
    limits: QueryLimits,
    engine: Engine,
    admission: Admission,
    writers: WriterLoad,
    allowance: Arc<Allowance>,
    threads: Threads,
    /// For queries while writers are busy all the time.
    idle_threads: Threads,
    helpers: Arc<Helpers>,
    /// Exports take hours: they take no query's turn.
    exports: Exports,
    budget: Arc<MemoryBudget>,
    metrics: QueryMetrics,
}

/// What is to be evaluated.
#[derive(Debug, Clone)]
pub struct Question {
    /// The query.
    pub text: String,
    /// When.
    pub when: When,
    /// How long a sample counts as the newest one, if not as long as usual.
    pub lookback_ms: Option<i64>,
    /// How long it may take, if not as long as the server allows.
    pub timeout: Option<Duration>,
}

/// When a query is evaluated.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// At one time.
    At {
        /// In unix milliseconds.
        time_ms: i64,
    },
    /// At each step.
    Over(Steps),
}

/// A query and its result, whose memory is charged to the budget until it is dropped.
pub struct Evaluated {
    /// The query.
    pub query: Query,
    /// What came out.
    pub outcome: Outcome,
    /// What it took.
    pub costs: Costs,
}

impl Queries {
    /// Starts the threads that queries run on. They make way for the store's writers.
    pub fn start(history: Arc<dyn History>, limits: QueryLimits, writers: WriterLoad, registry: &Registry) -> io::Result<Self> {
        let budget = MemoryBudget::new(limits.max_bytes);
        let metrics = QueryMetrics::register(registry, &QueryError::REASONS, Arc::clone(&budget)).map_err(io::Error::other)?;
        let processors = thread::available_parallelism().map_or(1, |processors| u32::try_from(processors.get()).unwrap_or(u32::MAX));
        let allowance = Arc::new(Allowance::of(writers.clone(), processors));
        let engine_limits = Limits { max_series: limits.max_series, max_steps: MAX_STEPS, ..Limits::default() };
        let subquery_step_ms = i64::try_from(limits.subquery_step.as_millis()).map_err(io::Error::other)?;
        Ok(Self(Arc::new(Inner {
            history,
            limits,
            engine: Engine { subquery_step_ms, limits: engine_limits, ..Engine::default() },
            admission: Admission::new(limits.concurrency),
            writers,
            allowance,
            threads: Threads::start(limits.concurrency + RESERVED_FOR_RULES, STACK_BYTES, Priority::Low)?,
            idle_threads: Threads::start(limits.concurrency, STACK_BYTES, Priority::Idle)?,
            helpers: Arc::new(Helpers::start()?),
            exports: Exports::start()?,
            budget,
            metrics,
        })))
    }

    /// How many series a query may select.
    pub fn max_series(&self) -> usize {
        self.0.limits.max_series
    }

    /// Evaluates a query.
    pub async fn evaluate(&self, question: Question) -> Result<Evaluated, QueryError> {
        self.run(Call::of(&question), move |run| run.evaluate(&question, None)).await
    }

    /// Plans what the queries of rules read together. `written` are the metrics that are written while they run. What can't be read is left to its rule.
    pub async fn share_reads(&self, questions: Vec<Question>, written: BTreeSet<String>) -> Result<Arc<SharedReads>, QueryError> {
        let call = Call { kind: QueryKind::Parse, text: String::new(), timeout: None, is_rule: true };
        self.run(call, move |run| Ok(Arc::new(run.plan_reads(&questions, &written)))).await
    }

    /// Evaluates the query of a rule, which has a turn of its own. The caller asks for one after the other.
    pub async fn evaluate_rule(&self, question: Question, reads: Option<Arc<SharedReads>>) -> Result<Evaluated, QueryError> {
        let call = Call { is_rule: true, ..Call::of(&question) };
        self.run(call, move |run| {
            let evaluated = run.evaluate(&question, reads.as_deref());
            match (reads, evaluated) {
                // Perhaps it finds room without what is held for others.
                (Some(reads), Err(QueryError::TooMuchMemory { .. } | QueryError::MemoryTaken { .. })) => {
                    reads.clear();
                    run.memory.shrink(run.memory.used_bytes());
                    run.evaluate(&question, None)
                }
                (_, evaluated) => evaluated,
            }
        })
        .await
    }

    /// Reads a query and tells what `tell` says about it.
    pub async fn parse<T: Send + 'static>(&self, text: String, tell: impl FnOnce(&Query) -> T + Send + 'static) -> Result<T, QueryError> {
        let call = Call { kind: QueryKind::Parse, text: text.clone(), timeout: None, is_rule: false };
        self.run(call, move |run| Ok(tell(&run.parse(&text)?))).await
    }

    /// Runs `work` on a thread once it may.
    async fn run<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(&mut Run) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let Inner { history, limits, engine, writers, allowance, threads, idle_threads, helpers, budget, metrics, .. } = &*self.0;
        let mut watch = Watch::begin(metrics, call.kind, &call.text, limits.log_after);
        let timeout = call.timeout.map_or(limits.timeout, |timeout| timeout.min(limits.timeout));
        let bounds = Bounds { timeout, max_series: limits.max_series, max_bytes: limits.max_bytes };
        let started = Instant::now();
        let deadline = started + timeout;
        let mut memory = budget.reserve(limits.max_bytes);
        let admitted = match self.admit(&call, &mut memory, deadline, &bounds).await {
            Ok(admitted) => admitted,
            Err(error) => {
                watch.ends(error.reason());
                return Err(error);
            }
        };
        watch.costs.queued = started.elapsed();
        // What rules ask for does not make way: alerts are not late because there is much to write.
        watch.costs.made_way = !call.is_rule && writers.are_pressed();
        let threads = if watch.costs.made_way { idle_threads } else { threads };
        let canceled = CancellationToken::new();
        let _cancels = canceled.clone().drop_guard();
        let (sender, receiver) = oneshot::channel();
        let limit = Limit { handle: Handle::current(), deadline, canceled, bounds, pace: None };
        let mut run = Run {
            history: Arc::clone(history),
            engine: *engine,
            helpers: Arc::clone(helpers),
            budget: Arc::clone(budget),
            memory,
            limit,
            costs: watch.costs,
        };
        let allowance = (!call.is_rule).then(|| Arc::clone(allowance));
        let span = span(call.kind);
        threads.run(move || {
            run.limit.pace = allowance.map(|allowance| Pace::of_query(&allowance, timeout));
            let worked = span.in_scope(|| catch_unwind(AssertUnwindSafe(|| work(&mut run))));
            let result = worked.unwrap_or_else(|_| Err(QueryError::Internal("a query panicked: this is a bug in golectra-server".into())));
            watch.costs = run.costs;
            watch.costs.peak_bytes = watch.costs.peak_bytes.max(run.memory.peak_bytes());
            watch.costs.paused = run.limit.pace.as_ref().map_or(Duration::ZERO, Pace::paused);
            span.record("series", watch.costs.series);
            span.record("samples", watch.costs.samples);
            watch.ends(result.as_ref().map_or_else(QueryError::reason, |_| "ok"));
            // Whoever gets the answer finds the metrics and the room of this query as they are without it.
            drop((watch, run, admitted));
            let _ = sender.send(result);
        });
        match timeout_at(deadline + GRACE, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(QueryError::Internal("a thread of queries ended: this is a bug in golectra-server".into())),
            Err(_) => Err(QueryError::Timeout { limit: timeout }),
        }
    }

    async fn admit(&self, call: &Call, memory: &mut Reservation, deadline: Instant, bounds: &Bounds) -> Result<Admitted, QueryError> {
        memory.grow(call.text.len()).map_err(|error| bounds.memory(error))?;
        let admission = &self.0.admission;
        let admitted = if call.is_rule { admission.enter_rule(deadline).await } else { admission.enter(deadline).await };
        admitted.map_err(|reason| bounds.not_admitted(reason))
    }
}

/// What is said about a query before it runs.
struct Call {
    kind: QueryKind,
    text: String,
    timeout: Option<Duration>,
    /// Whether it has the turn that is reserved for rules.
    is_rule: bool,
}

impl Call {
    fn of(question: &Question) -> Self {
        let kind = match question.when {
            When::At { .. } => QueryKind::Instant,
            When::Over(_) => QueryKind::Range,
        };
        Self { kind, text: question.text.clone(), timeout: question.timeout, is_rule: false }
    }
}

/// A query that runs.
struct Run {
    history: Arc<dyn History>,
    engine: Engine,
    helpers: Arc<Helpers>,
    budget: Arc<MemoryBudget>,
    /// What is read for it.
    memory: Reservation,
    limit: Limit,
    costs: Costs,
}

impl Run {
    fn parse(&self, text: &str) -> Result<Query, QueryError> {
        Query::parse(text, &self.engine.parse_limits).map_err(|error| QueryError::bad_query(&error))
    }

    fn evaluate(&mut self, question: &Question, reads: Option<&SharedReads>) -> Result<Evaluated, QueryError> {
        let bounds = self.limit.bounds;
        let begun = Instant::now();
        let engine = self.engine_of(question);
        let query = self.parse(&question.text)?;
        let value_type = query.expr().value_type();
        if matches!(question.when, When::Over(_)) && !matches!(value_type, ValueType::Scalar | ValueType::InstantVector) {
            return Err(bounds.evaluation(EvalError::RangeOfRanges { found: value_type.to_string() }));
        }
        let selections = self.selections(&engine, &query, question.when)?;
        self.costs.prepared = begun.elapsed();

        let begun = Instant::now();
        let prefetched = self.prefetch(selections, reads)?;
        self.costs.read = begun.elapsed();

        let begun = Instant::now();
        // A query that alone needs too much finds that before it finds the shared budget used up.
        let mut engine = engine;
        engine.limits.max_bytes = bounds.max_bytes.saturating_sub(self.memory.reserved_bytes());
        let outcome = match question.when {
            When::At { time_ms } => engine.instant(&query, time_ms, &prefetched, &self.limit, &self.budget),
            When::Over(steps) => engine.range(&query, steps, &prefetched, &self.limit, &self.budget),
        };
        self.costs.evaluated = begun.elapsed();
        let outcome = outcome.map_err(|error| bounds.evaluation(error))?;
        self.costs.series = outcome.statistics.series;
        self.costs.samples = outcome.statistics.samples;
        self.costs.peak_bytes = self.memory.used_bytes() + outcome.statistics.peak_bytes;
        Ok(Evaluated { query, outcome, costs: self.costs })
    }
}

/// What ends a query early.
struct Limit {
    handle: Handle,
    deadline: Instant,
    canceled: CancellationToken,
    bounds: Bounds,
    /// How it makes way for writers, if it does.
    pace: Option<Pace>,
}

impl Limit {
    /// Waits for the store as long as the query may.
    fn wait<T>(&self, read: impl Future<Output = Result<T, HistoryError>>, function: Option<&str>) -> Result<T, QueryError> {
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.canceled.cancelled() => Err(QueryError::Canceled),
                read = timeout_at(self.deadline, read) => match read {
                    Ok(read) => read.map_err(|error| self.bounds.history(error, function)),
                    Err(_) => Err(self.bounds.interrupted(Interrupted::DeadlineExceeded)),
                },
            }
        })
    }
}

impl Interrupt for Limit {
    fn check(&self) -> Result<(), Interrupted> {
        loop {
            if self.canceled.is_cancelled() {
                return Err(Interrupted::Cancelled);
            }
            if Instant::now() >= self.deadline {
                return Err(Interrupted::DeadlineExceeded);
            }
            match self.pace.as_ref().and_then(Pace::due) {
                Some(pause) => thread::sleep(pause),
                None => return Ok(()),
            }
        }
    }
}

/// A span for the trace, and for the log where someone looks closely.
fn span(kind: QueryKind) -> Span {
    macro_rules! query {
        ($level:ident) => {
            tracing::span!(tracing::Level::$level, "query", kind = kind.as_str(), series = field::Empty, samples = field::Empty)
        };
    }
    if trace::is_active() { query!(INFO) } else { query!(DEBUG) }
}

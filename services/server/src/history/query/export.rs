//! Exports of history over HTTP: few at once, each on a thread of its own, in pieces that are read as fast as the client takes them.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use golectra_process::LogLimiter;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::Bounds;
use super::pace::Pace;
use super::watch::Watch;
use super::{Queries, QueryError, matchers};
use crate::history::export::{Export, ExportError, ExportRequest, Exported, Format, Position, Sink};
use crate::history::threads::{Priority, STACK_BYTES, Threads};
use crate::metrics::queries::QueryKind;
use crate::store::history::TimeRange;

/// How many exports run at once. Each may hold a page of 16 MiB of the memory of queries, and a connection of their pool while it reads.
const MAX_EXPORTS: usize = 2;

/// A client that does not take a piece within this time is slow: nothing but the piece is held for it.
const SLOW_AFTER: Duration = Duration::from_millis(500);

/// How long an export waits for its client to take a piece. The connection has a limit of its own, which is shorter.
const CLIENT_PATIENCE: Duration = Duration::from_mins(5);

/// Log lines about exports that were cut off.
static CUT_OFF_LOG: LogLimiter = LogLimiter::new();

/// What is to be exported.
#[derive(Debug, Clone)]
pub struct ExportQuestion {
    /// Selectors; a series must meet one of them. Without any all series are exported.
    pub selectors: Vec<String>,
    /// From when to when.
    pub range: TimeRange,
    /// Where an earlier export was cut off.
    pub after: Option<Position>,
    /// How it is written.
    pub format: Format,
}

/// Where exports run.
pub(super) struct Exports {
    places: Arc<Semaphore>,
    threads: Threads,
    /// For exports that begin while writers are busy all the time.
    idle_threads: Threads,
}

impl Exports {
    pub(super) fn start() -> io::Result<Self> {
        let threads = |priority| Threads::start(MAX_EXPORTS, STACK_BYTES, priority);
        Ok(Self { places: Arc::new(Semaphore::new(MAX_EXPORTS)), threads: threads(Priority::Low)?, idle_threads: threads(Priority::Idle)? })
    }
}

/// The stream of an export. Dropped early it ends the export.
pub struct ExportPieces {
    pieces: mpsc::Receiver<Bytes>,
    /// Whether it came to its end.
    outcome: oneshot::Receiver<Result<(), QueryError>>,
    _cancels: DropGuard,
}

impl ExportPieces {
    /// The pieces. An error means that the export is cut off.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, QueryError>> + Send + 'static {
        stream::try_unfold(Some(self), |pieces| async move {
            let Some(mut pieces) = pieces else { return Ok(None) };
            match pieces.pieces.recv().await {
                Some(piece) => Ok(Some((piece, Some(pieces)))),
                None => pieces.outcome.await.unwrap_or_else(|_| Err(panicked())).map(|()| None),
            }
        })
    }
}

fn panicked() -> QueryError {
    QueryError::Internal("an export panicked: this is a bug in golectra-server".into())
}

/// Gives pieces to the stream, with pauses where writers need the processors.
struct Sender {
    pieces: mpsc::Sender<Bytes>,
    pace: Pace,
}

impl Sink for Sender {
    async fn offer(&mut self, piece: Bytes) -> Result<Option<Bytes>, ExportError> {
        while let Some(pause) = self.pace.due() {
            sleep(pause).await;
        }
        match timeout(SLOW_AFTER, self.pieces.reserve()).await {
            Err(_) => Ok(Some(piece)),
            Ok(room) => {
                room.map_err(|_| ExportError::Gone("the client left".into()))?.send(piece);
                Ok(None)
            }
        }
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), ExportError> {
        let gone = |why: &str| ExportError::Gone(why.to_owned());
        let room = timeout(CLIENT_PATIENCE, self.pieces.reserve()).await.map_err(|_| gone("the client takes nothing"))?;
        room.map_err(|_| gone("the client left"))?.send(piece);
        Ok(())
    }
}

impl Queries {
    /// Begins an export. An error that shows itself before anything was read has an answer of its own; later ones cut the stream off.
    pub async fn export(&self, question: ExportQuestion) -> Result<ExportPieces, QueryError> {
        let inner = Arc::clone(&self.0);
        let limits = inner.limits;
        let mut watch = Watch::begin(&inner.metrics, QueryKind::Export, &question.selectors.join(" "), limits.log_after);
        let Ok(place) = Arc::clone(&inner.exports.places).try_acquire_owned() else {
            let error = QueryError::TooManyExports { limit: MAX_EXPORTS };
            watch.ends(error.reason());
            return Err(error);
        };
        let bounds = Bounds { timeout: limits.timeout, max_series: limits.max_series, max_bytes: limits.max_bytes };
        let canceled = CancellationToken::new();
        let cancels = canceled.clone().drop_guard();
        let (opened, opening) = oneshot::channel();
        let (sender, pieces) = mpsc::channel(1);
        let (ended, outcome) = oneshot::channel();
        let handle = Handle::current();
        let job = Arc::clone(&inner);
        let exports = &inner.exports;
        watch.costs.made_way = inner.writers.are_pressed();
        (if watch.costs.made_way { &exports.idle_threads } else { &exports.threads }).run(move || {
            let mut exported = Exported::default();
            let mut sink = Sender { pieces: sender, pace: Pace::of_export(&job.allowance) };
            let work = async {
                let limited = async {
                    let mut export = open(&job, question, &bounds).await?;
                    let _ = opened.send(());
                    let ran = export.run(&mut sink).await;
                    exported = export.exported;
                    ran.map_err(|error| bounds.export(error))
                };
                tokio::select! {
                    biased;
                    () = canceled.cancelled() => Err(QueryError::Canceled),
                    result = limited => result,
                }
            };
            let result = catch_unwind(AssertUnwindSafe(|| handle.block_on(work))).unwrap_or_else(|_| Err(panicked()));
            if let Err(error) = &result {
                log(error);
            }
            (watch.costs.series, watch.costs.samples, watch.costs.peak_bytes) = (exported.series, exported.samples, exported.peak_bytes);
            watch.ends(result.as_ref().map_or_else(QueryError::reason, |()| "ok"));
            // Whoever sees the end of the stream finds the metrics and the place as they are without it.
            drop((watch, place));
            let _ = ended.send(result);
        });
        if opening.await.is_ok() {
            return Ok(ExportPieces { pieces, outcome, _cancels: cancels });
        }
        Err(outcome.await.unwrap_or_else(|_| Err(panicked())).err().unwrap_or_else(panicked))
    }
}

/// Says in the log why an export has no end.
fn log(error: &QueryError) {
    let reason = error.reason();
    let cause = match error {
        QueryError::Internal(cause) | QueryError::Unavailable(cause) => cause.clone(),
        error => error.to_string(),
    };
    CUT_OFF_LOG.log(reason, move |count| tracing::warn!(count, cause, "exports were refused or cut off"));
}

async fn open(inner: &super::Inner, question: ExportQuestion, bounds: &Bounds) -> Result<Export, QueryError> {
    let ExportQuestion { selectors, range, after, format } = question;
    let request = ExportRequest { any: matchers(&selectors)?, range, after, format };
    let opened = Export::open(Arc::clone(&inner.history), Arc::clone(&inner.budget), inner.limits.timeout, request);
    opened.await.map_err(|error| bounds.export(error))
}

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
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::Bounds;
use super::threads::Threads;
use super::watch::Watch;
use super::{Queries, QueryError, matchers};
use crate::history::export::{Export, ExportError, ExportRequest, Exported, Format, Position, Sink};
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
}

impl Exports {
    pub(super) fn start() -> io::Result<Self> {
        Ok(Self { places: Arc::new(Semaphore::new(MAX_EXPORTS)), threads: Threads::start(MAX_EXPORTS)? })
    }
}

/// A part of an export's stream.
enum Part {
    Piece(Bytes),
    /// Without this the stream was cut off.
    End,
}

/// The stream of an export. Dropped early it ends the export.
pub struct ExportPieces {
    parts: mpsc::Receiver<Result<Part, QueryError>>,
    _cancels: DropGuard,
}

impl ExportPieces {
    /// The pieces. An error means that the export is cut off.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, QueryError>> + Send + 'static {
        stream::try_unfold(self, |mut pieces| async move {
            match pieces.parts.recv().await {
                Some(Ok(Part::Piece(piece))) => Ok(Some((piece, pieces))),
                Some(Ok(Part::End)) => Ok(None),
                Some(Err(error)) => Err(error),
                None => Err(QueryError::Internal("an export panicked: this is a bug in golectra-server".into())),
            }
        })
    }
}

/// Gives pieces to the stream.
struct Sender(mpsc::Sender<Result<Part, QueryError>>);

impl Sink for Sender {
    async fn offer(&mut self, piece: Bytes) -> Result<Option<Bytes>, ExportError> {
        match timeout(SLOW_AFTER, self.0.reserve()).await {
            Err(_) => Ok(Some(piece)),
            Ok(room) => {
                room.map_err(|_| ExportError::Gone("the client left".into()))?.send(Ok(Part::Piece(piece)));
                Ok(None)
            }
        }
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), ExportError> {
        let gone = |why: &str| ExportError::Gone(why.to_owned());
        let room = timeout(CLIENT_PATIENCE, self.0.reserve()).await.map_err(|_| gone("the client takes nothing"))?;
        room.map_err(|_| gone("the client left"))?.send(Ok(Part::Piece(piece)));
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
        let (sender, parts) = mpsc::channel(1);
        let handle = Handle::current();
        let job = Arc::clone(&inner);
        inner.exports.threads.run(move || {
            let mut exported = Exported::default();
            let work = async {
                let export = tokio::select! {
                    biased;
                    () = canceled.cancelled() => Err(QueryError::Canceled),
                    export = open(&job, question, &bounds) => export,
                };
                let mut export = match export {
                    Ok(export) => export,
                    Err(error) => {
                        let reason = error.reason();
                        let _ = opened.send(Err(error));
                        return reason;
                    }
                };
                let _ = opened.send(Ok(()));
                let mut sink = Sender(sender);
                let ran = tokio::select! {
                    biased;
                    () = canceled.cancelled() => Err(QueryError::Canceled),
                    ran = export.run(&mut sink) => ran.map_err(|error| bounds.export(error)),
                };
                exported = export.exported;
                let reason = ran.as_ref().map_or_else(QueryError::reason, |()| "ok");
                if let Err(error) = &ran {
                    let cause = match error {
                        QueryError::Internal(cause) | QueryError::Unavailable(cause) => cause.clone(),
                        error => error.to_string(),
                    };
                    CUT_OFF_LOG.log(reason, move |count| tracing::warn!(count, cause, "exports were cut off"));
                }
                // Its memory is given back before whoever waits for the end sees it.
                drop(export);
                let _ = timeout(CLIENT_PATIENCE, sink.0.send(ran.map(|()| Part::End))).await;
                reason
            };
            // Without an answer the streams of a panic are cut off.
            let outcome = catch_unwind(AssertUnwindSafe(|| handle.block_on(work))).unwrap_or("internal");
            (watch.costs.series, watch.costs.samples, watch.costs.peak_bytes) = (exported.series, exported.samples, exported.peak_bytes);
            watch.ends(outcome);
            drop((watch, place));
        });
        match opening.await {
            Ok(Ok(())) => Ok(ExportPieces { parts, _cancels: cancels }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(QueryError::Internal("an export panicked: this is a bug in golectra-server".into())),
        }
    }
}

async fn open(inner: &super::Inner, question: ExportQuestion, bounds: &Bounds) -> Result<Export, QueryError> {
    let ExportQuestion { selectors, range, after, format } = question;
    let request = ExportRequest { any: matchers(&selectors)?, range, after, format };
    let opened = Export::open(Arc::clone(&inner.history), Arc::clone(&inner.budget), inner.limits.timeout, request);
    opened.await.map_err(|error| bounds.export(error))
}

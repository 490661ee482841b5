//! Exports history at full resolution, as a stream of lines that is resumable after any of them.
//!
//! What is asked for is listed first: a few bytes a series. Then it is read page by page: some series of one source that are stored together, and at
//! most a day. A page is read within a bound of memory; where it does not fit it is halved. So the order of samples is: source, block of series, day,
//! series, time; and a series' id with the time of its last sample tell where to go on, whatever the pages were.

mod lines;
mod pages;
mod position;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use golectra_promql::{Matcher, MemoryBudget, MemoryExceeded};
use tokio::time::{sleep, timeout};

pub use self::lines::Format;
pub use self::position::Position;

use self::lines::{LINE_SAMPLES, SeriesLines};
use self::pages::{Page, Pages};
use crate::store::history::{ExportedSeries, History, HistoryError, SeriesFilter, TimeRange};

/// A piece is handed over once it has so many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// What a page may take in memory.
const PAGE_BYTES: usize = 16 << 20;

/// How long an export waits for memory that queries have.
const MEMORY_PATIENCE: Duration = Duration::from_secs(30);

/// What is to be exported.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// Lists of matchers; a series must meet all of one list. Without any list all series are exported.
    pub any: Vec<Vec<Matcher>>,
    /// From when to when.
    pub range: TimeRange,
    /// Where an earlier export was cut off.
    pub after: Option<Position>,
    /// How it is written.
    pub format: Format,
}

/// Why an export ends early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Its history can't be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A read took too long.
    #[error("the store did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// Nobody takes it any more.
    #[error("it is not taken any more: {0}")]
    Gone(String),
}

/// Takes what is exported.
pub trait Sink {
    /// Takes a piece soon, or gives it back.
    fn offer(&mut self, piece: Bytes) -> impl Future<Output = Result<Option<Bytes>, ExportError>>;

    /// Takes a piece, however long it takes within the sink's own limits.
    fn send(&mut self, piece: Bytes) -> impl Future<Output = Result<(), ExportError>>;
}

/// What was exported so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exported {
    /// Series, once for each page that they are in.
    pub series: usize,
    /// Samples.
    pub samples: u64,
    /// The most memory that a page held.
    pub peak_bytes: usize,
}

/// An export under way.
pub struct Export {
    history: Arc<dyn History>,
    budget: Arc<MemoryBudget>,
    pages: Pages,
    format: Format,
    is_resumed: bool,
    read_limit: Duration,
    /// The last sample of the lines that the sink does not have yet.
    written: Option<Position>,
    /// What was exported so far.
    pub exported: Exported,
    /// The last sample that the sink has taken.
    pub taken: Option<Position>,
}

impl Export {
    /// Lists what is to be exported.
    pub async fn open(
        history: Arc<dyn History>,
        budget: Arc<MemoryBudget>,
        read_limit: Duration,
        request: ExportRequest,
    ) -> Result<Self, ExportError> {
        let ExportRequest { any, range, after, format } = request;
        let mut memory = budget.reserve(budget.limit_bytes());
        let filter = SeriesFilter { any, range, limit: usize::MAX };
        let listed = if range.start_ms > range.end_ms {
            Vec::new()
        } else {
            timeout(read_limit, history.list(&filter, &mut memory)).await.map_err(|_| ExportError::Timeout(read_limit))??
        };
        let (is_resumed, taken) = (after.is_some(), after.clone());
        let pages = Pages::new(listed, after, memory);
        Ok(Self { history, budget, pages, format, is_resumed, read_limit, written: None, exported: Exported::default(), taken })
    }

    /// Reads and writes all of it.
    pub async fn run(&mut self, sink: &mut impl Sink) -> Result<(), ExportError> {
        let mut piece = Vec::new();
        if !self.is_resumed {
            self.format.begin(&mut piece);
        }
        while let Some(page) = self.pages.next() {
            self.write_page(page, &mut piece, sink).await?;
        }
        if piece.is_empty() {
            return Ok(());
        }
        sink.send(piece.into()).await?;
        // None if the line with the columns' names is all that was written.
        if let Some(last) = self.written.take() {
            self.taken = Some(last);
        }
        Ok(())
    }

    async fn write_page(&mut self, page: Page, piece: &mut Vec<u8>, sink: &mut impl Sink) -> Result<(), ExportError> {
        let mut memory = self.budget.reserve(PAGE_BYTES.min(self.budget.limit_bytes() / 2));
        let read = self.history.read_listed(&page.source, &page.series, page.range, &mut memory);
        let series = match timeout(self.read_limit, read).await.map_err(|_| ExportError::Timeout(self.read_limit))? {
            Err(HistoryError::Memory(error)) => {
                drop(memory);
                return self.read_in_parts(page, error).await;
            }
            series => series?,
        };
        for ExportedSeries { number, labels, samples } in series {
            let mut timestamps_ms = Vec::new();
            let values = samples.read_exact(&mut timestamps_ms).map_err(HistoryError::from)?;
            // One series is decoded at a time.
            let decoded = timestamps_ms.capacity() * 2 * size_of::<i64>();
            if let Err(error) = memory.grow(decoded) {
                drop((memory, values, timestamps_ms));
                return self.read_in_parts(page.from(number), error).await;
            }
            self.exported.peak_bytes = self.exported.peak_bytes.max(memory.peak_bytes());
            let asked = within(&timestamps_ms, page.range);
            let timestamps_ms = &timestamps_ms[asked.clone()];
            let lines = SeriesLines::new(self.format, &page.source, number, &labels, &values);
            self.exported.series += usize::from(!timestamps_ms.is_empty());
            for (times, first) in timestamps_ms.chunks(LINE_SAMPLES).zip((asked.start..).step_by(LINE_SAMPLES)) {
                lines.write(piece, times, &values, first);
                self.exported.samples += times.len() as u64;
                let last_ms = times.last().copied().unwrap_or(page.range.start_ms);
                let last = Position { source: page.source.clone(), number, at_ms: last_ms };
                if piece.len() < PIECE_BYTES {
                    self.written = Some(last);
                    continue;
                }
                let Some(kept) = sink.offer(std::mem::take(piece).into()).await? else {
                    self.taken = Some(last);
                    continue;
                };
                // Whoever reads it is slow: nothing but this piece is held until it is taken, and the rest is read again.
                self.pages.put_back(page.after(number));
                self.pages.put_back(page.of(number, last_ms + 1));
                drop((memory, values));
                sink.send(kept).await?;
                self.taken = Some(last);
                return Ok(());
            }
            memory.shrink(decoded);
        }
        Ok(())
    }

    /// Puts back a page that does not fit into memory, in halves. One that can't be halved, or for which queries leave no room, is tried again.
    async fn read_in_parts(&mut self, page: Page, error: MemoryExceeded) -> Result<(), ExportError> {
        match (error, page.halves()) {
            (MemoryExceeded::Query { .. }, Some((first, second))) => {
                self.pages.put_back(second);
                self.pages.put_back(first);
                Ok(())
            }
            (MemoryExceeded::AllQueries { .. }, _) if page.waited < MEMORY_PATIENCE => {
                let pause = Duration::from_millis(fastrand::u64(100..300));
                sleep(pause).await;
                self.pages.put_back(Page { waited: page.waited + pause, ..page });
                Ok(())
            }
            _ => Err(HistoryError::Memory(error).into()),
        }
    }
}

/// Which of these times are within the range.
fn within(timestamps_ms: &[i64], range: TimeRange) -> std::ops::Range<usize> {
    let end = timestamps_ms.partition_point(|at_ms| *at_ms <= range.end_ms);
    timestamps_ms.partition_point(|at_ms| *at_ms < range.start_ms).min(end)..end
}

//! Reading history: the samples of series over time.

mod first;
pub mod rollups;

use std::collections::BTreeMap;

use async_trait::async_trait;
use golectra_promql::store::{Bucket, Selection};
use golectra_promql::{Labels, Matcher, MemoryExceeded, Reservation};
use golectra_protocol::remote_write::Metadata;

pub use self::first::{First, ListItem};
use super::StoreError;

/// A period of time, both ends included, in unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// The first time that belongs to it.
    pub start_ms: i64,
    /// The last time that belongs to it.
    pub end_ms: i64,
}

/// Series and labels that are asked for without their samples.
#[derive(Debug, Clone)]
pub struct SeriesFilter {
    /// Lists of matchers; a series must meet all of one list. Without any list all series are asked for.
    pub any: Vec<Vec<Matcher>>,
    /// Only series that may have samples in this time. A store may answer series whose samples are only near it.
    pub range: TimeRange,
    /// At most so many results.
    pub limit: usize,
}

/// Results, and whether the limit left some out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited<T> {
    /// In their order.
    pub items: Vec<T>,
    /// Whether there are more.
    pub truncated: bool,
}

/// One series and its samples in the time that was asked for.
pub struct HistorySeries {
    /// Its labels as PromQL sees them: see [`crate::history::labels`].
    pub labels: Labels,
    /// Its samples, mostly still coded.
    pub samples: Box<dyn ReadSamples>,
}

/// Puts what has the same labels together: to PromQL it is one series. The list is sorted by them.
pub fn group_by_labels<T>(sorted: impl IntoIterator<Item = (Labels, T)>) -> Vec<(Labels, Vec<T>)> {
    let mut groups: Vec<(Labels, Vec<T>)> = Vec::new();
    for (labels, one) in sorted {
        match groups.last_mut() {
            Some((last, all)) if *last == labels => all.push(one),
            _ => groups.push((labels, vec![one])),
        }
    }
    groups
}

/// Samples of one series, decoded when they are needed.
pub trait ReadSamples: Send + Sync {
    /// Puts the samples at the end of both lists, oldest first, one for each time; stale markers are samples, and a counter's values are
    /// running totals. Samples outside of the time that was asked for may be among them.
    fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory>;

    /// How many samples [`Self::read`] reads at most, before those outside of the time that was asked for are taken out; of rollups how many buckets.
    fn max_samples(&self) -> usize;

    /// What is left of the samples, where the answer has that instead of them: [`Self::read`] gives none then.
    fn rollup(&self) -> Option<&dyn ReadRollup> {
        None
    }
}

/// What is left of the samples of one series, decoded when it is needed.
pub trait ReadRollup: Send + Sync {
    /// How long a bucket is.
    fn bucket_ms(&self) -> i64;

    /// Puts the buckets at the end of the list, oldest first.
    fn read(&self, buckets: &mut Vec<Bucket>) -> Result<(), CorruptHistory>;
}

/// A series of a source that is listed to be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedSeries {
    /// Its number among those of its source, by which they are ordered. It stays the same as long as the series is there.
    pub number: u32,
    /// Whether it is a counter whose source has a gauge of the same id.
    pub beside_gauge: bool,
}

/// The listed series of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSource {
    /// The source's name.
    pub source: String,
    /// Its series, each once, in order. Those whose numbers divided by [`PAGE_SERIES`] are equal are read together at the least cost.
    pub series: Vec<ListedSeries>,
    /// They have no samples outside of this time that were asked for.
    pub range: TimeRange,
}

/// How many series of a source are stored together.
pub const PAGE_SERIES: u32 = 64;

/// A series and its samples as they are stored.
pub struct ExportedSeries {
    /// See [`ListedSeries::number`].
    pub number: u32,
    /// Its labels as PromQL sees them.
    pub labels: Labels,
    /// Its samples, mostly still coded.
    pub samples: Box<dyn ReadExact>,
}

/// Values of one series.
#[derive(Debug, Clone, PartialEq)]
pub enum ExactValues {
    /// A gauge's, with their bits.
    Gauge(Vec<f64>),
    /// A counter's running totals.
    Counter(Vec<i64>),
}

/// Samples of one series, decoded when they are needed, without a conversion of their values.
pub trait ReadExact: Send {
    /// Puts the times of the samples into an empty list, oldest first, one for each sample, and answers the values. Samples outside of the time that
    /// was asked for may be among them.
    fn read_exact(&self, timestamps_ms: &mut Vec<i64>) -> Result<ExactValues, CorruptHistory>;
}

/// What was stored can't be decoded. The text says where.
#[derive(Debug, thiserror::Error)]
#[error("stored history can't be decoded: {0}")]
pub struct CorruptHistory(pub String);

/// Why history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queries under way need too much memory.
    #[error(transparent)]
    Memory(#[from] MemoryExceeded),
    /// Too many series are selected.
    #[error("the query selects more than {limit} series (QUERY_MAX_SERIES); add matchers")]
    TooManySeries {
        /// The limit.
        limit: usize,
    },
    /// The samples of a part of the time are gone, and what is left of them does not suffice for what is done with them.
    #[error("the samples are not kept that long")]
    RawSamplesGone,
    /// See there.
    #[error(transparent)]
    Corrupt(#[from] CorruptHistory),
}

/// Reads history. A dropped call ends its work soon.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// The series that all matchers select and that have samples in the selection's time, sorted by labels. What the answer holds is charged to
    /// the reservation, by which also a search for too many series ends. At most `max_series`.
    async fn select(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError>;

    /// Lists the series that a filter asks for, whatever its limit, sorted by their source's name. What the answer holds is charged.
    async fn list(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError>;

    /// Reads those of these series of a source that are still there and that have samples in this time, in order. What the answer holds is charged.
    async fn read_listed(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError>;

    /// Label sets, sorted. What a list holds is charged, in this and the two below.
    async fn series(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<Labels>, HistoryError>;

    /// Names of labels that such series have, sorted.
    async fn label_names(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<String>, HistoryError>;

    /// What is said about metrics: at most `limit` of them by name, each with at most `limit_per_metric` different things that are said about it.
    async fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
        limit_per_metric: usize,
    ) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError>;

    /// Values of a label that such series have, sorted.
    async fn label_values(
        &self,
        label: &str,
        filter: &SeriesFilter,
        reservation: &mut Reservation,
    ) -> Result<Limited<String>, HistoryError>;
}

//! Reading the newest state.

use std::collections::BTreeMap;

use async_trait::async_trait;
use golectra_promql::Matcher;
use golectra_protocol::{IdParts, Kind, MetricId, Selector, Source, Value};

use super::StoreError;
use crate::history::labels;

/// The most series of one page of [`LatestPages`].
pub const PAGE_SERIES: usize = 1_000;
/// A page ends after the series that brings its ids to this many bytes.
pub const PAGE_ID_BYTES: usize = 128 * 1024;

/// The view over all sources.
#[derive(Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Each gauge's newest value, where it is finite.
    pub gauges: BTreeMap<String, f64>,
    /// Each counter's sum.
    pub counters: BTreeMap<String, i64>,
}

/// A source and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceInfo {
    /// Its name; empty for the unnamed one.
    pub name: Source,
    /// The time of its first batch by arrival at the server, in unix milliseconds.
    pub first_seen_millis: u64,
    /// The time of its last batch by arrival at the server, in unix milliseconds.
    pub last_seen_millis: u64,
    /// How many live series it has.
    pub series: usize,
}

/// Which series are asked for. All conditions must hold; none asks for all.
#[derive(Debug, Clone, Default)]
pub struct LatestFilter {
    /// Of this source only.
    pub source: Option<Source>,
    /// With this name (the id without its labels, or the whole id) only.
    pub name: Option<String>,
    /// That match all of these.
    pub matchers: Vec<Matcher>,
}

impl LatestFilter {
    /// Whether a series of this source is asked for; `source` itself is not compared.
    pub fn matches(&self, source: &str, id: &str) -> bool {
        if self.name.is_none() && self.matchers.is_empty() {
            return true;
        }
        let parts = IdParts::of(id);
        self.name.as_ref().is_none_or(|name| id == name || parts.name == name.as_str()) && labels::all_match(&self.matchers, source, &parts)
    }
}

/// One series of one source with its newest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The node that measured.
    pub source: Source,
    /// The metric's id.
    pub id: MetricId,
    /// Its newest value or its total.
    pub value: Value,
    /// The time of the batch that set it last, in unix milliseconds; not later than that batch's arrival.
    pub at_millis: u64,
}

impl Series {
    /// The order of listings.
    pub fn order(&self) -> (&str, &str, Kind) {
        (self.source.as_str(), self.id.as_str(), self.value.kind())
    }
}

/// A listing that is read page by page, so that its length costs no memory.
#[async_trait]
pub trait LatestPages: Send {
    /// The next series, at most [`PAGE_SERIES`] of them; none at the end. Bounded at 5 s.
    async fn next_page(&mut self) -> Result<Vec<Series>, StoreError>;
}

/// Reads the newest state.
#[async_trait]
pub trait Newest: Send + Sync + 'static {
    /// One metric over all sources: a gauge's newest value where it is finite, a counter's sum (at most `i64::MAX`).
    async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError>;

    /// All metrics over all sources.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// All sources, sorted by name.
    async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError>;

    /// Live series with their newest values, in the order of [`Series::order`].
    async fn latest(&self, filter: LatestFilter) -> Result<Box<dyn LatestPages>, StoreError>;
}

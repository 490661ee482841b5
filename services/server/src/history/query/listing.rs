//! Lists series and labels without their samples.

use golectra_promql::parse::{ParseLimits, parse_selector};
use golectra_promql::{Labels, Matcher, Reservation};

use super::{Call, Queries, QueryError, Run};
use crate::metrics::queries::QueryKind;
use crate::store::history::{Limited, ListItem, SeriesFilter, TimeRange};

/// The most `match[]` of one request.
const MAX_SELECTORS: usize = 1_000;

/// What is to be listed.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Selectors; a series must meet one of them. Without any all series are meant.
    pub selectors: Vec<String>,
    /// When they have samples.
    pub range: TimeRange,
    /// At most so many.
    pub limit: Option<usize>,
}

/// A list, whose memory is charged to the budget until it is dropped.
pub struct Listed<T> {
    /// In order.
    pub items: Vec<T>,
    /// Which limit left some out.
    pub truncated: Option<Truncated>,
    _memory: Reservation,
}

/// What was told about a list.
pub struct Told<T> {
    /// What was told.
    pub told: T,
    /// Which limit left some of the list out.
    pub truncated: Option<Truncated>,
}

/// Why a list is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncated {
    /// The request asked for no more.
    Asked,
    /// A query may have no more.
    MaxSeries(usize),
}

impl Queries {
    /// Label sets.
    pub async fn series(&self, listing: Listing) -> Result<Listed<Labels>, QueryError> {
        self.list(QueryKind::Series, listing, |run, filter, memory| {
            let series = run.limit.wait(run.history.series(filter, memory), None)?;
            run.costs.series = series.items.len();
            Ok(series)
        })
        .await
    }

    /// What `tell` says about the label sets.
    pub async fn tell_series<T: Send + 'static>(
        &self,
        listing: Listing,
        tell: impl FnOnce(&[Labels]) -> T + Send + 'static,
    ) -> Result<Told<T>, QueryError> {
        let call = Call { kind: QueryKind::Series, text: String::new(), timeout: None, is_rule: false };
        let max_series = self.max_series();
        self.run(call, move |run| {
            let listed = run.list(max_series, &listing, |run, filter, memory| run.limit.wait(run.history.series(filter, memory), None))?;
            run.costs.series = listed.items.len();
            Ok(Told { told: tell(&listed.items), truncated: listed.truncated })
        })
        .await
    }

    /// Names of labels.
    pub async fn label_names(&self, listing: Listing) -> Result<Listed<String>, QueryError> {
        self.list(QueryKind::LabelNames, listing, |run, filter, memory| run.limit.wait(run.history.label_names(filter, memory), None)).await
    }

    /// Values of a label.
    pub async fn label_values(&self, label: String, listing: Listing) -> Result<Listed<String>, QueryError> {
        self.list(QueryKind::LabelValues, listing, move |run, filter, memory| {
            run.limit.wait(run.history.label_values(&label, filter, memory), None)
        })
        .await
    }

    async fn list<T: ListItem>(
        &self,
        kind: QueryKind,
        listing: Listing,
        read: impl FnOnce(&mut Run, &SeriesFilter, &mut Reservation) -> Result<Limited<T>, QueryError> + Send + 'static,
    ) -> Result<Listed<T>, QueryError> {
        let call = Call { kind, text: listing.selectors.join(" "), timeout: None, is_rule: false };
        let max_series = self.max_series();
        self.run(call, move |run| run.list(max_series, &listing, read)).await
    }
}

impl Run {
    fn list<T: ListItem>(
        &mut self,
        max_series: usize,
        listing: &Listing,
        read: impl FnOnce(&mut Self, &SeriesFilter, &mut Reservation) -> Result<Limited<T>, QueryError>,
    ) -> Result<Listed<T>, QueryError> {
        let (limit, truncated) = match listing.limit {
            Some(limit) if limit <= max_series => (limit, Truncated::Asked),
            _ => (max_series, Truncated::MaxSeries(max_series)),
        };
        let filter = SeriesFilter { any: matchers(&listing.selectors)?, range: listing.range, limit };
        // As in Prometheus a range that ends before it starts has nothing.
        let is_empty = listing.range.end_ms < listing.range.start_ms;
        let mut memory = self.budget.reserve(self.limit.bounds.max_bytes);
        let found = if is_empty { Limited { items: Vec::new(), truncated: false } } else { read(self, &filter, &mut memory)? };
        self.costs.peak_bytes = memory.peak_bytes();
        Ok(Listed { items: found.items, truncated: found.truncated.then_some(truncated), _memory: memory })
    }
}

/// The matchers of each selector. Their regular expressions are bounded together.
pub fn matchers(selectors: &[String]) -> Result<Vec<Vec<Matcher>>, QueryError> {
    let error = |error: String| QueryError::Parameter { parameter: "match[]", error };
    if selectors.len() > MAX_SELECTORS {
        return Err(error(format!("{} selectors are more than the {MAX_SELECTORS} that are allowed", selectors.len())));
    }
    let limits = ParseLimits::default();
    let mut compiled_bytes = 0;
    let mut any = Vec::with_capacity(selectors.len());
    for selector in selectors {
        let matchers = parse_selector(selector, &limits).map_err(|problem| error(problem.to_string()))?;
        // This bounds their number too: none takes less than 32 KiB.
        compiled_bytes += matchers.iter().map(Matcher::compiled_bytes).sum::<usize>();
        if compiled_bytes > limits.max_compiled_bytes {
            let most = limits.max_compiled_bytes;
            return Err(error(format!("the regular expressions of all selectors need more than {most} bytes compiled")));
        }
        any.push(matchers);
    }
    Ok(any)
}

//! The series of a target, remembered from scrape to scrape, so that an id is made once and not with every scrape.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use golectra_protocol::exposition::Reason;
use golectra_protocol::{IdParts, Metric, MetricId, Value};

use super::ScrapeLimits;
use super::error::{ScrapeError, excerpt};
use super::target::Target;
use crate::collect::Choice;

/// The memory for the texts of a series, on average. A series with usual labels takes 200 to 500 bytes.
const SERIES_BYTES: usize = 512;

/// What may be remembered of all targets together: a number of series and, since targets choose the texts, the bytes of these.
#[derive(Debug)]
pub(super) struct SeriesBudget {
    series: AtomicUsize,
    bytes: AtomicUsize,
}

impl SeriesBudget {
    pub(super) const fn new(series: usize) -> Self {
        Self { series: AtomicUsize::new(series), bytes: AtomicUsize::new(series.saturating_mul(SERIES_BYTES)) }
    }

    /// Takes what one series needs. False if there is not enough.
    fn take(&self, bytes: usize) -> bool {
        let takes = |free: &AtomicUsize, wanted| free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(wanted)).is_ok();
        if !takes(&self.bytes, bytes) {
            return false;
        }
        let is_taken = takes(&self.series, 1);
        if !is_taken {
            self.bytes.fetch_add(bytes, Relaxed);
        }
        is_taken
    }

    fn give_back<'a>(&self, gone: impl IntoIterator<Item = &'a Known>) {
        let (series, bytes) = gone.into_iter().fold((0, 0), |(series, bytes), known| (series + 1, bytes + known.bytes));
        self.series.fetch_add(series, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// The series of the last scrape.
#[derive(Debug)]
pub(super) struct SeriesCache {
    budget: Arc<SeriesBudget>,
    /// By the text of the series in the target's answer, where it stands in the list.
    positions: HashMap<Box<str>, usize>,
    /// Sorted by id after each scrape.
    known: Vec<Known>,
    scrape: u64,
    /// The name of a metric that was looked up last, and whether it is reported: samples of a metric follow one another.
    last_name: String,
    last_allowed: bool,
}

/// A series, however it is written in the answer.
#[derive(Debug)]
struct Known {
    metric: Metric,
    /// Its part of the budget: its text and its id.
    bytes: usize,
    /// The last scrape in which it was.
    seen: u64,
    /// Whether the value of that scrape can be reported.
    finite: bool,
    /// Another text of the answer means the same series.
    duplicate: bool,
}

/// What one scrape found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Samples in the answer.
    pub(super) samples: usize,
    /// Those of them whose metric is reported, and whose series has its labels.
    pub(super) labelled: usize,
    /// Series that were not in the scrape before.
    pub(super) added: usize,
    /// Samples of series that came before in the same answer; the first counts.
    pub(super) duplicates: usize,
    /// Samples of series whose id no server accepts.
    pub(super) invalid_ids: usize,
    /// Samples that are NaN or infinite, which no server accepts.
    pub(super) not_finite: usize,
    /// Samples of series for which there is no room.
    pub(super) over_budget: usize,
}

/// A scrape that is being read.
pub(super) struct Scrape<'a> {
    cache: &'a mut SeriesCache,
    target: &'a Target,
    limits: &'a ScrapeLimits,
    filter: &'a Choice,
    counts: Counts,
}

impl SeriesCache {
    /// A cache without series; those that come are part of the budget.
    pub(super) fn new(budget: Arc<SeriesBudget>) -> Self {
        Self { budget, positions: HashMap::new(), known: Vec::new(), scrape: 0, last_name: String::new(), last_allowed: true }
    }

    /// Starts a scrape. The metrics that are reported are those that `filter` allows, which is always the same one.
    pub(super) fn scrape<'a>(&'a mut self, target: &'a Target, limits: &'a ScrapeLimits, filter: &'a Choice) -> Scrape<'a> {
        self.scrape += 1;
        Scrape { cache: self, target, limits, filter, counts: Counts::default() }
    }

    /// Whether a metric is reported.
    fn allows(&mut self, filter: &Choice, name: &str) -> bool {
        if self.last_name != name {
            self.last_allowed = filter.allows(name);
            name.clone_into(&mut self.last_name);
        }
        self.last_allowed
    }

    /// Forgets all series, as after a scrape that failed.
    pub(super) fn clear(&mut self) {
        self.budget.give_back(&self.known);
        self.positions = HashMap::new();
        self.known = Vec::new();
    }

    /// The metrics of the last scrape that can be reported, sorted by id.
    pub(super) fn metrics(&self) -> impl Iterator<Item = &Metric> {
        self.known.iter().filter(|known| known.finite && !known.duplicate).map(|known| &known.metric)
    }

    /// Forgets the series that are gone and sorts the others. Servers remember a list of series that comes again and again in one
    /// order, so its order does not depend on that of the answer.
    fn tidy(&mut self) {
        let scrape = self.scrape;
        self.positions.retain(|_, position| self.known[*position].seen == scrape);
        let mut order: Vec<usize> = (0..self.known.len()).filter(|position| self.known[*position].seen == scrape).collect();
        order.sort_by(|a, b| self.id_at(*a).cmp(self.id_at(*b)));
        let mut moved = vec![0; self.known.len()];
        for (new, old) in order.iter().enumerate() {
            moved[*old] = new;
        }
        self.positions.values_mut().for_each(|position| *position = moved[*position]);
        let mut known: Vec<Option<Known>> = std::mem::take(&mut self.known).into_iter().map(Some).collect();
        self.known = order.into_iter().filter_map(|position| known[position].take()).collect();
        self.budget.give_back(known.iter().flatten());
        for at in 1..self.known.len() {
            self.known[at].duplicate = self.id_at(at) == self.id_at(at - 1);
        }
        if let Some(first) = self.known.first_mut() {
            first.duplicate = false;
        }
    }

    fn id_at(&self, position: usize) -> &MetricId {
        &self.known[position].metric.id
    }
}

impl Drop for SeriesCache {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Scrape<'_> {
    /// Adds a sample. `name` is the metric's, if it is known without `parts`, which is called for a series that is new and has the
    /// labels of the answer.
    pub(super) fn add<'a>(
        &mut self,
        text: &str,
        name: Option<&str>,
        value: f64,
        parts: impl Fn() -> Result<IdParts<'a>, Reason>,
    ) -> Result<(), ScrapeError> {
        self.counts.samples += 1;
        let known = self.cache.positions.get(text).copied();
        let parts = || parts().map_err(|reason| ScrapeError::Series(reason, excerpt(text)));
        // What is not reported is not remembered: a target may have any number of such series.
        let is_reported = known.is_some()
            || match name {
                Some(name) => self.cache.allows(self.filter, name),
                None => self.filter.allows(&parts()?.name),
            };
        if !is_reported {
            return Ok(());
        }
        if self.counts.labelled >= self.limits.samples {
            // Counted to the end, so that the operator sees by how much.
            self.counts.labelled += 1;
            return Ok(());
        }
        let scrape = self.cache.scrape;
        let position = match known {
            Some(position) => position,
            None => match self.remember(text, parts()?)? {
                Some(position) => position,
                None => return Ok(()),
            },
        };
        self.counts.labelled += 1;
        let known = &mut self.cache.known[position];
        if known.seen == scrape {
            self.counts.duplicates += 1;
            return Ok(());
        }
        known.seen = scrape;
        known.finite = value.is_finite();
        if known.finite {
            known.metric.value = Value::Gauge(value);
        } else {
            self.counts.not_finite += 1;
        }
        Ok(())
    }

    /// Makes the id of a new series; None if there is no room for it, or if no server accepts it. The latter is not remembered: it could be any text.
    fn remember(&mut self, text: &str, mut parts: IdParts<'_>) -> Result<Option<usize>, ScrapeError> {
        self.target.label_series(&mut parts);
        self.check(text, &parts)?;
        let labels = parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
        let Ok(id) = MetricId::from_parts(&parts.name, labels) else {
            self.counts.labelled += 1;
            self.counts.invalid_ids += 1;
            return Ok(None);
        };
        let bytes = text.len() + id.as_str().len();
        if !self.cache.budget.take(bytes) {
            self.counts.labelled += 1;
            self.counts.over_budget += 1;
            return Ok(None);
        }
        let position = self.cache.known.len();
        self.cache.known.push(Known { metric: Metric { id, value: Value::Gauge(0.0) }, bytes, seen: 0, finite: false, duplicate: false });
        self.cache.positions.insert(text.into(), position);
        self.counts.added += 1;
        Ok(Some(position))
    }

    fn check(&self, text: &str, parts: &IdParts<'_>) -> Result<(), ScrapeError> {
        let ScrapeLimits { labels, label_name_bytes, label_value_bytes, .. } = *self.limits;
        let series = || excerpt(text);
        // The name is a label too.
        let found = parts.labels.len() + 1;
        if found > labels {
            return Err(ScrapeError::TooManyLabels { found, limit: labels, series: series() });
        }
        let names = parts.labels.iter().map(|(key, _)| key.len());
        let values = parts.labels.iter().map(|(_, value)| value.len()).chain([parts.name.len()]);
        if let Some(found) = names.max().filter(|longest| *longest > label_name_bytes) {
            return Err(ScrapeError::LongLabelName { found, limit: label_name_bytes, series: series() });
        }
        if let Some(found) = values.max().filter(|longest| *longest > label_value_bytes) {
            return Err(ScrapeError::LongLabelValue { found, limit: label_value_bytes, series: series() });
        }
        Ok(())
    }

    /// What was counted so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Ends the scrape: its metrics are those of the cache.
    pub(super) fn finish(self) -> Result<(), ScrapeError> {
        let Counts { labelled: found, added, .. } = self.counts;
        if found > self.limits.samples {
            return Err(ScrapeError::TooManySamples { found, limit: self.limits.samples });
        }
        let gone = self.cache.known.iter().any(|known| known.seen != self.cache.scrape);
        if added > 0 || gone {
            self.cache.tidy();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

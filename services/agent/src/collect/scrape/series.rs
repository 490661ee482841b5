//! The series of a target, remembered from scrape to scrape, so that an id is made once and not with every scrape.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use golectra_protocol::exposition::Reason;
use golectra_protocol::{IdParts, Metric, MetricId, Value};

use super::ScrapeLimits;
use super::error::{ScrapeError, excerpt};
use super::target::Target;

/// How many series may be remembered of all targets together.
#[derive(Debug)]
pub(super) struct SeriesBudget {
    free: AtomicUsize,
}

impl SeriesBudget {
    pub(super) const fn new(series: usize) -> Self {
        Self { free: AtomicUsize::new(series) }
    }

    fn take_one(&self) -> bool {
        self.free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1)).is_ok()
    }

    fn give_back(&self, series: usize) {
        self.free.fetch_add(series, Relaxed);
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
}

/// A series, however it is written in the answer.
#[derive(Debug)]
struct Known {
    /// None for a series that no server accepts.
    metric: Option<Metric>,
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
    /// Those of them whose series has its labels: all, unless the scrape fails.
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
    counts: Counts,
}

impl SeriesCache {
    /// A cache without series, whose number is part of the budget.
    pub(super) fn new(budget: Arc<SeriesBudget>) -> Self {
        Self { budget, positions: HashMap::new(), known: Vec::new(), scrape: 0 }
    }

    /// Starts a scrape.
    pub(super) fn scrape<'a>(&'a mut self, target: &'a Target, limits: &'a ScrapeLimits) -> Scrape<'a> {
        self.scrape += 1;
        Scrape { cache: self, target, limits, counts: Counts::default() }
    }

    /// Forgets all series, as after a scrape that failed.
    pub(super) fn clear(&mut self) {
        self.budget.give_back(self.known.len());
        self.positions = HashMap::new();
        self.known = Vec::new();
    }

    /// The metrics of the last scrape that can be reported, sorted by id.
    pub(super) fn metrics(&self) -> impl Iterator<Item = &Metric> {
        self.known.iter().filter(|known| known.finite && !known.duplicate).filter_map(|known| known.metric.as_ref())
    }

    /// Forgets the series that are gone and sorts the others. Servers remember a list of series that comes again and again in one
    /// order, so its order does not depend on that of the answer.
    fn tidy(&mut self) {
        let scrape = self.scrape;
        self.positions.retain(|_, position| self.known[*position].seen == scrape);
        let mut order: Vec<usize> = (0..self.known.len()).filter(|position| self.known[*position].seen == scrape).collect();
        order.sort_by(|a, b| self.id_at(*a).cmp(&self.id_at(*b)));
        let mut moved = vec![0; self.known.len()];
        for (new, old) in order.iter().enumerate() {
            moved[*old] = new;
        }
        self.positions.values_mut().for_each(|position| *position = moved[*position]);
        let mut known: Vec<Option<Known>> = std::mem::take(&mut self.known).into_iter().map(Some).collect();
        self.budget.give_back(known.len() - order.len());
        self.known = order.into_iter().filter_map(|position| known[position].take()).collect();
        for at in 1..self.known.len() {
            self.known[at].duplicate = self.id_at(at).is_some() && self.id_at(at) == self.id_at(at - 1);
        }
        if let Some(first) = self.known.first_mut() {
            first.duplicate = false;
        }
    }

    fn id_at(&self, position: usize) -> Option<&MetricId> {
        self.known[position].metric.as_ref().map(|metric| &metric.id)
    }
}

impl Drop for SeriesCache {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Scrape<'_> {
    /// Adds a sample. `parts` is called for a series that is new; it has the labels of the answer.
    pub(super) fn add<'a>(
        &mut self,
        text: &str,
        value: f64,
        parts: impl FnOnce() -> Result<IdParts<'a>, Reason>,
    ) -> Result<(), ScrapeError> {
        self.counts.samples += 1;
        if self.counts.samples > self.limits.samples {
            // Counted to the end, so that the operator sees by how much.
            self.counts.labelled += 1;
            return Ok(());
        }
        let scrape = self.cache.scrape;
        let position = match self.cache.positions.get(text) {
            Some(position) => *position,
            None => match self.remember(text, parts)? {
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
        match &mut known.metric {
            None => self.counts.invalid_ids += 1,
            Some(_) if !known.finite => self.counts.not_finite += 1,
            Some(metric) => metric.value = Value::Gauge(value),
        }
        Ok(())
    }

    /// Makes the id of a new series; None if there is no room for it.
    fn remember<'a>(&mut self, text: &str, parts: impl FnOnce() -> Result<IdParts<'a>, Reason>) -> Result<Option<usize>, ScrapeError> {
        let mut parts = parts().map_err(|reason| ScrapeError::Series(reason, excerpt(text)))?;
        self.target.label_series(&mut parts);
        self.check(text, &parts)?;
        if !self.cache.budget.take_one() {
            self.counts.labelled += 1;
            self.counts.over_budget += 1;
            return Ok(None);
        }
        let labels = parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
        let metric = MetricId::from_parts(&parts.name, labels).ok().map(|id| Metric { id, value: Value::Gauge(0.0) });
        let position = self.cache.known.len();
        self.cache.known.push(Known { metric, seen: 0, finite: false, duplicate: false });
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
        let Counts { samples: found, added, .. } = self.counts;
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

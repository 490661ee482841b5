//! The order of an export: which samples are read next.

use std::ops::Range;
use std::time::Duration;

use golectra_promql::Reservation;

use super::position::Position;
use crate::store::history::{ListedSeries, ListedSource, PAGE_SERIES, TimeRange};

/// Pages begin and end with days: history is stored in partitions of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Samples that are read together: some series of a source that are stored together, within a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) source: String,
    pub(super) series: Vec<ListedSeries>,
    pub(super) range: TimeRange,
    /// How long it has waited for memory.
    pub(super) waited: Duration,
}

impl Page {
    fn new(source: &str, series: &[ListedSeries], range: TimeRange) -> Self {
        Self { source: source.to_owned(), series: series.to_vec(), range, waited: Duration::ZERO }
    }

    /// What is left of it from this series on.
    pub(super) fn from(&self, number: u32) -> Self {
        let first = self.series.partition_point(|series| series.number < number);
        Self::new(&self.source, &self.series[first..], self.range)
    }

    /// What is left of it behind this series.
    pub(super) fn after(&self, number: u32) -> Self {
        let first = self.series.partition_point(|series| series.number <= number);
        Self::new(&self.source, &self.series[first..], self.range)
    }

    /// What is left of this series in it from this time on.
    pub(super) fn of(&self, number: u32, start_ms: i64) -> Self {
        let first = self.series.partition_point(|series| series.number < number);
        let end = self.series.partition_point(|series| series.number <= number);
        let range = TimeRange { start_ms: self.range.start_ms.max(start_ms), ..self.range };
        Self::new(&self.source, &self.series[first..end], range)
    }

    /// Two pages that have what this one has, in its order; none of a single series at a single time.
    pub(super) fn halves(&self) -> Option<(Self, Self)> {
        let Self { source, series, range, .. } = self;
        if series.len() > 1 {
            let (first, second) = series.split_at(series.len() / 2);
            return Some((Self::new(source, first, *range), Self::new(source, second, *range)));
        }
        let middle = range.start_ms + (range.end_ms - range.start_ms) / 2;
        let halves = (
            Self::new(source, series, TimeRange { end_ms: middle, ..*range }),
            Self::new(source, series, TimeRange { start_ms: middle + 1, ..*range }),
        );
        (range.end_ms > range.start_ms).then_some(halves)
    }

    fn is_empty(&self) -> bool {
        self.series.is_empty() || self.range.start_ms > self.range.end_ms
    }
}

/// The pages of an export in their order.
pub(super) struct Pages {
    sources: std::vec::IntoIter<ListedSource>,
    /// The source that is being exported.
    source: Option<ListedSource>,
    /// Its first series that is not exported yet.
    first: usize,
    /// The time from which on that series and those that are stored with it are not exported yet.
    start_ms: Option<i64>,
    /// What comes before all of that, the next one last.
    put_back: Vec<Page>,
    _memory: Reservation,
}

impl Pages {
    /// The pages of these series behind a position. The reservation is for the list.
    pub(super) fn new(mut listed: Vec<ListedSource>, after: Option<Position>, memory: Reservation) -> Self {
        if let Some(after) = &after {
            listed.retain(|source| source.source >= after.source);
        }
        let mut sources = listed.into_iter();
        let source = sources.next();
        let mut pages = Self { sources, source, first: 0, start_ms: None, put_back: Vec::new(), _memory: memory };
        if let Some(after) = after {
            pages.skip_to(&after);
        }
        pages
    }

    fn skip_to(&mut self, after: &Position) {
        let Some(source) = self.source.as_ref().filter(|source| source.source == after.source) else { return };
        let block = after.number / PAGE_SERIES;
        let first = source.series.partition_point(|series| series.number / PAGE_SERIES < block);
        let of_block = block_at(source, first);
        let is_same_block = source.series.get(first).is_some_and(|series| series.number / PAGE_SERIES == block);
        self.first = first;
        if !is_same_block {
            return;
        }
        let day = day_of(after.at_ms);
        let end_ms = source.range.end_ms.min(day.end_ms);
        let page =
            Page::new(&source.source, &source.series[of_block], TimeRange { start_ms: source.range.start_ms.max(day.start_ms), end_ms });
        let (rest, of_series) = (page.after(after.number), page.of(after.number, after.at_ms.saturating_add(1)));
        self.start_ms = Some(day.end_ms.saturating_add(1).max(source.range.start_ms));
        self.put_back(rest);
        self.put_back(of_series);
    }

    /// Puts back what comes next.
    pub(super) fn put_back(&mut self, page: Page) {
        if !page.is_empty() {
            self.put_back.push(page);
        }
    }

    /// The next page.
    pub(super) fn next(&mut self) -> Option<Page> {
        if let Some(page) = self.put_back.pop() {
            return Some(page);
        }
        loop {
            let source = self.source.as_ref()?;
            if self.first >= source.series.len() {
                (self.source, self.first, self.start_ms) = (self.sources.next(), 0, None);
                continue;
            }
            let of_block = block_at(source, self.first);
            let start_ms = self.start_ms.unwrap_or(source.range.start_ms);
            if start_ms > source.range.end_ms {
                (self.first, self.start_ms) = (of_block.end, None);
                continue;
            }
            let end_ms = day_of(start_ms).end_ms.min(source.range.end_ms);
            let page = Page::new(&source.source, &source.series[of_block], TimeRange { start_ms, end_ms });
            self.start_ms = Some(end_ms.saturating_add(1));
            return Some(page);
        }
    }
}

/// The listed series that are stored together with this one.
fn block_at(source: &ListedSource, first: usize) -> Range<usize> {
    let rest = source.series.get(first..).unwrap_or_default();
    let Some(block) = rest.first().map(|series| series.number / PAGE_SERIES) else { return first..first };
    first..first + rest.partition_point(|series| series.number / PAGE_SERIES == block)
}

/// The day of a time.
fn day_of(at_ms: i64) -> TimeRange {
    let start_ms = at_ms.div_euclid(DAY_MS).saturating_mul(DAY_MS);
    TimeRange { start_ms, end_ms: start_ms.saturating_add(DAY_MS - 1) }
}

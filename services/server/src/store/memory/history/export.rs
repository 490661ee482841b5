//! What exports read: lists of series, and the samples of some of them.

use std::sync::Arc;

use golectra_promql::{Labels, Reservation};
use golectra_protocol::{Kind, Source};

use super::read::{SeriesSamples, SourceCopy, SourceSamples};
use super::search::Search;
use super::source::{SourceHistory, WINDOW_MILLIS};
use super::{SOURCE_COST, Turns};
use crate::history::labels;
use crate::store::history::{ExportedSeries, HistoryError, ListedSeries, ListedSource, SeriesFilter, TimeRange};
use crate::store::memory::MemoryStore;

/// The part of a range in which a source has samples.
fn within(range: TimeRange, history: &SourceHistory) -> TimeRange {
    let first = history.windows.keys().next().copied().unwrap_or(i64::MAX);
    let last = history.windows.keys().next_back().map_or(i64::MIN, |start| start.saturating_add(WINDOW_MILLIS - 1));
    TimeRange { start_ms: range.start_ms.max(first), end_ms: range.end_ms.min(last) }
}

impl MemoryStore {
    /// See [`crate::store::History::list`].
    pub(super) async fn list_series(
        &self,
        filter: &SeriesFilter,
        reservation: &mut Reservation,
    ) -> Result<Vec<ListedSource>, HistoryError> {
        let all = [Vec::new()];
        let searches: Vec<Search<'_>> =
            if filter.any.is_empty() { &all[..] } else { &filter.any }.iter().map(|matchers| Search::new(matchers)).collect();
        let mut sources: Vec<Source> = self.shards.each().flat_map(|shard| shard.history.names().cloned().collect::<Vec<_>>()).collect();
        sources.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let mut turns = Turns::default();
        let mut listed = Vec::new();
        for source in &sources {
            turns.look_at(SOURCE_COST).await;
            let mut series: Vec<ListedSeries> = Vec::new();
            let mut range = None;
            for search in &searches {
                let candidates = {
                    let locked = self.shards.of(source);
                    let Some(history) = locked.shard.history.get(source) else { continue };
                    range = Some(within(filter.range, history)).filter(|range| range.start_ms <= range.end_ms);
                    search.candidates(source, &history.series, self.shards.hasher())
                };
                let Some(candidates) = candidates.filter(|_| range.is_some()) else { continue };
                for (number, one) in candidates.iter() {
                    turns.look_at(1).await;
                    if search.matches(source.as_str(), one) {
                        reservation.grow(size_of::<ListedSeries>())?;
                        series.push(ListedSeries { number, beside_gauge: one.beside_gauge });
                    }
                }
            }
            series.sort_unstable();
            series.dedup_by_key(|series| series.number);
            if let Some(range) = range.filter(|_| !series.is_empty()) {
                reservation.grow(size_of::<ListedSource>() + source.as_str().len())?;
                listed.push(ListedSource { source: source.as_str().to_owned(), series, range });
            }
        }
        Ok(listed)
    }

    /// See [`crate::store::History::read_listed`].
    pub(super) fn read_series(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        let Ok(source) = Source::from_stored(source) else { return Ok(Vec::new()) };
        let (mut copy, mut found): (SourceCopy, Vec<(u32, Kind, i64, Labels)>) = {
            let locked = self.shards.of(&source);
            let Some(history) = locked.shard.history.get(&source) else { return Ok(Vec::new()) };
            let one = |listed: &ListedSeries| {
                let series = history.series.get(listed.number)?;
                Some((listed.number, series.kind, series.base, labels::of_series(source.as_str(), series.id, series.beside_gauge)))
            };
            let found: Vec<_> = series.iter().filter_map(one).collect();
            let with_counters = found.iter().any(|(_, kind, ..)| *kind == Kind::Counter);
            (SourceCopy::new(history, range, with_counters), found)
        };
        let counters = found.iter_mut().filter(|(_, kind, ..)| *kind == Kind::Counter);
        copy.take_totals_before(range, &mut counters.map(|(number, _, base, _)| (*number, base)).collect::<Vec<_>>());
        let numbers: Vec<u32> = found.iter().map(|(number, ..)| *number).collect();
        let samples = Arc::new(SourceSamples::new(copy, &numbers, |bytes| reservation.grow(bytes).is_ok()));
        found.retain(|(number, ..)| samples.has(*number));
        let of_series = size_of::<ExportedSeries>() + size_of::<SeriesSamples>();
        let labels: usize = found.iter().map(|(.., labels)| labels.memory_bytes() + of_series).sum();
        reservation.grow(labels + samples.bytes())?;
        let exported = found.into_iter().map(|(number, kind, base, labels)| {
            let samples = SeriesSamples { source: Arc::clone(&samples), number, kind, base };
            ExportedSeries { number, labels, samples: Box::new(samples) }
        });
        Ok(exported.collect())
    }
}

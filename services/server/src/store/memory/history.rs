//! The history of this store: what series were, within HISTORY_MAX_BYTES.
//!
//! A write adds its samples to its source's history under the lock that makes it atomic. Series are known to history by numbers of its own
//! (`history/series.rs`), since they stay when they leave the newest state. Samples that have just come stand as they came (`history/open.rs`)
//! until they are sealed into parts (`history/seal.rs`, `history/part.rs`), which the files keep (`history/files.rs`). Windows that are over are rolled up
//! (`history/rollups.rs`), and the rollups outlive them (`history/retain.rs`). A query finds its series on copies, and shares the samples (`history/search.rs`, `history/read.rs`), or their
//! rollups (`history/rolled_up.rs`).

mod coding;
mod damaged;
mod days;
mod export;
mod files;
mod open;
mod part;
mod read;
mod restore;
mod retain;
mod rolled_up;
mod rollups;
mod room;
mod seal;
mod search;
mod series;
mod shared;
mod source;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use golectra_chunks::rollup::Resolution;
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Matcher, MemoryExceeded, Reservation};
use golectra_protocol::remote_write::Metadata;
use golectra_protocol::{Kind, Source as SourceName};

pub(super) use self::files::{HistorySave, SavedHistory};
use self::read::{MergedSamples, SeriesSamples, SourceCopy, SourceSamples};
pub(super) use self::restore::{catch_up, note_segments, restore};
use self::rolled_up::SourceRollups;
pub(super) use self::seal::Keeper;
use self::search::Search;
use self::series::SeriesRef;
pub(super) use self::shared::HistoryShared;
pub(super) use self::source::ShardHistory;
use super::MemoryStore;
use crate::history::labels;
use crate::store::StoreError;
use crate::store::history::rollups::Source;
use crate::store::history::{
    ExportedSeries, First, History, HistoryError, HistorySeries, Limited, ListItem, ListedSeries, ListedSource, ReadSamples, SeriesFilter,
    TimeRange, group_by_labels,
};

/// After so many series that were looked at others get their turn.
const SERIES_A_TURN: usize = 2000;
/// What a series takes while it is looked for.
const FOUND_BYTES: usize = size_of::<(u32, SeriesRef<'static>)>() + size_of::<u32>() + size_of::<i64>();
/// How often a selection begins anew where what it reads was dropped meanwhile.
const SELECT_ATTEMPTS: usize = 4;
/// As many series cost looking for them in one source.
const SOURCE_COST: usize = 20;

/// A series that was found.
struct Found {
    labels: Labels,
    number: u32,
    kind: Kind,
    /// What the counter had counted before the range.
    base: i64,
}

/// The series of one source that were found, and their samples.
struct FoundSource {
    series: Vec<Found>,
    samples: Arc<SourceSamples>,
    /// None where only samples are read.
    rollups: Option<Arc<SourceRollups>>,
    /// What the list of series takes in memory and took to be made.
    charged_bytes: usize,
}

/// What is asked for of the series that are looked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    range: TimeRange,
    reading: Reading,
}

/// What is read of the series that are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Samples,
    /// Rollups, and the samples that are not in them.
    Rollups(Resolution),
    /// Which have samples, or had some that were dropped.
    Names,
}

/// Gives others their turn now and then, which is also where a call that was dropped ends.
#[derive(Default)]
struct Turns {
    looked_at: usize,
}

impl Turns {
    async fn look_at(&mut self, series: usize) {
        self.looked_at += series;
        if self.looked_at >= SERIES_A_TURN {
            self.looked_at = 0;
            tokio::task::yield_now().await;
        }
    }
}

impl MemoryStore {
    /// Finds the series that match all matchers and may have samples in this time, source by source, and hands them to `each`, which may get none. `charge` is
    /// told what the series of a source take as they are found. `take` says whether a source may take so many bytes to be read quickly; it is asked before
    /// its series are handed over.
    async fn find<R: Send, E>(
        &self,
        matchers: &[Matcher],
        Asked { range, reading }: Asked,
        context: &mut R,
        charge: impl Fn(&mut R, usize) -> Result<(), E> + Send + Sync,
        take: impl Fn(&mut R, usize) -> bool + Send + Sync,
        mut each: impl FnMut(&mut R, FoundSource) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let search = Search::new(matchers);
        let mut turns = Turns::default();
        let sources: Vec<SourceName> = self.shards.each().flat_map(|shard| shard.history.names().cloned().collect::<Vec<_>>()).collect();
        for source in &sources {
            turns.look_at(SOURCE_COST).await;
            let candidates = {
                let locked = self.shards.of(source);
                locked.shard.history.get(source).and_then(|history| search.candidates(source, &history.series, self.shards.hasher()))
            };
            let Some(candidates) = candidates else { continue };
            let mut charged_bytes = 0;
            let mut found: Vec<(u32, SeriesRef<'_>)> = Vec::new();
            for (number, series) in candidates.iter() {
                turns.look_at(1).await;
                if search.matches(source.as_str(), series) {
                    charge(context, FOUND_BYTES)?;
                    charged_bytes += FOUND_BYTES;
                    found.push((number, series));
                }
            }
            if found.is_empty() {
                continue;
            }
            let mut numbers: Vec<u32> = found.iter().map(|(number, _)| *number).collect();
            let with_counters = found.iter().any(|(_, series)| series.kind == Kind::Counter);
            let (mut copy, mut bases, mut rollups) = {
                let locked = self.shards.of(source);
                let Some(history) = locked.shard.history.get(source) else { continue };
                let bases: Vec<i64> = numbers.iter().map(|number| history.series.get(*number).map_or(0, |series| series.base)).collect();
                let (copy, rollups) = match reading {
                    Reading::Samples => (SourceCopy::new(history, range, with_counters), None),
                    Reading::Rollups(resolution) => (
                        SourceCopy::without_rolled_up(history, range, with_counters, resolution),
                        Some(SourceRollups::new(history, range, Some(resolution))),
                    ),
                    Reading::Names => (SourceCopy::new(history, range, false), Some(SourceRollups::new(history, range, None))),
                };
                (copy, bases, rollups)
            };
            let counters = found.iter().zip(&mut bases).filter(|((_, series), _)| series.kind == Kind::Counter);
            copy.take_totals_before(range, &mut counters.map(|((number, _), base)| (*number, base)).collect::<Vec<_>>());
            let samples = SourceSamples::new(copy, &numbers, |bytes| take(context, bytes));
            numbers.retain(|number| samples.has(*number) || rollups.as_ref().is_some_and(|rollups| rollups.has(*number)));
            if let Some(rollups) = &mut rollups {
                rollups.prepare(&numbers, samples.windows(), |bytes| take(context, bytes));
            }
            let mut series = Vec::new();
            for ((number, found), base) in found.into_iter().zip(bases) {
                turns.look_at(1).await;
                if numbers.binary_search(&number).is_ok() {
                    let labels = labels::of_series(source.as_str(), found.id, found.beside_gauge);
                    let bytes = size_of::<Found>() + labels.memory_bytes();
                    charge(context, bytes)?;
                    charged_bytes += bytes;
                    series.push(Found { labels, number, kind: found.kind, base });
                }
            }
            each(context, FoundSource { series, samples: Arc::new(samples), rollups: rollups.map(Arc::new), charged_bytes })?;
        }
        Ok(())
    }

    /// The samples of the series that a selection asks for.
    async fn select_samples(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let range = TimeRange { start_ms: selection.start_ms, end_ms: selection.end_ms };
        let asked = Asked { range, reading: Reading::Samples };
        let mut all: Vec<HistorySeries> = Vec::new();
        let take = |reservation: &mut Reservation, bytes: usize| reservation.grow(bytes).is_ok();
        let charge = |reservation: &mut Reservation, bytes: usize| reservation.grow(bytes).map_err(HistoryError::from);
        let found = self.find(&selection.matchers, asked, reservation, charge, take, |reservation, found| {
            let FoundSource { series, samples, .. } = found;
            if series.is_empty() {
                return Ok(());
            }
            if all.len() + series.len() > max_series {
                return Err(HistoryError::TooManySeries { limit: max_series });
            }
            let of_series = size_of::<HistorySeries>() + size_of::<SeriesSamples>();
            reservation.grow(series.len() * of_series + samples.bytes())?;
            all.extend(series.into_iter().map(|Found { labels, number, kind, base }| {
                let samples = SeriesSamples { source: Arc::clone(&samples), number, kind, base };
                HistorySeries { labels, samples: Box::new(samples) }
            }));
            Ok(())
        });
        found.await?;
        all.sort_by(|one, other| one.labels.cmp(&other.labels));
        Ok(merge_equal(all))
    }

    /// Collects something of each series that a filter asks for, sorted and each once.
    async fn collect<T: ListItem>(
        &self,
        filter: &SeriesFilter,
        reservation: &mut Reservation,
        of: impl Fn(Labels, &mut First<'_, T>) -> Result<(), MemoryExceeded> + Send + Sync,
    ) -> Result<Limited<T>, HistoryError> {
        let mut items = First::new(filter.limit, reservation);
        let all = [Vec::new()];
        for matchers in if filter.any.is_empty() { &all[..] } else { &filter.any } {
            let put = |items: &mut First<'_, T>, found: FoundSource| -> Result<(), MemoryExceeded> {
                found.series.into_iter().try_for_each(|series| of(series.labels, items))?;
                items.release(found.charged_bytes);
                Ok(())
            };
            self.find(matchers, Asked { range: filter.range, reading: Reading::Names }, &mut items, First::hold, |_, _| false, put).await?;
        }
        Ok(items.done())
    }
}

#[async_trait]
impl History for MemoryStore {
    async fn select(
        &self,
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let dropped = &self.shards.history.dropped;
        let before = reservation.used_bytes();
        let mut chosen = self.kept(selection).await.source_of(selection)?;
        for _ in 0..SELECT_ATTEMPTS {
            let times = dropped.times();
            let series = match chosen {
                Source::Samples => self.select_samples(selection, max_series, reservation).await?,
                Source::Rollups(resolution) => self.select_rollups(selection, resolution, max_series, reservation).await?,
            };
            // What was dropped meanwhile is missing from the answer.
            let still = if dropped.times() == times { chosen } else { self.kept(selection).await.source_of(selection)? };
            if still == chosen {
                return Ok(series);
            }
            chosen = still;
            drop(series);
            reservation.shrink(reservation.used_bytes().saturating_sub(before));
        }
        Err(StoreError::Unavailable("history was dropped again and again while it was read".into()).into())
    }

    async fn list(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError> {
        self.list_series(filter, reservation).await
    }

    async fn read_listed(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        self.read_series(source, series, range, reservation)
    }

    async fn series(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<Labels>, HistoryError> {
        self.collect(filter, reservation, |labels, all| all.add(labels)).await
    }

    async fn label_names(&self, filter: &SeriesFilter, reservation: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        self.collect(filter, reservation, |labels, all| labels.iter().try_for_each(|(name, _)| all.add_text(name))).await
    }

    async fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
        limit_per_metric: usize,
    ) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError> {
        Ok(self.metadata.get(metric, limit, limit_per_metric))
    }

    async fn label_values(
        &self,
        label: &str,
        filter: &SeriesFilter,
        reservation: &mut Reservation,
    ) -> Result<Limited<String>, HistoryError> {
        self.collect(filter, reservation, |labels, all| all.add_text(labels.value(label))).await
    }
}

/// Makes one series of those that have the same labels; the list is sorted by them.
fn merge_equal(all: Vec<HistorySeries>) -> Vec<HistorySeries> {
    if all.windows(2).all(|two| two[0].labels != two[1].labels) {
        return all;
    }
    let one = |(labels, mut samples): (Labels, Vec<Box<dyn ReadSamples>>)| match samples.pop() {
        Some(only) if samples.is_empty() => HistorySeries { labels, samples: only },
        last => HistorySeries { labels, samples: Box::new(MergedSamples(samples.into_iter().chain(last).collect())) },
    };
    group_by_labels(all.into_iter().map(|series| (series.labels, series.samples))).into_iter().map(one).collect()
}

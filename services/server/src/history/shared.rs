//! Reads that queries about the same time share: rules ask for the same series again and again.
//!
//! What the queries of a round are going to select is known before the first of them runs. Where one selection has all that another needs, the store is
//! read for the wider one alone, at its first use, and each query takes its series and samples out of that. A read is dropped after its last use.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use golectra_promql::store::{Selection, StoredSamples, StoredSeries};
use golectra_promql::{Labels, METRIC_NAME, MatchOp, Matcher, MemoryBudget, Reservation, all_match};

use super::decode::SAMPLE_BYTES;
use crate::store::history::HistorySeries;

/// See the module's documentation.
pub struct SharedReads {
    reads: Vec<Read>,
    memory: Mutex<Reservation>,
}

/// A selection that several queries have in common.
struct Read {
    selection: Selection,
    state: Mutex<State>,
}

struct State {
    /// How many queries will still ask for it.
    uses_left: usize,
    found: Found,
}

enum Found {
    /// Nobody has asked yet.
    Unread,
    Read(Arc<SharedSeries>),
    /// Each reads for itself, since the whole could not be read, takes too much memory or time, or has rollups in place of samples that are gone.
    Apart,
}

/// What a query gets of a read.
pub enum Shared {
    /// Its series.
    Series(SharedSelection),
    /// It is the first: it is to read this wider selection and to give what it found to [`SharedReads::put`].
    ToRead {
        /// The number of the read.
        read: usize,
        /// What to read.
        selection: Selection,
    },
}

impl SharedReads {
    /// Plans the reads of queries that select all of these. Metrics that are written while the queries run are read by each query for itself.
    pub fn plan(selections: Vec<Selection>, written: &BTreeSet<String>, budget: &Arc<MemoryBudget>) -> Self {
        let mut wanted: Vec<Selection> =
            selections.into_iter().filter(|one| metric(one).is_some_and(|name| !written.contains(name))).collect();
        wanted.sort_by_key(|one| (one.matchers.len(), one.start_ms, -one.end_ms));
        let mut reads: Vec<(Selection, usize)> = Vec::new();
        for selection in wanted {
            match reads.iter_mut().find(|(read, _)| contains(read, &selection)) {
                Some((_, uses)) => *uses += 1,
                None => reads.push((selection, 1)),
            }
        }
        let reads = reads.into_iter().filter(|(_, uses)| *uses > 1);
        let reads = reads.map(|(selection, uses_left)| Read { selection, state: Mutex::new(State { uses_left, found: Found::Unread }) });
        // Most is left for what the queries compute, and for those of others.
        Self { reads: reads.collect(), memory: Mutex::new(budget.reserve(budget.limit_bytes() / 4)) }
    }

    /// What a selection gets; None where it is to be read alone.
    pub fn get(&self, selection: &Selection) -> Option<Shared> {
        let (number, read) = self.reads.iter().enumerate().find(|(_, read)| contains(&read.selection, selection))?;
        let mut state = lock(&read.state);
        state.uses_left = state.uses_left.saturating_sub(1);
        match &state.found {
            Found::Unread => Some(Shared::ToRead { read: number, selection: read.selection.clone() }),
            Found::Read(series) => {
                let selected = SharedSelection::new(Arc::clone(series), selection);
                if state.uses_left == 0 {
                    self.drop_read(&mut state);
                }
                Some(Shared::Series(selected))
            }
            Found::Apart => None,
        }
    }

    /// Keeps what was found for a read, and answers what a selection gets of it; None where it is to be read alone.
    pub fn put(&self, read: usize, selection: &Selection, found: Option<Vec<HistorySeries>>) -> Option<SharedSelection> {
        let read = self.reads.get(read)?;
        let found = found.filter(|found| found.iter().all(|series| series.samples.rollup().is_none()));
        let series = found.and_then(|found| SharedSeries::decode(&found, &mut lock(&self.memory)));
        let mut state = lock(&read.state);
        let Some(series) = series.map(Arc::new) else {
            state.found = Found::Apart;
            return None;
        };
        if state.uses_left > 0 {
            state.found = Found::Read(Arc::clone(&series));
        } else {
            lock(&self.memory).shrink(series.bytes);
        }
        Some(SharedSelection::new(series, selection))
    }

    /// Drops all that is held, so that a query may have the memory.
    pub fn clear(&self) {
        for read in &self.reads {
            self.drop_read(&mut lock(&read.state));
        }
    }

    /// What it holds.
    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        lock(&self.memory).used_bytes()
    }

    fn drop_read(&self, state: &mut State) {
        if let Found::Read(series) = std::mem::replace(&mut state.found, Found::Apart) {
            lock(&self.memory).shrink(series.bytes);
        }
    }
}

/// The one metric that a selection is about.
fn metric(selection: &Selection) -> Option<&str> {
    let is_name = |matcher: &&Matcher| matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal;
    selection.matchers.iter().find(is_name).map(Matcher::value)
}

/// Whether one selection has all the series and samples of another.
fn contains(one: &Selection, other: &Selection) -> bool {
    one.start_ms <= other.start_ms && one.end_ms >= other.end_ms && one.matchers.iter().all(|matcher| other.matchers.contains(matcher))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decoded series.
struct SharedSeries {
    /// The labels of each, in order, and where its samples end.
    series: Vec<(Labels, usize)>,
    timestamps_ms: Vec<i64>,
    values: Vec<f64>,
    /// What was charged for it.
    bytes: usize,
}

impl SharedSeries {
    /// None where it takes more memory than there is, or where a part of it can't be decoded.
    fn decode(found: &[HistorySeries], memory: &mut Reservation) -> Option<Self> {
        let mut decoded = Self { series: Vec::with_capacity(found.len()), timestamps_ms: Vec::new(), values: Vec::new(), bytes: 0 };
        let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
        for series in found {
            timestamps_ms.clear();
            values.clear();
            let is_read = series.samples.read(&mut timestamps_ms, &mut values).is_ok();
            let bytes = size_of::<(Labels, usize)>() + series.labels.memory_bytes() + timestamps_ms.len() * SAMPLE_BYTES;
            if !is_read || memory.grow(bytes).is_err() {
                memory.shrink(decoded.bytes);
                return None;
            }
            decoded.bytes += bytes;
            decoded.timestamps_ms.extend_from_slice(&timestamps_ms);
            decoded.values.extend_from_slice(&values);
            decoded.series.push((series.labels.clone(), decoded.values.len()));
        }
        Some(decoded)
    }
}

/// What one selection gets of a read.
pub struct SharedSelection {
    read: Arc<SharedSeries>,
    /// Which series.
    places: Vec<u32>,
    start_ms: i64,
    end_ms: i64,
}

impl SharedSelection {
    fn new(read: Arc<SharedSeries>, selection: &Selection) -> Self {
        let is_selected = |(labels, _): &(Labels, usize)| all_match(&selection.matchers, labels);
        let selected = read.series.iter().enumerate().filter(|(_, series)| is_selected(series));
        let places = selected.filter_map(|(place, _)| u32::try_from(place).ok()).collect();
        Self { read, places, start_ms: selection.start_ms, end_ms: selection.end_ms }
    }

    /// How many series it has.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// What it takes beside the read.
    pub fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<u32>()
    }

    /// One of its series with the samples in its time, perhaps none.
    pub fn series(&self, index: usize) -> Option<StoredSeries<'_>> {
        let place = usize::try_from(*self.places.get(index)?).ok()?;
        let (labels, end) = self.read.series.get(place)?;
        let start = place.checked_sub(1).map_or(0, |before| self.read.series[before].1);
        let (timestamps_ms, values) = (&self.read.timestamps_ms[start..*end], &self.read.values[start..*end]);
        let from = timestamps_ms.partition_point(|at_ms| *at_ms < self.start_ms);
        let to = timestamps_ms.partition_point(|at_ms| *at_ms <= self.end_ms).max(from);
        let samples = StoredSamples::Raw { timestamps_ms: &timestamps_ms[from..to], values: &values[from..to] };
        Some(StoredSeries { labels, samples })
    }
}

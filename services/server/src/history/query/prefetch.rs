//! What a query selects is read from the store before it is evaluated, or taken out of what was read for several queries.

use std::collections::BTreeSet;
use std::sync::Arc;

use golectra_promql::store::Selection;
use golectra_promql::{Engine, Interrupt as _, Query, Steps};
use tokio::time::{Instant, timeout_at};

use super::{QueryError, Question, Run, When};
use crate::history::decode;
use crate::history::prefetched::{Prefetched, Selected};
use crate::history::shared::{Shared, SharedReads, SharedSelection};
use crate::store::history::HistorySeries;

/// The most different selectors of a query, each of which is a read from the store.
const MAX_SELECTIONS: usize = 256;

/// What a decoded sample takes: its time and value, twice while lists grow, and once more where stale markers are left out.
const BYTES_A_DECODED_SAMPLE: usize = 48;

impl Run {
    /// What the evaluation of a question is told.
    pub(super) fn engine_of(&self, question: &Question) -> Engine {
        Engine { lookback_ms: question.lookback_ms.unwrap_or(self.engine.lookback_ms), ..self.engine }
    }

    /// What a query is going to select, each once.
    pub(super) fn selections(&self, engine: &Engine, query: &Query, when: When) -> Result<Vec<Selection>, QueryError> {
        let steps = match when {
            When::At { time_ms } => Steps::at(time_ms),
            When::Over(steps) => steps,
        };
        let all = engine.selections(query, steps).map_err(|error| self.limit.bounds.evaluation(error))?;
        let mut selections: Vec<Selection> = Vec::with_capacity(all.len());
        for mut selection in all {
            // The same samples serve every aggregation.
            selection.hints.aggregation = None;
            if !selections.contains(&selection) {
                selections.push(selection);
            }
        }
        if selections.len() > MAX_SELECTIONS {
            return Err(QueryError::Execution(format!("the query has more than {MAX_SELECTIONS} different selectors")));
        }
        Ok(selections)
    }

    /// Plans what several queries read together.
    pub(super) fn plan_reads(&self, questions: &[Question], written: &BTreeSet<String>) -> SharedReads {
        let selections = |question: &Question| {
            let query = self.parse(&question.text).ok()?;
            self.selections(&self.engine_of(question), &query, question.when).ok()
        };
        SharedReads::plan(questions.iter().filter_map(selections).flatten().collect(), written, &self.budget)
    }

    /// Reads all selections.
    pub(super) fn prefetch(&mut self, selections: Vec<Selection>, reads: Option<&SharedReads>) -> Result<Prefetched, QueryError> {
        let bounds = self.limit.bounds;
        let mut prefetched = Prefetched::default();
        let mut series_left = bounds.max_series;
        for selection in selections {
            if let Some(shared) = self.shared(reads, &selection)? {
                series_left = series_left.checked_sub(shared.len()).ok_or(QueryError::TooManySeries { limit: bounds.max_series })?;
                self.memory.grow(shared.memory_bytes()).map_err(|error| bounds.memory(error))?;
                prefetched.add(selection, Selected::Shared(shared));
                continue;
            }
            let series = self.select(&selection, series_left)?;
            series_left = series_left.saturating_sub(series.len());
            // One series after the other is decoded into the same memory.
            self.memory.grow(decode::longest(&series) * BYTES_A_DECODED_SAMPLE).map_err(|error| bounds.memory(error))?;
            let bytes_ahead = if !self.costs.made_way && self.helpers.any_is_free() { decode::bytes_ahead(&series) } else { None };
            let helpers = bytes_ahead.filter(|bytes| self.memory.grow(*bytes).is_ok()).map(|_| Arc::clone(&self.helpers));
            prefetched.add(selection, Selected::Own { series: series.into(), helpers });
        }
        Ok(prefetched)
    }

    fn select(&mut self, selection: &Selection, max_series: usize) -> Result<Vec<HistorySeries>, QueryError> {
        self.limit.wait(self.history.select(selection, max_series, &mut self.memory), selection.hints.function)
    }

    /// What a selection gets of the reads that several queries share. The first of them reads for all.
    fn shared(&mut self, reads: Option<&SharedReads>, selection: &Selection) -> Result<Option<SharedSelection>, QueryError> {
        let Some((reads, shared)) = reads.and_then(|reads| Some((reads, reads.get(selection)?))) else { return Ok(None) };
        let (read, wider) = match shared {
            Shared::Series(series) => return Ok(Some(series)),
            Shared::ToRead { read, selection } => (read, selection),
        };
        let before = self.memory.used_bytes();
        let found = match self.select_for_all(&wider, selection) {
            Err(QueryError::Canceled) => return Err(QueryError::Canceled),
            // The query's own part may need less memory and time, be answered from rollups, or lack the part that can't be read.
            found => found.ok().flatten(),
        };
        let kept = reads.put(read, selection, found);
        // What is kept is charged to those who share it.
        self.memory.shrink(self.memory.used_bytes() - before);
        if kept.is_none() {
            self.limit.check().map_err(|error| self.limit.bounds.interrupted(error))?;
        }
        Ok(kept)
    }

    /// Reads a wider selection. None where that takes too long: a query that needs less than the whole keeps half of its time for its own part.
    fn select_for_all(&mut self, wider: &Selection, own: &Selection) -> Result<Option<Vec<HistorySeries>>, QueryError> {
        let deadline = self.limit.deadline;
        let is_own = wider.matchers == own.matchers && (wider.start_ms, wider.end_ms) == (own.start_ms, own.end_ms);
        let until = if is_own { deadline } else { deadline - deadline.saturating_duration_since(Instant::now()) / 2 };
        let read = self.history.select(wider, self.limit.bounds.max_series, &mut self.memory);
        let in_time = async move {
            match timeout_at(until, read).await {
                Ok(found) => found.map(Some),
                Err(_) => Ok(None),
            }
        };
        self.limit.wait(in_time, wider.hints.function)
    }
}

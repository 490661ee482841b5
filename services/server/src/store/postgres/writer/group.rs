//! A group of batches that share a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::layouts::{Layout, LayoutCache};
use super::queue::{Outcome, QueuedBatch};
use crate::store::postgres::timestamp::Timestamp;

/// What is known of a series that has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired {
    /// When it expired.
    pub(super) at: Timestamp,
    /// The time of the newest sample that came before, or a later one; none where that was not written down.
    pub(super) reported_at: Option<Timestamp>,
}

/// A group under way; everything is by the batch's place in it.
pub(super) struct Group<'a> {
    pub(super) batches: &'a [QueuedBatch],
    /// Whether the batch's list of series came before.
    pub(super) list_known: Vec<bool>,
    /// The layouts that are known, by now.
    pub(super) layouts: Vec<Option<Arc<Layout>>>,
    /// What is decided.
    pub(super) outcomes: Vec<Option<Outcome>>,
    /// Those that were older than the history when they came.
    pub(super) too_old: Vec<usize>,
    /// Those for which a source or a series was made or brought back in this transaction.
    pub(super) made: BTreeSet<usize>,
    /// The series that were made or brought back in this transaction.
    pub(super) made_series: BTreeSet<i32>,
    /// Those of them that were brought back, and may have a history; and what was known of them while they had expired.
    pub(super) back_series: BTreeMap<i32, Expired>,
    /// The blocks of the series that were made or brought back, and their sources.
    pub(super) made_blocks: BTreeMap<i32, i32>,
}

impl<'a> Group<'a> {
    pub(super) fn new(batches: &'a [QueuedBatch], cache: &LayoutCache) -> Self {
        let known_layout = |queued: &QueuedBatch| match queued.samples {
            Some(_) => cache.series_of_samples(queued).map(Arc::new),
            None => cache.layout(queued).cloned(),
        };
        Self {
            batches,
            list_known: batches.iter().map(|queued| cache.list(queued).is_some()).collect(),
            layouts: batches.iter().map(known_layout).collect(),
            outcomes: batches.iter().map(|_| None).collect(),
            too_old: Vec::new(),
            made: BTreeSet::new(),
            made_series: BTreeSet::new(),
            back_series: BTreeMap::new(),
            made_blocks: BTreeMap::new(),
        }
    }

    /// The places of undecided batches whose layout is not known.
    pub(super) fn unresolved(&self) -> Vec<usize> {
        (0..self.batches.len()).filter(|place| self.layouts[*place].is_none() && self.outcomes[*place].is_none()).collect()
    }
}

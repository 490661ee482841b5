//! What a writer remembers of the database: each source's lists of series. All of it can be read again, so all is forgotten whenever it might be
//! wrong.

use std::collections::HashMap;
use std::sync::Arc;

use golectra_protocol::Source;

use super::queue::QueuedBatch;
use super::shape::Shape;

/// How many series ids one writer holds at most, 4 bytes each.
const MAX_IDS: usize = 4_000_000;
/// How many lists one writer holds at most.
const MAX_LISTS: usize = 200_000;

/// The ordered series of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Its row; none while the list came once only, and its frame names the series itself.
    pub(super) id: Option<i32>,
    /// The source that it belongs to.
    pub(super) source_id: i32,
    /// The latest day that its row says it is used on, in days since 1970.
    pub(super) last_day: i32,
    /// One id a metric, in the batch's order.
    pub(super) series_ids: Box<[i32]>,
}

/// Lists by source and shape.
#[derive(Default)]
pub(super) struct LayoutCache {
    sources: HashMap<Source, HashMap<Shape, Arc<Layout>>>,
    lists: usize,
    ids: usize,
}

impl LayoutCache {
    /// The batch's layout, if its row is known and stands for the batch's day.
    pub(super) fn layout(&self, queued: &QueuedBatch) -> Option<&Arc<Layout>> {
        let layout = self.list(queued)?;
        (layout.id.is_some() && layout.last_day >= queued.day).then_some(layout)
    }

    /// The batch's list, if it came before.
    pub(super) fn list(&self, queued: &QueuedBatch) -> Option<&Arc<Layout>> {
        let layout = self.sources.get(&queued.batch.source)?.get(&queued.shape)?;
        (layout.series_ids.len() == queued.batch.metrics.len()).then_some(layout)
    }

    /// Remembers a committed list.
    pub(super) fn remember(&mut self, queued: &QueuedBatch, layout: &Arc<Layout>) {
        let ids = layout.series_ids.len();
        if self.ids + ids > MAX_IDS || self.lists >= MAX_LISTS {
            // Rare, and those in use are back after one query each.
            self.clear();
        }
        let lists = self.sources.entry(queued.batch.source.clone()).or_default();
        match lists.insert(queued.shape, Arc::clone(layout)) {
            Some(old) => self.ids -= old.series_ids.len(),
            None => self.lists += 1,
        }
        self.ids += ids;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

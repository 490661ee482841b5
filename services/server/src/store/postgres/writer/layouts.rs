//! What a writer remembers of the database: each source's lists of series. All of it can be read again, so all is forgotten whenever it might be
//! wrong.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use golectra_protocol::Source;

use super::queue::QueuedBatch;
use super::shape::Shape;

/// How many series ids one writer holds at most, 4 bytes each.
const MAX_IDS: usize = 4_000_000;
/// How many lists one writer holds at most.
const MAX_LISTS: usize = 200_000;

/// Stands in a list of series for one that was not made, since there are as many as there may be.
pub(super) const NO_SERIES: i32 = 0;

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

/// How many single series one writer remembers at most, about 50 bytes each.
const MAX_SERIES: usize = 1_000_000;

/// Lists by source and shape, and single series for batches whose lists don't come again.
#[derive(Default)]
pub(super) struct LayoutCache {
    sources: HashMap<Source, HashMap<Shape, Arc<Layout>>>,
    lists: usize,
    ids: usize,
    series: HashMap<Source, KnownSeries>,
    known_series: usize,
}

/// Single series of a source.
struct KnownSeries {
    source_id: i32,
    /// Numbers by the shapes of ids, which are hashes already.
    ids: HashMap<Shape, i32, FixedState>,
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

    /// The series of a batch whose samples are stored once for each time, if all are known.
    pub(super) fn series_of_samples(&self, queued: &QueuedBatch) -> Option<Layout> {
        let known = self.series.get(&queued.batch.source)?;
        let series_ids: Option<Box<[i32]>> = queued.samples.as_ref()?.shapes.iter().map(|shape| known.ids.get(shape).copied()).collect();
        Some(Layout { id: None, source_id: known.source_id, last_day: queued.day, series_ids: series_ids? })
    }

    /// The number of a batch's source, if it was seen before.
    pub(super) fn source_id(&self, queued: &QueuedBatch) -> Option<i32> {
        match queued.samples {
            Some(_) => self.series.get(&queued.batch.source).map(|known| known.source_id),
            None => self.list(queued).map(|list| list.source_id),
        }
    }

    fn remember_series(&mut self, queued: &QueuedBatch, shapes: &[Shape], layout: &Layout) {
        if self.known_series + shapes.len() > MAX_SERIES {
            self.clear();
        }
        let new = || KnownSeries { source_id: layout.source_id, ids: HashMap::default() };
        let known = self.series.entry(queued.batch.source.clone()).or_insert_with(new);
        let before = known.ids.len();
        known.ids.extend(shapes.iter().copied().zip(layout.series_ids.iter().copied()).filter(|(_, id)| *id != NO_SERIES));
        self.known_series += known.ids.len() - before;
    }

    /// Remembers a committed list.
    pub(super) fn remember(&mut self, queued: &QueuedBatch, layout: &Arc<Layout>) {
        if let Some(samples) = &queued.samples {
            return self.remember_series(queued, &samples.shapes, layout);
        }
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

//! What a writer remembers of the database: each source's layouts and their series. All of it can be read again, so all is
//! forgotten whenever it might be wrong.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::quality::RandomState;
use golectra_protocol::{Kind, MetricRef, Source};

use super::Batch;
use super::queue::Pending;
use crate::audit::Draft;

/// How many series ids one writer holds at most, 4 bytes each.
const MAX_IDS: usize = 4_000_000;
/// How many layouts one writer holds at most.
const MAX_LAYOUTS: usize = 200_000;

/// The ordered series of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Its row.
    pub(super) id: i32,
    /// The source that it belongs to.
    pub(super) source_id: i32,
    /// The latest day that its row says it is used on, in days since 1970.
    pub(super) last_day: i32,
    /// One id a metric, in the batch's order.
    pub(super) series_ids: Box<[i32]>,
}

/// What tells layouts apart in this process: 128 bits over types and ids, under seeds that are this process's own.
pub(super) type Shape = (u64, u64);

/// Tells shapes. The database's own digest is SHA-256 and only computed for a layout that is not known here.
#[derive(Default)]
pub(super) struct Shapes(RandomState, RandomState);

impl Shapes {
    /// The batch's shape, and about how many bytes it takes in memory.
    pub(super) fn of(&self, batch: &Batch) -> (Shape, usize) {
        let (mut one, mut other) = (self.0.build_hasher(), self.1.build_hasher());
        let mut text = 0;
        for metric in &batch.metrics {
            let id = metric.id.as_bytes();
            text += id.len();
            // An id's end is told by its length.
            let head = id.len() << 1 | usize::from(metric.kind() == Kind::Counter);
            one.write_usize(head);
            one.write(id);
            other.write_usize(head);
            other.write(id);
        }
        let audit = batch.audit.as_ref().map_or(0, Draft::held_bytes);
        let bytes = size_of::<Pending>() + text + batch.metrics.len() * size_of::<MetricRef<'_>>() + audit;
        ((one.finish(), other.finish()), bytes)
    }
}

/// Layouts by source and shape.
#[derive(Default)]
pub(super) struct Known {
    sources: HashMap<Source, HashMap<Shape, Arc<Layout>>>,
    layouts: usize,
    ids: usize,
}

impl Known {
    /// The batch's layout, if it is known and stands for the batch's day.
    pub(super) fn layout(&self, pending: &Pending) -> Option<&Arc<Layout>> {
        let layout = self.sources.get(&pending.batch.source)?.get(&pending.shape)?;
        (layout.last_day >= pending.day && layout.series_ids.len() == pending.batch.metrics.len()).then_some(layout)
    }

    /// Remembers a committed layout.
    pub(super) fn remember(&mut self, pending: &Pending, layout: &Arc<Layout>) {
        let ids = layout.series_ids.len();
        if self.ids + ids > MAX_IDS || self.layouts >= MAX_LAYOUTS {
            // Rare, and those in use are back after one query each.
            self.clear();
        }
        let layouts = self.sources.entry(pending.batch.source.clone()).or_default();
        match layouts.insert(pending.shape, Arc::clone(layout)) {
            Some(old) => self.ids -= old.series_ids.len(),
            None => self.layouts += 1,
        }
        self.ids += ids;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

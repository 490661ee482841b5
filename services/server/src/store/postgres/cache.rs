//! What the writer remembers of the database: the series of each layout. Every entry can be read again, so all are forgotten
//! whenever they might be wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many series ids are held at most, 4 bytes each.
const MAX_IDS: usize = 4_000_000;
/// How many layouts are held at most.
const MAX_LAYOUTS: usize = 200_000;

/// The ordered series of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Its row.
    pub(super) id: i32,
    /// The latest day that its row says it is used on, in days since 1970.
    pub(super) last_day: i32,
    /// One id a metric, in the batch's order.
    pub(super) series_ids: Vec<i32>,
}

/// A source's row and the digest of types and ids.
pub(super) type LayoutKey = (i32, [u8; 32]);

/// Layouts by key.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    epoch: u64,
    ids: usize,
    layouts: HashMap<LayoutKey, Arc<Layout>>,
}

impl Cache {
    /// Changes with every [`Cache::clear`].
    pub(super) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// The layout, if it is known.
    pub(super) fn get(&self, key: &LayoutKey) -> Option<Arc<Layout>> {
        self.lock().layouts.get(key).cloned()
    }

    /// Remembers a committed layout, unless all was forgotten since `epoch`.
    pub(super) fn put(&self, epoch: u64, key: LayoutKey, layout: Arc<Layout>) {
        let mut held = self.lock();
        if held.epoch != epoch {
            return;
        }
        let ids = layout.series_ids.len();
        if held.ids + ids > MAX_IDS || held.layouts.len() >= MAX_LAYOUTS {
            // Rare, and those in use are back after one query each.
            held.layouts = HashMap::new();
            held.ids = 0;
        }
        held.ids += ids;
        if let Some(old) = held.layouts.insert(key, layout) {
            held.ids -= old.series_ids.len();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut held = self.lock();
        held.epoch += 1;
        held.ids = 0;
        held.layouts.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(id: i32, ids: usize) -> Arc<Layout> {
        Arc::new(Layout { id, last_day: 0, series_ids: vec![1; ids] })
    }

    #[test]
    fn what_was_read_before_a_clear_is_not_remembered_after_it() {
        let cache = Cache::default();
        let before = cache.epoch();
        cache.clear();
        cache.put(before, (1, [0; 32]), layout(1, 1));
        assert_eq!(cache.get(&(1, [0; 32])), None);
        cache.put(cache.epoch(), (1, [0; 32]), layout(1, 1));
        assert_eq!(cache.get(&(1, [0; 32])).unwrap().id, 1);
    }

    #[test]
    fn it_never_holds_more_ids_than_it_may() {
        let cache = Cache::default();
        for id in 0..9 {
            cache.put(0, (id, [0; 32]), layout(id, MAX_IDS / 4));
            // The same again replaces itself.
            cache.put(0, (id, [0; 32]), layout(id, MAX_IDS / 4));
            assert!(cache.lock().ids <= MAX_IDS);
            assert!(cache.get(&(id, [0; 32])).is_some());
        }
        let held = cache.lock();
        assert_eq!(held.ids, held.layouts.len() * (MAX_IDS / 4));
    }
}

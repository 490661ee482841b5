//! Layouts that were read, so that a query does not read them again: but for its last day, a layout never changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many series ids are held at most, 4 bytes each.
const MAX_IDS: usize = 2_000_000;

/// The ordered series of frames.
#[derive(Debug, Clone)]
pub(super) struct LayoutList {
    pub(super) id: i32,
    pub(super) source_id: i32,
    pub(super) series_ids: Arc<[i32]>,
    /// A frame of this day (counted from 1970) uses it. There may be later ones.
    pub(super) last_day: i32,
}

/// Layouts by their sources and ids.
#[derive(Default)]
pub(super) struct LayoutLists(Mutex<Held>);

#[derive(Default)]
struct Held {
    lists: HashMap<i32, HashMap<i32, LayoutList>>,
    ids: usize,
}

impl LayoutLists {
    /// The layouts of these sources that are held and are of this day or a later one, those of a source side by side.
    pub(super) fn held(&self, source_ids: &[i32], day: i32) -> Vec<LayoutList> {
        let held = self.lock();
        let lists = source_ids.iter().filter_map(|id| held.lists.get(id)).flat_map(HashMap::values);
        lists.filter(|list| list.last_day >= day).cloned().collect()
    }

    /// Holds these as well.
    pub(super) fn hold(&self, lists: &[LayoutList]) {
        let mut held = self.lock();
        for list in lists {
            held.hold(list);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn hold(&mut self, list: &LayoutList) {
        // Rare, and those in use are back after one query each.
        if self.ids + list.series_ids.len() > MAX_IDS {
            *self = Self::default();
        }
        self.ids += list.series_ids.len();
        if let Some(old) = self.lists.entry(list.source_id).or_default().insert(list.id, list.clone()) {
            self.ids -= old.series_ids.len();
        }
    }
}

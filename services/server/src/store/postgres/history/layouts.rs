//! Layouts that were read, so that a query does not read them again: but for its last day, a layout never changes.
//!
//! That is so in one database. After a failover, a promoted standby may lack the newest layouts of the old primary and have given their numbers to others; a
//! database may be restored from a backup. Either way it is another database server, or the same one after a start.

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

/// Layouts by their sources and ids, of the database server that was read last. It is told by when it started.
#[derive(Default)]
pub(super) struct LayoutLists(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// When the server that they are from started, or recovered from a crash, in unix microseconds.
    server_started: i64,
    lists: HashMap<i32, HashMap<i32, LayoutList>>,
    ids: usize,
}

impl LayoutLists {
    /// The layouts of these sources that are held and are of this day or a later one, those of a source side by side.
    pub(super) fn held(&self, server_started: i64, source_ids: &[i32], day: i32) -> Vec<LayoutList> {
        let held = self.of(server_started);
        let lists = source_ids.iter().filter_map(|id| held.lists.get(id)).flat_map(HashMap::values);
        lists.filter(|list| list.last_day >= day).cloned().collect()
    }

    /// Holds these as well.
    pub(super) fn hold(&self, server_started: i64, lists: &[LayoutList]) {
        let mut held = self.of(server_started);
        for list in lists {
            held.hold(list);
        }
    }

    /// What is held of the server that started then: nothing where others were read last.
    fn of(&self, server_started: i64) -> std::sync::MutexGuard<'_, Held> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.server_started != server_started {
            *held = Held { server_started, ..Held::default() };
        }
        held
    }
}

impl Held {
    fn hold(&mut self, list: &LayoutList) {
        // Rare, and those in use are back after one query each.
        if self.ids + list.series_ids.len() > MAX_IDS {
            *self = Self { server_started: self.server_started, ..Self::default() };
        }
        self.ids += list.series_ids.len();
        if let Some(old) = self.lists.entry(list.source_id).or_default().insert(list.id, list.clone()) {
            self.ids -= old.series_ids.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_another_database_server_are_not_given_out() {
        let lists = LayoutLists::default();
        let list = |series: i32| LayoutList { id: 1, source_id: 2, series_ids: Arc::from([series]), last_day: 3 };
        let held = |server_started: i64| lists.held(server_started, &[2], 3).iter().map(|list| list.series_ids[0]).collect::<Vec<_>>();
        lists.hold(10, &[list(64)]);
        assert_eq!(held(10), [64]);
        assert_eq!(held(11), [] as [i32; 0]);
        lists.hold(11, &[list(128)]);
        assert_eq!(held(11), [128]);
        // A transaction that began on the old one, and ends after the failover.
        lists.hold(10, &[list(64)]);
        assert_eq!(held(11), [] as [i32; 0]);
    }
}

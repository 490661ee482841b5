//! Layouts that were read, so that a query does not read them again: a layout never changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;

/// How many series ids are held at most, 4 bytes each.
const MAX_IDS: usize = 2_000_000;

/// The ordered series of frames.
#[derive(Debug, Clone)]
pub(super) struct LayoutList {
    pub(super) id: i32,
    pub(super) source_id: i32,
    pub(super) series_ids: Arc<[i32]>,
}

/// Layouts by their ids.
#[derive(Default)]
pub(super) struct LayoutLists(Mutex<Held>);

#[derive(Default)]
struct Held {
    lists: HashMap<i32, LayoutList>,
    ids: usize,
}

impl LayoutLists {
    /// These layouts, sorted by source.
    pub(super) async fn of_ids(&self, conn: &mut PgConnection, ids: Vec<i32>) -> Result<Vec<LayoutList>, sqlx::Error> {
        let (mut found, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        {
            let held = self.lock();
            for id in ids {
                match held.lists.get(&id) {
                    Some(list) => found.push(list.clone()),
                    None => missing.push(id),
                }
            }
        }
        if !missing.is_empty() {
            let statement = "SELECT id, source_id, series_ids FROM layouts WHERE id = ANY($1)";
            let read: Vec<(i32, i32, Vec<i32>)> = sqlx::query_as(statement).bind(missing).fetch_all(conn).await?;
            let mut held = self.lock();
            for (id, source_id, series_ids) in read {
                let list = LayoutList { id, source_id, series_ids: series_ids.into() };
                held.remember(&list);
                found.push(list);
            }
        }
        found.sort_unstable_by_key(|list| (list.source_id, list.id));
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn remember(&mut self, list: &LayoutList) {
        // Rare, and those in use are back after one query each.
        if self.ids + list.series_ids.len() > MAX_IDS {
            *self = Self::default();
        }
        self.ids += list.series_ids.len();
        if let Some(old) = self.lists.insert(list.id, list.clone()) {
            self.ids -= old.series_ids.len();
        }
    }
}

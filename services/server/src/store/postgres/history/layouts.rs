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
    /// The layouts of these sources that frames of this day (counted from 1970) or later ones have, sorted by source.
    pub(super) async fn of_sources(&self, conn: &mut PgConnection, sources: &[i32], day: i32) -> Result<Vec<LayoutList>, sqlx::Error> {
        let statement = "SELECT id FROM layouts WHERE source_id = ANY($1) AND last_day >= date '1970-01-01' + $2";
        let ids: Vec<i32> = sqlx::query_scalar(statement).bind(sources).bind(day).fetch_all(&mut *conn).await?;
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

//! Layouts that were read, so that a query does not read them again: a layout never changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;

/// How many series ids are held at most, 4 bytes each.
const MAX_IDS: usize = 2_000_000;

/// Lists of series by the layout's id.
#[derive(Default)]
pub(super) struct LayoutLists(Mutex<Held>);

#[derive(Default)]
struct Held {
    lists: HashMap<i32, Arc<[i32]>>,
    ids: usize,
}

impl LayoutLists {
    /// The layouts of these sources that frames of this day (counted from 1970) or later ones have.
    pub(super) async fn of_sources(
        &self,
        conn: &mut PgConnection,
        sources: &[i32],
        day: i32,
    ) -> Result<Vec<(i32, Arc<[i32]>)>, sqlx::Error> {
        let statement = "SELECT id FROM layouts WHERE source_id = ANY($1) AND last_day >= date '1970-01-01' + $2";
        let ids: Vec<i32> = sqlx::query_scalar(statement).bind(sources).bind(day).fetch_all(&mut *conn).await?;
        let (mut found, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        {
            let held = self.lock();
            for id in ids {
                match held.lists.get(&id) {
                    Some(list) => found.push((id, Arc::clone(list))),
                    None => missing.push(id),
                }
            }
        }
        if !missing.is_empty() {
            let statement = "SELECT id, series_ids FROM layouts WHERE id = ANY($1)";
            let read: Vec<(i32, Vec<i32>)> = sqlx::query_as(statement).bind(missing).fetch_all(conn).await?;
            let mut held = self.lock();
            for (id, list) in read {
                let list: Arc<[i32]> = list.into();
                held.remember(id, &list);
                found.push((id, list));
            }
        }
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn remember(&mut self, id: i32, list: &Arc<[i32]>) {
        // Rare, and those in use are back after one query each.
        if self.ids + list.len() > MAX_IDS {
            *self = Self::default();
        }
        self.ids += list.len();
        if let Some(old) = self.lists.insert(id, Arc::clone(list)) {
            self.ids -= old.len();
        }
    }
}

//! The lists of ids that a lane needs for the bodies of its events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::PgConnection;

/// What a lane remembers at most, in bytes.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// About what a list costs beside its text.
const ENTRY_BYTES: usize = 128;

/// Lists that were needed lately, by digest. A digest stands for one text for ever, so what is here can't be wrong.
#[derive(Debug, Default)]
pub(super) struct Lists(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    lists: HashMap<Vec<u8>, Arc<str>>,
    bytes: usize,
}

impl Lists {
    /// These lists by digest; those that are not known here are asked for at once. Without those that are nowhere.
    pub(super) async fn get<'a>(
        &self,
        conn: &mut PgConnection,
        digests: impl Iterator<Item = &'a [u8]>,
    ) -> Result<HashMap<Vec<u8>, Arc<str>>, sqlx::Error> {
        let mut asked: HashMap<Vec<u8>, Option<Arc<str>>> = HashMap::new();
        {
            let known = self.known();
            for digest in digests {
                if !asked.contains_key(digest) {
                    asked.insert(digest.to_vec(), known.lists.get(digest).cloned());
                }
            }
        }
        let missing: Vec<Vec<u8>> = asked.iter().filter(|(_, ids)| ids.is_none()).map(|(digest, _)| digest.clone()).collect();
        let mut lists: HashMap<Vec<u8>, Arc<str>> = asked.into_iter().filter_map(|(digest, ids)| Some((digest, ids?))).collect();
        if !missing.is_empty() {
            let rows = sqlx::query!("select digest, ids from audit_lists where digest = any($1)", &missing).fetch_all(conn).await?;
            let mut known = self.known();
            for row in rows {
                let ids: Arc<str> = row.ids.into();
                known.remember(&row.digest, &ids);
                lists.insert(row.digest, ids);
            }
        }
        Ok(lists)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn remember(&mut self, digest: &[u8], ids: &Arc<str>) {
        if self.lists.contains_key(digest) {
            return;
        }
        let bytes = ids.len() + ENTRY_BYTES;
        if self.bytes + bytes > MAX_BYTES {
            // Rare, and those in use are back after one query. A list that is larger than all there is goes in alone.
            *self = Self::default();
        }
        self.lists.insert(digest.to_vec(), Arc::clone(ids));
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        let ids: Arc<str> = "x".repeat(MAX_BYTES / 3 - ENTRY_BYTES).into();
        for digest in [[1], [2], [3], [3]] {
            known.remember(&digest, &ids);
        }
        assert_eq!((known.lists.len(), known.bytes), (3, MAX_BYTES / 3 * 3));
        known.remember(&[4], &ids);
        assert_eq!((known.lists.len(), known.bytes), (1, MAX_BYTES / 3));
        known.remember(&[5], &"x".repeat(MAX_BYTES).into());
        assert_eq!(known.lists.len(), 1);
    }
}

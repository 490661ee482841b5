//! Reads the name lists of a sink's claimed events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::PgConnection;

/// The size limit of a reader's cache, in bytes.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The approximate overhead of a cached list, in bytes.
const ENTRY_BYTES: usize = 128;

/// Reads lists by their digests, and caches them. A digest always identifies the same text, so the cache can't be stale.
#[derive(Debug, Default)]
pub(super) struct NameListReader(Mutex<CachedLists>);

#[derive(Debug, Default)]
struct CachedLists {
    by_digest: HashMap<Vec<u8>, Arc<str>>,
    bytes: usize,
}

impl NameListReader {
    /// The lists with these digests; those that are not cached are read in one query. Lists that do not exist are left out.
    pub(super) async fn read<'a>(
        &self,
        conn: &mut PgConnection,
        digests: impl Iterator<Item = &'a [u8]>,
    ) -> Result<HashMap<Vec<u8>, Arc<str>>, sqlx::Error> {
        let mut asked: HashMap<Vec<u8>, Option<Arc<str>>> = HashMap::new();
        {
            let cached = self.cached();
            for digest in digests {
                if !asked.contains_key(digest) {
                    asked.insert(digest.to_vec(), cached.by_digest.get(digest).cloned());
                }
            }
        }
        let missing: Vec<Vec<u8>> = asked.iter().filter(|(_, names)| names.is_none()).map(|(digest, _)| digest.clone()).collect();
        let mut lists: HashMap<Vec<u8>, Arc<str>> = asked.into_iter().filter_map(|(digest, names)| Some((digest, names?))).collect();
        if !missing.is_empty() {
            let rows =
                sqlx::query!("select digest, metrics from audit_name_lists where digest = any($1)", &missing).fetch_all(conn).await?;
            let mut cached = self.cached();
            for row in rows {
                let names: Arc<str> = row.metrics.into();
                cached.insert(&row.digest, &names);
                lists.insert(row.digest, names);
            }
        }
        Ok(lists)
    }

    fn cached(&self) -> MutexGuard<'_, CachedLists> {
        // No code between related changes can panic, so the data behind a poisoned lock is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedLists {
    fn insert(&mut self, digest: &[u8], names: &Arc<str>) {
        if self.by_digest.contains_key(digest) {
            return;
        }
        let bytes = names.len() + ENTRY_BYTES;
        if self.bytes + bytes > MAX_BYTES {
            // The whole cache is evicted. That is rare, and lists in use are cached again after one query. A list that is
            // larger than the cache is cached alone.
            *self = Self::default();
        }
        self.by_digest.insert(digest.to_vec(), Arc::clone(names));
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded() {
        let mut cached = CachedLists::default();
        let names: Arc<str> = "x".repeat(MAX_BYTES / 3 - ENTRY_BYTES).into();
        for digest in [[1], [2], [3], [3]] {
            cached.insert(&digest, &names);
        }
        assert_eq!((cached.by_digest.len(), cached.bytes), (3, MAX_BYTES / 3 * 3));
        cached.insert(&[4], &names);
        assert_eq!((cached.by_digest.len(), cached.bytes), (1, MAX_BYTES / 3));
        cached.insert(&[5], &"x".repeat(MAX_BYTES).into());
        assert_eq!(cached.by_digest.len(), 1);
    }
}

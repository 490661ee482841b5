//! A table without the series that have expired.
//!
//! Most of the work is done on a copy, without the lock. [`Rebuild::finish`] then brings in what changed meanwhile, which is told
//! by the chunks that are no longer shared with the copy.

use super::{IdHasher, NEW, ROWS_A_CHUNK, Row, Rows, Table, Version};
use crate::store::memory::chunks::range_of;

/// A table that is being rebuilt.
#[derive(Debug)]
pub(in crate::store::memory) struct Rebuild {
    table: Table,
    copy: Rows,
    /// The new slot of each slot of the copy; [`NEW`] where the series has expired.
    slots: Vec<u32>,
    expired: usize,
}

impl Rebuild {
    /// Rebuilds from a copy; none where nothing has expired.
    pub(in crate::store::memory) fn start(copy: Rows, hasher: &IdHasher, has_expired: impl Fn(&Row) -> bool) -> Option<Self> {
        let mut kept = (0, 0);
        for row in copy.iter().filter(|row| !has_expired(row)) {
            kept = (kept.0 + 1, kept.1 + copy.id_bytes(row).len());
        }
        let expired = copy.len() - kept.0;
        if expired == 0 {
            return None;
        }
        let mut table = Table::default();
        table.reserve(kept.0, kept.1, hasher);
        let take = |row: &Row| if has_expired(row) { NEW } else { table.take(hasher, &copy, row) };
        let slots = copy.iter().map(take).collect();
        Some(Self { table, copy, slots, expired })
    }

    /// The expired series as of the copy, by their slots in it.
    pub(in crate::store::memory) fn expired(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.copy.iter().zip(&self.slots).enumerate().filter(|(_, (_, new))| **new == NEW).map(|(slot, (row, _))| (slot, row))
    }

    /// The rows that the table is rebuilt from.
    pub(in crate::store::memory) fn copy(&self) -> &Rows {
        &self.copy
    }

    /// Brings in what was changed and added since the copy was made. To be called under the lock.
    pub(in crate::store::memory) fn finish(mut self, live: &Rows, hasher: &IdHasher, has_expired: impl Fn(&Row) -> bool) -> Finished {
        let len = self.copy.len();
        let mut revived = Vec::new();
        for number in (0..len.div_ceil(ROWS_A_CHUNK)).filter(|number| !live.rows.is_shared_with(&self.copy.rows, *number)) {
            for slot in range_of::<ROWS_A_CHUNK>(number, len) {
                let row = live.rows.get(slot);
                match self.slots[slot] {
                    NEW if has_expired(row) => {}
                    NEW => {
                        revived.push(slot);
                        self.table.take(hasher, live, row);
                    }
                    new => self.table.rows.replace(new, *row),
                }
            }
        }
        for slot in len..live.len() {
            self.table.take(hasher, live, live.rows.get(slot));
        }
        Finished { expired: self.expired - revived.len(), revived, table: self.table, garbage: (self.copy, self.slots) }
    }
}

/// A table that is as the live one but for the expired series.
#[derive(Debug)]
pub(in crate::store::memory) struct Finished {
    pub(in crate::store::memory) table: Table,
    /// How many series are gone.
    pub(in crate::store::memory) expired: usize,
    /// Slots of the copy that were reported again before the table was finished, in order.
    pub(in crate::store::memory) revived: Vec<usize>,
    /// Freed when the lock is no longer held.
    pub(in crate::store::memory) garbage: (Rows, Vec<u32>),
}

impl Table {
    /// Adds another table's series.
    fn take(&mut self, hasher: &IdHasher, from: &Rows, row: &Row) -> u32 {
        let slot = self.push(hasher, from.metric(row), Version::default(), 0);
        self.rows.replace(slot, *row);
        slot
    }
}

impl Rows {
    /// Puts a series' row of another table here, where its id has another place.
    fn replace(&mut self, slot: u32, row: Row) {
        let slot = slot as usize;
        let here = &mut self.rows.chunk_mut(slot / ROWS_A_CHUNK)[slot % ROWS_A_CHUNK];
        *here = row.moved_to(*here);
    }
}

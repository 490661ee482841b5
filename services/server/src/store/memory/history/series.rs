//! The series of one source that history knows, numbered in the order in which they came.
//!
//! Numbers stay: they are what samples and the files name a series by. 64 series with consecutive numbers share a block, so that what arrives
//! together is coded together; a block leaves when nothing is left of the samples of its series.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use golectra_protocol::Kind;
use hashbrown::HashTable;

use crate::store::memory::table::{IdHasher, hash, labelled_name};

/// How many series share a block.
pub(super) const SERIES_A_BLOCK: u32 = 64;
/// What a series takes beside its id: its end, its place in the hash table, and a share of its block.
const SERIES_BYTES: usize = 24;
/// What a labelled series takes in the index of names, and what a name takes beside its text.
const NAMED_BYTES: usize = 6;
const NAME_BYTES: usize = 72;

/// Series with consecutive numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct SeriesBlock {
    /// The ids, one behind the other, and where each ends.
    text: String,
    ends: Vec<u32>,
    /// Which of them are counters, and which of those have a gauge of the same id beside them.
    counters: u64,
    beside_gauge: u64,
    /// What each counter had counted before its first sample; empty where there is no counter.
    bases: Vec<i64>,
}

/// One series of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeriesRef<'a> {
    pub(super) id: &'a str,
    pub(super) kind: Kind,
    /// Whether it is a counter whose source has a gauge of the same id.
    pub(super) beside_gauge: bool,
    /// What a counter had counted before its first sample.
    pub(super) base: i64,
}

/// A series' block, and its place in there.
pub(super) fn place(number: u32) -> (u32, usize) {
    (number / SERIES_A_BLOCK, (number % SERIES_A_BLOCK) as usize)
}

impl SeriesBlock {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, slot: usize) -> Option<SeriesRef<'_>> {
        let end = *self.ends.get(slot)? as usize;
        let start = slot.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        let is = |bits: u64| bits & (1 << slot) != 0;
        Some(SeriesRef {
            id: &self.text[start..end],
            kind: if is(self.counters) { Kind::Counter } else { Kind::Gauge },
            beside_gauge: is(self.beside_gauge),
            base: self.bases.get(slot).copied().unwrap_or(0),
        })
    }

    /// Which of them are counters.
    pub(super) fn counters(&self) -> u64 {
        self.counters
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SeriesRef<'_>> {
        (0..self.len()).filter_map(|slot| self.get(slot))
    }

    fn push(&mut self, id: &str, kind: Kind, base: i64) {
        let slot = self.len();
        self.text.push_str(id);
        self.ends.push(u32::try_from(self.text.len()).expect("64 ids have far less than 4 GiB"));
        if kind == Kind::Counter {
            self.counters |= 1 << slot;
        }
        if kind == Kind::Counter || !self.bases.is_empty() {
            self.bases.resize(slot, 0);
            self.bases.push(base);
        }
        if self.len() == SERIES_A_BLOCK as usize {
            self.text.shrink_to_fit();
        }
    }
}

/// The series of one source.
#[derive(Debug, Default)]
pub(super) struct SeriesTable {
    blocks: BTreeMap<u32, Arc<SeriesBlock>>,
    /// The next series' number.
    next: u32,
    /// Numbers by the hash of the id.
    numbers: HashTable<u32>,
    /// Numbers of labelled series by name. Series whose id is their name are found by their id.
    names: HashMap<Box<str>, Vec<u32>>,
    /// Whether an id may have a label `instance` of its own.
    has_instance: bool,
    bytes: usize,
}

impl SeriesTable {
    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next series' number.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn has_instance(&self) -> bool {
        self.has_instance
    }

    pub(super) fn blocks(&self) -> &BTreeMap<u32, Arc<SeriesBlock>> {
        &self.blocks
    }

    /// The series with this number, where it is there.
    pub(super) fn get(&self, number: u32) -> Option<SeriesRef<'_>> {
        let (block, slot) = place(number);
        self.blocks.get(&block)?.get(slot)
    }

    pub(super) fn find(&self, hasher: &IdHasher, id: &str, kind: Kind) -> Option<u32> {
        let is = |number: &u32| self.get(*number).is_some_and(|series| series.id == id && series.kind == kind);
        self.numbers.find(hash(hasher, id.as_bytes()), is).copied()
    }

    /// The series' number; a new one where it is not there yet, with what the counter had counted before.
    pub(super) fn find_or_add(&mut self, hasher: &IdHasher, id: &str, kind: Kind, base: impl FnOnce() -> i64) -> u32 {
        self.find(hasher, id, kind).unwrap_or_else(|| self.add(hasher, id, kind, base()))
    }

    /// Adds a series that is not there yet.
    pub(super) fn add(&mut self, hasher: &IdHasher, id: &str, kind: Kind, base: i64) -> u32 {
        let number = self.next;
        self.add_at(hasher, number, id, kind, base);
        number
    }

    /// Takes back a series of the files; one that does not continue its block, or is there already, is left out.
    pub(super) fn restore(&mut self, hasher: &IdHasher, number: u32, id: &str, kind: Kind, base: i64) {
        let (block, slot) = place(number);
        let is_next = self.blocks.get(&block).map_or(0, |block| block.len()) == slot;
        if is_next && number != u32::MAX && self.find(hasher, id, kind).is_none() {
            self.add_at(hasher, number, id, kind, base);
        }
    }

    /// Gives out no number below this one any more.
    pub(super) fn raise_next(&mut self, next: u32) {
        let next = self.next.max(next);
        let (block, slot) = place(next);
        // Damaged files may lack the block that the next series would continue.
        let continues = slot == 0 || self.blocks.get(&block).is_some_and(|block| block.len() == slot);
        self.next = if continues { next } else { (block + 1) * SERIES_A_BLOCK };
    }

    /// Adds a series with the number after the last one of its block.
    fn add_at(&mut self, hasher: &IdHasher, number: u32, id: &str, kind: Kind, base: i64) {
        let (block, slot) = place(number);
        let into = Arc::make_mut(self.blocks.entry(block).or_default());
        debug_assert_eq!(into.len(), slot, "numbers are given out in order");
        into.push(id, kind, base);
        self.next = number.checked_add(1).expect("a source has fewer than 4 billion series over its life");
        self.bytes += id.len() + SERIES_BYTES + if kind == Kind::Counter { size_of::<i64>() } else { 0 };

        let other = if kind == Kind::Counter { Kind::Gauge } else { Kind::Counter };
        if let Some(other) = self.find(hasher, id, other) {
            let counter = if kind == Kind::Counter { number } else { other };
            let (block, slot) = place(counter);
            if let Some(block) = self.blocks.get_mut(&block) {
                Arc::make_mut(block).beside_gauge |= 1 << slot;
            }
        }
        let blocks = &self.blocks;
        let id_of = |number: &u32| {
            let (block, slot) = place(*number);
            blocks.get(&block).and_then(|block| block.get(slot)).map_or("", |series| series.id)
        };
        self.numbers.insert_unique(hash(hasher, id.as_bytes()), number, |number| hash(hasher, id_of(number).as_bytes()));
        if let Some(name) = labelled_name(id) {
            self.has_instance |= id.contains("instance");
            self.bytes += NAMED_BYTES;
            if let Some(numbers) = self.names.get_mut(&*name) {
                numbers.push(number);
            } else {
                self.bytes += name.len() + NAME_BYTES;
                self.names.insert(name.into(), vec![number]);
            }
        }
    }

    /// Numbers of the series with this name.
    pub(super) fn named(&self, hasher: &IdHasher, name: &str) -> impl Iterator<Item = u32> {
        let single = [Kind::Gauge, Kind::Counter].map(|kind| self.find(hasher, name, kind));
        single.into_iter().flatten().chain(self.names.get(name).into_iter().flatten().copied())
    }

    /// Each name of labelled series with their numbers.
    pub(super) fn labelled(&self) -> impl Iterator<Item = (&str, &[u32])> {
        self.names.iter().map(|(name, numbers)| (&**name, &**numbers))
    }

    /// Adds to what a counter had counted before its first sample.
    pub(super) fn add_to_base(&mut self, number: u32, deltas: i64) {
        let (block, slot) = place(number);
        let Some(block) = self.blocks.get_mut(&block).filter(|block| block.counters & (1 << slot) != 0) else { return };
        if let Some(base) = Arc::make_mut(block).bases.get_mut(slot) {
            *base = base.saturating_add(deltas);
        }
    }

    /// Removes blocks of series of which there are no samples left.
    pub(super) fn remove_blocks(&mut self, hasher: &IdHasher, blocks: &HashSet<u32>) {
        // A name may have all series: its list is gone through once, whatever many of them leave.
        let mut names: HashSet<Box<str>> = HashSet::new();
        for block in blocks {
            let Some(gone) = self.blocks.remove(block) else { continue };
            for (number, series) in (block * SERIES_A_BLOCK..).zip(gone.iter()) {
                if let Ok(entry) = self.numbers.find_entry(hash(hasher, series.id.as_bytes()), |other| *other == number) {
                    entry.remove();
                }
                self.bytes -= series.id.len() + SERIES_BYTES + if series.kind == Kind::Counter { size_of::<i64>() } else { 0 };
                let Some(name) = labelled_name(series.id) else { continue };
                self.bytes -= NAMED_BYTES;
                if !names.contains(&*name) {
                    names.insert(name.into());
                }
            }
            // Numbers are never given out again, so the next series begins a block that was not there.
            if self.next / SERIES_A_BLOCK == *block && !self.next.is_multiple_of(SERIES_A_BLOCK) {
                self.next = (block + 1) * SERIES_A_BLOCK;
            }
        }
        for name in names {
            let Some(numbers) = self.names.get_mut(&name) else { continue };
            numbers.retain(|number| {
                #[cfg(test)]
                VISITS.set(VISITS.get() + 1);
                !blocks.contains(&place(*number).0)
            });
            if numbers.is_empty() {
                self.bytes -= name.len() + NAME_BYTES;
                self.names.remove(&name);
            }
        }
        if self.blocks.is_empty() {
            // Whatever room they had was for series that are gone.
            (self.numbers, self.names, self.has_instance) = (HashTable::new(), HashMap::new(), false);
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How many numbers were looked at in the lists of names that lost some.
    static VISITS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_a_name_is_gone_through_once_whatever_many_series_leave() {
        const SERIES: u32 = 100_000;
        let hasher = IdHasher::default();
        let mut table = SeriesTable::default();
        for number in 0..SERIES {
            table.add(&hasher, &format!("m{{number=\"{number}\"}}"), Kind::Gauge, 0);
        }
        table.add(&hasher, "m{kept=\"1\"}", Kind::Counter, 5);
        table.add(&hasher, "other{kept=\"1\"}", Kind::Gauge, 0);
        let (kept, _) = place(SERIES);
        let gone: HashSet<u32> = (0..kept).collect();
        table.remove_blocks(&hasher, &gone);
        assert_eq!(VISITS.get(), SERIES as usize + 1);
        // The last block has some of the others as well.
        let left: Vec<u32> = (kept * SERIES_A_BLOCK..=SERIES).collect();
        assert_eq!(table.named(&hasher, "m").collect::<Vec<_>>(), left);
        assert_eq!(table.len(), left.len() + 1);
        assert_eq!(table.find(&hasher, "m{number=\"7\"}", Kind::Gauge), None);
        assert_eq!(table.find(&hasher, "m{kept=\"1\"}", Kind::Counter), Some(SERIES));

        table.remove_blocks(&hasher, &HashSet::from([kept, kept + 1]));
        assert!(table.is_empty() && table.bytes() == 0 && table.labelled().next().is_none());
        assert!(table.add(&hasher, "m", Kind::Gauge, 0) > SERIES + 1, "numbers are not given out again");
    }
}

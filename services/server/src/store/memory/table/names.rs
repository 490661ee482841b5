//! Finds the series of a metric name without looking at the others: 4 bytes a series.
//!
//! The labelled series of one name form a chain: the index has the last one's slot, and each series has the slot of the one
//! before it. Series whose id is their name are found by their id; they form one more chain, so that every name of the source
//! can be compared once with a regular expression.

use std::borrow::Cow;

use golectra_protocol::IdParts;
use hashbrown::HashTable;

use super::super::chunks::Chunks;
use super::{IdHasher, NEW, ROWS_A_CHUNK, Rows, hash};

/// The end of a chain.
const NONE: u32 = NEW;

/// For each series the one before it in its chain. A copy is cheap, and stays as it is.
#[derive(Debug, Clone, Default)]
pub(in crate::store::memory) struct ChainLinks(Chunks<u32, ROWS_A_CHUNK>);

impl ChainLinks {
    /// The slots of a chain, from this last one to the first.
    pub(in crate::store::memory) fn chain(&self, last: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(last), |slot| Some(*self.0.get(*slot as usize)).filter(|before| *before != NONE))
    }
}

/// The chains of one source.
#[derive(Debug)]
pub(super) struct NameIndex {
    links: ChainLinks,
    /// The last slot of each name's labelled series.
    labelled: HashTable<u32>,
    /// The last slot of the series whose id is their name.
    unlabelled: u32,
    /// Whether an id may have a label `instance` of its own.
    has_instance: bool,
}

impl Default for NameIndex {
    fn default() -> Self {
        Self { links: ChainLinks::default(), labelled: HashTable::new(), unlabelled: NONE, has_instance: false }
    }
}

/// The name of a labelled id; none where the id is its name.
pub(in crate::store::memory) fn labelled_name(id: &str) -> Option<Cow<'_, str>> {
    if !id.contains('{') {
        return None;
    }
    let name = IdParts::of(id).name;
    if name == id { None } else { Some(name) }
}

/// The name of an id that is known to be labelled.
fn name_before_labels(id: &str) -> Cow<'_, str> {
    match id.split_once('{') {
        Some((name, _)) if !name.is_empty() => Cow::Borrowed(name),
        _ => IdParts::of(id).name,
    }
}

impl NameIndex {
    pub(super) fn reserve(&mut self, series: usize) {
        self.links.0.reserve(series);
    }

    /// Adds the series in this slot, the one behind the last that was added.
    pub(super) fn push(&mut self, slot: u32, hasher: &IdHasher, rows: &Rows) {
        let id = rows.id(rows.row(slot));
        let before = match labelled_name(id) {
            None => std::mem::replace(&mut self.unlabelled, slot),
            Some(name) => {
                self.has_instance |= id.contains("instance=");
                let full = hash(hasher, name.as_bytes());
                let name_of = |last: u32| name_before_labels(rows.id(rows.row(last)));
                if let Some(last) = self.labelled.find_mut(full, |last| name_of(*last) == name) {
                    std::mem::replace(last, slot)
                } else {
                    self.labelled.insert_unique(full, slot, |last| hash(hasher, name_of(*last).as_bytes()));
                    NONE
                }
            }
        };
        self.links.0.append(&[before]);
    }

    pub(super) fn links(&self) -> &ChainLinks {
        &self.links
    }

    /// The last slot of a name's labelled series.
    pub(super) fn labelled(&self, hasher: &IdHasher, rows: &Rows, name: &str) -> Option<u32> {
        let is = |last: &u32| name_before_labels(rows.id(rows.row(*last))) == name;
        self.labelled.find(hash(hasher, name.as_bytes()), is).copied()
    }

    /// The last slot of each chain of labelled series.
    pub(super) fn all_labelled(&self) -> impl Iterator<Item = u32> {
        self.labelled.iter().copied()
    }

    /// The last slot of the series whose id is their name.
    pub(super) fn unlabelled(&self) -> Option<u32> {
        Some(self.unlabelled).filter(|slot| *slot != NONE)
    }

    pub(super) fn has_instance(&self) -> bool {
        self.has_instance
    }
}

//! The series of one source: compact, and quick to find.
//!
//! A series is a row of 24 bytes, the text of its id, and 4 bytes that link it to the others of its name. A hash table of
//! 32-bit slots finds it by its id. Rows, texts and links grow in chunks (see [`super::chunks`]); only the hash table moves as
//! a whole when it grows, which MAX_SERIES_PER_SOURCE bounds.
//!
//! Agents send the same ids in the same order every time, and rows stand in the order in which they were first sent. So a
//! look-up of a batch tries the row behind the one that was found last before it hashes: memory is read from front to back,
//! which makes a million series nearly as cheap as a thousand. See [`Walk`].

mod names;
mod rebuild;
mod row;

use std::hash::{BuildHasher, Hasher};

use golectra_protocol::{Kind, MAX_ID_BYTES, MetricRef, Value};
use hashbrown::HashTable;

use self::names::NameIndex;
pub(super) use self::names::{ChainLinks, labelled_name};
pub(super) use self::rebuild::Rebuild;
use self::row::MAX_TEXT_BYTES;
pub(super) use self::row::{Row, Version};
use super::chunks::{Chunks, range_of};

/// How many rows share a chunk of 24 KiB: the most that one write copies for a save or a read under way.
pub(super) const ROWS_A_CHUNK: usize = 1024;
/// How many bytes of ids share a chunk.
const TEXT_A_CHUNK: usize = 64 * 1024;
/// The bytes of an id's length.
const LENGTH_BYTES: usize = 2;

/// The hash of ids and sources. Ids come from outside: without the process's seed nobody can make them collide.
pub(super) type IdHasher = std::hash::RandomState;

/// The hash of an id or a source.
pub(super) fn hash(hasher: &IdHasher, text: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    // A text is all that is hashed, so it needs no end mark.
    state.write(text);
    state.finish()
}

/// Rows with their ids. A copy is cheap, and stays as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    rows: Chunks<Row, ROWS_A_CHUNK>,
    /// Each id's length and text.
    ids: Chunks<u8, TEXT_A_CHUNK>,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.rows.end()
    }

    pub(super) fn row(&self, slot: u32) -> &Row {
        self.rows.get(slot as usize)
    }

    /// Every row in the order of its slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        let chunks = self.len().div_ceil(ROWS_A_CHUNK);
        (0..chunks).flat_map(|number| &self.rows.chunk(number)[..range_of::<ROWS_A_CHUNK>(number, self.len()).len()])
    }

    /// The row's series.
    pub(super) fn metric(&self, row: &Row) -> MetricRef<'_> {
        MetricRef { id: self.id(row), value: row.value() }
    }

    pub(super) fn id(&self, row: &Row) -> &str {
        std::str::from_utf8(self.id_bytes(row)).expect("an id's text was stored whole")
    }

    #[inline]
    fn id_bytes(&self, row: &Row) -> &[u8] {
        self.text(row.id_place())
    }

    /// The id at this place.
    #[inline]
    fn text(&self, place: usize) -> &[u8] {
        let [l0, l1, text @ ..] = self.ids.from(place) else { return &[] };
        &text[..usize::from(u16::from_le_bytes([*l0, *l1]))]
    }

    /// Whether the series in this slot is that one.
    #[inline]
    fn holds(&self, slot: u32, id: &str, kind: Kind) -> bool {
        (slot as usize) < self.len() && self.is(self.row(slot), id, kind)
    }

    /// Whether the series of this row is that one.
    #[inline]
    fn is(&self, row: &Row, id: &str, kind: Kind) -> bool {
        row.kind() == kind && self.id_bytes(row) == id.as_bytes()
    }

    /// Appends a series that is not there yet and returns its slot.
    fn push(&mut self, MetricRef { id, value }: MetricRef<'_>, version: Version, period: u8) -> u32 {
        let length = u16::try_from(id.len()).expect("an id has at most 4,096 bytes");
        let place = self.ids.append_both(&length.to_le_bytes(), id.as_bytes());
        let place = u32::try_from(place).ok().filter(|place| (*place as usize) < MAX_TEXT_BYTES).expect("there was room for the ids");
        let slot = self.rows.append(&[Row::new(place, value, version, period)]);
        u32::try_from(slot).expect("a row has more than one byte of text")
    }

    /// Sets what a restart brings back.
    pub(super) fn restore(&mut self, slot: u32, arrival: u64, period: u8) {
        let slot = slot as usize;
        self.rows.chunk_mut(slot / ROWS_A_CHUNK)[slot % ROWS_A_CHUNK].restore(arrival, period);
    }
}

/// How many series are looked up at once where they stand in no order.
pub(super) const SCATTERED_AT_ONCE: usize = 32;
/// So many look-ups by hash make a batch one without order, if they are the most of it.
const SCATTERED_FROM: usize = 16;

/// The slot of a series that is not there yet.
pub(super) const NEW: u32 = u32::MAX;

/// A source's series, to be found by id and by name.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Rows,
    slots: HashTable<u32>,
    names: NameIndex,
}

/// The state of a look-up of many series in turn: the slots to try before anything is hashed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Walk {
    /// Behind the one found last.
    next: u32,
    /// Where the walk would have gone on before it last jumped: ids that came later stand at the end of the rows, but amid the others in a batch.
    aside: u32,
    /// How many steps it took, and how many of them by hash.
    steps: usize,
    hashed: usize,
}

impl Walk {
    /// Begins at this slot, or at the first.
    pub(super) fn at(next: u32) -> Self {
        Self { next, ..Self::default() }
    }

    /// Whether the order of this batch does not help: then it costs less to look many up at once.
    pub(super) fn is_lost(&self) -> bool {
        self.hashed >= SCATTERED_FROM && self.hashed * 2 > self.steps
    }
}

impl Table {
    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn rows_mut(&mut self) -> &mut Rows {
        &mut self.rows
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the texts of so many new ids with so many bytes in all can have a place. Each chunk may end with a gap for an id that
    /// did not fit.
    pub(super) fn has_room_for(&self, series: usize, id_bytes: usize) -> bool {
        let longest = MAX_ID_BYTES + LENGTH_BYTES;
        let more = id_bytes.saturating_add(series.saturating_mul(LENGTH_BYTES));
        let with_gaps = (more / (TEXT_A_CHUNK - longest)).saturating_add(2).saturating_mul(TEXT_A_CHUNK);
        self.rows.ids.end().saturating_add(with_gaps) <= MAX_TEXT_BYTES
    }

    /// The series' slot, by the hash of its id.
    pub(super) fn find(&self, hash: u64, id: &str, kind: Kind) -> Option<u32> {
        self.slots.find(hash, |slot| self.rows.holds(*slot, id, kind)).copied()
    }

    /// The series' slot, looked for in a likely one first.
    pub(super) fn find_near(&self, likely: u32, hash: u64, id: &str, kind: Kind) -> Option<u32> {
        if self.rows.holds(likely, id, kind) { Some(likely) } else { self.find(hash, id, kind) }
    }

    /// The series' slot, looked for where the walk stands and else by its hash.
    pub(super) fn walk(&self, walk: &mut Walk, hasher: &IdHasher, id: &str, kind: Kind) -> Option<u32> {
        walk.steps += 1;
        if self.rows.holds(walk.next, id, kind) {
            walk.next += 1;
            return Some(walk.next - 1);
        }
        let slot = if self.rows.holds(walk.aside, id, kind) {
            walk.aside
        } else {
            walk.hashed += 1;
            self.find(hash(hasher, id.as_bytes()), id, kind)?
        };
        (walk.next, walk.aside) = (slot + 1, walk.next);
        Some(slot)
    }

    /// The slots of some series that stand in no order, [`NEW`] where there is none: stage by stage, so that the memory of one is fetched while
    /// that of the others is, instead of one behind the other.
    pub(super) fn find_scattered(&self, hasher: &IdHasher, some: &[MetricRef<'_>], mut each: impl FnMut(MetricRef<'_>, u32)) {
        debug_assert!(some.len() <= SCATTERED_AT_ONCE);
        let mut all = [0; SCATTERED_AT_ONCE];
        for (full, metric) in all.iter_mut().zip(some) {
            *full = hash(hasher, metric.id.as_bytes());
        }
        // The first with the right seven bits of hash is nearly always the one.
        let mut likely = [0; SCATTERED_AT_ONCE];
        for (slot, full) in likely.iter_mut().zip(&all[..some.len()]) {
            *slot = self.slots.find(*full, |_| true).copied().unwrap_or(NEW);
        }
        let mut rows = [Row::default(); SCATTERED_AT_ONCE];
        for (row, slot) in rows.iter_mut().zip(&likely[..some.len()]).filter(|(_, slot)| **slot != NEW) {
            *row = *self.rows.row(*slot);
        }
        for (((metric, full), slot), row) in some.iter().zip(all).zip(likely).zip(rows) {
            let found = slot != NEW && self.rows.is(&row, metric.id, metric.kind());
            let none = slot == NEW;
            let other = || self.find(full, metric.id, metric.kind()).unwrap_or(NEW);
            each(*metric, if found || none { slot } else { other() });
        }
    }

    /// Makes room for so many new series whose ids have so many bytes in all.
    pub(super) fn reserve(&mut self, series: usize, id_bytes: usize, hasher: &IdHasher) {
        self.rows.rows.reserve(series);
        self.rows.ids.reserve(id_bytes + series * LENGTH_BYTES);
        self.names.reserve(series);
        let rows = &self.rows;
        self.slots.reserve(series, |slot| hash(hasher, rows.id_bytes(rows.row(*slot))));
    }

    /// Adds a series that is not there yet and returns its slot.
    pub(super) fn push(&mut self, hasher: &IdHasher, metric: MetricRef<'_>, version: Version, period: u8) -> u32 {
        let slot = self.rows.push(metric, version, period);
        let rows = &self.rows;
        self.slots.insert_unique(hash(hasher, metric.id.as_bytes()), slot, |slot| hash(hasher, rows.id_bytes(rows.row(*slot))));
        self.names.push(slot, hasher, rows);
        slot
    }

    /// Writes to series that are there; [`NEW`] ones are passed over. Gives the latest time of those that were written before the clock went back (see
    /// [`Row::write`]).
    pub(super) fn write(
        &mut self,
        changes: impl Iterator<Item = (u32, Value)>,
        version: Version,
        latest_millis: u64,
        period: u8,
    ) -> Option<u64> {
        let mut went_back: Option<u64> = None;
        let place = |slot: u32| (slot as usize / ROWS_A_CHUNK, slot as usize % ROWS_A_CHUNK);
        let mut changes = changes.filter(|(slot, _)| *slot != NEW).map(|(slot, value)| (place(slot), value)).peekable();
        while let Some(((number, row), value)) = changes.next() {
            // Whether a copy shares the chunk is asked once for all changes that follow in it.
            let chunk = self.rows.rows.chunk_mut(number);
            went_back = went_back.max(chunk[row].write(value, version, latest_millis, period));
            while let Some(((_, row), value)) = changes.next_if(|((next, _), _)| *next == number) {
                went_back = went_back.max(chunk[row].write(value, version, latest_millis, period));
            }
        }
        went_back
    }

    /// The slots of the series with this id or this name, as single slots and as the last ones of chains.
    pub(super) fn named(&self, hasher: &IdHasher, name: &str) -> (impl Iterator<Item = u32>, Option<u32>) {
        let full = hash(hasher, name.as_bytes());
        let single = [Kind::Gauge, Kind::Counter].map(|kind| self.find(full, name, kind));
        (single.into_iter().flatten(), self.names.labelled(hasher, &self.rows, name))
    }

    /// The last slot of each name's labelled series.
    pub(super) fn labelled_chains(&self) -> impl Iterator<Item = u32> {
        self.names.all_labelled()
    }

    /// The last slot of the series whose id is their name.
    pub(super) fn unlabelled_chain(&self) -> Option<u32> {
        self.names.unlabelled()
    }

    /// What the slots of a chain are read from.
    pub(super) fn links(&self) -> &ChainLinks {
        self.names.links()
    }

    /// Whether an id may have a label `instance` of its own.
    pub(super) fn has_instance(&self) -> bool {
        self.names.has_instance()
    }

    /// Chunks of rows that a copy shares.
    #[cfg(test)]
    pub(super) fn shared_chunks(&self) -> usize {
        self.rows.rows.shared()
    }
}

#[cfg(test)]
mod tests;

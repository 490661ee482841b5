//! The series of one source, in little room and quick to find.
//!
//! A series is a row of 24 bytes and its id's text; a hash table of 32-bit places finds it. The three grow apart: rows
//! and texts in chunks (see [`super::chunks`]), the table alone is moved when it grows, which MAX_SERIES_PER_SOURCE bounds.
//!
//! Agents send the same ids in the same order every time, and rows stand in the order in which they were first sent. So
//! whoever found one metric looks at the row behind it for the next one: nothing is hashed, and memory is read from
//! front to back, which is what keeps a million series nearly as cheap as a thousand. See [`Walk`].

use std::hash::{BuildHasher, Hasher};

use golectra_protocol::{Kind, MetricRef, Value};
use hashbrown::HashTable;

use super::chunks::{Chunks, range_of};

/// How many rows share a chunk of 24 KiB: what one write copies at most for a save or a read under way.
pub(super) const ROWS_A_CHUNK: usize = 1024;
/// How many bytes of ids share a chunk.
const TEXT_A_CHUNK: usize = 64 * 1024;
/// A source holds no more than this, whatever the settings say: 256 of the longest ids fill a chunk, and a place has 31 bits.
pub(super) const MOST_SERIES: usize = (1 << 31) / TEXT_A_CHUNK * 256;

const COUNTER_BIT: u32 = 1 << 31;
const TIME_BITS: u32 = 48;

/// The hash of ids and sources. Ids come from outside: whoever can't know the process's seed can't make them collide.
pub(super) type IdHasher = std::hash::RandomState;

/// The hash of an id or a source.
pub(super) fn hash(hasher: &IdHasher, text: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    // A text is all that is hashed, so it needs no end mark.
    state.write(text);
    state.finish()
}

/// When a series was written: the batch's time, and which of the store's writes it was. The later one is the newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Stamp {
    /// The time's 48 bits (no key has more), then the arrival's upper 16.
    time_and_arrival: u64,
    arrival_low: u32,
}

impl Stamp {
    /// A time in unix milliseconds, of which what no key could hold counts as the latest, and the number of a write.
    pub(super) fn new(at_millis: u64, arrival: u64) -> Self {
        let time = at_millis.min((1 << TIME_BITS) - 1) << (64 - TIME_BITS);
        let high = (arrival >> 32) & u64::from(u16::MAX);
        let low = arrival & u64::from(u32::MAX);
        Self { time_and_arrival: time | high, arrival_low: u32::try_from(low).expect("32 bits were taken") }
    }

    pub(super) fn at_millis(self) -> u64 {
        self.time_and_arrival >> (64 - TIME_BITS)
    }
}

/// A series without its id. Its order keeps it at 24 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row {
    /// A double's bits or a total.
    bits: u64,
    time_and_arrival: u64,
    arrival_low: u32,
    /// Where its id stands, and whether it is a counter.
    id: u32,
}

impl Row {
    fn new(id: u32, value: Value, stamp: Stamp) -> Self {
        let (bits, kind) = match value {
            Value::Gauge(value) => (value.to_bits(), 0),
            Value::Counter(total) => (total.cast_unsigned(), COUNTER_BIT),
        };
        Self { bits, time_and_arrival: stamp.time_and_arrival, arrival_low: stamp.arrival_low, id: id | kind }
    }

    pub(super) fn kind(&self) -> Kind {
        if self.id & COUNTER_BIT == 0 { Kind::Gauge } else { Kind::Counter }
    }

    pub(super) fn value(&self) -> Value {
        match self.kind() {
            Kind::Gauge => Value::Gauge(f64::from_bits(self.bits)),
            Kind::Counter => Value::Counter(self.bits.cast_signed()),
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp { time_and_arrival: self.time_and_arrival, arrival_low: self.arrival_low }
    }

    /// Whether this counter's total has no room for so much more.
    pub(super) fn overflows(&self, value: Value) -> bool {
        matches!(value, Value::Counter(delta) if self.bits.cast_signed().checked_add(delta).is_none())
    }

    /// Takes a value of the row's kind; whether it fits was checked before. An older gauge changes nothing.
    fn write(&mut self, value: Value, stamp: Stamp) {
        let newer = stamp.time_and_arrival >> (64 - TIME_BITS) >= self.time_and_arrival >> (64 - TIME_BITS);
        match value {
            Value::Gauge(_) if !newer => return,
            Value::Gauge(value) => self.bits = value.to_bits(),
            Value::Counter(delta) => self.bits = self.bits.cast_signed().saturating_add(delta).cast_unsigned(),
        }
        if newer {
            (self.time_and_arrival, self.arrival_low) = (stamp.time_and_arrival, stamp.arrival_low);
        }
    }
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

    /// Every series, in the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = (MetricRef<'_>, Stamp)> {
        let chunks = self.len().div_ceil(ROWS_A_CHUNK);
        let rows = (0..chunks).flat_map(|number| &self.rows.chunk(number)[..range_of::<ROWS_A_CHUNK>(number, self.len()).len()]);
        rows.map(|row| (MetricRef { id: self.id(row), value: row.value() }, row.stamp()))
    }

    fn id(&self, row: &Row) -> &str {
        std::str::from_utf8(self.id_bytes(row)).expect("an id's text was stored whole")
    }

    fn id_bytes(&self, row: &Row) -> &[u8] {
        self.text(row.id)
    }

    /// The id that stands at this place.
    fn text(&self, id: u32) -> &[u8] {
        let [length, text @ ..] = self.ids.from((id & !COUNTER_BIT) as usize) else { return &[] };
        &text[..usize::from(*length)]
    }

    /// Whether the series in this slot is that one.
    fn holds(&self, slot: u32, id: &str, kind: Kind) -> bool {
        (slot as usize) < self.len() && self.is(self.row(slot).id, id, kind)
    }

    /// Whether a row that has its id here is that series.
    fn is(&self, place: u32, id: &str, kind: Kind) -> bool {
        (place & COUNTER_BIT != 0) == (kind == Kind::Counter) && self.text(place) == id.as_bytes()
    }

    /// Appends a series that is not there yet and tells its slot.
    fn push(&mut self, MetricRef { id, value }: MetricRef<'_>, stamp: Stamp) -> u32 {
        let mut text = [0; 256];
        text[0] = u8::try_from(id.len()).expect("ids have at most 255 bytes");
        text[1..=id.len()].copy_from_slice(id.as_bytes());
        let place = self.ids.append(&text[..=id.len()]);
        let place = u32::try_from(place).ok().filter(|place| place & COUNTER_BIT == 0).expect("MOST_SERIES fit");
        let slot = self.rows.append(&[Row::new(place, value, stamp)]);
        u32::try_from(slot).expect("MOST_SERIES fit")
    }
}

/// How many series are looked up at once where they stand in no order.
pub(super) const SCATTERED_AT_ONCE: usize = 32;
/// So many look-ups by hash make a batch one without order, if they are the most of it.
const SCATTERED_FROM: usize = 16;

/// The slot of a series that is not there yet.
pub(super) const NEW: u32 = u32::MAX;

/// A source's series, to be found by id.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Rows,
    slots: HashTable<u32>,
}

/// Where a look-up of many series in turn stands: the slots to look at before anything is hashed.
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

    /// Whether this batch is in no order that helps: then it costs less to look many up at once.
    pub(super) fn is_lost(&self) -> bool {
        self.hashed >= SCATTERED_FROM && self.hashed * 2 > self.steps
    }
}

impl Table {
    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
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
        let mut places = [0; SCATTERED_AT_ONCE];
        for (place, slot) in places.iter_mut().zip(&likely[..some.len()]).filter(|(_, slot)| **slot != NEW) {
            *place = self.rows.row(*slot).id;
        }
        for (((metric, full), slot), place) in some.iter().zip(all).zip(likely).zip(places) {
            let found = slot != NEW && self.rows.is(place, metric.id, metric.kind());
            let none = slot == NEW;
            let other = || self.find(full, metric.id, metric.kind()).unwrap_or(NEW);
            each(*metric, if found || none { slot } else { other() });
        }
    }

    /// Makes room for so many new series whose ids have so many bytes in all.
    pub(super) fn reserve(&mut self, series: usize, id_bytes: usize, hasher: &IdHasher) {
        self.rows.rows.reserve(series);
        self.rows.ids.reserve(id_bytes + series);
        let rows = &self.rows;
        self.slots.reserve(series, |slot| hash(hasher, rows.id_bytes(rows.row(*slot))));
    }

    /// Adds a series that is not there yet and tells its slot.
    pub(super) fn push(&mut self, hasher: &IdHasher, metric: MetricRef<'_>, stamp: Stamp) -> u32 {
        let slot = self.rows.push(metric, stamp);
        let rows = &self.rows;
        self.slots.insert_unique(hash(hasher, metric.id.as_bytes()), slot, |slot| hash(hasher, rows.id_bytes(rows.row(*slot))));
        slot
    }

    /// Writes to series that are there; [`NEW`] ones are passed over.
    pub(super) fn write(&mut self, changes: impl Iterator<Item = (u32, Value)>, stamp: Stamp) {
        let place = |slot: u32| (slot as usize / ROWS_A_CHUNK, slot as usize % ROWS_A_CHUNK);
        let mut changes = changes.filter(|(slot, _)| *slot != NEW).map(|(slot, value)| (place(slot), value)).peekable();
        while let Some(((number, row), value)) = changes.next() {
            // A chunk is asked once for all that follow in it whether someone else reads it.
            let chunk = self.rows.rows.chunk_mut(number);
            chunk[row].write(value, stamp);
            while let Some(((_, row), value)) = changes.next_if(|((next, _), _)| *next == number) {
                chunk[row].write(value, stamp);
            }
        }
    }

    /// Chunks of rows that a copy shares.
    #[cfg(test)]
    pub(super) fn shared_chunks(&self) -> usize {
        self.rows.rows.shared()
    }
}

#[cfg(test)]
mod tests;

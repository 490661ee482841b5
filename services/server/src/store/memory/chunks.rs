//! An append-only list in chunks, with copy-on-write copies.
//!
//! A copy shares all chunks. A change of an item copies that item's chunk, and only while a copy shares it. So a save
//! copies thousands of series within microseconds while it holds their lock, and a writer never waits for more than the
//! copy of a chunk. A chunk is filled before the next one is begun, and only the last one has spare room: a quarter at
//! most, so that growth neither doubles the memory nor moves everything at once.

use std::iter::repeat_n;
use std::ops::Range;
use std::sync::Arc;

/// Items of which `CHUNK` share a chunk.
#[derive(Debug, Clone)]
pub(super) struct Chunks<T, const CHUNK: usize> {
    /// All but the last are `CHUNK` long; what the last has beyond `used` is room.
    chunks: Vec<Arc<[T]>>,
    /// How much of the last chunk is in use.
    used: usize,
}

impl<T, const CHUNK: usize> Default for Chunks<T, CHUNK> {
    fn default() -> Self {
        Self { chunks: Vec::new(), used: 0 }
    }
}

impl<T: Copy + Default, const CHUNK: usize> Chunks<T, CHUNK> {
    /// One past the place of the last item.
    pub(super) fn end(&self) -> usize {
        self.last_start() + self.used
    }

    /// How many items there is room for, those that are in use included.
    pub(super) fn room(&self) -> usize {
        self.last_start() + self.chunks.last().map_or(0, |last| last.len())
    }

    /// The items of a chunk, by its number.
    pub(super) fn chunk(&self, number: usize) -> &[T] {
        &self.chunks[number]
    }

    /// The items of a chunk, to be changed.
    pub(super) fn chunk_mut(&mut self, number: usize) -> &mut [T] {
        Arc::make_mut(&mut self.chunks[number])
    }

    /// The item at this place, which is below [`Self::end`].
    pub(super) fn get(&self, place: usize) -> &T {
        &self.chunks[place / CHUNK][place % CHUNK]
    }

    /// What stands in a place's chunk from there on.
    pub(super) fn from(&self, place: usize) -> &[T] {
        &self.chunks[place / CHUNK][place % CHUNK..]
    }

    /// Makes room for so many more, as far as the last chunk goes. Many at once get exactly their room.
    pub(super) fn reserve(&mut self, more: usize) {
        if self.chunks.is_empty() {
            self.chunks.reserve_exact(1);
            self.chunks.push(Arc::default());
        }
        let needed = self.used.saturating_add(more).min(CHUNK);
        let last = self.chunks.last_mut().expect("there is one by now");
        if needed > last.len() {
            let room = needed.max(self.used + self.used / 4).min(CHUNK);
            *last = last[..self.used].iter().copied().chain(repeat_n(T::default(), room - self.used)).collect();
        }
    }

    /// Appends items so that they stand in one chunk, at most `CHUNK` of them, and returns the place of the first.
    pub(super) fn append(&mut self, items: &[T]) -> usize {
        self.append_both(items, &[])
    }

    /// As [`Self::append`], for items that come in two parts.
    pub(super) fn append_both(&mut self, head: &[T], tail: &[T]) -> usize {
        let len = head.len() + tail.len();
        assert!(len <= CHUNK, "{len} items do not fit into a chunk of {CHUNK}");
        if self.used + len > CHUNK {
            self.chunks.push(Arc::default());
            self.used = 0;
        }
        self.reserve(len);
        let range = self.used..self.used + len;
        self.used = range.end;
        let start = self.last_start() + range.start;
        let into = &mut Arc::make_mut(self.chunks.last_mut().expect("room was made"))[range];
        into[..head.len()].copy_from_slice(head);
        into[head.len()..].copy_from_slice(tail);
        start
    }

    /// Whether this chunk is the same in a copy that was made earlier: nothing in it was changed or appended since.
    pub(super) fn is_shared_with(&self, copy: &Self, number: usize) -> bool {
        matches!((self.chunks.get(number), copy.chunks.get(number)), (Some(one), Some(other)) if Arc::ptr_eq(one, other))
    }

    fn last_start(&self) -> usize {
        self.chunks.len().saturating_sub(1) * CHUNK
    }

    /// How many chunks are shared with a copy.
    #[cfg(test)]
    pub(super) fn shared(&self) -> usize {
        self.chunks.iter().filter(|chunk| Arc::strong_count(chunk) > 1).count()
    }
}

/// The part of a list of `len` items that a chunk holds, by its number.
pub(super) fn range_of<const CHUNK: usize>(number: usize, len: usize) -> Range<usize> {
    let start = number * CHUNK;
    start.min(len)..(start + CHUNK).min(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(Vec<u16>),
        Reserve(usize),
        Change(prop::sample::Index, u16),
        Copy,
        Drop(prop::sample::Index),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => proptest::collection::vec(any::<u16>(), 0..=8).prop_map(Step::Append),
            1 => (0..20_usize).prop_map(Step::Reserve),
            4 => (any::<prop::sample::Index>(), any::<u16>()).prop_map(|(at, to)| Step::Change(at, to)),
            1 => Just(Step::Copy),
            1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        ]
    }

    type Small = Chunks<u16, 8>;
    /// Each appended run: where it stands and what it holds.
    type Model = Vec<(usize, Vec<u16>)>;

    fn assert_holds(list: &Small, model: &Model) {
        for (place, items) in model.iter().filter(|(_, items)| !items.is_empty()) {
            assert_eq!(&list.from(*place)[..items.len()], items);
            assert_eq!(list.get(*place), &items[0]);
        }
    }

    proptest! {
        #[test]
        fn copies_stay_as_they_were(steps in proptest::collection::vec(any_step(), 1..60)) {
            let mut list = Small::default();
            let mut model = Model::new();
            let mut copies: Vec<(Small, Model)> = Vec::new();
            for step in steps {
                match step {
                    Step::Append(items) => {
                        let place = list.append(&items);
                        prop_assert!(place + items.len() == list.end());
                        model.push((place, items));
                    }
                    Step::Reserve(more) => list.reserve(more),
                    Step::Change(at, to) => {
                        let runs: Vec<usize> = (0..model.len()).filter(|run| !model[*run].1.is_empty()).collect();
                        let Some(run) = (!runs.is_empty()).then(|| runs[at.index(runs.len())]) else { continue };
                        let place = model[run].0;
                        model[run].1[0] = to;
                        list.chunk_mut(place / 8)[place % 8] = to;
                    }
                    Step::Copy => copies.push((list.clone(), model.clone())),
                    Step::Drop(which) if !copies.is_empty() => drop(copies.remove(which.index(copies.len()))),
                    Step::Drop(_) => {}
                }
                assert_holds(&list, &model);
                for (copy, model) in &copies {
                    assert_holds(copy, model);
                }
            }
        }
    }

    #[test]
    fn a_change_copies_one_chunk_and_nothing_once_the_copy_is_gone() {
        let mut list = Small::default();
        for i in 0..80 {
            list.append(&[i]);
        }
        let copy = list.clone();
        assert_eq!(list.shared(), 10);
        list.chunk_mut(3)[0] = 1;
        list.chunk_mut(3)[1] = 2;
        assert_eq!(list.shared(), 9);
        drop(copy);
        let before = list.chunk(4).as_ptr();
        list.chunk_mut(4)[0] = 1;
        assert_eq!((list.shared(), list.chunk(4).as_ptr()), (0, before));
    }

    #[test]
    fn room_is_made_exactly_for_many_and_by_a_quarter_for_one_after_another() {
        let mut many = Chunks::<u8, 1024>::default();
        many.reserve(100);
        assert_eq!(many.chunk(0).len(), 100);
        let mut moves = 0;
        let mut one = Chunks::<u8, 1024>::default();
        for i in 0..1024 {
            let room = one.chunks.first().map_or(0, |chunk| chunk.len());
            one.append(&[0]);
            moves += u32::from(one.chunk(0).len() != room);
            assert!(one.chunk(0).len() <= i + 1 + i / 4, "{i}: {}", one.chunk(0).len());
        }
        assert!(moves < 40, "{moves}");
    }
}

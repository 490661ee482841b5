//! The first results of a list, collected in any order, within a bound of memory.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use golectra_promql::{Labels, MemoryExceeded, Reservation};

use super::Limited;

/// What an item takes in a sorted set beside itself, roughly.
const PLACE_BYTES: usize = 16;

/// What can be listed.
pub trait ListItem: Ord + Send + 'static {
    /// Roughly the memory that it takes.
    fn memory_bytes(&self) -> usize;
}

impl ListItem for Labels {
    fn memory_bytes(&self) -> usize {
        Self::memory_bytes(self)
    }
}

impl ListItem for String {
    fn memory_bytes(&self) -> usize {
        self.capacity() + size_of::<Self>()
    }
}

/// The first results in their order, each once, as many as are asked for. What they take is charged as they come.
pub struct First<'a, T> {
    items: BTreeSet<T>,
    limit: usize,
    truncated: bool,
    reservation: &'a mut Reservation,
}

impl<'a, T: ListItem> First<'a, T> {
    /// None yet.
    pub fn new(limit: usize, reservation: &'a mut Reservation) -> Self {
        Self { items: BTreeSet::new(), limit, truncated: false, reservation }
    }

    /// Takes a result.
    pub fn add(&mut self, item: T) -> Result<(), MemoryExceeded> {
        if self.items.len() >= self.limit && self.items.last().is_none_or(|last| *last < item) {
            self.truncated = true;
            return Ok(());
        }
        let bytes = PLACE_BYTES + item.memory_bytes();
        self.reservation.grow(bytes)?;
        if !self.items.insert(item) {
            self.reservation.shrink(bytes);
        } else if self.items.len() > self.limit {
            self.truncated = true;
            if let Some(last) = self.items.pop_last() {
                self.reservation.shrink(PLACE_BYTES + last.memory_bytes());
            }
        }
        Ok(())
    }

    /// As [`Self::add`]; makes the item only if it is new. An empty text is none.
    pub fn add_text(&mut self, text: &str) -> Result<(), MemoryExceeded>
    where
        T: Borrow<str> + From<String>,
    {
        if text.is_empty() || self.items.contains(text) { Ok(()) } else { self.add(text.to_owned().into()) }
    }

    /// How many are asked for.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Charges what is held for a while, until [`Self::release`].
    pub fn hold(&mut self, bytes: usize) -> Result<(), MemoryExceeded> {
        self.reservation.grow(bytes)
    }

    /// Gives back what was held.
    pub fn release(&mut self, bytes: usize) {
        self.reservation.shrink(bytes);
    }

    /// The results. They stay charged.
    pub fn done(self) -> Limited<T> {
        Limited { items: self.items.into_iter().collect(), truncated: self.truncated }
    }
}

#[cfg(test)]
mod tests {
    use golectra_promql::MemoryBudget;

    use super::*;

    #[test]
    fn the_first_ones_are_kept_and_only_they_are_charged() {
        let budget = MemoryBudget::new(1 << 20);
        let mut reservation = budget.reserve(1 << 20);
        let mut first = First::<String>::new(2, &mut reservation);
        for text in ["c", "a", "", "c", "d", "b", "a"] {
            first.add_text(text).unwrap();
        }
        first.add("a".to_owned()).unwrap();
        let listed = first.done();
        assert_eq!((listed.items.as_slice(), listed.truncated), (&["a".to_owned(), "b".to_owned()][..], true));
        assert_eq!(reservation.used_bytes(), 2 * (PLACE_BYTES + size_of::<String>() + 1));
    }

    #[test]
    fn a_list_ends_where_memory_does() {
        let budget = MemoryBudget::new(1 << 20);
        let mut reservation = budget.reserve(10_000);
        let mut first = First::<String>::new(usize::MAX, &mut reservation);
        let added = (0..1_000).take_while(|number| first.add(format!("{number:0100}")).is_ok()).count();
        assert!((50..100).contains(&added), "{added}");
    }
}

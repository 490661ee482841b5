//! What bounds a query: its size, its memory and its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How large a query may be. What the queries under way take together is bounded by a [`MemoryBudget`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many series the selectors of a query may select together.
    pub max_series: usize,
    /// How many steps a range query may have.
    pub max_steps: usize,
    /// How many steps a subquery may have.
    pub max_subquery_steps: usize,
    /// How much memory one query may take, in bytes.
    pub max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_series: 100_000, max_steps: 11_000, max_subquery_steps: 1_000_000, max_bytes: 128 * 1024 * 1024 }
    }
}

/// Says that a query has to end.
///
/// It is asked between series and now and then within long computations, so it should be cheap. A closure is one.
pub trait Interrupt {
    /// Whether the query may go on.
    fn check(&self) -> Result<(), Interrupted>;
}

impl<F: Fn() -> Result<(), Interrupted>> Interrupt for F {
    fn check(&self) -> Result<(), Interrupted> {
        self()
    }
}

/// Lets a query run to its end.
#[derive(Clone, Copy, Debug)]
pub struct NoInterrupt;

impl Interrupt for NoInterrupt {
    fn check(&self) -> Result<(), Interrupted> {
        Ok(())
    }
}

/// Why a query has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Interrupted {
    /// Nobody waits for the answer any more.
    #[error("the query was cancelled")]
    Cancelled,
    /// It took too long.
    #[error("the query took longer than it is allowed to; ask for a shorter time range, a longer step or fewer series")]
    DeadlineExceeded,
}

/// Memory that several queries share.
///
/// It counts what the evaluation holds: columns, labels, intermediate results. Bytes are counted, not allocated.
#[derive(Debug)]
pub struct MemoryBudget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

/// What is taken from a budget at once, so that queries seldom touch the shared counter.
const GRANULE_BYTES: usize = 64 * 1024;

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, used_bytes: AtomicUsize::new(0) })
    }

    /// How many bytes are taken.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// How many bytes there are.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// A part of the budget, empty at first, of at most so many bytes.
    pub fn reserve(self: &Arc<Self>, max_bytes: usize) -> Reservation {
        Reservation { budget: Arc::clone(self), max_bytes, used_bytes: 0, peak_bytes: 0, taken_bytes: 0 }
    }

    fn take(&self, bytes: usize) -> Result<(), MemoryExceeded> {
        let take = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit_bytes);
        match self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(MemoryExceeded::AllQueries { limit_bytes: self.limit_bytes }),
        }
    }
}

/// Why memory was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryExceeded {
    /// This query alone would take too much.
    #[error("the query needs more than {limit_bytes} bytes of memory; ask for fewer series, a shorter time range or a longer step")]
    Query {
        /// What a query may take.
        limit_bytes: usize,
    },
    /// All queries under way would take too much together.
    #[error("all queries under way need more than {limit_bytes} bytes of memory together; try again when there are fewer, or ask for less")]
    AllQueries {
        /// What they may take.
        limit_bytes: usize,
    },
}

/// What one query has taken from a budget; given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    max_bytes: usize,
    used_bytes: usize,
    peak_bytes: usize,
    /// What the budget has counted: whole granules.
    taken_bytes: usize,
}

impl Reservation {
    /// Takes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), MemoryExceeded> {
        let used_bytes = self.used_bytes.saturating_add(bytes);
        if used_bytes > self.max_bytes {
            return Err(MemoryExceeded::Query { limit_bytes: self.max_bytes });
        }
        if used_bytes > self.taken_bytes {
            let wanted = used_bytes.checked_next_multiple_of(GRANULE_BYTES).unwrap_or(used_bytes);
            // Near the end of the budget there may be room for the bytes but not for the granule.
            let granted = if self.budget.take(wanted - self.taken_bytes).is_ok() { wanted } else { used_bytes };
            if granted == used_bytes {
                self.budget.take(used_bytes - self.taken_bytes)?;
            }
            self.taken_bytes = granted;
        }
        self.used_bytes = used_bytes;
        self.peak_bytes = self.peak_bytes.max(used_bytes);
        Ok(())
    }

    /// Gives some back.
    pub fn shrink(&mut self, bytes: usize) {
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
        let keep = self.used_bytes.next_multiple_of(GRANULE_BYTES).min(self.taken_bytes);
        if self.taken_bytes - keep >= 4 * GRANULE_BYTES {
            self.budget.used_bytes.fetch_sub(self.taken_bytes - keep, Ordering::Relaxed);
            self.taken_bytes = keep;
        }
    }

    /// What is taken now.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// What the shared budget has counted for it: what is taken now, and room for a little more.
    pub fn reserved_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// The most that was taken at one time.
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.taken_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let budget = MemoryBudget::new(1_000_000);
        let mut first = budget.reserve(usize::MAX);
        let mut second = budget.reserve(usize::MAX);
        first.grow(700_000).unwrap();
        assert_eq!(second.grow(400_000), Err(MemoryExceeded::AllQueries { limit_bytes: 1_000_000 }));
        assert_eq!(second.used_bytes(), 0);
        first.shrink(600_000);
        second.grow(400_000).unwrap();
        assert_eq!((first.used_bytes(), first.peak_bytes()), (100_000, 700_000));
        drop((first, second));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn the_last_bytes_can_be_taken() {
        let budget = MemoryBudget::new(1000);
        let mut reservation = budget.reserve(usize::MAX);
        reservation.grow(600).unwrap();
        reservation.grow(400).unwrap();
        assert!(reservation.grow(1).is_err());
        assert_eq!(budget.used_bytes(), 1000);
    }

    #[test]
    fn one_query_has_a_limit_of_its_own() {
        let mut reservation = MemoryBudget::new(usize::MAX).reserve(1000);
        assert_eq!(reservation.grow(1001), Err(MemoryExceeded::Query { limit_bytes: 1000 }));
    }
}

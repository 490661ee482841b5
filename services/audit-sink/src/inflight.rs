//! The memory that all events under way may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A budget of bytes. Clones are the same budget.
#[derive(Debug, Clone)]
pub(crate) struct Inflight(Arc<AtomicUsize>);

impl Inflight {
    /// A budget of this many bytes, or as many as the longest event needs.
    pub(crate) fn new(bytes: usize, longest_event: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes.max(Self::needed(longest_event)))))
    }

    /// What an event of this length needs: as it came, and as it is written.
    pub(crate) const fn needed(event_bytes: usize) -> usize {
        event_bytes.saturating_mul(2)
    }

    /// A share of nothing yet.
    pub(crate) fn share(&self) -> InflightShare {
        InflightShare { inflight: self.clone(), held: 0 }
    }
}

/// A request's share, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct InflightShare {
    inflight: Inflight,
    held: usize,
}

impl InflightShare {
    /// Raises the share to this many bytes; false when they are not free. It never waits: two requests that each waited for the
    /// other's share would wait for ever.
    pub(crate) fn raise_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.held);
        let taken = self.inflight.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(more)).is_ok();
        if taken {
            self.held += more;
        }
        taken
    }
}

impl Drop for InflightShare {
    fn drop(&mut self) {
        self.inflight.0.fetch_add(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_together_and_given_back() {
        let inflight = Inflight::new(100, 10);
        let (mut one, mut other) = (inflight.share(), inflight.share());
        assert!(one.raise_to(60) && one.raise_to(30), "a share is not lowered");
        assert!(!other.raise_to(41) && other.raise_to(40) && !one.raise_to(61));
        drop(one);
        assert!(other.raise_to(100));
        let longest = Inflight::new(1, 50);
        assert!(longest.share().raise_to(Inflight::needed(50)), "the longest event always fits");
    }
}

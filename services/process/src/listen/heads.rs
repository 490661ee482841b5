//! The memory of long heads of requests, which the connections of a listener share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that are free. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Heads(Arc<AtomicUsize>);

/// What one connection has of them. It never waits: connections that waited for each other's shares would keep theirs meanwhile.
#[derive(Debug)]
pub(super) struct HeadShare {
    heads: Heads,
    held: usize,
}

impl Heads {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// An empty share.
    pub(super) fn share(&self) -> HeadShare {
        HeadShare { heads: self.clone(), held: 0 }
    }
}

impl HeadShare {
    /// Extends the share to so many bytes. False if others have the rest.
    pub(super) fn cover(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.held);
        let take = |free: usize| free.checked_sub(more);
        if more > 0 && self.heads.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return false;
        }
        self.held += more;
        true
    }
}

impl Drop for HeadShare {
    fn drop(&mut self) {
        self.heads.0.fetch_add(self.held, Ordering::Relaxed);
    }
}

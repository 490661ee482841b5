//! Metrics of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Metrics of one listener's connections; clones share them. Reading takes a few atomic loads.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    cap_reached: AtomicU64,
    cut: [AtomicU64; Cut::ALL.len()],
}

/// Why a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A request's head was not complete in time.
    Headers,
    /// The next request did not arrive in time.
    Idle,
    /// The client did not read the answer in time.
    Write,
    /// A request's head was long, and other long heads had taken the memory for such heads.
    Memory,
}

impl Cut {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Headers, Self::Idle, Self::Write, Self::Memory];

    /// The reason as a metric's label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Idle => "idle",
            Self::Write => "write",
            Self::Memory => "memory",
        }
    }
}

impl ConnectionMetrics {
    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    pub fn accepted_total(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Times `accept` failed.
    pub fn accept_errors_total(&self) -> u64 {
        self.0.accept_errors.load(Ordering::Relaxed)
    }

    /// Times that accepting waited because the limit of open connections was reached.
    pub fn cap_reached_total(&self) -> u64 {
        self.0.cap_reached.load(Ordering::Relaxed)
    }

    /// Connections cut for this reason.
    pub fn cut_total(&self, cut: Cut) -> u64 {
        self.0.cut[cut as usize].load(Ordering::Relaxed)
    }

    /// Counts a connection as open until the returned guard is dropped.
    pub(super) fn opened(&self) -> Open {
        self.0.accepted.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    pub(super) fn accept_failed(&self) {
        self.0.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cap_reached(&self) {
        self.0.cap_reached.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cut(&self, cut: Cut) {
        self.0.cut[cut as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// An open connection.
pub(super) struct Open(ConnectionMetrics);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

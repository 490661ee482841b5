//! The wall clock, injected so that tests can set it.

#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time in unix milliseconds. Clones of a set clock tell the same time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is set.
    #[cfg(test)]
    Set(Arc<AtomicU64>),
    /// The machine's clock, set wrong by this many milliseconds.
    #[cfg(test)]
    Wrong(i64),
}

impl Clock {
    /// A clock that stands at this time.
    #[cfg(test)]
    pub fn at(unix_millis: u64) -> Self {
        Self::Set(Arc::new(AtomicU64::new(unix_millis)))
    }

    /// Sets a standing clock.
    #[cfg(test)]
    pub fn set(&self, unix_millis: u64) {
        let Self::Set(now) = self else { panic!("only a clock that stands still can be set") };
        now.store(unix_millis, Ordering::SeqCst);
    }

    /// Now, in unix milliseconds.
    pub fn unix_millis(&self) -> u64 {
        match self {
            Self::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            #[cfg(test)]
            Self::Set(now) => now.load(Ordering::SeqCst),
            #[cfg(test)]
            Self::Wrong(by_millis) => Self::System.unix_millis().saturating_add_signed(*by_millis),
        }
    }

    /// Whether a test sets this clock, and means the database's with it.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests have clocks that can be set"))]
    pub fn stands_in_for_the_database(&self) -> bool {
        #[cfg(test)]
        if let Self::Set(_) = self {
            return true;
        }
        false
    }

    /// Now, in unix seconds.
    pub fn unix_seconds(&self) -> i64 {
        i64::try_from(self.unix_millis() / 1000).unwrap_or(i64::MAX)
    }
}

/// A time as people and JSON read it: RFC 3339 in UTC with milliseconds, such as `2026-01-02T03:04:05.678Z`.
pub fn rfc3339(unix_millis: u64) -> String {
    // Years beyond 9999 have no such text; no key that the server accepts is from there.
    let latest = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + std::time::Duration::from_millis(unix_millis.min(latest))).to_string()
}

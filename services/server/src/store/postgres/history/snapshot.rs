//! Which transactions a query sees.

use std::sync::Arc;

/// A snapshot, as `pg_current_snapshot()` tells it. Numbers of transactions are of 64 bits, and are given out again only after a crash of the database server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Snapshot {
    /// Every transaction before this one was over.
    pub(super) first_open: i64,
    /// This one and later ones had not begun.
    next: i64,
    /// Which others were under way, in order.
    open: Arc<[i64]>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip,xip,…`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (first_open, next) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let open = parts.next()?.split(',').filter(|number| !number.is_empty()).map(str::parse).collect::<Result<Vec<_>, _>>().ok()?;
        (parts.next().is_none() && open.is_sorted()).then(|| Self { first_open, next, open: open.into() })
    }

    /// Whether it sees everything that another one of this database server sees.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.next >= other.next && self.open.iter().all(|open| *open >= other.next || other.open.binary_search(open).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot::parse(text).unwrap()
    }

    #[test]
    fn a_snapshot_is_read() {
        assert_eq!(snapshot("10:10:"), Snapshot { first_open: 10, next: 10, open: [].into() });
        assert_eq!(snapshot("10:20:10,14"), Snapshot { first_open: 10, next: 20, open: [10, 14].into() });
        for text in ["", "10", "10:20", "10:20:a", "10:x:", "10:20:10:1", "10:20:10,,x", "10:20:14,10"] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_snapshot_covers_those_that_see_no_more() {
        for (newer, older) in [
            ("10:10:", "10:10:"),
            ("11:11:", "10:10:"),
            // What was under way is still so, or is over.
            ("10:20:10", "10:20:10,14"),
            ("10:30:10,14", "10:20:10,14"),
            // What is under way began since.
            ("20:30:20,25", "10:20:10"),
        ] {
            assert!(snapshot(newer).covers(&snapshot(older)), "{newer} {older}");
            assert_eq!(snapshot(older).covers(&snapshot(newer)), newer == older, "{older} {newer}");
        }
        // Neither sees all that the other one does. One server does not have both.
        assert!(!snapshot("10:20:10").covers(&snapshot("12:20:12")));
        assert!(!snapshot("12:20:12").covers(&snapshot("10:20:10")));
    }
}

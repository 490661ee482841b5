//! Which of the waiting batches is tried next.
//!
//! While the server accepts batches, the oldest and the newest alternate: a backlog is sent in order, and current data does
//! not wait behind it. While the server accepts none, only the oldest is tried, so that few batches reach the state in
//! which they may have been applied. A batch that fails repeatedly alternates with the others, so that one that a server or
//! a proxy refuses does not delay newer ones.

/// After so many tries a batch counts as failing and makes way for those that were tried less.
pub(super) const PATIENCE_TRIES: u8 = 3;

/// A failing batch lets at most 64 others pass between two tries.
const MAX_DOUBLINGS: u8 = 6;

/// Which batch to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// The oldest that is not failing.
    Oldest,
    /// The newest that is not failing.
    Newest,
    /// The failing one with the fewest tries.
    Failing,
}

/// What was tried last, and with what result.
#[derive(Debug, Default)]
pub(super) struct SendOrder {
    last_was_failing: bool,
    settled_since_failing: u32,
    /// The last try that ended settled its batch.
    last_settled: bool,
    last_was_newest: bool,
}

impl SendOrder {
    /// The next pick, given the tries of the least tried failing batch and whether any other waits.
    pub(super) fn next(&mut self, failing_tries: Option<u8>, others: bool) -> Option<Pick> {
        let pick = match failing_tries {
            None if !others => return None,
            Some(tries) if !others || self.is_turn_of_failing(tries) => Pick::Failing,
            _ if self.last_settled && !self.last_was_newest => Pick::Newest,
            _ => Pick::Oldest,
        };
        self.last_was_failing = pick == Pick::Failing;
        if self.last_was_failing {
            self.settled_since_failing = 0;
        } else {
            self.last_was_newest = pick == Pick::Newest;
        }
        Some(pick)
    }

    /// While nothing succeeds, failing batches and others alternate. Where others succeed, the reason lies in the failing
    /// batch itself, and after every further try it lets twice as many others pass.
    fn is_turn_of_failing(&self, tries: u8) -> bool {
        let others = 1 << tries.saturating_sub(PATIENCE_TRIES).min(MAX_DOUBLINGS);
        !self.last_was_failing && (self.settled_since_failing == 0 || self.settled_since_failing >= others)
    }

    /// A batch was acknowledged or dropped.
    pub(super) fn settled(&mut self) {
        self.settled_since_failing = self.settled_since_failing.saturating_add(1);
        self.last_settled = true;
    }

    /// A batch was put back.
    pub(super) fn failed(&mut self) {
        self.last_settled = false;
        self.last_was_newest = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_and_newest_alternate_only_while_the_server_accepts_them() {
        let mut order = SendOrder::default();
        let mut next = |outcome: fn(&mut SendOrder)| {
            let pick = order.next(None, true).unwrap();
            outcome(&mut order);
            pick
        };
        assert_eq!([next(SendOrder::failed), next(SendOrder::failed), next(SendOrder::settled)], [Pick::Oldest; 3]);
        assert_eq!(
            [next(SendOrder::settled), next(SendOrder::settled), next(SendOrder::settled)],
            [Pick::Newest, Pick::Oldest, Pick::Newest]
        );
        assert_eq!([next(SendOrder::failed), next(SendOrder::failed)], [Pick::Oldest; 2]);
    }

    #[test]
    fn nothing_waits_and_only_a_failing_one_waits() {
        let mut order = SendOrder::default();
        assert_eq!(order.next(None, false), None);
        assert_eq!(order.next(Some(9), false), Some(Pick::Failing));
        assert_eq!(order.next(Some(9), false), Some(Pick::Failing), "there is nothing else to try");
        assert_eq!(order.next(Some(9), true), Some(Pick::Oldest));
    }
}

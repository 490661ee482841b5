//! Which of the waiting batches is tried next.
//!
//! While the server takes what it gets, the oldest and the newest take turns: a backlog leaves in its order and in time,
//! and what the node is doing now does not wait behind it. While it does not, the oldest is tried, which keeps down how many
//! batches are of unknown fate. One that keeps failing takes turns with the others, so that a batch that a server
//! cannot take holds up none that come after it.

/// After so many tries a batch takes turns with those that have had fewer.
pub(super) const PATIENCE_TRIES: u32 = 3;

/// One that fails alone lets 64 others pass at most.
const MAX_TURN_DOUBLINGS: u32 = 6;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The oldest of those with few tries.
    Oldest,
    /// The newest of those with few tries.
    Newest,
    /// The one with the fewest tries of those with many.
    Failing,
}

/// What was tried last and how it went.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last_was_failing: bool,
    settled_since_failing: u32,
    /// The last try that ended settled its batch.
    works: bool,
    last_was_newest: bool,
}

impl Turns {
    /// The next turn, given the tries of the least tried failing batch and whether any other waits.
    pub(super) fn next(&mut self, failing_tries: Option<u32>, others: bool) -> Option<Turn> {
        let turn = match failing_tries {
            None if !others => return None,
            Some(tries) if !others || self.is_turn_of_failing(tries) => Turn::Failing,
            _ if self.works && !self.last_was_newest => Turn::Newest,
            _ => Turn::Oldest,
        };
        self.last_was_failing = turn == Turn::Failing;
        if self.last_was_failing {
            self.settled_since_failing = 0;
        } else {
            self.last_was_newest = turn == Turn::Newest;
        }
        Some(turn)
    }

    /// While nothing works, failing batches and others alternate. Where others succeed the fault is the batch's own, and
    /// after every further try it lets twice as many of them pass.
    fn is_turn_of_failing(&self, tries: u32) -> bool {
        let others = 1 << tries.saturating_sub(PATIENCE_TRIES).min(MAX_TURN_DOUBLINGS);
        !self.last_was_failing && (self.settled_since_failing == 0 || self.settled_since_failing >= others)
    }

    /// A batch was settled.
    pub(super) fn settled(&mut self) {
        self.settled_since_failing = self.settled_since_failing.saturating_add(1);
        self.works = true;
    }

    /// A batch came back.
    pub(super) fn failed(&mut self) {
        self.works = false;
        self.last_was_newest = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_and_newest_take_turns_only_while_the_server_takes_them() {
        let mut turns = Turns::default();
        let mut next = |outcome: fn(&mut Turns)| {
            let turn = turns.next(None, true).unwrap();
            outcome(&mut turns);
            turn
        };
        assert_eq!([next(Turns::failed), next(Turns::failed), next(Turns::settled)], [Turn::Oldest; 3]);
        assert_eq!([next(Turns::settled), next(Turns::settled), next(Turns::settled)], [Turn::Newest, Turn::Oldest, Turn::Newest]);
        assert_eq!([next(Turns::failed), next(Turns::failed)], [Turn::Oldest; 2]);
    }

    #[test]
    fn nothing_waits_and_only_a_failing_one_waits() {
        let mut turns = Turns::default();
        assert_eq!(turns.next(None, false), None);
        assert_eq!(turns.next(Some(9), false), Some(Turn::Failing));
        assert_eq!(turns.next(Some(9), false), Some(Turn::Failing), "there is nothing else to try");
        assert_eq!(turns.next(Some(9), true), Some(Turn::Oldest));
    }
}

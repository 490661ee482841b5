//! What is known of a batch from the tries to send it.

/// Why a try did not settle the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was sent.
    NotSent,
    /// golectra refused the batch because its time is ahead of the server's clock. It was not applied.
    TooNew,
    /// golectra refused the signature because the agent's clock differs from the server's. The batch was not applied.
    ClockSkew,
    /// The batch was refused for another reason. It was not applied.
    Refused,
    /// There is no reliable answer. The batch may have been applied.
    Unknown,
}

/// The tries of one batch, in two bytes: the index of a spool on disk has one of these for each batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Up to 255.
    count: u8,
    flags: u8,
}

/// The server may have applied the batch.
const MAY_BE_APPLIED: u8 = 1;
/// A try ended, or may have ended, other than with a refusal because of the clock.
const NOT_ONLY_CLOCK: u8 = 1 << 1;
/// The server's last word is that the batch is ahead of its clock.
const TOO_NEW: u8 = 1 << 2;

impl Attempts {
    /// The tries of a batch that an earlier process left on disk, which may have been `sent` or certainly was not. Either way
    /// its counters are not added to another batch: after a power failure the disk may not show the last tries.
    pub const fn of_an_earlier_process(sent: bool) -> Self {
        Self { count: 0, flags: if sent { MAY_BE_APPLIED | NOT_ONLY_CLOCK } else { MAY_BE_APPLIED } }
    }

    /// Records a try.
    pub fn record(&mut self, failure: Failure) {
        match failure {
            Failure::NotSent => return,
            Failure::TooNew => self.flags |= TOO_NEW,
            Failure::ClockSkew => {}
            Failure::Refused => self.flags |= NOT_ONLY_CLOCK,
            Failure::Unknown => self.flags |= NOT_ONLY_CLOCK | MAY_BE_APPLIED,
        }
        if failure != Failure::TooNew {
            self.flags &= !TOO_NEW;
        }
        self.count = self.count.saturating_add(1);
    }

    /// Assumes that the batch was sent and not only refused because of the clock.
    pub fn assume_sent(&mut self) {
        self.flags |= NOT_ONLY_CLOCK;
    }

    /// How many tries reached the server, or may have, up to 255.
    pub const fn count(self) -> u8 {
        self.count
    }

    /// Whether the server may have applied the batch without this process knowing.
    pub const fn may_be_applied(self) -> bool {
        self.flags & MAY_BE_APPLIED != 0
    }

    /// Whether every try was refused because of the clock, so that the batch may get another key.
    pub const fn may_be_sealed_again(self) -> bool {
        self.flags & NOT_ONLY_CLOCK == 0
    }

    /// Whether the last answer said that the batch is ahead of the server's clock. Such a batch cannot be too old.
    pub const fn is_too_new(self) -> bool {
        self.flags & TOO_NEW != 0
    }

    /// Whether the batch waits for another key, which it gets as soon as the time is known, however long that takes. One that
    /// may not get another key could be refused as ahead of the clock for ever.
    pub const fn waits_for_another_key(self) -> bool {
        self.is_too_new() && self.may_be_sealed_again()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Attempts, failures: &[Failure]) -> Attempts {
        failures.iter().fold(start, |mut attempts, failure| {
            attempts.record(*failure);
            attempts
        })
    }

    #[test]
    fn only_refusals_because_of_the_clock_allow_another_key() {
        use Failure::{ClockSkew, NotSent, Refused, TooNew, Unknown};
        for (failures, allowed) in [
            (&[][..], true),
            (&[NotSent, TooNew, NotSent, TooNew], true),
            (&[ClockSkew, TooNew], true),
            (&[Refused, TooNew], false),
            (&[TooNew, Unknown, TooNew], false),
        ] {
            assert_eq!(after(Attempts::default(), failures).may_be_sealed_again(), allowed, "{failures:?}");
            let found = Attempts::of_an_earlier_process(false);
            assert_eq!(after(found, failures).may_be_sealed_again(), allowed, "{failures:?}");
            assert!(!after(Attempts::of_an_earlier_process(true), failures).may_be_sealed_again(), "{failures:?}");
        }
    }

    #[test]
    fn only_a_try_without_a_reliable_answer_may_have_applied_the_batch() {
        for failure in [Failure::NotSent, Failure::TooNew, Failure::ClockSkew, Failure::Refused] {
            assert!(!after(Attempts::default(), &[failure]).may_be_applied(), "{failure:?}");
        }
        assert!(after(Attempts::default(), &[Failure::Unknown, Failure::TooNew]).may_be_applied());
        assert!(Attempts::of_an_earlier_process(false).may_be_applied());
    }

    #[test]
    fn too_new_is_the_last_answer_and_tries_that_sent_something_are_counted() {
        let attempts = after(Attempts::default(), &[Failure::NotSent, Failure::TooNew, Failure::NotSent]);
        assert_eq!((attempts.count(), attempts.is_too_new(), attempts.waits_for_another_key()), (1, true, true));
        let attempts = after(attempts, &[Failure::Unknown]);
        assert_eq!((attempts.count(), attempts.is_too_new()), (2, false));
        let too_new_again = after(attempts, &[Failure::TooNew]);
        assert_eq!((too_new_again.is_too_new(), too_new_again.waits_for_another_key()), (true, false));
        assert_eq!(after(attempts, &[Failure::Refused; 300]).count(), u8::MAX);
    }
}

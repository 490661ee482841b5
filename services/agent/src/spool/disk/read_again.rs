//! Reading again what could not be read: a disk may fail for a moment, or the process may have too many open files.
//!
//! What could not be read does not wait until a pause is over, so that it does not hold up what can be read. After several tries it is left to the next process.

use std::time::Duration;

use tokio::time::Instant;

use super::segment::Place;
use super::{Disk, PATIENCE_TRIES};

/// After so many failed tries in a row a batch, or a file that is not indexed yet, is left to the next process.
pub(super) const READ_TRIES: u8 = 8;

/// The pause after the first failed try. Each further one is twice as long, up to the longest: two minutes in all.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// When what could not be read is tried again, all of it together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    at: Instant,
    /// It is not put off beyond this time.
    latest: Instant,
}

/// The pause after so many failed tries: between half of it and all of it.
fn pause_after(failures: u8) -> Duration {
    let doublings = u32::from(failures.saturating_sub(1).min(READ_TRIES));
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE).mul_f64(0.5 + fastrand::f64() / 2.0)
}

impl Disk {
    /// Has what could not be read tried again, after this many failed tries of it.
    ///
    /// All of it is tried at the end of the longest pause: at the end of a shorter one, a report that failed for the first time would take
    /// tries from those that failed before. Reports that keep failing for the first time put this off by the longest possible pause at most.
    pub(super) fn schedule_reading(&mut self, failures: u8) {
        let at = Instant::now() + pause_after(failures);
        let round = self.next_reading.get_or_insert(Round { at, latest: at + LONGEST_PAUSE });
        round.at = round.at.max(at).min(round.latest);
    }

    /// Has what could not be read wait again, once the pause is over. Says whether there is some.
    pub(super) fn wait_again(&mut self) -> bool {
        if self.next_reading.is_none_or(|round| round.at > Instant::now()) {
            return false;
        }
        self.next_reading = None;
        let before = self.waiting_on_disk();
        for (number, segment) in &mut self.segments {
            for index in segment.wait_again() {
                if segment.entries[index].attempts.count() >= PATIENCE_TRIES {
                    self.failing.push(Place { segment: *number, index });
                }
            }
        }
        self.waiting_on_disk() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        for (failures, longest) in [(1, 1), (2, 2), (6, 32), (7, 60), (u8::MAX, 60)] {
            let longest = Duration::from_secs(longest);
            let pauses: Vec<Duration> = (0..20).map(|_| pause_after(failures)).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{failures}: {pauses:?}");
            assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]), "{failures}: {pauses:?}");
        }
    }
}

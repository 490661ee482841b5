//! How sealing makes way for writers.
//!
//! Sealing keeps a core of the server and one of the database busy, and writers that could use them are slower meanwhile. While
//! they are busy all the time, it rests between its transactions for a multiple of the time that these took, and for up to twice as long while queries
//! are under way, which slow writers down as well. Where a round does not get everything done that way, the next one does not rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::store::WriterLoad;

/// For how many times as long as it works sealing rests while writers are busy all the time: it takes about one and a half cores while it works, so
/// that a tenth of the time is less than a tenth of two cores. A half hour of fifty nodes with 445 series each takes less than a minute in this way.
const REST: f64 = 9.0;
/// The longest rest while no query is under way.
const MAX_REST: Duration = Duration::from_secs(10);
/// How often it is looked whether queries are still under way.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How sealing makes way for the writers of its server.
#[derive(Debug)]
pub(in crate::store::postgres) struct Pace {
    writers: WriterLoad,
    hurries: AtomicBool,
    /// Whether the round left something undone for lack of time.
    late: AtomicBool,
}

impl Pace {
    pub(in crate::store::postgres) fn new(writers: WriterLoad) -> Self {
        Self { writers, hurries: AtomicBool::new(false), late: AtomicBool::new(false) }
    }

    /// Begins a round, which hurries if the one before left something undone.
    pub(super) fn begin_round(&self) {
        self.hurries.store(self.late.swap(false, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// There was not enough time for everything.
    pub(super) fn is_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// Rests after work that took so long. Called when no transaction is open.
    pub(super) async fn rest_after(&self, work: Duration) {
        let rest = self.rest(work);
        if rest.is_zero() {
            return;
        }
        sleep(rest).await;
        let until = Instant::now() + rest;
        while self.writers.has_queries() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
    }

    fn rest(&self, work: Duration) -> Duration {
        // Asked in any case, so that what is known of the writers is not old.
        let pressure = self.writers.pressure();
        if self.hurries.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        work.mul_f64(REST * pressure).min(MAX_REST)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const WORK: Duration = Duration::from_millis(200);

    /// The rest after work during which each writer was busy for this share of the time.
    async fn rest(pace: &Pace, share: f64) -> Duration {
        advance(WORK).await;
        pace.writers.add(WORK.mul_f64(share));
        pace.rest(WORK)
    }

    #[tokio::test(start_paused = true)]
    async fn sealing_rests_the_longer_the_busier_writers_are() {
        let pace = Pace::new(WriterLoad::of(1));
        assert_eq!(rest(&pace, 0.0).await, Duration::ZERO);
        assert_eq!(rest(&pace, 0.5).await, Duration::ZERO);
        let some = rest(&pace, 0.7).await;
        assert!(some > WORK && some < WORK.mul_f64(0.75 * REST), "{some:?}");
        assert_eq!(rest(&pace, 1.0).await, WORK.mul_f64(REST));
        // Too soon to tell anything new.
        advance(Duration::from_millis(1)).await;
        assert_eq!(pace.rest(WORK), WORK.mul_f64(REST));
        let before = Instant::now();
        pace.rest_after(Duration::from_mins(1)).await;
        assert_eq!(before.elapsed(), MAX_REST);
    }

    #[tokio::test(start_paused = true)]
    async fn sealing_rests_for_longer_while_queries_are_under_way_but_not_for_ever() {
        let pace = Pace::new(WriterLoad::of(1));
        let expected = rest(&pace, 0.7).await;
        let query = pace.writers.begin_query();
        let before = Instant::now();
        pace.rest_after(WORK).await;
        let rested = before.elapsed();
        assert!(rested >= 2 * expected && rested <= 2 * expected + LOOK_EVERY, "{rested:?}, {expected:?}");
        // The query ends during the first rest: the second is none.
        pace.rest(WORK);
        assert_eq!(rest(&pace, 0.7).await, expected);
        let ends = async {
            sleep(expected / 2).await;
            drop(query);
        };
        let before = Instant::now();
        tokio::join!(pace.rest_after(WORK), ends);
        assert!(before.elapsed() >= expected && before.elapsed() < expected + LOOK_EVERY, "{:?}, {expected:?}", before.elapsed());
        // Where writers are not busy it does not wait for queries.
        let _query = pace.writers.begin_query();
        pace.rest(WORK);
        advance(WORK).await;
        let before = Instant::now();
        pace.rest_after(WORK).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_after_one_that_was_late_does_not_rest() {
        let pace = Pace::new(WriterLoad::of(1));
        pace.begin_round();
        pace.is_late();
        assert_eq!(rest(&pace, 1.0).await, WORK.mul_f64(REST));
        pace.begin_round();
        assert_eq!(rest(&pace, 1.0).await, Duration::ZERO);
        pace.begin_round();
        assert_eq!(rest(&pace, 1.0).await, WORK.mul_f64(REST));
    }
}

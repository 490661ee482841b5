//! How busy the writers of a store are. What else a server does makes way for them by it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Writers that are busy for this share of the time have enough left to give.
const BUSY_FROM: f64 = 0.5;
/// Writers that are busy for this share of the time could do more if they were faster.
const BUSY_FULLY: f64 = 0.9;
/// From this pressure on what can wait takes only what writers leave.
const PRESSED_FROM: f64 = 0.5;
/// For how long at least it is measured how busy they are. A transaction that takes longer counts when it ends.
const MEASURED: Duration = Duration::from_millis(100);
/// What was measured over a longer time says nothing about now.
const STALE: Duration = Duration::from_secs(15);

/// How busy the writers of a store are. Cheap to clone; the default is that of a store whose writers are never in want of anything.
#[derive(Debug, Clone, Default)]
pub struct WriterLoad(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    writers: u32,
    busy_micros: AtomicU64,
    /// Queries under way that make way for writers.
    queries: AtomicUsize,
    seen: Mutex<Seen>,
}

/// A query under way, until it is dropped.
#[derive(Debug)]
pub struct QueryUnderWay(WriterLoad);

impl Drop for QueryUnderWay {
    fn drop(&mut self) {
        if let Some(inner) = &self.0.0 {
            inner.queries.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What was seen of the writers.
#[derive(Debug)]
struct Seen {
    at: Instant,
    busy_micros: u64,
    /// For which share of the time they were busy before.
    share: f64,
}

impl WriterLoad {
    /// That of so many writers.
    pub fn of(writers: u32) -> Self {
        let seen = Mutex::new(Seen { at: Instant::now(), busy_micros: 0, share: 0.0 });
        Self(Some(Arc::new(Inner { writers, busy_micros: AtomicU64::new(0), queries: AtomicUsize::new(0), seen })))
    }

    /// A writer was busy for this time: it had something to write.
    pub fn add(&self, time: Duration) {
        if let Some(inner) = &self.0 {
            inner.busy_micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// A query begins that makes way for writers.
    pub fn begin_query(&self) -> QueryUnderWay {
        if let Some(inner) = &self.0 {
            inner.queries.fetch_add(1, Ordering::Relaxed);
        }
        QueryUnderWay(self.clone())
    }

    /// Whether such queries are under way.
    pub fn has_queries(&self) -> bool {
        self.0.as_deref().is_some_and(|inner| inner.queries.load(Ordering::Relaxed) > 0)
    }

    /// Whether what can wait should take no processor that a writer could use.
    pub fn are_pressed(&self) -> bool {
        self.pressure() >= PRESSED_FROM
    }

    /// How far others have to make way, from 0 (not at all) to 1 (writers are busy all the time).
    pub fn pressure(&self) -> f64 {
        self.0.as_deref().map_or(0.0, |inner| ((inner.share() - BUSY_FROM) / (BUSY_FULLY - BUSY_FROM)).clamp(0.0, 1.0))
    }
}

impl Inner {
    /// For which share of the time writers were busy since it was measured last.
    fn share(&self) -> f64 {
        let (now, busy_micros) = (Instant::now(), self.busy_micros.load(Ordering::Relaxed));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now - seen.at;
        if elapsed >= MEASURED {
            let busy = Duration::from_micros(busy_micros.saturating_sub(seen.busy_micros));
            let share = if elapsed > STALE { 0.0 } else { busy.as_secs_f64() / elapsed.as_secs_f64() / f64::from(self.writers) };
            *seen = Seen { at: now, busy_micros, share };
        }
        seen.share
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const WHILE: Duration = Duration::from_millis(200);

    /// The pressure after a while in which each of two writers was busy for this share of the time.
    async fn pressure(load: &WriterLoad, share: f64) -> f64 {
        advance(WHILE).await;
        load.add(WHILE.mul_f64(share) * 2);
        load.pressure()
    }

    #[tokio::test(start_paused = true)]
    async fn the_busier_writers_are_the_further_others_make_way() {
        let load = WriterLoad::of(2);
        let is = |found: f64, expected: f64| assert!((found - expected).abs() < 0.01, "{found} instead of {expected}");
        is(pressure(&load, 0.0).await, 0.0);
        is(pressure(&load, 0.5).await, 0.0);
        is(pressure(&load, 0.6).await, 0.25);
        assert!(!load.are_pressed());
        is(pressure(&load, 0.75).await, 0.625);
        assert!(load.are_pressed());
        is(pressure(&load, 1.0).await, 1.0);
        // Too soon to tell anything new.
        advance(Duration::from_millis(1)).await;
        is(load.clone().pressure(), 1.0);
        // Nobody looked for long: that they were busy at some time of it says nothing.
        advance(STALE).await;
        load.add(STALE * 2);
        is(load.pressure(), 0.0);
        is(WriterLoad::default().pressure(), 0.0);
    }

    #[test]
    fn queries_are_under_way_until_the_last_one_ends() {
        let load = WriterLoad::of(1);
        assert!(!load.has_queries());
        let (first, second) = (load.begin_query(), load.clone().begin_query());
        drop(first);
        assert!(load.has_queries());
        drop(second);
        assert!(!load.has_queries());
        let load = WriterLoad::default();
        let _query = load.begin_query();
        assert!(!load.has_queries());
    }
}

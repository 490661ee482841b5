//! The shards: a source lives in one of them with its keys, so one lock makes a batch atomic.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use golectra_protocol::{Metric, Metrics, Source};

use super::keys::{Keys, short};
use super::record::Write;
use super::series::SourceSeries;
use super::{Applied, Batch, SeriesLimits, StoreError};

const SHARDS: usize = 16;
/// How many keys that are too old one write forgets, so that none waits long.
const EXPIRE_AT_ONCE: usize = 64;

/// Some of the sources.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) sources: Vec<SourceSeries>,
    places: HashMap<Source, u32>,
    pub(super) keys: Keys,
    /// Which save the next write belongs behind: a save's copy of a shard raises it, under the same lock.
    pub(super) epoch: u64,
    pub(super) closed: bool,
}

impl Shard {
    pub(super) fn place(&self, source: &Source) -> Option<u32> {
        self.places.get(source).copied()
    }

    /// The source's place, made where there is none.
    pub(super) fn ensure(&mut self, source: &Source, seen_millis: u64) -> u32 {
        *self.places.entry(source.clone()).or_insert_with(|| {
            self.sources.push(SourceSeries::new(source.clone(), seen_millis));
            u32::try_from(self.sources.len() - 1).expect("fewer sources than series, which are capped")
        })
    }

    pub(super) fn source_mut(&mut self, place: u32) -> &mut SourceSeries {
        &mut self.sources[place as usize]
    }

    pub(super) fn source(&self, place: u32) -> &SourceSeries {
        &self.sources[place as usize]
    }
}

/// All sources.
#[derive(Debug)]
pub(super) struct Shards {
    all: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    limits: SeriesLimits,
    history_millis: u64,
    series: AtomicUsize,
    arrivals: AtomicU64,
}

impl Shards {
    pub(super) fn new(limits: SeriesLimits, history_millis: u64, max_keys: usize) -> Self {
        let shard = || Shard { sources: Vec::new(), places: HashMap::new(), keys: Keys::new(max_keys / SHARDS), epoch: 0, closed: false };
        Self {
            all: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            limits,
            history_millis,
            series: AtomicUsize::new(0),
            arrivals: AtomicU64::new(0),
        }
    }

    /// Each shard in turn; hold one shortly and never across an await.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.all.iter().map(lock)
    }

    pub(super) fn of(&self, source: &Source) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(source.as_str());
        lock(&self.all[usize::try_from(hash % SHARDS as u64).unwrap_or(0)])
    }

    pub(super) fn series(&self) -> usize {
        self.series.load(Ordering::Relaxed)
    }

    /// How many writes there were, which tells whether something changed.
    pub(super) fn writes(&self) -> u64 {
        self.arrivals.load(Ordering::Relaxed)
    }

    pub(super) fn next_arrival(&self) -> u64 {
        self.arrivals.fetch_add(1, Ordering::Relaxed)
    }

    /// The oldest time a batch of this shard may have, in unix milliseconds.
    pub(super) fn oldest_millis(&self, shard: &Shard, now_millis: u64) -> u64 {
        shard.keys.floor_millis().max(now_millis.saturating_sub(self.history_millis))
    }

    /// Applies a batch. All checks come before the first change. `taken` is called under the lock with the epoch of a
    /// new batch, so that what it queues stands in the order of application.
    pub(super) fn apply(&self, batch: &Batch, now_millis: u64, taken: impl FnOnce(u64)) -> Result<Applied, StoreError> {
        let mut guard = self.of(&batch.source);
        let shard = &mut *guard;
        if shard.closed {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        let oldest = self.oldest_millis(shard, now_millis);
        batch.key.check_window(oldest, now_millis)?;
        let place = shard.place(&batch.source);
        let digest = short(&batch.digest);
        if batch.keyed
            && let Some(seen) = place.and_then(|place| shard.keys.find(batch.key, place))
        {
            return if *seen == digest { Ok(Applied::Repeat) } else { Err(StoreError::KeyReused) };
        }
        let known = place.map(|place| shard.source(place));
        let new = known.map_or(batch.metrics.len(), |source| batch.metrics.iter().filter(|metric| !source.has(*metric)).count());
        self.check_caps(known.map_or(0, SourceSeries::len), new)?;
        if let Some(id) = known.and_then(|source| source.overflow(&batch.metrics)) {
            return Err(StoreError::Overflow { id });
        }
        self.reserve(new)?;

        let at_millis = batch.key.unix_millis();
        let arrival = self.next_arrival();
        let place = shard.ensure(&batch.source, now_millis);
        let source = shard.source_mut(place);
        source.seen(now_millis);
        for metric in &batch.metrics {
            source.write(metric, at_millis, arrival);
        }
        if batch.keyed {
            shard.keys.remember(batch.key, place, digest);
        }
        shard.keys.expire(oldest, EXPIRE_AT_ONCE);
        taken(shard.epoch);
        Ok(Applied::New)
    }

    /// Applies a write of the journal once more, unless its key says that it is there. What was taken once is not refused now.
    pub(super) fn replay(&self, write: &Write, with_values: bool) {
        let mut shard = self.of(&write.source);
        let place = shard.ensure(&write.source, write.seen_millis);
        if write.keyed && shard.keys.find(write.key, place).is_some() {
            return;
        }
        let source = shard.source_mut(place);
        source.seen(write.seen_millis);
        if with_values {
            let arrival = self.next_arrival();
            for metric in &write.metrics {
                if source.write(metric, write.key.unix_millis(), arrival) {
                    self.series.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if write.keyed {
            shard.keys.remember(write.key, place, write.digest);
        }
    }

    /// Puts one series of a snapshot file in its place. `false`: a counter's total would not fit.
    pub(super) fn restore(&self, source: &Source, metric: Metric, at_millis: u64, seen_millis: u64) -> bool {
        let mut shard = self.of(source);
        let place = shard.ensure(source, seen_millis);
        let source = shard.source_mut(place);
        source.seen(seen_millis);
        let metrics = Metrics::from_iter([metric]);
        if source.overflow(&metrics).is_some() {
            return false;
        }
        if source.write(metrics.get(0), at_millis, self.next_arrival()) {
            self.series.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    fn check_caps(&self, of_source: usize, new: usize) -> Result<(), StoreError> {
        let SeriesLimits { total, per_source } = self.limits;
        if new > 0 && of_source.saturating_add(new) > per_source {
            return Err(StoreError::TooManySeriesOfSource { limit: per_source });
        }
        if new > 0 && self.series().saturating_add(new) > total {
            return Err(StoreError::TooManySeries { limit: total });
        }
        Ok(())
    }

    /// Takes room for new series, exactly: no other shard takes the same room.
    fn reserve(&self, new: usize) -> Result<(), StoreError> {
        let total = self.limits.total;
        let take = |held: usize| Some(held.saturating_add(new)).filter(|sum| new == 0 || *sum <= total);
        self.series
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map(drop)
            .map_err(|_| StoreError::TooManySeries { limit: total })
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().expect("nothing panics while it holds a shard")
}

//! The shards: a source lives in one of them with its keys, so one lock makes a batch atomic.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use golectra_protocol::{MetricRef, Selector, Source};
use hashbrown::HashTable;

use super::keys::{Keys, short};
use super::recent::{Recent, Seen};
use super::record::Write;
use super::series::{Plan, SourceSeries};
use super::table::{self, IdHasher, MOST_SERIES, Stamp};
use super::{Applied, Batch, SeriesLimits, StoreError};

const SHARDS: usize = 16;
/// How many keys that are too old one write forgets, so that none waits long.
const EXPIRE_AT_ONCE: usize = 64;

/// Some of the sources.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) sources: Vec<SourceSeries>,
    /// The sources' places by name.
    places: HashTable<u32>,
    pub(super) keys: Keys,
    /// Which save the next write belongs behind: a save's copy of a shard raises it, under the same lock.
    pub(super) epoch: u64,
    pub(super) closed: bool,
    /// Room that every batch's plan uses.
    plan: Plan,
    recent: Recent,
}

impl Shard {
    fn new(max_keys: usize) -> Self {
        let (sources, places) = (Vec::new(), HashTable::new());
        let (plan, recent) = (Plan::default(), Recent::default());
        Self { sources, places, keys: Keys::new(max_keys), epoch: 0, closed: false, plan, recent }
    }

    fn find(&self, hash: u64, source: &Source) -> Option<u32> {
        self.places.find(hash, |place| self.sources[*place as usize].name == *source).copied()
    }

    /// The source's place, made where there is none.
    fn ensure(&mut self, hasher: &IdHasher, hash: u64, source: &Source, seen_millis: u64) -> u32 {
        if let Some(place) = self.find(hash, source) {
            return place;
        }
        let place = u32::try_from(self.sources.len()).expect("fewer sources than series, which are capped");
        self.sources.push(SourceSeries::new(source.clone(), seen_millis));
        let sources = &self.sources;
        self.places.insert_unique(hash, place, |place| hash_of(hasher, &sources[*place as usize].name));
        place
    }

    pub(super) fn source_mut(&mut self, place: u32) -> &mut SourceSeries {
        &mut self.sources[place as usize]
    }

    pub(super) fn source(&self, place: u32) -> &SourceSeries {
        &self.sources[place as usize]
    }

    /// A metric over the shard's sources. The hash is its id's.
    pub(super) fn seen(&mut self, hash: u64, metric: &Selector) -> Option<Seen> {
        let sources = &self.sources;
        self.recent.get(hash, metric, || {
            let mut all = None;
            // Sources of one kind send the same ids in the same order, so the next one's slot is likely that of the last.
            let mut likely = 0;
            for source in sources {
                let Some(slot) = source.table.find_near(likely, hash, metric.id.as_str(), metric.kind) else { continue };
                likely = slot;
                let row = source.table.rows().row(slot);
                Seen::merge(&mut all, Some(Seen { value: row.value(), stamp: row.stamp() }));
            }
            all
        })
    }
}

/// All sources.
#[derive(Debug)]
pub(super) struct Shards {
    all: Box<[Mutex<Shard>]>,
    hasher: IdHasher,
    limits: SeriesLimits,
    history_millis: u64,
    series: AtomicUsize,
    arrivals: AtomicU64,
}

/// A shard that nobody else touches meanwhile, and one of its sources. Hold it shortly and never across an await.
pub(super) struct Held<'a> {
    pub(super) shard: MutexGuard<'a, Shard>,
    hasher: &'a IdHasher,
    hash: u64,
    source: &'a Source,
}

impl Held<'_> {
    /// The source's place, where there is one.
    pub(super) fn place(&self) -> Option<u32> {
        self.shard.find(self.hash, self.source)
    }

    /// The source's place, made where there is none.
    pub(super) fn ensure(&mut self, seen_millis: u64) -> u32 {
        self.shard.ensure(self.hasher, self.hash, self.source, seen_millis)
    }
}

impl Shards {
    pub(super) fn new(limits: SeriesLimits, history_millis: u64, max_keys: usize) -> Self {
        Self {
            all: (0..SHARDS).map(|_| Mutex::new(Shard::new(max_keys / SHARDS))).collect(),
            hasher: IdHasher::default(),
            limits: SeriesLimits { per_source: limits.per_source.min(MOST_SERIES), ..limits },
            history_millis,
            series: AtomicUsize::new(0),
            arrivals: AtomicU64::new(0),
        }
    }

    /// Each shard in turn; hold one shortly and never across an await.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.all.iter().map(lock)
    }

    /// The source's shard.
    pub(super) fn of<'a>(&'a self, source: &'a Source) -> Held<'a> {
        let hash = hash_of(&self.hasher, source);
        // A table takes its buckets from both ends of the hash.
        let shard = usize::try_from((hash >> 32) % SHARDS as u64).unwrap_or(0);
        Held { shard: lock(&self.all[shard]), hasher: &self.hasher, hash, source }
    }

    pub(super) fn hasher(&self) -> &IdHasher {
        &self.hasher
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
        let mut held = self.of(&batch.source);
        if held.shard.closed {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        let oldest = self.oldest_millis(&held.shard, now_millis);
        batch.key.check_window(oldest, now_millis)?;
        let place = held.place();
        let digest = short(&batch.digest);
        if batch.keyed
            && let Some(seen) = place.and_then(|place| held.shard.keys.find(batch.key, place))
        {
            return if *seen == digest { Ok(Applied::Repeat) } else { Err(StoreError::KeyReused) };
        }
        let shard = &mut *held.shard;
        let known = place.map(|place| &shard.sources[place as usize]);
        shard.plan.make(known, &self.hasher, &batch.metrics);
        let new = shard.plan.new;
        self.check_caps(known.map_or(0, SourceSeries::len), new)?;
        if let Some(index) = shard.plan.overflow {
            return Err(StoreError::Overflow { id: batch.metrics.get(index).to_id() });
        }
        self.reserve(new)?;

        let stamp = Stamp::new(batch.key.unix_millis(), self.next_arrival());
        let place = place.unwrap_or_else(|| held.ensure(now_millis));
        let shard = &mut *held.shard;
        let source = &mut shard.sources[place as usize];
        source.seen(now_millis);
        shard.plan.carry_out(source, &self.hasher, &batch.metrics, stamp);
        shard.recent.written(&self.hasher, &batch.metrics, stamp);
        if batch.keyed {
            shard.keys.remember(batch.key, place, digest);
        }
        shard.keys.expire(oldest, EXPIRE_AT_ONCE);
        taken(shard.epoch);
        Ok(Applied::New)
    }

    /// Applies a write of the journal once more, unless its key says that it is there. What was taken once is not refused now.
    pub(super) fn replay(&self, write: &Write, with_values: bool) {
        let mut held = self.of(&write.source);
        let place = held.ensure(write.seen_millis);
        let shard = &mut *held.shard;
        if write.keyed && shard.keys.find(write.key, place).is_some() {
            return;
        }
        let source = &mut shard.sources[place as usize];
        source.seen(write.seen_millis);
        if with_values {
            let stamp = Stamp::new(write.key.unix_millis(), self.next_arrival());
            shard.plan.make(Some(source), &self.hasher, &write.metrics);
            shard.plan.carry_out(source, &self.hasher, &write.metrics, stamp);
            self.series.fetch_add(shard.plan.new, Ordering::Relaxed);
        }
        if write.keyed {
            shard.keys.remember(write.key, place, write.digest);
        }
    }

    /// Puts one series of a snapshot file in its place, or says why it has none there.
    pub(super) fn restore(&self, source: &Source, metric: MetricRef<'_>, at_millis: u64, seen_millis: u64) -> Result<(), String> {
        let mut held = self.of(source);
        let place = held.ensure(seen_millis);
        let source = held.shard.source_mut(place);
        source.seen(seen_millis);
        let stamp = Stamp::new(at_millis, self.next_arrival());
        let new = source.restore(&self.hasher, metric, stamp)?;
        self.series.fetch_add(usize::from(new), Ordering::Relaxed);
        Ok(())
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

fn hash_of(hasher: &IdHasher, source: &Source) -> u64 {
    table::hash(hasher, source.as_str().as_bytes())
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().expect("nothing panics while it holds a shard")
}

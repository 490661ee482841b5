//! All shards: writes go to the shard of their source.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use golectra_protocol::{MetricRef, Source, WindowError};

use super::history::HistoryShared;
use super::keys::{KeyRoom, short};
use super::plan::BatchTimes;
use super::record::{ReportRun, SourceRecord, WriteRecord};
use super::shard::{Shard, ShardParts, hash_of};
use super::source::SourceSeries;
use super::start_clock::StartClock;
use super::table::{IdHasher, Version};
use super::{Applied, Batch, Lifetimes, SeriesLimits, StoreError};
use crate::store::expiry_clock::ExpiryClock;

pub(super) const SHARDS: usize = 16;
/// How many keys that are too old one write forgets, so that none waits long.
const EXPIRED_KEYS_A_WRITE: usize = 64;

/// All sources.
#[derive(Debug)]
pub(super) struct Shards {
    all: Box<[Mutex<Shard>]>,
    hasher: IdHasher,
    limits: SeriesLimits,
    pub(super) lifetimes: Lifetimes,
    /// What the store's threads remove by.
    pub(super) expiry_clock: ExpiryClock,
    pub(super) start_clock: StartClock,
    dedup_window_millis: u64,
    pub(super) history: HistoryShared,
    series: AtomicUsize,
    arrivals: AtomicU64,
}

/// A locked shard, and one source, which it may have. Hold it shortly and never across an await.
pub(super) struct LockedShard<'a> {
    pub(super) shard: MutexGuard<'a, Shard>,
    hasher: &'a IdHasher,
    hash: u64,
    source: &'a Source,
}

impl LockedShard<'_> {
    /// The source's name.
    pub(super) fn name(&self) -> &Source {
        self.source
    }

    /// The source's place, where there is one.
    pub(super) fn place(&self) -> Option<u32> {
        self.shard.find(self.hash, self.source)
    }

    /// The source, where there is one.
    pub(super) fn source(&self) -> Option<&SourceSeries> {
        self.place().map(|place| self.shard.source(place))
    }

    /// The source's place, made where there is none.
    pub(super) fn ensure(&mut self, seen_millis: u64) -> u32 {
        self.shard.ensure(self.hasher, self.hash, self.source, seen_millis)
    }
}

impl Shards {
    pub(super) fn new(limits: SeriesLimits, lifetimes: Lifetimes, max_keys: usize, history_max_bytes: usize) -> Self {
        let keys = Arc::new(KeyRoom::new(max_keys, SHARDS));
        Self {
            all: (0..SHARDS).map(|_| Mutex::new(Shard::new(Arc::clone(&keys)))).collect(),
            hasher: IdHasher::default(),
            limits,
            lifetimes,
            expiry_clock: ExpiryClock::default(),
            start_clock: StartClock::default(),
            dedup_window_millis: lifetimes.dedup_window_millis(),
            history: HistoryShared::new(history_max_bytes, lifetimes),
            series: AtomicUsize::new(0),
            arrivals: AtomicU64::new(0),
        }
    }

    /// Each shard in turn; hold one shortly and never across an await.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.all.iter().map(lock)
    }

    /// The shard with this number.
    pub(super) fn number(&self, number: usize) -> MutexGuard<'_, Shard> {
        lock(&self.all[number])
    }

    /// The source's shard.
    pub(super) fn of<'a>(&'a self, source: &'a Source) -> LockedShard<'a> {
        let hash = hash_of(&self.hasher, source);
        // The upper half, since the table of places takes its buckets by the lower bits.
        let shard = usize::try_from((hash >> 32) % SHARDS as u64).unwrap_or(0);
        LockedShard { shard: lock(&self.all[shard]), hasher: &self.hasher, hash, source }
    }

    pub(super) fn hasher(&self) -> &IdHasher {
        &self.hasher
    }

    /// How many live series there are.
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

    /// So many series left.
    pub(super) fn removed(&self, series: usize) {
        self.series.fetch_sub(series, Ordering::Relaxed);
        self.next_arrival();
    }

    /// The oldest time a batch of this shard may have, in unix milliseconds.
    pub(super) fn oldest_millis(&self, shard: &Shard, now_millis: u64) -> u64 {
        shard.keys.floor_millis().max(now_millis.saturating_sub(self.dedup_window_millis))
    }

    /// When the last write arrived, as far as the sources that are there tell, in unix milliseconds; zero without sources.
    pub(super) fn last_write_millis(&self) -> u64 {
        self.each().filter_map(|shard| shard.sources().map(|(_, source)| source.last_seen_millis).max()).max().unwrap_or(0)
    }

    /// The refusal of a batch whose key's time is out of range. By the right time it may be in range, but not where it is too old by a key of the client:
    /// that key does not change, and the oldest time only rises.
    fn out_of_window(&self, batch: &Batch, now_millis: u64, error: WindowError) -> StoreError {
        let may_be_in_range = error == WindowError::TooNew || !batch.keyed;
        self.start_clock.behind(now_millis).filter(|_| may_be_in_range).unwrap_or(StoreError::Window(error))
    }

    /// Applies a batch. All checks come before the first change. `taken` is called under the lock with the epoch of a
    /// new batch, so that what it queues stands in the order of application.
    pub(super) fn apply(&self, batch: &Batch, now_millis: u64, taken: impl FnOnce(u64)) -> Result<Applied, StoreError> {
        let mut locked = self.of(&batch.source);
        if locked.shard.closed {
            return Err(closed());
        }
        let oldest = self.oldest_millis(&locked.shard, now_millis);
        batch.key.check_window(oldest, now_millis).map_err(|error| self.out_of_window(batch, now_millis, error))?;
        let place = locked.place();
        let digest = short(&batch.digest);
        if batch.keyed
            && let Some(seen) = place.and_then(|place| locked.shard.keys.find(batch.key, place))
        {
            return if *seen == digest { Ok(Applied::Repeat) } else { Err(StoreError::KeyReused) };
        }
        locked.shard.plan(place, &self.hasher, &batch.metrics);
        let new = locked.shard.plan.new;
        let known = place.map(|place| locked.shard.source(place));
        self.check_caps(known, new.series, new.id_bytes)?;
        if let Some(index) = locked.shard.plan.overflow {
            return Err(StoreError::Overflow { id: batch.metrics.get(index).to_id() });
        }
        self.reserve(new.series)?;

        let times = BatchTimes::new(batch.key, batch.keyed, now_millis, self.next_arrival());
        let place = place.unwrap_or_else(|| locked.ensure(now_millis));
        let shard = &mut *locked.shard;
        let ShardParts { source, plan, cache, history } = shard.parts_for(place);
        source.report(now_millis, &self.lifetimes);
        history.record(&self.history, &self.hasher, source, plan, &batch.metrics, times);
        plan.carry_out(source, &self.hasher, &batch.metrics, times);
        cache.written(&self.hasher, &batch.metrics, times);
        if batch.keyed {
            shard.remember(batch.key, place, digest);
        }
        // Batches are refused by the clock, but keys are forgotten by the expiry clock: they would not come back when the clock is set right.
        let expired = self.oldest_millis(shard, now_millis.min(self.expiry_clock.last_millis()));
        shard.keys.expire(expired, EXPIRED_KEYS_A_WRITE);
        taken(shard.epoch);
        Ok(Applied::New)
    }

    /// Applies a write of the journal once more, unless its key says that it is there. What was taken once is not refused now. History may have it already.
    pub(super) fn replay(&self, write: &WriteRecord, with_values: bool, with_history: bool) {
        let mut locked = self.of(&write.source);
        let place = locked.ensure(write.seen_millis);
        let shard = &mut *locked.shard;
        if write.keyed && shard.keys.find(write.key, place).is_some() {
            return;
        }
        if with_values {
            shard.plan(Some(place), &self.hasher, &write.metrics);
            let times = BatchTimes::new(write.key, write.keyed, write.seen_millis, self.next_arrival());
            let ShardParts { source, plan, history, .. } = shard.parts_for(place);
            source.report(write.seen_millis, &self.lifetimes);
            source.note_ahead(&write.metrics, write.seen_millis);
            if with_history {
                history.record_always(&self.history, &self.hasher, source, plan, &write.metrics, times);
            }
            plan.carry_out(source, &self.hasher, &write.metrics, times);
            self.series.fetch_add(plan.new.series, Ordering::Relaxed);
        } else {
            let source = shard.source_mut(place);
            source.last_seen_millis = source.last_seen_millis.max(write.seen_millis);
        }
        if write.keyed {
            shard.remember(write.key, place, write.digest);
        }
    }

    /// Puts one series of a snapshot file in its place, or says why it has none there.
    pub(super) fn restore(&self, source: &Source, metric: MetricRef<'_>, at_millis: u64, seen_millis: u64) -> Result<(), String> {
        let mut locked = self.of(source);
        let place = locked.ensure(seen_millis);
        let source = locked.shard.source_mut(place);
        source.note_restored(seen_millis);
        source.first_seen_millis = source.first_seen_millis.min(seen_millis);
        source.last_seen_millis = source.last_seen_millis.max(seen_millis);
        let version = Version::new(at_millis, self.next_arrival());
        let new = source.restore(&self.hasher, metric, version)?;
        self.series.fetch_add(usize::from(new), Ordering::Relaxed);
        Ok(())
    }

    /// Takes back a retired sum of a snapshot file.
    pub(super) fn restore_retired(&self, id: &str, sum: i64) {
        // All shards together make the sum, so any will do.
        self.number(0).retired.add(id, sum);
    }

    /// Takes back what the journal has of a source; its clock and its reports only where the journal continues the snapshot.
    pub(super) fn restore_source(&self, record: &SourceRecord, reports: &[ReportRun], continues: bool) {
        let mut locked = self.of(&record.name);
        locked.shard.keys.raise_floor(record.floor_millis);
        let place = locked.ensure(record.first_seen_millis);
        let source = locked.shard.source_mut(place);
        (source.first_seen_millis, source.last_seen_millis) = (record.first_seen_millis, record.last_seen_millis);
        if continues {
            let latest_arrival = source.restore_record(record, reports);
            self.arrivals.fetch_max(latest_arrival + 1, Ordering::Relaxed);
        }
    }

    fn check_caps(&self, known: Option<&SourceSeries>, new: usize, id_bytes: usize) -> Result<(), StoreError> {
        let SeriesLimits { total, per_source } = self.limits;
        let of_source = known.map_or(0, SourceSeries::len);
        if new > 0 && of_source.saturating_add(new) > per_source {
            return Err(StoreError::TooManySeriesOfSource { limit: per_source });
        }
        if new > 0 && self.series().saturating_add(new) > total {
            return Err(StoreError::TooManySeries { limit: total });
        }
        if new > 0 && known.is_some_and(|source| !source.table.has_room_for(new, id_bytes)) {
            return Err(StoreError::TooManySeriesOfSource { limit: of_source });
        }
        Ok(())
    }

    /// How many more series there may be.
    pub(super) fn room_for_series(&self) -> usize {
        self.limits.total.saturating_sub(self.series())
    }

    /// Takes room for new series, exactly: no other shard takes the same room.
    pub(super) fn reserve(&self, new: usize) -> Result<(), StoreError> {
        let total = self.limits.total;
        let take = |held: usize| Some(held.saturating_add(new)).filter(|sum| new == 0 || *sum <= total);
        self.series
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map(drop)
            .map_err(|_| StoreError::TooManySeries { limit: total })
    }
}

/// Nothing is applied after the store was closed.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().expect("nothing panics while it holds a shard")
}

//! Series and sources that leave: those that expire, and sources that are forgotten.
//!
//! The work on many series is done on copies. Under a shard's lock a table is only exchanged for another one, and brought up to what
//! was written meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golectra_protocol::Source;

use super::StoreError;
use super::disk_writer::DiskWriterHandle;
use super::record;
use super::shards::{SHARDS, Shards, closed};
use super::source::{SourceSeries, retirable};
use super::table::Rebuild;
use crate::clock::Clock;

/// How many old keys are forgotten while a shard is locked once.
const KEYS_A_LOCK: usize = 1024;

/// What has expired of a source.
#[derive(Debug, Clone)]
struct ExpiredPeriod {
    source: Source,
    generation: u64,
    /// Series that were not reported after this period have expired.
    period: u64,
}

impl Shards {
    /// Forgets a source unless `keep` says otherwise. `taken` is called under the lock with the epoch, as in [`Shards::apply`]. Returns
    /// whether there was such a source.
    pub(super) fn forget(&self, name: &Source, keep: impl Fn(&SourceSeries) -> bool, taken: impl FnOnce(u64)) -> Result<bool, StoreError> {
        loop {
            let locked = self.of(name);
            if locked.shard.closed {
                return Err(closed());
            }
            let Some(source) = locked.source().filter(|source| source.is_live() && !keep(source)) else { return Ok(false) };
            let (generation, copy) = (source.generation, source.table.rows().clone());
            drop(locked);
            // Looked for without the lock; which totals they have is read with it.
            let retired: Vec<u32> =
                (0..).zip(copy.iter()).filter(|(_, row)| retirable(&copy, row).is_some()).map(|(slot, _)| slot).collect();

            let mut locked = self.of(name);
            let Some(place) = locked.place().filter(|place| locked.shard.source(*place).generation == generation) else { continue };
            if locked.shard.closed {
                return Err(closed());
            }
            if keep(locked.shard.source(place)) {
                return Ok(false);
            }
            let shard = &mut *locked.shard;
            let generation = shard.next_generation();
            let table = shard.source_mut(place).clear(generation);
            let rows = table.rows();
            let added = u32::try_from(copy.len()).unwrap_or(u32::MAX)..u32::try_from(rows.len()).unwrap_or(u32::MAX);
            for (id, total) in retired.into_iter().chain(added).filter_map(|slot| retirable(rows, rows.row(slot))) {
                shard.retired.add(id, total);
            }
            shard.cache.clear();
            self.removed(table.len());
            taken(shard.epoch);
            drop(locked);
            return Ok(true);
        }
    }

    /// Takes the series out of a source that were not reported after this period. `taken` is called as in [`Shards::apply`] where there are any.
    fn expire(&self, expired: &ExpiredPeriod, taken: impl FnOnce(u64)) {
        let locked = self.of(&expired.source);
        let Some(source) = locked.source().filter(|source| source.generation == expired.generation) else { return };
        let (copy, has_expired) = (source.table.rows().clone(), source.expired_after(expired.period));
        drop(locked);
        let rebuild = Rebuild::start(copy, &self.hasher().clone(), &has_expired);
        let retired = rebuild.as_ref().map(|rebuild| {
            let counters = rebuild.expired().filter_map(|(slot, row)| Some((slot, retirable(rebuild.copy(), row)?)));
            counters.map(|(slot, (id, total))| (slot, Box::<str>::from(id), total)).collect::<Vec<_>>()
        });

        let mut locked = self.of(&expired.source);
        let Some(place) = locked.place().filter(|place| locked.shard.source(*place).generation == expired.generation) else { return };
        if locked.shard.closed {
            return;
        }
        let shard = &mut *locked.shard;
        let generation = shard.next_generation();
        let source = shard.source_mut(place);
        source.swept(expired.period);
        let Some((rebuild, retired)) = rebuild.zip(retired) else { return };
        let finished = rebuild.finish(source.table.rows(), self.hasher(), &has_expired);
        let old = source.replace_table(finished.table, generation);
        // A total that expired was not written to since the copy was made.
        for (_, id, total) in retired.iter().filter(|(slot, ..)| finished.revived.binary_search(slot).is_err()) {
            shard.retired.add(id, *total);
        }
        shard.cache.clear();
        self.removed(finished.expired);
        taken(shard.epoch);
        drop(locked);
        drop((old, finished.garbage));
    }

    /// Repeats what the journal says of a source's reporting clock.
    pub(super) fn replay_mark(&self, source: &Source) {
        let mut locked = self.of(source);
        if let Some(place) = locked.place() {
            locked.shard.source_mut(place).mark_again();
        }
    }

    /// Repeats an expiry of the journal.
    pub(super) fn replay_expiry(&self, source: &Source, period: u64) {
        let generation = self.of(source).source().map(|source| source.generation);
        if let Some(generation) = generation {
            self.expire(&ExpiredPeriod { source: source.clone(), generation, period }, |_| {});
        }
    }

    /// Repeats a forgotten source of the journal.
    pub(super) fn replay_forget(&self, source: &Source) {
        let forgotten = self.forget(source, |_| false, |_| {});
        debug_assert!(forgotten.is_ok(), "a store that is being opened is not closed");
    }
}

/// Expires series, sources and keys.
pub(super) struct Sweeper {
    shards: Arc<Shards>,
    clock: Clock,
    /// Where what expires is journaled, if it is.
    journal: Option<Arc<DiskWriterHandle>>,
    /// One sweep at a time.
    running: Mutex<()>,
}

impl Sweeper {
    pub(super) fn new(shards: Arc<Shards>, clock: Clock, journal: Option<Arc<DiskWriterHandle>>) -> Self {
        Self { shards, clock, journal, running: Mutex::new(()) }
    }

    /// Looks once for everything that has expired by this time.
    pub(super) fn sweep(&self, now_millis: u64) {
        let _one_at_a_time = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.journal.as_ref().is_some_and(|journal| journal.admit().is_err()) {
            // What expires must stand in the journal before what is written afterwards. The next sweep finds it again.
            return;
        }
        for number in 0..SHARDS {
            self.sweep_shard(number, now_millis);
        }
    }

    fn sweep_shard(&self, number: usize, now_millis: u64) {
        let shards = &self.shards;
        let lifetimes = &shards.lifetimes;
        let (mut silent, mut expired) = (Vec::new(), Vec::new());
        let mut shard = shards.number(number);
        if shard.closed {
            return;
        }
        let epoch = shard.epoch;
        for source in shard.sources_mut() {
            if source.is_silent(now_millis, lifetimes) {
                silent.push(source.name.clone());
                continue;
            }
            if source.mark(lifetimes) {
                self.journal(epoch, |frame| record::encode_mark(frame, &source.name));
            }
            if let Some(period) = source.expired_period(lifetimes) {
                expired.push(ExpiredPeriod { source: source.name.clone(), generation: source.generation, period });
            }
        }
        drop(shard);
        for source in silent {
            let keep = |source: &SourceSeries| !source.is_silent(now_millis, lifetimes);
            let forgotten = shards.forget(&source, keep, |epoch| self.journal(epoch, |frame| record::encode_forget(frame, &source)));
            if matches!(forgotten, Ok(true)) {
                tracing::info!(source = source.as_str(), "the source was silent for SOURCE_EXPIRY and left with its series");
            }
        }
        for one in expired {
            shards.expire(&one, |epoch| self.journal(epoch, |frame| record::encode_expiry(frame, &one.source, one.period)));
        }
        self.expire_keys(number, now_millis);
    }

    /// Forgets keys that are too old to be asked for, and sources of which nothing is left.
    fn expire_keys(&self, number: usize, now_millis: u64) {
        loop {
            let mut shard = self.shards.number(number);
            if shard.closed {
                return;
            }
            let oldest = self.shards.oldest_millis(&shard, now_millis);
            let before = shard.keys.len();
            shard.keys.expire(oldest, KEYS_A_LOCK);
            // Other shards may have become full since this one remembered a key.
            if !shard.keys.make_room() && shard.keys.len() == before {
                return shard.free_places(self.shards.hasher(), oldest);
            }
        }
    }

    fn journal(&self, epoch: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        if let Some(journal) = &self.journal {
            let mut frame = Vec::new();
            encode(&mut frame);
            journal.append(epoch, frame, None, None);
        }
    }

    /// Sweeps from time to time until `stop` is closed.
    pub(super) fn run(&self, every: Duration, stop: &std::sync::mpsc::Receiver<()>) {
        let expiry_clock = &self.shards.expiry_clock;
        expiry_clock.follow(self.clock.unix_millis());
        loop {
            // Servers that were started together need not sweep at the same moment.
            let pause = every.mul_f64(0.75 + fastrand::f64() / 2.0);
            match stop.recv_timeout(pause) {
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            self.sweep(expiry_clock.follow(self.clock.unix_millis()));
        }
    }
}

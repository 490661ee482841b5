//! Batches whose samples are stored once for each series and time, see [`Batch::is_once_per_time`].
//!
//! All is decided under the lock of the source's shard. A sample that is newer than its series' newest is new; the others are looked for in
//! the history.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use golectra_protocol::{Kind, Metrics, Value};

use super::plan::BatchTimes;
use super::shard::ShardParts;
use super::shards::{LockedShard, Shards, closed};
use super::table::NEW;
use super::{Applied, Batch, StoreError};
use crate::store::{Refusal, RefusedSamples, SampleName};

impl Shards {
    /// Stores the samples that are not stored yet. Nothing else is left in the batch. `taken` is called under the lock, with the epoch and with the
    /// batch as it is applied; not where nothing is new.
    pub(super) fn apply_samples(&self, batch: &mut Batch, now_millis: u64, taken: impl FnOnce(u64, &Batch)) -> Result<Applied, StoreError> {
        let mut refused = batch.take_out_of_range(&self.lifetimes, now_millis, self.history.dropped_until_millis());
        // What is too old by a clock that is behind is too old by the right time as well.
        if refused.count(Refusal::TooNew) > 0
            && let Some(behind) = self.start_clock.behind(now_millis)
        {
            return Err(behind);
        }
        if batch.metrics.is_empty() {
            return Ok(Applied::of_samples(0, refused));
        }
        let source_name = batch.source.clone();
        let mut locked = self.of(&source_name);
        if locked.shard.closed {
            return Err(closed());
        }
        // A sample that is acknowledged must not be dropped: its sender can wait.
        if !self.history.has_room_for(batch.metrics.len()) {
            return Err(StoreError::Overloaded);
        }
        self.take_stored(&mut locked, &mut batch.metrics, &mut refused);
        self.admit_series(&mut locked, &mut batch.metrics, &mut refused);
        let stored = batch.metrics.len();
        if stored == 0 {
            return Ok(Applied::of_samples(0, refused));
        }

        let times = BatchTimes::new(batch.key, batch.keyed, now_millis, self.next_arrival());
        let place = locked.place().unwrap_or_else(|| locked.ensure(now_millis));
        let shard = &mut *locked.shard;
        let ShardParts { source, plan, cache, history } = shard.parts_for(place);
        source.report(now_millis, &self.lifetimes);
        source.note_ahead(&batch.metrics, now_millis);
        history.record_always(&self.history, self.hasher(), source, plan, &batch.metrics, times);
        plan.carry_out(source, self.hasher(), &batch.metrics, times);
        cache.written(self.hasher(), &batch.metrics, times);
        taken(shard.epoch, batch);
        Ok(Applied::of_samples(stored, refused))
    }

    /// Takes out the samples that are stored, and refuses those that have another value than the stored one.
    fn take_stored(&self, locked: &mut LockedShard<'_>, metrics: &mut Metrics, refused: &mut RefusedSamples) {
        let place = locked.place();
        locked.shard.plan(place, self.hasher(), metrics);
        let shard = &*locked.shard;
        let source = place.map(|place| shard.source(place));
        let slots = shard.plan.slots();

        // The value that each time of a series has, of those that the history was asked for, and of the first sample of the batch.
        let mut unknown = Vec::new();
        let mut newest = HashMap::new();
        for (index, slot) in slots.iter().enumerate() {
            let at_millis = metrics.at_millis(index).unwrap_or_default();
            match source.filter(|_| *slot != NEW) {
                Some(source) if source.is_newer(*slot, at_millis) => {}
                Some(source) => {
                    unknown.push(index);
                    newest.extend(source.newest_at(*slot, at_millis).map(|bits| (index, bits)));
                }
                None => unknown.push(index),
            }
        }
        let asked: Vec<(&str, i64)> =
            unknown.iter().map(|index| (metrics.get(*index).id, metrics.at_millis(*index).unwrap_or_default())).collect();
        let found = shard.history.stored(self.hasher(), locked.name(), &asked);
        // After a restart the newest value may be all that is left.
        let stored: HashMap<usize, u64> =
            unknown.iter().zip(found).filter_map(|(index, bits)| Some((*index, bits.or_else(|| newest.get(index).copied())?))).collect();

        let mut keep = vec![true; metrics.len()];
        let mut first: HashMap<(&str, i64), u64, RandomState> = HashMap::with_capacity_and_hasher(metrics.len(), RandomState::default());
        for (index, keep) in keep.iter_mut().enumerate() {
            let (metric, at_millis) = (metrics.get(index), metrics.at_millis(index).unwrap_or_default());
            let bits = bits(metric.value);
            let known = stored.get(&index).copied().or_else(|| first.get(&(metric.id, at_millis)).copied());
            match known {
                None => {
                    first.insert((metric.id, at_millis), bits);
                }
                Some(known) => {
                    *keep = false;
                    if known != bits {
                        refused.add(Refusal::Conflict, 1, || SampleName { id: metric.id.to_owned(), at_millis });
                    }
                }
            }
        }
        if keep.contains(&false) {
            metrics.retain(|index| keep[index]);
        }
    }

    /// Takes room for the series that are new, and refuses the samples of those that there is no room for. The plan is that of the
    /// samples that are left.
    fn admit_series(&self, locked: &mut LockedShard<'_>, metrics: &mut Metrics, refused: &mut RefusedSamples) {
        loop {
            let place = locked.place();
            locked.shard.plan(place, self.hasher(), metrics);
            let shard = &*locked.shard;
            let new = shard.plan.new;
            let has_text_room = place.is_none_or(|place| shard.source(place).table.has_room_for(new.series, new.id_bytes));
            let room = if has_text_room { self.room_for_series() } else { 0 };
            if new.series <= room && self.reserve(new.series).is_ok() {
                return;
            }
            let mut admitted = HashMap::new();
            let mut keep = vec![true; metrics.len()];
            for (index, _) in shard.plan.slots().iter().enumerate().filter(|(_, slot)| **slot == NEW) {
                let id = metrics.get(index).id;
                let number = admitted.len();
                if *admitted.entry(id).or_insert(number) >= room {
                    keep[index] = false;
                    let at_millis = metrics.at_millis(index).unwrap_or_default();
                    refused.add(Refusal::SeriesLimit, 1, || SampleName { id: id.to_owned(), at_millis });
                }
            }
            metrics.retain(|index| keep[index]);
        }
    }
}

fn bits(value: Value) -> u64 {
    debug_assert_eq!(value.kind(), Kind::Gauge);
    match value {
        Value::Gauge(value) => value.to_bits(),
        Value::Counter(delta) => delta.cast_unsigned(),
    }
}

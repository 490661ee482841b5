//! A shard as it is at one moment, taken under its lock within microseconds and read afterwards.
//!
//! Rows, ids, keys and retired sums are shared, not copied (see [`super::chunks`]): a writer copies the chunk that it changes
//! meanwhile. So neither a save nor a read of everything keeps writers waiting.

use golectra_protocol::IdempotencyKey;

use super::keys::{ShortDigest, SortedKeys};
use super::record::{ReportRun, SourceRecord};
use super::retired::RetiredSums;
use super::shard::Shard;
use super::table::Rows;

/// What a save needs of a shard.
#[derive(Debug)]
pub(super) struct ShardCopy {
    /// The sources with their places.
    pub(super) sources: Vec<(u32, SourceRecord, Rows)>,
    pub(super) retired: RetiredSums,
    keys: SortedKeys,
    oldest_millis: u64,
}

impl ShardCopy {
    /// Copies a shard; its next writes belong behind the save with this epoch.
    pub(super) fn cut(shard: &mut Shard, epoch: u64, oldest_millis: u64) -> Self {
        shard.epoch = epoch;
        let floor_millis = shard.keys.floor_millis();
        let copied = shard.sources().map(|(place, source)| (place, source.record(floor_millis), source.table.rows().clone()));
        Self { sources: copied.collect(), retired: shard.retired.clone(), keys: shard.keys.sorted().clone(), oldest_millis }
    }

    /// The keys that are young enough to be asked for again, with their sources' places.
    pub(super) fn keys(&self) -> impl Iterator<Item = (IdempotencyKey, u32, ShortDigest)> {
        self.keys.iter().filter(|(key, ..)| key.unix_millis() >= self.oldest_millis)
    }
}

/// The reports of a source's series, in the order of their slots.
pub(super) fn reports(rows: &Rows) -> Vec<ReportRun> {
    let mut runs: Vec<ReportRun> = Vec::new();
    for row in rows.iter() {
        let (arrival, period) = (row.version().arrival(), row.period());
        match runs.last_mut() {
            Some(run) if run.arrival == arrival && run.period == period => run.series += 1,
            _ => runs.push(ReportRun { series: 1, arrival, period }),
        }
    }
    runs
}

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
}

impl ShardCopy {
    /// Copies a shard; its next writes belong behind the save with this epoch.
    pub(super) fn cut(shard: &mut Shard, epoch: u64) -> Self {
        shard.epoch = epoch;
        let floor_millis = shard.keys.floor_millis();
        let copied = shard.sources().map(|(place, source)| (place, source.record(floor_millis), source.table.rows().clone()));
        Self { sources: copied.collect(), retired: shard.retired.clone(), keys: shard.keys.sorted().clone() }
    }

    /// All keys that the shard remembers, with their sources' places. Which are too old to be asked for is not decided here: the clock may be wrong at the
    /// moment, and a key that is not written is applied again after the next start.
    pub(super) fn keys(&self) -> impl Iterator<Item = (IdempotencyKey, u32, ShortDigest)> {
        self.keys.iter()
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

//! A shard as it stands at one moment, taken under its lock within microseconds and read afterwards.
//!
//! Rows, ids and keys are shared, not copied (see [`super::chunks`]): whoever writes meanwhile copies the chunk he
//! changes. So neither a save nor a read of everything keeps writers waiting.

use golectra_protocol::{IdempotencyKey, MetricRef, Source};

use super::keys::{ShortDigest, SortedKeys};
use super::record::SourceHead;
use super::shard::Shard;
use super::table::{Rows, Stamp};

/// What a save needs of a shard.
#[derive(Debug)]
pub(super) struct ShardCopy {
    pub(super) sources: Vec<(SourceHead, Rows)>,
    keys: SortedKeys,
    oldest_millis: u64,
}

impl ShardCopy {
    /// Copies a shard; its next writes belong behind the save with this epoch.
    pub(super) fn cut(shard: &mut Shard, epoch: u64, oldest_millis: u64) -> Self {
        shard.epoch = epoch;
        let floor_millis = shard.keys.floor_millis();
        let sources = shard.sources.iter().map(|source| {
            let (first_seen_millis, last_seen_millis) = (source.first_seen_millis, source.last_seen_millis);
            let head = SourceHead { first_seen_millis, last_seen_millis, floor_millis, name: source.name.clone() };
            (head, source.table.rows().clone())
        });
        Self { sources: sources.collect(), keys: shard.keys.sorted().clone(), oldest_millis }
    }

    /// Every series with its source.
    pub(super) fn series(&self) -> impl Iterator<Item = (&Source, MetricRef<'_>, Stamp)> {
        self.sources.iter().flat_map(|(head, rows)| rows.iter().map(|(metric, stamp)| (&head.name, metric, stamp)))
    }

    /// The keys that are young enough to be asked for again, with their sources' places.
    pub(super) fn keys(&self) -> impl Iterator<Item = (IdempotencyKey, u32, ShortDigest)> {
        self.keys.iter().filter(|(key, ..)| key.unix_millis() >= self.oldest_millis)
    }
}

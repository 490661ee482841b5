//! A shard's copy, taken under its lock in one go and written to disk afterwards.
//!
//! The ids stand in one text, so that a copy costs memory traffic but hardly an allocation: writers wait a few
//! milliseconds at most.

use golectra_protocol::{IdempotencyKey, Source, Value};

use super::keys::ShortDigest;
use super::record::SourceHead;
use super::shard::Shard;

/// What a save needs of a shard.
#[derive(Debug)]
pub(super) struct ShardCopy {
    pub(super) sources: Vec<(SourceHead, usize)>,
    pub(super) keys: Vec<(IdempotencyKey, u32, ShortDigest)>,
    rows: Vec<Row>,
    ids: String,
}

#[derive(Debug)]
struct Row {
    id_bytes: u8,
    value: Value,
    at_millis: u64,
}

impl ShardCopy {
    /// Copies a shard; its next writes belong behind the save with this epoch.
    pub(super) fn cut(shard: &mut Shard, epoch: u64, oldest_millis: u64) -> Self {
        shard.epoch = epoch;
        let series = shard.sources.iter().map(super::series::SourceSeries::len).sum();
        let mut copy = Self {
            sources: Vec::with_capacity(shard.sources.len()),
            keys: shard.keys.iter().filter(|(key, ..)| key.unix_millis() >= oldest_millis).collect(),
            rows: Vec::with_capacity(series),
            ids: String::with_capacity(series * 24),
        };
        for source in &shard.sources {
            let head = SourceHead {
                first_seen_millis: source.first_seen_millis,
                last_seen_millis: source.last_seen_millis,
                floor_millis: shard.keys.floor_millis(),
                name: source.name.clone(),
            };
            copy.sources.push((head, source.len()));
            for (id, gauge) in &source.gauges {
                copy.push(id.as_str(), Value::Gauge(gauge.value), gauge.at_millis);
            }
            for (id, counter) in &source.counters {
                copy.push(id.as_str(), Value::Counter(counter.total), counter.at_millis);
            }
        }
        copy
    }

    fn push(&mut self, id: &str, value: Value, at_millis: u64) {
        self.rows.push(Row { id_bytes: u8::try_from(id.len()).expect("ids have at most 255 bytes"), value, at_millis });
        self.ids.push_str(id);
    }

    /// Every series: its source, id, value and time.
    pub(super) fn series(&self) -> impl Iterator<Item = (&Source, &str, Value, u64)> {
        let mut ids = self.ids.as_str();
        let sources = self.sources.iter().flat_map(|(head, series)| std::iter::repeat_n(&head.name, *series));
        sources.zip(&self.rows).map(move |(source, row)| {
            let (id, rest) = ids.split_at(row.id_bytes.into());
            ids = rest;
            (source, id, row.value, row.at_millis)
        })
    }
}

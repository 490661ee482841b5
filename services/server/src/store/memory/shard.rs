//! A shard: some of the sources with their keys. One lock makes a batch atomic.

use std::sync::Arc;

use golectra_protocol::{Selector, Source};
use hashbrown::HashTable;

use super::history::ShardHistory;
use super::keys::{KeyRoom, Keys, ShortDigest};
use super::plan::BatchPlan;
use super::retired::RetiredSums;
use super::source::SourceSeries;
use super::table::{self, IdHasher};
use super::value_cache::{MergedValue, ValueCache};
use golectra_protocol::{IdempotencyKey, Kind, Value};

/// Some of the sources.
#[derive(Debug)]
pub(super) struct Shard {
    /// The sources by their places, with free places between.
    sources: Vec<Option<SourceSeries>>,
    free: Vec<u32>,
    /// The sources' places by name.
    places: HashTable<u32>,
    /// How many generations of tables there were.
    generations: u64,
    pub(super) keys: Keys,
    pub(super) retired: RetiredSums,
    /// Which save the next write belongs behind: a save's copy of a shard raises it, under the same lock.
    pub(super) epoch: u64,
    pub(super) closed: bool,
    /// Its memory is used for every batch.
    pub(super) plan: BatchPlan,
    pub(super) cache: ValueCache,
    pub(super) history: ShardHistory,
}

/// What carries a batch of one source out.
pub(super) struct ShardParts<'a> {
    pub(super) source: &'a mut SourceSeries,
    pub(super) plan: &'a mut BatchPlan,
    pub(super) cache: &'a mut ValueCache,
    pub(super) history: &'a mut ShardHistory,
}

impl Shard {
    pub(super) fn new(keys: Arc<KeyRoom>) -> Self {
        Self {
            sources: Vec::new(),
            free: Vec::new(),
            places: HashTable::new(),
            generations: 0,
            keys: Keys::new(keys),
            retired: RetiredSums::default(),
            epoch: 0,
            closed: false,
            plan: BatchPlan::default(),
            cache: ValueCache::default(),
            history: ShardHistory::default(),
        }
    }

    pub(super) fn find(&self, hash: u64, source: &Source) -> Option<u32> {
        self.places.find(hash, |place| self.sources[*place as usize].as_ref().is_some_and(|other| other.name == *source)).copied()
    }

    /// The source's place, made where there is none.
    pub(super) fn ensure(&mut self, hasher: &IdHasher, hash: u64, source: &Source, seen_millis: u64) -> u32 {
        if let Some(place) = self.find(hash, source) {
            return place;
        }
        let new = SourceSeries::new(source.clone(), seen_millis, self.next_generation());
        let place = if let Some(place) = self.free.pop() {
            self.sources[place as usize] = Some(new);
            place
        } else {
            self.sources.push(Some(new));
            u32::try_from(self.sources.len() - 1).expect("fewer sources than keys and series, which are capped")
        };
        let sources = &self.sources;
        let rehash = |place: &u32| sources[*place as usize].as_ref().map_or(0, |source| hash_of(hasher, &source.name));
        self.places.insert_unique(hash, place, rehash);
        place
    }

    /// Frees the places of sources without series whose keys and samples are all older than this.
    pub(super) fn free_places(&mut self, hasher: &IdHasher, oldest_millis: u64) {
        for place in 0..u32::try_from(self.sources.len()).unwrap_or(u32::MAX) {
            let unused = |source: &SourceSeries| !source.is_live() && source.needed_until_millis() < oldest_millis;
            let Some(source) = self.sources[place as usize].take_if(|source| unused(source)) else { continue };
            if let Ok(entry) = self.places.find_entry(hash_of(hasher, &source.name), |other| *other == place) {
                entry.remove();
            }
            self.free.push(place);
        }
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    pub(super) fn source_mut(&mut self, place: u32) -> &mut SourceSeries {
        self.sources[place as usize].as_mut().expect("a place that was found has a source")
    }

    pub(super) fn source(&self, place: u32) -> &SourceSeries {
        self.sources[place as usize].as_ref().expect("a place that was found has a source")
    }

    /// All sources with their places.
    pub(super) fn sources(&self) -> impl Iterator<Item = (u32, &SourceSeries)> {
        (0..).zip(&self.sources).filter_map(|(place, source)| Some((place, source.as_ref()?)))
    }

    pub(super) fn sources_mut(&mut self) -> impl Iterator<Item = &mut SourceSeries> {
        self.sources.iter_mut().flatten()
    }

    /// The parts that carry a batch out.
    pub(super) fn parts_for(&mut self, place: u32) -> ShardParts<'_> {
        let source = self.sources[place as usize].as_mut().expect("a place that was found has a source");
        ShardParts { source, plan: &mut self.plan, cache: &mut self.cache, history: &mut self.history }
    }

    /// Plans a batch for the source at this place, or for one that is not there yet.
    pub(super) fn plan(&mut self, place: Option<u32>, hasher: &IdHasher, metrics: &golectra_protocol::Metrics) {
        let known = place.and_then(|place| self.sources[place as usize].as_ref());
        self.plan.make(known, hasher, metrics);
    }

    /// Remembers a key of the source at this place.
    pub(super) fn remember(&mut self, key: IdempotencyKey, place: u32, digest: ShortDigest) {
        let source = self.source_mut(place);
        source.newest_key_millis = source.newest_key_millis.max(key.unix_millis());
        self.keys.remember(key, place, digest);
    }

    /// A metric over the shard's sources. The hash is its id's.
    pub(super) fn merged(&mut self, hash: u64, metric: &Selector) -> Option<MergedValue> {
        let (sources, retired) = (&self.sources, &self.retired);
        self.cache.get(hash, metric, || {
            let mut all = match metric.kind {
                Kind::Gauge => None,
                Kind::Counter => retired.get(metric.id.as_str()).map(retired_value),
            };
            // Sources of one kind send the same ids in the same order, so the next one's slot is likely that of the last.
            let mut likely = 0;
            for source in sources.iter().flatten() {
                let Some(slot) = source.table.find_near(likely, hash, metric.id.as_str(), metric.kind) else { continue };
                likely = slot;
                let row = source.table.rows().row(slot);
                MergedValue::merge(&mut all, Some(MergedValue { value: row.value(), version: row.version() }));
            }
            all
        })
    }
}

/// A retired sum as it counts towards the view over all sources.
pub(super) fn retired_value(sum: i64) -> MergedValue {
    MergedValue { value: Value::Counter(sum), version: table::Version::default() }
}

pub(super) fn hash_of(hasher: &IdHasher, source: &Source) -> u64 {
    table::hash(hasher, source.as_str().as_bytes())
}

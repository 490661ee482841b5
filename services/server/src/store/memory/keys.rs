//! The keys that were applied, ordered by time, so that the oldest are forgotten first.
//!
//! Whatever is forgotten raises the oldest accepted time above it: a repeat of a forgotten batch is refused, never applied twice.
//!
//! Keys come nearly in the order of their times. So they stand in sorted blocks of which all but the last few are full
//! and never touched again: little more than their own 36 bytes each, and a save's copy shares the blocks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use golectra_protocol::IdempotencyKey;

/// How many keys share a block of 9 KiB.
const BLOCK: usize = 256;

/// The first half of a request's SHA-256, enough to tell a repeat from another batch.
pub(super) type ShortDigest = [u8; 16];

/// Shortens a request's digest.
pub(super) fn short(digest: &[u8; 32]) -> ShortDigest {
    let (head, _) = digest.split_first_chunk().expect("32 bytes have 16 at their head");
    *head
}

/// A key (time first), the place of its source in the shard, and the digest of its request.
type Entry = (IdempotencyKey, u32, ShortDigest);

/// Keys in their order. A copy is cheap, and stays as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct SortedKeys(VecDeque<Arc<Vec<Entry>>>);

impl SortedKeys {
    /// All keys with their sources' places, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.0.iter().flat_map(|block| block.iter().copied())
    }

    /// The block that has this key or would have it.
    fn block(&self, key: (IdempotencyKey, u32)) -> usize {
        // Nearly every key is among the latest.
        let late = self.0.len().saturating_sub(2)..self.0.len();
        if let Some(number) = late.rev().find(|number| order(&self.0[*number][0]) <= key) {
            return number;
        }
        self.0.partition_point(|block| order(&block[0]) <= key).saturating_sub(1)
    }

    fn find(&self, key: (IdempotencyKey, u32)) -> Option<&ShortDigest> {
        let block = self.0.get(self.block(key))?;
        let place = block.binary_search_by_key(&key, order).ok()?;
        Some(&block[place].2)
    }

    /// Adds a key, or changes the digest of the one that is there. Tells whether it is new.
    fn insert(&mut self, entry: Entry) -> bool {
        let number = self.block(order(&entry));
        let Some(block) = self.0.get_mut(number) else {
            self.0.push_back(Arc::new(vec![entry]));
            return true;
        };
        let at = match block.binary_search_by_key(&order(&entry), order) {
            Ok(at) => {
                Arc::make_mut(block)[at] = entry;
                return false;
            }
            Err(at) => at,
        };
        if block.len() < BLOCK {
            put(Arc::make_mut(block), at, &[entry]);
        } else if at == BLOCK {
            self.put_behind(number, &[entry]);
        } else {
            // What comes nearly last leaves the full block behind nearly full; others share it between two.
            let behind = Arc::make_mut(block).split_off(if at > BLOCK / 4 * 3 { at } else { BLOCK / 2 });
            self.put_behind(number, &behind);
            return self.insert(entry);
        }
        true
    }

    /// Puts some behind a block: into the next one where they fit, so that no small ones are left between, else into one of their own.
    fn put_behind(&mut self, number: usize, some: &[Entry]) {
        match self.0.get_mut(number + 1) {
            Some(next) if next.len() + some.len() <= BLOCK => put(Arc::make_mut(next), 0, some),
            _ => self.0.insert(number + 1, Arc::new(some.to_vec())),
        }
    }

    /// Forgets the oldest so many and gives the time of the last of them.
    fn forget(&mut self, mut many: usize) -> Option<u64> {
        let mut last = None;
        while many > 0 {
            let block = self.0.front_mut()?;
            let some = many.min(block.len());
            last = Some(block[some - 1].0.unix_millis());
            many -= some;
            if some == block.len() {
                self.0.pop_front();
            } else {
                Arc::make_mut(block).drain(..some);
            }
        }
        last
    }
}

/// Inserts where there is room for them. A block grows to twice its length, but never beyond what it may hold.
fn put(block: &mut Vec<Entry>, at: usize, some: &[Entry]) {
    if block.capacity() - block.len() < some.len() {
        block.reserve_exact(some.len().max(block.len()).max(4).min(BLOCK - block.len()));
    }
    block.splice(at..at, some.iter().copied());
}

fn order(entry: &Entry) -> (IdempotencyKey, u32) {
    (entry.0, entry.1)
}

/// How many keys all shards remember together, and how many they may.
///
/// A shard may use what others do not, so that a few sources can have as many keys as many sources. When there are more than the maximum, each shard with more
/// than an equal share of it forgets its oldest, when it remembers one more and at the next sweep. Until then there may be nearly twice as many: one shard had
/// all of them, and then each other one fills its share.
#[derive(Debug)]
pub(super) struct KeyRoom {
    max: usize,
    /// What a shard has in any case.
    share: usize,
    held: AtomicUsize,
}

impl KeyRoom {
    /// Room for this many keys in so many shards.
    pub(super) fn new(max: usize, shards: usize) -> Self {
        Self { max: max.max(1), share: (max / shards).max(1), held: AtomicUsize::new(0) }
    }
}

/// The remembered keys of one shard.
#[derive(Debug)]
pub(super) struct Keys {
    seen: SortedKeys,
    len: usize,
    floor_millis: u64,
    room: Arc<KeyRoom>,
}

impl Keys {
    pub(super) fn new(room: Arc<KeyRoom>) -> Self {
        Self { seen: SortedKeys::default(), len: 0, floor_millis: 0, room }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Below this time, in unix milliseconds, keys were forgotten.
    pub(super) fn floor_millis(&self) -> u64 {
        self.floor_millis
    }

    /// Accepts nothing older than this any more.
    pub(super) fn raise_floor(&mut self, floor_millis: u64) {
        self.floor_millis = self.floor_millis.max(floor_millis);
    }

    pub(super) fn find(&self, key: IdempotencyKey, source: u32) -> Option<&ShortDigest> {
        self.seen.find((key, source))
    }

    /// All of them, for a save to share.
    pub(super) fn sorted(&self) -> &SortedKeys {
        &self.seen
    }

    /// Remembers a key. When there are too many, the oldest are forgotten, the new one included where it is among them.
    pub(super) fn remember(&mut self, key: IdempotencyKey, source: u32, digest: ShortDigest) {
        if key.unix_millis() < self.floor_millis {
            return;
        }
        if self.seen.insert((key, source, digest)) {
            self.len += 1;
            self.room.held.fetch_add(1, Ordering::Relaxed);
        }
        self.make_room();
    }

    /// Forgets the oldest, an eighth of a share, where all shards together have too many and this one has more than its share. Says whether it did.
    pub(super) fn make_room(&mut self) -> bool {
        let is_too_much = self.len > self.room.share && self.room.held.load(Ordering::Relaxed) > self.room.max;
        if is_too_much {
            self.forget((self.room.share / 8).max(1));
        }
        is_too_much
    }

    /// Forgets up to `at_most` keys older than this time, in unix milliseconds.
    pub(super) fn expire(&mut self, oldest_millis: u64, at_most: usize) {
        let Some(oldest) = self.seen.0.front() else { return };
        if oldest[0].0.unix_millis() < oldest_millis {
            self.forget(oldest.partition_point(|(key, ..)| key.unix_millis() < oldest_millis).min(at_most));
        }
    }

    fn forget(&mut self, many: usize) {
        let Some(last_millis) = self.seen.forget(many) else { return };
        let forgotten = many.min(self.len);
        self.len -= forgotten;
        self.room.held.fetch_sub(forgotten, Ordering::Relaxed);
        self.raise_floor(last_millis + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn keys_of_one_shard(max: usize) -> Keys {
        Keys::new(Arc::new(KeyRoom::new(max, 1)))
    }

    #[test]
    fn a_full_memory_forgets_its_oldest_eighth_and_raises_its_floor() {
        let mut keys = keys_of_one_shard(16);
        let all: Vec<_> = (0..17).map(|i| IdempotencyKey::at(1000 + i)).collect();
        for key in all.iter().rev() {
            keys.remember(*key, 0, [1; 16]);
        }
        assert_eq!(keys.len(), 15);
        assert_eq!(keys.floor_millis(), 1002);
        assert!(keys.find(all[1], 0).is_none());
        assert_eq!(keys.find(all[2], 0), Some(&[1; 16]));
        keys.remember(all[0], 0, [1; 16]);
        assert_eq!(keys.len(), 15, "what is below the floor is refused anyway");
    }

    #[test]
    fn expiry_forgets_only_what_is_too_old() {
        let mut keys = keys_of_one_shard(100);
        for i in 0..10 {
            keys.remember(IdempotencyKey::at(1000 + i), 3, [0; 16]);
        }
        keys.expire(1004, 2);
        assert_eq!((keys.len(), keys.floor_millis()), (8, 1002));
        keys.expire(1004, 64);
        assert_eq!((keys.len(), keys.floor_millis()), (6, 1004));
        keys.expire(900, 64);
        assert_eq!((keys.len(), keys.floor_millis()), (6, 1004));
    }

    proptest! {
        #[test]
        fn blocks_are_what_a_sorted_map_is(
            steps in proptest::collection::vec((0..3000_u64, 0..3_u32, 0..40_u64), 1..1500), max in 300..1200_usize,
        ) {
            let mut keys = keys_of_one_shard(max);
            let mut map = BTreeMap::new();
            let mut floor = 0;
            let all: Vec<_> = steps.iter().map(|(late, ..)| IdempotencyKey::at(10_000 + late)).collect();
            for (number, ((_, source, expire), key)) in steps.iter().zip(&all).enumerate() {
                let digest = [u8::try_from(number % 256).unwrap(); 16];
                keys.remember(*key, *source, digest);
                if key.unix_millis() >= floor {
                    map.insert((*key, *source), digest);
                }
                let mut forget = |map: &mut BTreeMap<(IdempotencyKey, u32), ShortDigest>| {
                    let ((key, _), _) = map.pop_first().unwrap();
                    floor = floor.max(key.unix_millis() + 1);
                };
                if map.len() > max {
                    (0..max / 8).for_each(|_| forget(&mut map));
                }
                if *expire == 0 {
                    let oldest = map.first_key_value().map_or(0, |((key, _), _)| key.unix_millis()) + 1;
                    keys.expire(oldest, 1);
                    if !map.is_empty() {
                        forget(&mut map);
                    }
                }
                prop_assert_eq!(keys.len(), map.len());
                prop_assert_eq!(keys.floor_millis(), floor);
                let (probe, copy) = (all[number / 2], keys.sorted().clone());
                prop_assert_eq!(keys.find(probe, *source), map.get(&(probe, *source)));
                drop(copy);
            }
            prop_assert!(keys.sorted().iter().eq(map.iter().map(|((key, source), digest)| (*key, *source, *digest))));
        }
    }

    #[test]
    fn keys_in_order_fill_their_blocks_and_a_copy_shares_them() {
        let mut keys = keys_of_one_shard(usize::MAX);
        for i in 0..10_000 {
            keys.remember(IdempotencyKey::at(1000 + i), 0, [0; 16]);
        }
        assert_eq!(keys.seen.0.len(), 10_000_usize.div_ceil(BLOCK));
        let copy = keys.sorted().clone();
        keys.remember(IdempotencyKey::at(20_000), 0, [0; 16]);
        let shared = keys.seen.0.iter().filter(|block| Arc::strong_count(block) > 1).count();
        assert_eq!(shared, keys.seen.0.len() - 1);
        assert_eq!(copy.iter().count(), 10_000);
        // Many keys of one millisecond are in no order among each other.
        let mut crowded = keys_of_one_shard(usize::MAX);
        for i in 0..100_000 {
            crowded.remember(IdempotencyKey::at(1000 + i / 20), 0, [0; 16]);
        }
        let full = crowded.len() * 100 / (crowded.seen.0.len() * BLOCK);
        assert!(full > 85, "blocks are filled to {full} %");
    }
}

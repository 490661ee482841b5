//! The keys that were applied, ordered by time, so that the oldest are forgotten first.
//!
//! Whatever is forgotten raises the oldest accepted time above it: a repeat of a forgotten batch is refused, never applied twice.

use std::collections::BTreeMap;

use golectra_protocol::IdempotencyKey;

/// The first half of a request's SHA-256, enough to tell a repeat from another batch.
pub(super) type ShortDigest = [u8; 16];

/// Shortens a request's digest.
pub(super) fn short(digest: &[u8; 32]) -> ShortDigest {
    let (head, _) = digest.split_first_chunk().expect("32 bytes have 16 at their head");
    *head
}

/// The remembered keys of one shard.
#[derive(Debug)]
pub(super) struct Keys {
    /// By key (time first), then by the source's place in its shard.
    seen: BTreeMap<(IdempotencyKey, u32), ShortDigest>,
    floor_millis: u64,
    max: usize,
}

impl Keys {
    /// Remembers at most this many.
    pub(super) fn new(max: usize) -> Self {
        Self { seen: BTreeMap::new(), floor_millis: 0, max: max.max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.seen.len()
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
        self.seen.get(&(key, source))
    }

    /// Remembers a key. When there are too many, the oldest eighth is forgotten, the new one included where it is among them.
    pub(super) fn remember(&mut self, key: IdempotencyKey, source: u32, digest: ShortDigest) {
        if key.unix_millis() < self.floor_millis {
            return;
        }
        self.seen.insert((key, source), digest);
        if self.seen.len() > self.max {
            for _ in 0..(self.max / 8).max(1) {
                self.forget_oldest();
            }
        }
    }

    /// Forgets up to `at_most` keys older than this time, in unix milliseconds.
    pub(super) fn expire(&mut self, oldest_millis: u64, at_most: usize) {
        for _ in 0..at_most {
            if self.seen.first_key_value().is_none_or(|((key, _), _)| key.unix_millis() >= oldest_millis) {
                return;
            }
            self.forget_oldest();
        }
    }

    /// All keys with their sources' places, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IdempotencyKey, u32, ShortDigest)> {
        self.seen.iter().map(|((key, source), digest)| (*key, *source, *digest))
    }

    fn forget_oldest(&mut self) {
        if let Some(((key, _), _)) = self.seen.pop_first() {
            self.raise_floor(key.unix_millis() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_memory_forgets_its_oldest_eighth_and_raises_its_floor() {
        let mut keys = Keys::new(16);
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
        let mut keys = Keys::new(100);
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
}

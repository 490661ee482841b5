//! What queries read of sealed chunks, within CHUNK_CACHE_BYTES.
//!
//! Each read asks PostgreSQL which rows there are, and in which version: the transaction that wrote it (`xmin`). Only what the cache does not have of that
//! version is sent. So nothing is answered from the cache that the read's snapshot does not have, whatever was sealed, merged or dropped meanwhile. A transaction
//! writes a row once, and no other has its number: on one server that takes 2^32 transactions, and what was read of another server is forgotten. An exception is a
//! database that somebody set to `synchronous_commit = off`: after a crash it may give the numbers of transactions that it lost to others.
//!
//! What was not used for long goes first. It is not known when each row was used, but in which of two generations: used rows are in the young one. When that has
//! half of the bytes, it is the old one, and what was in the old one goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use golectra_chunks::Times;

use super::cache_metrics::CacheMetrics;

/// What a row takes in the maps, about.
const ROW_BYTES: usize = 160;

/// Columns of a row of chunks that stand together.
pub(super) struct Cut {
    /// The transaction that wrote the row.
    pub(super) version: i64,
    pub(super) times: Arc<Times>,
    /// Where each column begins, and where the last one ends.
    pub(super) offsets: Vec<i32>,
    /// From the first offset on.
    pub(super) data: Bytes,
    /// The counters' totals when the window begins.
    pub(super) bases: Option<Vec<Option<i64>>>,
}

impl Cut {
    pub(super) fn memory_bytes(&self) -> usize {
        let bases = self.bases.as_ref().map_or(0, |bases| bases.len() * size_of::<Option<i64>>());
        size_of::<Self>() + self.times.memory_bytes() + self.offsets.len() * size_of::<i32>() + self.data.len() + bases
    }
}

/// A block, and the first and the last slot of it.
pub(super) type PieceKey = (i32, i32, i32);
/// The start of a window in unix milliseconds, and the part.
pub(super) type RowKey = (i64, i16);

/// The cache.
pub(super) struct ChunkCache {
    max_bytes: usize,
    held: Mutex<Held>,
    metrics: CacheMetrics,
}

#[derive(Default)]
struct Held {
    /// When the database server started whose rows these are.
    server_started: i64,
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    pieces: HashMap<PieceKey, BTreeMap<RowKey, Arc<Cut>>>,
    bytes: usize,
}

impl Generation {
    fn remove(&mut self, piece: PieceKey, row: RowKey) {
        let Some(rows) = self.pieces.get_mut(&piece) else { return };
        if let Some(gone) = rows.remove(&row) {
            self.bytes -= ROW_BYTES + gone.memory_bytes();
        }
        if rows.is_empty() {
            self.pieces.remove(&piece);
        }
    }

    fn has(&self, piece: PieceKey, row: RowKey, version: i64) -> bool {
        self.pieces.get(&piece).and_then(|rows| rows.get(&row)).is_some_and(|cut| cut.version == version)
    }
}

impl ChunkCache {
    /// Holds so much at most; 0 holds nothing.
    pub(super) fn new(max_bytes: usize, metrics: CacheMetrics) -> Self {
        Self { max_bytes, held: Mutex::default(), metrics }
    }

    /// The rows of this server that it has of a piece, between these starts of windows.
    pub(super) fn rows(&self, server_started: i64, piece: PieceKey, from_ms: i64, to_ms: i64) -> Vec<(RowKey, Arc<Cut>)> {
        let held = self.lock();
        if held.server_started != server_started || from_ms > to_ms {
            return Vec::new();
        }
        let of = |generation: &Generation| -> Vec<(RowKey, Arc<Cut>)> {
            let rows = generation.pieces.get(&piece).map(|rows| rows.range((from_ms, i16::MIN)..=(to_ms, i16::MAX)));
            rows.into_iter().flatten().map(|(row, cut)| (*row, Arc::clone(cut))).collect()
        };
        let mut rows = of(&held.young);
        rows.extend(of(&held.old));
        rows
    }

    /// A read used this row, which it had from the cache or not.
    pub(super) fn put(&self, server_started: i64, piece: PieceKey, row: RowKey, cut: &Arc<Cut>, is_hit: bool) {
        self.metrics.count(is_hit);
        let bytes = ROW_BYTES + cut.memory_bytes();
        // A large one would drive out half of the others.
        if bytes > self.max_bytes / 8 {
            return;
        }
        // What goes is freed after the lock is released, as it is declared before it: other reads do not wait for that.
        let mut gone = Vec::new();
        let mut guard = self.lock();
        let held = &mut *guard;
        if held.server_started != server_started {
            let before = std::mem::replace(held, Held { server_started, ..Held::default() });
            gone.extend([before.young, before.old]);
        }
        if held.young.has(piece, row, cut.version) {
            return;
        }
        held.young.remove(piece, row);
        held.old.remove(piece, row);
        if held.young.bytes + bytes > self.max_bytes / 2 {
            gone.push(std::mem::replace(&mut held.old, std::mem::take(&mut held.young)));
        }
        held.young.pieces.entry(piece).or_default().insert(row, Arc::clone(cut));
        held.young.bytes += bytes;
        self.metrics.set_bytes(held.young.bytes + held.old.bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: PieceKey = (1, 0, 3);

    fn cut(version: i64, bytes: usize) -> Arc<Cut> {
        let times = Arc::new(Times::decode(&golectra_chunks::encode(&[]).times).unwrap());
        Arc::new(Cut { version, times, offsets: vec![0], data: Bytes::from(vec![0; bytes]), bases: None })
    }

    fn rows(cache: &ChunkCache, server: i64, piece: PieceKey, from: i64, to: i64) -> Vec<(RowKey, i64)> {
        cache.rows(server, piece, from, to).into_iter().map(|(row, cut)| (row, cut.version)).collect()
    }

    #[test]
    fn rows_are_found_by_their_piece_and_window() {
        let cache = ChunkCache::new(1 << 20, CacheMetrics::default());
        for (window, part) in [(10, 0), (10, 1), (20, 0), (30, 0)] {
            cache.put(7, PIECE, (window, part), &cut(window, 10), false);
        }
        assert_eq!(rows(&cache, 7, PIECE, 10, 20), [((10, 0), 10), ((10, 1), 10), ((20, 0), 20)]);
        assert_eq!(rows(&cache, 7, PIECE, 20, 10), []);
        assert_eq!(rows(&cache, 7, (1, 0, 2), 10, 20), []);
        cache.put(7, PIECE, (20, 0), &cut(21, 10), false);
        assert_eq!(rows(&cache, 7, PIECE, 20, 20), [((20, 0), 21)]);
    }

    #[test]
    fn rows_of_another_server_are_forgotten() {
        let metrics = CacheMetrics::default();
        let cache = ChunkCache::new(1 << 20, metrics.clone());
        cache.put(7, PIECE, (10, 0), &cut(1, 10), false);
        let bytes = metrics.bytes();
        assert_eq!(rows(&cache, 8, PIECE, 0, 99), []);
        cache.put(8, PIECE, (20, 0), &cut(2, 10), false);
        assert_eq!((rows(&cache, 8, PIECE, 0, 99), metrics.bytes()), (vec![((20, 0), 2)], bytes));
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_used() {
        let metrics = CacheMetrics::default();
        let cache = ChunkCache::new(100_000, metrics.clone());
        let used = cut(1, 1_000);
        for window in 0..1_000 {
            cache.put(7, PIECE, (window, 0), &cut(window, 1_000), false);
            cache.put(7, PIECE, (-1, 0), &used, window > 0);
            assert!(metrics.bytes() <= 100_000);
        }
        assert_eq!(rows(&cache, 7, PIECE, -1, -1), [((-1, 0), 1)]);
        assert!((30..100).contains(&rows(&cache, 7, PIECE, 0, 999).len()));
        assert_eq!((metrics.hits(), metrics.misses()), (999, 1_001));
        cache.put(7, PIECE, (1_000, 0), &cut(1, 20_000), false);
        assert_eq!(rows(&cache, 7, PIECE, 1_000, 1_000), [], "a large one is not kept");
        let none = ChunkCache::new(0, CacheMetrics::default());
        none.put(7, PIECE, (10, 0), &used, false);
        assert_eq!(rows(&none, 7, PIECE, 0, 99), []);
    }
}

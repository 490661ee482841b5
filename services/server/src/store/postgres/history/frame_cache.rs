//! What queries read of frames that are not sealed, within a half of SAMPLE_CACHE_BYTES.
//!
//! For each partition of frames and piece of a layout the cache has all frames that one snapshot sees. A frame never changes once it is
//! written, and it says which transaction wrote it. So a query with a later snapshot reads only the frames of transactions that the cache's snapshot may not
//! have seen: those from the first one on that was open then. A query whose snapshot does not see all that the cache has reads everything itself.
//!
//! A partition is known by the number of its table and of its file: one that is emptied, or made again, is another one. Frames that somebody removes by
//! hand are still answered until their partition is dropped.
//!
//! The first query for a piece reads only frames of its time, and the cache remembers that it was asked for. When it is asked for again, all frames of the
//! partition are read and kept. What was not used for long goes first: see [`super::chunk_cache`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache_metrics::CacheMetrics;
use super::frames::Frames;
use super::snapshot::Snapshot;

/// What an entry takes beside its frames, about.
const ENTRY_BYTES: usize = 256;

/// A piece of a layout in a partition of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FramesKey {
    /// The numbers of the partition's table and of its file.
    pub(super) partition: (i64, i64),
    pub(super) source_id: i32,
    pub(super) layout_id: i32,
    /// The first and the last place of the piece.
    pub(super) places: (i32, i32),
}

/// Frames of one piece, those of one shape together.
pub(super) type FramesOfPiece = Arc<[Arc<Frames>]>;

/// The frames of a piece that a snapshot sees.
#[derive(Clone)]
pub(super) struct HeldFrames {
    pub(super) frames: FramesOfPiece,
    pub(super) snapshot: Arc<Snapshot>,
}

enum Entry {
    /// It was asked for once.
    Asked,
    /// It takes too much to be kept, or all that its query read did.
    TooLarge,
    Frames(HeldFrames),
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Asked | Self::TooLarge => ENTRY_BYTES,
            Self::Frames(held) => ENTRY_BYTES + frames_bytes(&held.frames),
        }
    }
}

/// What the cache has of a piece.
pub(super) enum Known {
    /// Nothing that the snapshot may use. What is read is not kept.
    Nothing,
    /// It was asked for before, so it is to be kept.
    Asked,
    /// The frames of this snapshot or an earlier one.
    Frames(HeldFrames),
}

/// What is kept of a piece.
pub(super) enum Kept {
    Frames(FramesOfPiece),
    /// Nothing: it takes too much, or all that its query reads does.
    Nothing,
}

/// The cache.
pub(super) struct FrameCache {
    max_bytes: usize,
    held: Mutex<Held>,
    metrics: CacheMetrics,
}

#[derive(Default)]
struct Held {
    /// When the database server started, or recovered from a crash, in unix microseconds: numbers of transactions and tables may come again then.
    server_started: i64,
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    entries: HashMap<FramesKey, Entry>,
    bytes: usize,
}

/// What goes. It is freed after the lock is released, so that other reads do not wait for that.
#[derive(Default)]
struct Gone {
    generations: Vec<Generation>,
    entries: Vec<Entry>,
}

/// The memory of frames.
pub(super) fn frames_bytes(frames: &[Arc<Frames>]) -> usize {
    frames.iter().map(|frames| frames.memory_bytes()).sum()
}

impl Generation {
    fn remove(&mut self, key: &FramesKey) -> Option<Entry> {
        let gone = self.entries.remove(key)?;
        self.bytes -= gone.bytes();
        Some(gone)
    }
}

impl Held {
    /// What is there, which is in the young generation then.
    fn touch(&mut self, key: &FramesKey, max_bytes: usize, gone: &mut Gone) -> Option<&mut Entry> {
        if !self.young.entries.contains_key(key) {
            let entry = self.old.remove(key)?;
            self.put(*key, entry, max_bytes, gone);
        }
        self.young.entries.get_mut(key)
    }

    fn put(&mut self, key: FramesKey, entry: Entry, max_bytes: usize, gone: &mut Gone) {
        gone.entries.extend(self.young.remove(&key));
        gone.entries.extend(self.old.remove(&key));
        if self.young.bytes + entry.bytes() > max_bytes / 2 {
            gone.generations.push(std::mem::replace(&mut self.old, std::mem::take(&mut self.young)));
        }
        self.young.bytes += entry.bytes();
        self.young.entries.insert(key, entry);
    }
}

impl FrameCache {
    /// Holds so much at most; 0 holds nothing.
    pub(super) fn new(max_bytes: usize, metrics: CacheMetrics) -> Self {
        Self { max_bytes, held: Mutex::default(), metrics }
    }

    /// What it has for a snapshot of the database server that started then. None where it holds nothing.
    pub(super) fn view(&self, server_started: i64, snapshot: &Arc<Snapshot>) -> Option<FrameView<'_>> {
        (self.max_bytes > 0).then(|| FrameView {
            cache: self,
            server_started,
            snapshot: Arc::clone(snapshot),
            is_charged: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cache as one snapshot may use it.
pub(super) struct FrameView<'a> {
    cache: &'a FrameCache,
    server_started: i64,
    snapshot: Arc<Snapshot>,
    is_charged: AtomicBool,
}

impl FrameView<'_> {
    /// How much of what one query reads anew is to be kept: more would drive out what others need.
    pub(super) fn max_kept_bytes(&self) -> usize {
        self.cache.max_bytes / 2
    }

    /// What there is of each of these, which were asked for then.
    pub(super) fn ask(&self, keys: impl Iterator<Item = FramesKey>) -> Vec<Known> {
        let mut gone = Gone::default();
        let (mut held, max_bytes) = (self.cache.lock(), self.cache.max_bytes);
        if held.server_started != self.server_started {
            let Held { young, old, .. } = std::mem::replace(&mut *held, Held { server_started: self.server_started, ..Held::default() });
            gone.generations.extend([young, old]);
        }
        let mut know = |key: FramesKey| match held.touch(&key, max_bytes, &mut gone) {
            None => {
                held.put(key, Entry::Asked, max_bytes, &mut gone);
                Known::Nothing
            }
            Some(Entry::Asked) => Known::Asked,
            Some(Entry::Frames(frames)) if self.covers(&frames.snapshot) => Known::Frames(frames.clone()),
            Some(Entry::Frames(_) | Entry::TooLarge) => Known::Nothing,
        };
        let known = keys.map(&mut know).collect();
        self.cache.metrics.set_bytes(held.young.bytes + held.old.bytes);
        known
    }

    /// Keeps what this snapshot sees of each of these.
    pub(super) fn put(&self, read: impl Iterator<Item = (FramesKey, Kept)>) {
        let mut gone = Gone::default();
        let (mut held, max_bytes) = (self.cache.lock(), self.cache.max_bytes);
        if held.server_started != self.server_started {
            return;
        }
        for (key, kept) in read {
            let entry = match (held.touch(&key, max_bytes, &mut gone), kept) {
                // One that is newer stays, and so does one that another query kept.
                (Some(Entry::Frames(there)), _) if !self.covers(&there.snapshot) => continue,
                (Some(Entry::Frames(_)), Kept::Nothing) => continue,
                // No frames came since.
                (Some(Entry::Frames(there)), Kept::Frames(frames)) if Arc::ptr_eq(&there.frames, &frames) => {
                    there.snapshot = Arc::clone(&self.snapshot);
                    continue;
                }
                (_, Kept::Frames(frames)) => Entry::Frames(HeldFrames { frames, snapshot: Arc::clone(&self.snapshot) }),
                (_, Kept::Nothing) => Entry::TooLarge,
            };
            if entry.bytes() > max_bytes / 8 {
                // It would drive out half of the others.
                gone.entries.push(entry);
                held.put(key, Entry::TooLarge, max_bytes, &mut gone);
            } else {
                held.put(key, entry, max_bytes, &mut gone);
            }
        }
        self.cache.metrics.set_bytes(held.young.bytes + held.old.bytes);
    }

    /// Whether this snapshot sees all that another one does.
    fn covers(&self, other: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.snapshot, other) || self.snapshot.covers(other)
    }

    /// Notes that the query was charged for what the cache has, or is to have.
    pub(super) fn note_charge(&self) {
        self.is_charged.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub(super) fn is_charged(&self) -> bool {
        self.is_charged.load(Ordering::Relaxed)
    }

    /// Counts frames that the cache had, or that were read.
    pub(super) fn count(&self, is_hit: bool, frames: usize) {
        self.cache.metrics.count(is_hit, frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: i32) -> FramesKey {
        FramesKey { partition: (1, 2), source_id: 3, layout_id: 4, places: (place, place) }
    }

    fn frames(count: usize) -> FramesOfPiece {
        [Arc::new(Frames::of_zeros(count))].into()
    }

    fn view<'a>(cache: &'a FrameCache, server_started: i64, snapshot: &str) -> FrameView<'a> {
        cache.view(server_started, &Arc::new(Snapshot::parse(snapshot).unwrap())).unwrap()
    }

    /// How many frames there are; None where it is not known.
    fn count(view: &FrameView<'_>, place: i32) -> Option<usize> {
        match view.ask([key(place)].into_iter()).pop().unwrap() {
            Known::Nothing | Known::Asked => None,
            Known::Frames(held) => Some(held.frames.iter().map(|frames| frames.len()).sum()),
        }
    }

    fn put(view: &FrameView<'_>, place: i32, count: usize) {
        view.put([(key(place), Kept::Frames(frames(count)))].into_iter());
    }

    #[test]
    fn what_is_asked_for_again_is_to_be_kept() {
        let cache = FrameCache::new(1 << 20, CacheMetrics::default());
        let view = view(&cache, 7, "10:10:");
        let asked = |place| view.ask([key(place)].into_iter()).pop().unwrap();
        assert!(matches!(asked(1), Known::Nothing));
        assert!(matches!(asked(1), Known::Asked));
        assert!(matches!(asked(2), Known::Nothing));
        put(&view, 1, 5);
        assert_eq!(count(&view, 1), Some(5));
        assert!(FrameCache::new(0, CacheMetrics::default()).view(7, &Arc::default()).is_none());
    }

    #[test]
    fn only_snapshots_that_see_all_of_it_get_frames() {
        let cache = FrameCache::new(1 << 20, CacheMetrics::default());
        let first = view(&cache, 7, "10:12:10");
        assert_eq!(count(&first, 1), None);
        put(&first, 1, 5);
        let (same, older, newer) = (view(&cache, 7, "10:12:10"), view(&cache, 7, "10:11:10"), view(&cache, 7, "12:12:"));
        assert_eq!([&same, &older, &newer].map(|view| count(view, 1)), [Some(5), None, Some(5)]);
        // Where nothing came since, the frames are those of the newer snapshot.
        let same = |view: &FrameView<'_>| match view.ask([key(1)].into_iter()).pop() {
            Some(Known::Frames(held)) => held.frames,
            _ => panic!("they are known"),
        };
        let known = same(&newer);
        newer.put([(key(1), Kept::Frames(Arc::clone(&known)))].into_iter());
        assert_eq!([&first, &newer].map(|view| count(view, 1)), [None, Some(5)]);
        // Where they went meanwhile, and an older query put what it saw, they come back whole.
        drop(cache.lock().young.remove(&key(1)));
        put(&first, 1, 4);
        newer.put([(key(1), Kept::Frames(known))].into_iter());
        assert_eq!([&first, &newer].map(|view| count(view, 1)), [None, Some(5)]);
        // A query that had no room takes nothing from others.
        newer.put([(key(1), Kept::Nothing)].into_iter());
        assert_eq!(count(&newer, 1), Some(5));
        // What an older one has read does not take the place of what is newer.
        put(&newer, 1, 6);
        put(&first, 1, 5);
        assert_eq!([&first, &newer].map(|view| count(view, 1)), [None, Some(6)]);
    }

    #[test]
    fn nothing_is_answered_of_another_server() {
        let metrics = CacheMetrics::default();
        let cache = FrameCache::new(1 << 20, metrics.clone());
        let before = view(&cache, 7, "10:10:");
        put(&before, 1, 5);
        // The first question makes the server known.
        assert_eq!(count(&before, 1), None);
        put(&before, 1, 5);
        assert_eq!(count(&before, 1), Some(5));
        let now = view(&cache, 8, "5:5:");
        assert_eq!(count(&now, 1), None);
        assert!(metrics.bytes() < 2 * ENTRY_BYTES);
        put(&before, 1, 5);
        assert_eq!(count(&now, 1), None);
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_used() {
        let metrics = CacheMetrics::default();
        let cache = FrameCache::new(200_000, metrics.clone());
        let view = view(&cache, 7, "10:10:");
        assert_eq!(count(&view, -1), None);
        put(&view, -1, 50);
        for place in 0..1_000 {
            put(&view, place, 50);
            assert_eq!(count(&view, -1), Some(50));
            assert!(metrics.bytes() <= 200_000);
        }
        let held = cache.lock();
        for generation in [&held.young, &held.old] {
            assert_eq!(generation.bytes, generation.entries.values().map(Entry::bytes).sum::<usize>());
            assert!(generation.entries.len() > 5);
        }
        drop(held);
        put(&view, 1_000, 5_000);
        let asked = || view.ask([key(1_000)].into_iter()).pop().unwrap();
        assert!(matches!((asked(), asked()), (Known::Nothing, Known::Nothing)), "a large one is not kept, and not read whole again");
    }
}

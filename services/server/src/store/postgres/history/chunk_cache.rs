//! What queries read of sealed chunks, within a half of SAMPLE_CACHE_BYTES.
//!
//! For each piece of a block and each window the cache has all rows that there are, which may be none, or does not know. The table `chunk_changes` has which
//! windows of which blocks changed, and `chunk_total` the number of changes, in the order of commits. A query's snapshot says which change is the last that
//! it sees; a cache that is behind it reads what changed since, and forgets that. So a query asks PostgreSQL only for windows that were not read before
//! or that changed. Whenever a partition is made, emptied or dropped, or the database server is another one, the cache begins anew.
//!
//! What was not used for long goes first. It is not known when each entry was used, but in which of two generations: used entries are in the young one. When
//! that has half of the bytes, it is the old one, and what was in the old one goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use golectra_chunks::Times;
use sqlx::PgConnection;

use super::cache_metrics::CacheMetrics;
use crate::store::postgres::partitions::CHUNKS;
use crate::store::postgres::sealer::WINDOW_MILLIS;
use crate::store::postgres::timestamp::Timestamp;

/// So many changes are read one by one, and remembered for older snapshots.
const MAX_CHANGED: usize = 20_000;
/// What an entry takes in the maps beside its rows, and each row beside its cut, about.
pub(super) const ENTRY_BYTES: usize = 120;
const ROW_BYTES: usize = 64;
/// What a piece takes with its first entry, about: a tree has room for eleven.
const PIECE_BYTES: usize = 350;

/// Columns of a row of chunks that stand together.
pub(super) struct Cut {
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
/// What was cut out of a row, with the row's part.
pub(super) type PartCut = (i16, Arc<Cut>);
/// Those of all rows of a piece and a window.
pub(super) type Rows = Arc<[PartCut]>;

/// Which chunks a snapshot sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ChunkVersion {
    /// When the database server started, in unix microseconds: another server, a standby or a restored backup, may count its changes otherwise.
    pub(super) server_started: i64,
    /// The identifiers of the partitions of chunks, and of their files.
    pub(super) partitions: Arc<str>,
    /// The last change.
    pub(super) change: i64,
}

/// The cache.
pub(super) struct ChunkCache {
    max_bytes: usize,
    held: Mutex<Held>,
    metrics: CacheMetrics,
}

#[derive(Default)]
struct Held {
    /// What is there did not change up to this.
    version: ChunkVersion,
    /// The last change of what changed after the change `since`, by block and window.
    changed: HashMap<(i32, i64), i64>,
    since: i64,
    /// The partitions that there are.
    days: Arc<[i32]>,
    young: Generation,
    old: Generation,
}

impl Held {
    fn is_of(&self, version: &ChunkVersion) -> bool {
        self.version.server_started == version.server_started && self.version.partitions == version.partitions
    }

    /// Whether the rows of a block and window have not changed since a snapshot, as far as is known.
    fn is_unchanged(&self, version: &ChunkVersion, block_id: i32, window: i64) -> bool {
        let has_changed = || self.changed.get(&(block_id, window)).is_some_and(|change| *change > version.change);
        version.change == self.version.change || version.change >= self.since && !has_changed()
    }

    /// The rows as a snapshot sees them. They are in the young generation then; what goes for that is put aside.
    fn rows(&mut self, max_bytes: usize, piece: PieceKey, window: i64, version: &ChunkVersion, gone: &mut Vec<Generation>) -> Option<Rows> {
        let is_seen = |entry: &Entry| entry.change <= version.change || self.is_unchanged(version, piece.0, window);
        if let Some(entry) = self.young.get(piece, window) {
            return is_seen(entry).then(|| Arc::clone(&entry.rows));
        }
        let entry = self.old.get(piece, window).filter(|entry| is_seen(entry))?.clone();
        let rows = Arc::clone(&entry.rows);
        self.old.remove(piece, window);
        self.put(max_bytes, piece, window, entry, gone);
        Some(rows)
    }

    fn put(&mut self, max_bytes: usize, piece: PieceKey, window: i64, entry: Entry, gone: &mut Vec<Generation>) {
        if self.young.bytes + entry.bytes() + PIECE_BYTES > max_bytes / 2 {
            gone.push(std::mem::replace(&mut self.old, std::mem::take(&mut self.young)));
        }
        self.young.insert(piece, window, entry);
    }
}

#[derive(Clone)]
struct Entry {
    rows: Rows,
    /// The last change that the snapshot saw in which they were read. They have not changed since.
    change: i64,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.rows.iter().map(|(_, cut)| ROW_BYTES + cut.memory_bytes()).sum::<usize>()
    }
}

#[derive(Default)]
struct Generation {
    pieces: BTreeMap<PieceKey, BTreeMap<i64, Entry>>,
    bytes: usize,
}

impl Generation {
    fn get(&self, piece: PieceKey, window: i64) -> Option<&Entry> {
        self.pieces.get(&piece)?.get(&window)
    }

    fn insert(&mut self, piece: PieceKey, window: i64, entry: Entry) {
        self.remove(piece, window);
        let bytes = entry.bytes();
        let of_piece = self.pieces.entry(piece).or_insert_with(|| {
            self.bytes += PIECE_BYTES;
            BTreeMap::new()
        });
        of_piece.insert(window, entry);
        self.bytes += bytes;
    }

    /// Removes all pieces of a block in a window.
    fn remove_block(&mut self, block_id: i32, window: i64) {
        let of_block = (block_id, i32::MIN, i32::MIN)..=(block_id, i32::MAX, i32::MAX);
        let pieces: Vec<PieceKey> = self.pieces.range(of_block).map(|(piece, _)| *piece).collect();
        for piece in pieces {
            self.remove(piece, window);
        }
    }

    fn remove(&mut self, piece: PieceKey, window: i64) {
        let Some(of_piece) = self.pieces.get_mut(&piece) else { return };
        if let Some(gone) = of_piece.remove(&window) {
            self.bytes -= gone.bytes();
        }
        if of_piece.is_empty() {
            self.pieces.remove(&piece);
            self.bytes -= PIECE_BYTES;
        }
    }
}

/// What a cache does not know yet of a snapshot.
enum Unknown {
    /// Nothing; these are the partitions.
    Nothing(Arc<[i32]>),
    /// What changed after this change.
    After(i64, Arc<[i32]>),
    /// All.
    All,
    /// What it has is of a newer snapshot, with other partitions.
    TooOld,
}

impl ChunkCache {
    /// Holds so much at most; 0 holds nothing.
    pub(super) fn new(max_bytes: usize, metrics: CacheMetrics) -> Self {
        Self { max_bytes, held: Mutex::default(), metrics }
    }

    /// What it has of this connection's snapshot, which sees this version. None where it holds nothing, or only what is newer.
    pub(super) async fn view(&self, conn: &mut PgConnection, version: &ChunkVersion) -> Result<Option<ChunkView<'_>>, sqlx::Error> {
        if self.max_bytes == 0 {
            return Ok(None);
        }
        let days = match self.unknown(version) {
            Unknown::Nothing(days) => days,
            Unknown::After(after, days) => {
                let statement = "SELECT max(change), block_id, window_start, min(min(change)) OVER () FROM chunk_changes WHERE change > $1
                    GROUP BY block_id, window_start LIMIT $2";
                let limit = i64::try_from(MAX_CHANGED).unwrap_or(i64::MAX).saturating_add(1);
                let changed: Vec<(i64, i32, Timestamp, i64)> = sqlx::query_as(statement).bind(after).bind(limit).fetch_all(conn).await?;
                // Changes have no gaps: where the next one is gone, so may be others.
                if changed.len() <= MAX_CHANGED && changed.first().is_some_and(|(.., first)| *first == after + 1) {
                    let changed = changed.into_iter().map(|(change, block_id, window, _)| (change, block_id, millis(window.0)));
                    self.advance(after, version, changed);
                } else {
                    self.begin(version, &days);
                }
                days
            }
            Unknown::TooOld => return Ok(None),
            Unknown::All => {
                let days: Arc<[i32]> = CHUNKS.existing(conn).await?.into();
                self.begin(version, &days);
                days
            }
        };
        Ok(Some(ChunkView { cache: self, version: version.clone(), days }))
    }

    fn unknown(&self, version: &ChunkVersion) -> Unknown {
        let held = self.lock();
        if !held.is_of(version) {
            let is_newer = held.version.server_started == version.server_started && held.version.change > version.change;
            return if is_newer { Unknown::TooOld } else { Unknown::All };
        }
        let days = Arc::clone(&held.days);
        if held.version.change < version.change { Unknown::After(held.version.change, days) } else { Unknown::Nothing(days) }
    }

    /// Forgets what changed after that change, up to this version: the last change of each block and window in unix milliseconds.
    fn advance(&self, after: i64, version: &ChunkVersion, changed: impl Iterator<Item = (i64, i32, i64)>) {
        let mut guard = self.lock();
        let held = &mut *guard;
        // Another query may have done it meanwhile, or have begun anew.
        if !held.is_of(version) || !(after..version.change).contains(&held.version.change) {
            return;
        }
        for (change, block_id, window) in changed {
            held.young.remove_block(block_id, window);
            held.old.remove_block(block_id, window);
            held.changed.insert((block_id, window), change);
        }
        held.version.change = version.change;
        if held.changed.len() > MAX_CHANGED {
            (held.changed, held.since) = (HashMap::new(), version.change);
        }
        self.metrics.set_bytes(held.young.bytes + held.old.bytes);
    }

    fn begin(&self, version: &ChunkVersion, days: &Arc<[i32]>) {
        // What goes is freed after the lock is released, as it is declared before it.
        let _gone;
        let mut held = self.lock();
        if !held.is_of(version) || held.version.change < version.change {
            let (version, since, days) = (version.clone(), version.change, Arc::clone(days));
            _gone = std::mem::replace(&mut *held, Held { version, since, days, ..Held::default() });
            self.metrics.set_bytes(0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unix milliseconds.
fn millis(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

/// The cache as one snapshot may use it.
pub(super) struct ChunkView<'a> {
    cache: &'a ChunkCache,
    version: ChunkVersion,
    days: Arc<[i32]>,
}

impl ChunkView<'_> {
    /// The windows of a time that may have rows, in order.
    pub(super) fn windows(&self, from_ms: i64, to_ms: i64) -> Vec<i64> {
        let of_day = |day: &i32| {
            let (start, end) = (millis(CHUNKS.start_of(*day)), millis(CHUNKS.end_of(*day)));
            (0..).map(move |number| start + number * WINDOW_MILLIS).take_while(move |window| *window < end)
        };
        self.days.iter().flat_map(of_day).filter(|window| (from_ms..=to_ms).contains(window)).collect()
    }

    /// The rows of a piece in each of these windows; None where they are not known.
    pub(super) fn rows(&self, piece: PieceKey, windows: &[i64]) -> Vec<Option<Rows>> {
        // What goes is freed after the lock is released, as it is declared before it: other reads do not wait for that.
        let mut gone = Vec::new();
        let mut held = self.cache.lock();
        if !held.is_of(&self.version) || held.version.change < self.version.change {
            return vec![None; windows.len()];
        }
        let rows: Vec<Option<Rows>> =
            windows.iter().map(|window| held.rows(self.cache.max_bytes, piece, *window, &self.version, &mut gone)).collect();
        self.cache.metrics.set_bytes(held.young.bytes + held.old.bytes);
        drop(held);
        self.cache.metrics.count(true, rows.iter().flatten().map(|rows| rows.len()).sum());
        rows
    }

    /// Keeps all rows of a piece and a window, which were read.
    pub(super) fn put(&self, piece: PieceKey, window: i64, rows: Vec<PartCut>) {
        self.cache.metrics.count(false, rows.len());
        let entry = Entry { rows: rows.into(), change: self.version.change };
        // A large one would drive out half of the others.
        if entry.bytes() + PIECE_BYTES > self.cache.max_bytes / 8 {
            return;
        }
        let mut gone = Vec::new();
        let mut held = self.cache.lock();
        // What changed since serves nobody else.
        if !held.is_of(&self.version) || held.version.change < self.version.change || !held.is_unchanged(&self.version, piece.0, window) {
            return;
        }
        held.old.remove(piece, window);
        held.put(self.cache.max_bytes, piece, window, entry, &mut gone);
        self.cache.metrics.set_bytes(held.young.bytes + held.old.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: PieceKey = (1, 0, 3);

    fn cut(bytes: usize) -> Arc<Cut> {
        let times = Arc::new(Times::decode(&golectra_chunks::encode(&[]).times).unwrap());
        Arc::new(Cut { times, offsets: vec![0], data: Bytes::from(vec![0; bytes]), bases: None })
    }

    /// Rows that are told apart by their part.
    fn rows(part: i16, bytes: usize) -> Vec<PartCut> {
        vec![(part, cut(bytes))]
    }

    fn view<'a>(cache: &'a ChunkCache, server_started: i64, partitions: &str, change: i64) -> ChunkView<'a> {
        let version = ChunkVersion { server_started, partitions: partitions.into(), change };
        let days: Arc<[i32]> = [0, 2].into();
        cache.begin(&version, &days);
        ChunkView { cache, version, days }
    }

    /// The parts of a window's rows; None where they are not known.
    fn parts(view: &ChunkView<'_>, window: i64) -> Option<Vec<i16>> {
        view.rows(PIECE, &[window])[0].as_ref().map(|rows| rows.iter().map(|(part, _)| *part).collect())
    }

    #[test]
    fn windows_are_those_of_partitions() {
        let cache = ChunkCache::new(1 << 20, CacheMetrics::default());
        let view = view(&cache, 7, "1 2", 1);
        let all = view.windows(0, i64::MAX);
        assert_eq!((all.len(), all[1], all[12]), (24, WINDOW_MILLIS, 24 * WINDOW_MILLIS));
        assert_eq!(view.windows(11 * WINDOW_MILLIS, 25 * WINDOW_MILLIS - 1), [11 * WINDOW_MILLIS, 24 * WINDOW_MILLIS]);
    }

    fn advance(cache: &ChunkCache, after: i64, to: i64, changed: &[(i64, i32, i64)]) {
        cache.advance(after, &ChunkVersion { server_started: 7, partitions: "1".into(), change: to }, changed.iter().copied());
    }

    #[test]
    fn rows_are_known_until_they_change() {
        let cache = ChunkCache::new(1 << 20, CacheMetrics::default());
        let first = view(&cache, 7, "1", 5);
        first.put(PIECE, 10, rows(1, 9));
        first.put(PIECE, 20, Vec::new());
        assert!(first.rows((1, 0, 2), &[10])[0].is_none(), "another piece");
        assert_eq!([10, 20, 30].map(|window| parts(&first, window)), [Some(vec![1]), Some(vec![]), None]);
        // Before it is known what changed nothing is.
        let second = ChunkView { cache: &cache, version: ChunkVersion { change: 8, ..first.version.clone() }, days: [].into() };
        assert_eq!([10, 20].map(|window| parts(&second, window)), [None, None]);
        second.put(PIECE, 10, rows(9, 9));
        advance(&cache, 5, 8, &[(6, 2, 10), (7, 1, 20)]);
        assert_eq!([10, 20].map(|window| parts(&second, window)), [Some(vec![1]), None]);
        second.put(PIECE, 20, rows(2, 9));
        second.put(PIECE, 30, rows(2, 9));
        assert_eq!(parts(&second, 20), Some(vec![2]));
        // An older snapshot sees what was before, and does not say what is now.
        assert_eq!([10, 20, 30].map(|window| parts(&first, window)), [Some(vec![1]), None, Some(vec![2])]);
        first.put(PIECE, 20, rows(3, 9));
        assert_eq!(parts(&second, 20), Some(vec![2]));
        // What was overtaken takes nothing back.
        advance(&cache, 5, 7, &[(6, 2, 10), (7, 1, 20)]);
        assert_eq!(cache.lock().version.change, 8);
        assert_eq!(parts(&second, 20), Some(vec![2]));
        // What others see later they may have of a snapshot from before, but not what changed in between.
        advance(&cache, 8, 9, &[(9, 1, 10)]);
        assert_eq!([10, 20].map(|window| parts(&second, window)), [None, Some(vec![2])]);
    }

    #[test]
    fn changes_are_remembered_for_older_snapshots_up_to_a_number() {
        let cache = ChunkCache::new(1 << 20, CacheMetrics::default());
        let first = view(&cache, 7, "1", 5);
        first.put(PIECE, 10, rows(1, 9));
        let many: Vec<(i64, i32, i64)> = (0..=i32::try_from(MAX_CHANGED).unwrap()).map(|n| (6, 2 + n, 0)).collect();
        advance(&cache, 5, 6, &many);
        assert_eq!(cache.lock().changed.len(), 0);
        assert_eq!(parts(&first, 10), Some(vec![1]), "it was read by the time of this snapshot");
        first.put(PIECE, 20, rows(1, 9));
        assert_eq!(parts(&first, 20), None, "it may have changed");
    }

    #[test]
    fn a_snapshot_from_before_a_partition_leaves_what_is_newer() {
        let cache = ChunkCache::new(1 << 20, CacheMetrics::default());
        let now = view(&cache, 7, "1 2", 5);
        now.put(PIECE, 10, rows(1, 9));
        let of = |server_started, change| ChunkVersion { server_started, partitions: "1".into(), change };
        assert!(matches!(cache.unknown(&of(7, 4)), Unknown::TooOld));
        assert!(matches!(cache.unknown(&of(7, 5)), Unknown::All), "it may be newer");
        assert!(matches!(cache.unknown(&of(8, 4)), Unknown::All), "another server counts otherwise");
        assert_eq!(parts(&now, 10), Some(vec![1]));
    }

    #[test]
    fn another_server_or_partition_begins_anew() {
        let metrics = CacheMetrics::default();
        let cache = ChunkCache::new(1 << 20, metrics.clone());
        for (server, partitions) in [(8, "1"), (7, "1 2")] {
            let before = view(&cache, 7, "1", 5);
            before.put(PIECE, 10, rows(1, 9));
            assert_eq!(parts(&before, 10), Some(vec![1]));
            let now = view(&cache, server, partitions, 3);
            assert_eq!((metrics.bytes(), parts(&now, 10)), (0, None));
            // What is read now is of another time.
            before.put(PIECE, 10, rows(1, 9));
            now.put(PIECE, 20, rows(2, 9));
            assert_eq!((parts(&now, 10), parts(&now, 20), parts(&before, 20)), (None, Some(vec![2]), None));
        }
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_used() {
        let metrics = CacheMetrics::default();
        let cache = ChunkCache::new(100_000, metrics.clone());
        let view = view(&cache, 7, "1", 5);
        view.put(PIECE, -1, rows(1, 1_000));
        for window in 0..1_000 {
            view.put((i32::try_from(window % 7).unwrap(), 0, 3), window, rows(0, 1_000));
            assert_eq!(parts(&view, -1), Some(vec![1]));
            assert!(metrics.bytes() <= 100_000);
        }
        let kept = (0..1_000).filter(|window| view.rows((i32::try_from(window % 7).unwrap(), 0, 3), &[*window])[0].is_some()).count();
        assert!((30..100).contains(&kept), "{kept}");
        assert_eq!(metrics.misses(), 1_001);
        view.put(PIECE, 1_000, rows(1, 20_000));
        assert_eq!(parts(&view, 1_000), None, "a large one is not kept");
        // What is there says how much it is.
        let held = cache.lock();
        for generation in [&held.young, &held.old] {
            let entries: usize = generation.pieces.values().flat_map(BTreeMap::values).map(Entry::bytes).sum();
            assert_eq!(generation.bytes, entries + PIECE_BYTES * generation.pieces.len());
        }
    }
}

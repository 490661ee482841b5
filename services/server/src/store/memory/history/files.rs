//! History's files: a folder beside the snapshot, written with each save.
//!
//! - `segment-NUMBER` has parts, or rollups of one resolution, that a save found not to be stored yet. It is written once and never changed.
//! - `index-DIGEST` belongs to the snapshot file whose SHA-256 begins so: it has the series, and says where the parts and the rollups stand that history
//!   had when the snapshot was taken.
//!
//! A save seals what has come before its copy of a shard was taken, writes segments and an index and syncs them, before the snapshot is
//! put in place. A crash in between leaves the old snapshot with its own index, so history and the newest state are always of one moment, and
//! what the journal has since then comes to both. Files that the index of the snapshot in place does not name are removed.
//!
//! A snapshot that was saved without history has no index. Before the first save with history writes anything else it gives that snapshot one, which is empty:
//! after a crash in that save the journal has all samples, and its new index must not be taken for one that came into place.
//!
//! A segment stays as long as one of its records is needed. So records that are dropped at different times are in different segments, and a save moves what is
//! left of segments that are mostly not needed into its own. A record counts as moved only when the index that says so is in place; the old segment stays until
//! the snapshot of that index, or of a later one, is in place.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use golectra_chunks::rollup::Resolution;
use golectra_protocol::Source;

use super::super::disk::{Disk, Paths, remove_unfinished};
use super::super::shard::Shard;
use super::super::shards::Shards;
use super::coding::{self, SEGMENT_HEAD};
use super::open::Frames;
use super::part::{Part, Stored, StoredAt};
use super::rollups::DayRollups;
use super::seal::{Changing, change};
use super::series::SeriesBlock;
use super::source::Window;

const BUFFER_BYTES: usize = 256 * 1024;
/// About how much a save moves at most.
const MAX_MOVED_BYTES: u64 = 8 * 1024 * 1024;
/// How many saves move nothing after one that was to move something and failed.
pub(super) const SAVES_WITHOUT_MOVES: u32 = 16;
const INDEX: &str = "index-";
const SEGMENT: &str = "segment-";
const INDEX_NEW: &str = "index.tmp";

pub(super) fn index_path(folder: &Path, digest: &[u8; 32]) -> PathBuf {
    // Sixteen bytes of it tell snapshots apart.
    let (first, _) = digest.split_first_chunk().expect("32 bytes have 16 at their head");
    folder.join(format!("{INDEX}{:032x}", u128::from_be_bytes(*first)))
}

pub(super) fn segment_path(folder: &Path, segment: u32) -> PathBuf {
    folder.join(format!("{SEGMENT}{segment:010}"))
}

/// A file that is written from its start to its end.
struct NewFile {
    disk: Disk,
    file: File,
    /// What is written.
    offset: u64,
    buffer: Vec<u8>,
}

impl NewFile {
    fn create(disk: &Disk, path: &Path) -> io::Result<Self> {
        Ok(Self { disk: disk.clone(), file: disk.create(path)?, offset: 0, buffer: Vec::new() })
    }

    /// Where the next byte will stand.
    fn end(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Writes what was put into the buffer once that is worth it.
    fn write_some(&mut self) -> io::Result<()> {
        if self.buffer.len() >= BUFFER_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.disk.write_at(&self.file, &self.buffer, self.offset)?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.write()?;
        self.disk.sync(&self.file)
    }
}

/// What a save needs of the history of a shard, taken under its lock.
pub(in crate::store::memory) struct HistoryCopy(Vec<SourceCopy>);

struct SourceCopy {
    source: Source,
    blocks: BTreeMap<u32, Arc<SeriesBlock>>,
    next: u32,
    /// The open samples of windows, and how many there are.
    open: Vec<(i64, Frames, usize)>,
}

/// History's part of a save. While it is there nobody else changes what is sealed.
pub(in crate::store::memory) struct HistorySave<'a> {
    shards: &'a Shards,
    changing: Changing<'a>,
    disk: &'a Disk,
    folder: &'a Path,
    now_millis: u64,
    index: NewFile,
    /// The index' records of rollups, which come last: versions that do not know them read what comes before.
    rollups: Vec<u8>,
    /// The new segments, with their numbers: of samples, of rollups of 5 minutes, and of those of an hour.
    new: [Option<(u32, NewFile)>; 3],
    /// Segments whose needed records are moved, and how much was moved so far.
    emptied: BTreeSet<u32>,
    moved_bytes: u64,
    /// Parts that are stored there once the index is in place.
    written: Vec<(Arc<Part>, StoredAt)>,
    written_rollups: Vec<(Arc<DayRollups>, StoredAt)>,
    /// All segments that the index names.
    segments: BTreeSet<u32>,
    unfinished: Unfinished,
}

/// Files that nothing names yet: they are removed where the save does not come to its end, since a full disk needs the room.
struct Unfinished(Vec<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| remove_unfinished(path));
    }
}

/// The files that belong to a snapshot.
#[derive(Debug)]
pub(in crate::store::memory) struct SavedHistory {
    digest: [u8; 32],
    segments: BTreeSet<u32>,
    /// Whether something was written once more.
    moved: bool,
}

impl<'a> HistorySave<'a> {
    /// Begins; none where there is no history.
    pub(in crate::store::memory) fn begin(
        shards: &'a Shards,
        disk: &'a Disk,
        folder: &'a Path,
        now_millis: u64,
    ) -> io::Result<Option<Self>> {
        if shards.history.is_off() {
            return Ok(None);
        }
        let changing = change(shards);
        if disk.create_folder(folder)? {
            disk.sync_folder(folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        }
        let unfinished = Unfinished(vec![folder.join(INDEX_NEW)]);
        ensure_index(shards, disk, folder)?;
        let mut index = NewFile::create(disk, &folder.join(INDEX_NEW))?;
        coding::encode_head(&mut index.buffer, shards.history.snapshot(), now_millis);
        let without = &shards.history.saves_without_moves;
        let left = without.load(Ordering::Relaxed);
        let emptied = if left == 0 { mostly_unneeded(shards, folder) } else { BTreeSet::new() };
        // Taken back when this save's files are in place.
        without.store(if emptied.is_empty() { left.saturating_sub(1) } else { SAVES_WITHOUT_MOVES }, Ordering::Relaxed);
        Ok(Some(Self {
            shards,
            changing,
            disk,
            folder,
            now_millis,
            index,
            rollups: Vec::new(),
            new: [None, None, None],
            emptied,
            moved_bytes: 0,
            written: Vec::new(),
            written_rollups: Vec::new(),
            segments: BTreeSet::new(),
            unfinished,
        }))
    }

    /// Copies what has come to a shard by now. To be called under its lock.
    #[expect(clippy::unused_self, reason = "what is sealed stays only while a save is under way")]
    pub(in crate::store::memory) fn copy(&self, shard: &Shard) -> HistoryCopy {
        let of = |(start, window): (&i64, &Window)| {
            (!window.open.is_empty()).then(|| (*start, window.open.frames().clone(), window.open.samples()))
        };
        let copies = shard.history.iter().map(|(source, history)| SourceCopy {
            source: source.clone(),
            blocks: history.series.blocks().clone(),
            next: history.series.next(),
            open: history.windows.iter().filter_map(of).collect(),
        });
        HistoryCopy(copies.collect())
    }

    /// Seals and writes the history of a shard as of its copy.
    pub(in crate::store::memory) fn write(&mut self, copy: HistoryCopy) -> io::Result<()> {
        for SourceCopy { source, blocks, next, open } in copy.0 {
            let counters: Vec<(u32, u64)> = blocks.iter().map(|(number, block)| (*number, block.counters())).collect();
            for (start, frames, samples) in open {
                let part = Arc::new(Part::seal(&frames, samples, &counters));
                let many = frames.len();
                drop(frames);
                self.seal(&source, start, part, many);
            }
            coding::encode_series(&mut self.index.buffer, &source, next, blocks.iter().map(|(number, block)| (*number, block)));
            self.index.write_some()?;
            let mut stored = Vec::new();
            for (start, part) in self.parts(&source) {
                let at = if let Some(at) = self.place(&part.stored) {
                    at
                } else {
                    let at = self.write_record(None, |out| coding::encode_part(out, &part))?;
                    self.written.push((part, at));
                    at
                };
                self.segments.insert(at.segment);
                stored.push((start, at));
            }
            coding::encode_parts(&mut self.index.buffer, &source, &stored);
            self.index.write_some()?;
            let mut stored = Vec::new();
            for (day, resolution, rollups) in self.day_rollups(&source) {
                let at = if let Some(at) = self.place(&rollups.stored) {
                    at
                } else {
                    let at = self.write_record(Some(resolution), |out| coding::encode_rollups(out, &rollups))?;
                    self.written_rollups.push((rollups, at));
                    at
                };
                self.segments.insert(at.segment);
                stored.push((day, resolution, at));
            }
            coding::encode_rollup_places(&mut self.rollups, &source, &stored);
        }
        Ok(())
    }

    fn seal(&self, source: &Source, start: i64, part: Arc<Part>, frames: usize) {
        let put = |window: &mut Window| window.sealed(part, frames, self.now_millis);
        let mut locked = self.shards.of(source);
        let _ = locked.shard.history.change(&self.shards.history, source, |history| history.change_window(start, put));
    }

    /// All sealed parts of a source with the beginnings of their windows, in order.
    fn parts(&self, source: &Source) -> Vec<(i64, Arc<Part>)> {
        let locked = self.shards.of(source);
        let windows = locked.shard.history.get(source).into_iter().flat_map(|history| &history.windows);
        windows.flat_map(|(start, window)| window.parts.iter().map(|part| (*start, Arc::clone(part)))).collect()
    }

    /// All rollups of a source, in order.
    fn day_rollups(&self, source: &Source) -> Vec<(i64, Resolution, Arc<DayRollups>)> {
        let locked = self.shards.of(source);
        let days = locked.shard.history.get(source).into_iter().flat_map(|history| &history.days);
        days.flat_map(|(start, day)| day.each().map(|(resolution, rollups)| (*start, resolution, Arc::clone(rollups)))).collect()
    }

    /// Where a record is stored. None if it has to be written, or moved.
    fn place(&mut self, stored: &Stored) -> Option<StoredAt> {
        let at = stored.get()?;
        if self.moved_bytes >= MAX_MOVED_BYTES || !self.emptied.contains(&at.segment) {
            return Some(at);
        }
        self.moved_bytes += u64::from(at.bytes);
        None
    }

    /// Writes to the segment of records that are dropped at the same time: rollups of a resolution, or samples.
    fn write_record(&mut self, resolution: Option<Resolution>, encode: impl FnOnce(&mut Vec<u8>)) -> io::Result<StoredAt> {
        let new = match resolution {
            None => &mut self.new[0],
            Some(Resolution::FiveMinutes) => &mut self.new[1],
            Some(Resolution::OneHour) => &mut self.new[2],
        };
        if new.is_none() {
            let number = self.shards.history.next_segment.fetch_add(1, Ordering::Relaxed);
            let path = segment_path(self.folder, number);
            self.unfinished.0.push(path.clone());
            let mut file = NewFile::create(self.disk, &path)?;
            file.buffer.extend(SEGMENT_HEAD);
            *new = Some((number, file));
        }
        let (segment, file) = new.as_mut().expect("it was put there");
        let offset = file.end();
        encode(&mut file.buffer);
        let bytes = u32::try_from(file.end() - offset).map_err(|_| io::Error::other("a part of history is larger than 4 GiB"))?;
        file.write_some()?;
        Ok(StoredAt { segment: *segment, offset, bytes })
    }

    /// Brings everything to the disk, for the snapshot with this digest.
    pub(in crate::store::memory) fn finish(mut self, digest: [u8; 32]) -> io::Result<SavedHistory> {
        for (_, segment) in self.new.into_iter().flatten() {
            segment.finish()?;
        }
        self.index.buffer.append(&mut self.rollups);
        coding::encode_end(&mut self.index.buffer);
        self.index.finish()?;
        let index = index_path(self.folder, &digest);
        self.shards.history.damaged.keep_replaced(self.disk, &index)?;
        self.disk.rename(&self.folder.join(INDEX_NEW), &index)?;
        // From now on the index names the segments, and goes with them where it may not be on disk; unless it may be the index of the snapshot in place.
        if is_of_another(self.shards, &digest) {
            self.unfinished.0.insert(0, index);
        } else {
            self.unfinished.0.clear();
        }
        self.disk.sync_folder(self.folder)?;
        self.unfinished.0.clear();
        for (part, at) in self.written {
            part.stored.set(at);
        }
        for (rollups, at) in self.written_rollups {
            rollups.stored.set(at);
        }
        drop(self.changing);
        Ok(SavedHistory { digest, segments: self.segments, moved: !self.emptied.is_empty() })
    }
}

/// Gives the snapshot in place an empty index where there is none at all.
fn ensure_index(shards: &Shards, disk: &Disk, folder: &Path) -> io::Result<()> {
    let Some(digest) = shards.history.snapshot() else { return Ok(()) };
    let index = index_path(folder, &digest);
    if index.exists() {
        return Ok(());
    }
    for file in std::fs::read_dir(folder)? {
        if is_index(&file?.path()) {
            return Ok(());
        }
    }
    // The next start would not look for segments that no index names.
    shards.history.damaged.rename(disk)?;
    let new = folder.join(INDEX_NEW);
    let mut file = NewFile::create(disk, &new)?;
    // Its time is before that of any other, which is taken rather than this one if the snapshot is edited.
    coding::encode_head(&mut file.buffer, None, 0);
    coding::encode_end(&mut file.buffer);
    file.finish()?;
    disk.rename(&new, &index)?;
    disk.sync_folder(folder).inspect_err(|_| remove_unfinished(&index))
}

/// Whether a snapshot is in place, and has another digest.
fn is_of_another(shards: &Shards, digest: &[u8; 32]) -> bool {
    shards.history.snapshot().is_some_and(|in_place| in_place != *digest)
}

/// Segments of which less than half is needed, as many as a save can move: those with the most bytes that are not needed.
fn mostly_unneeded(shards: &Shards, folder: &Path) -> BTreeSet<u32> {
    let mut needed: HashMap<u32, u64> = HashMap::new();
    let sources: Vec<Source> = shards.each().flat_map(|shard| shard.history.names().cloned().collect::<Vec<_>>()).collect();
    for source in &sources {
        let locked = shards.of(source);
        let Some(history) = locked.shard.history.get(source) else { continue };
        let parts = history.windows.values().flat_map(|window| &window.parts).map(|part| &part.stored);
        let rollups = history.days.values().flat_map(|day| day.each().map(|(_, rollups)| &rollups.stored));
        for at in parts.chain(rollups).filter_map(Stored::get) {
            *needed.entry(at.segment).or_default() += u64::from(at.bytes);
        }
    }
    let mut mostly_unneeded: Vec<(u64, u32)> = Vec::new();
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(segment) = segment_number(&file.path()) else { continue };
        // One of which nothing is needed is removed anyway.
        if let (Some(needed), Ok(file)) = (needed.get(&segment), file.metadata())
            && needed.saturating_mul(2) < file.len()
        {
            mostly_unneeded.push((file.len() - needed, segment));
        }
    }
    mostly_unneeded.sort_unstable_by_key(|(unneeded, _)| Reverse(*unneeded));
    let (mut chosen, mut bytes) = (BTreeSet::new(), 0);
    for (_, segment) in mostly_unneeded {
        if bytes >= MAX_MOVED_BYTES {
            break;
        }
        bytes += needed[&segment];
        chosen.insert(segment);
    }
    chosen
}

/// The number of a segment, by its file's name.
pub(super) fn segment_number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix(SEGMENT)?.parse().ok()
}

impl SavedHistory {
    /// Takes note that the snapshot has its name.
    pub(in crate::store::memory) fn note(&self, shards: &Shards) {
        shards.history.set_snapshot(self.digest);
    }

    /// Takes note that the snapshot did not come into place: its index is removed, unless it is also that of the snapshot that is. The segments stay, since
    /// the next save does not write what they have again; so do those that the index of the snapshot in place names.
    pub(in crate::store::memory) fn abandon(&self, shards: &Shards, folder: &Path) {
        if is_of_another(shards, &self.digest) {
            remove_unfinished(&index_path(folder, &self.digest));
        }
    }

    /// Takes note that the snapshot is in place, and removes the files that it does not need. A file that can't be removed is tried again
    /// with the next save.
    pub(in crate::store::memory) fn in_place(&self, shards: &Shards, disk: &Disk, paths: &Paths) {
        self.note(shards);
        if self.moved {
            shards.history.saves_without_moves.store(0, Ordering::Relaxed);
        }
        let (folder, damaged) = (paths.history.as_path(), &shards.history.damaged);
        damaged.keep_again(disk, &paths.history_damaged);
        let keep: BTreeSet<PathBuf> =
            self.segments.iter().map(|segment| segment_path(folder, *segment)).chain([index_path(folder, &self.digest)]).collect();
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
        for path in files.filter(|path| !keep.contains(path) && is_ours(path)) {
            if let Err(error) = damaged.remove(disk, &path) {
                tracing::warn!(path = %path.display(), %error, "an old file of the history could not be removed");
            }
        }
    }
}

/// Whether the file's name is one of those that history gives.
fn is_ours(path: &Path) -> bool {
    is_kept(path) || path.file_name().is_some_and(|name| name == INDEX_NEW)
}

/// Whether it is that of an index or a segment.
pub(super) fn is_kept(path: &Path) -> bool {
    is_index(path) || has_prefix(path, SEGMENT)
}

pub(super) fn is_index(path: &Path) -> bool {
    has_prefix(path, INDEX)
}

fn has_prefix(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}

//! What a start reads of history's files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use golectra_protocol::Source;

use super::super::disk::Disk;
use super::super::framing::{self, HEAD_BYTES, RecordReader, foreign};
use super::super::shard::Shard;
use super::super::shards::Shards;
use super::super::table::{IdHasher, Rows};
use super::coding::{self, IndexRecord, SEGMENT_HEAD};
use super::files::{index_path, is_index, is_kept, segment_number, segment_path};
use super::part::StoredAt;
use super::room::Room;

/// What a start found.
#[derive(Debug, Default)]
pub(in crate::store::memory) struct Restored {
    /// Bytes of damaged records, and of files that no index of the snapshot names.
    pub(in crate::store::memory) skipped_bytes: u64,
    /// Whether the history is that of a later snapshot: it has what the journal has, and its counters are to be told the totals of the newest state
    /// (see [`catch_up`]) once that is complete.
    pub(in crate::store::memory) is_ahead: bool,
}

/// Gives segments numbers that are not in use, whether they are read or not.
pub(in crate::store::memory) fn note_segments(shards: &Shards, folder: &Path) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let numbers = files.filter_map(|file| segment_number(&file.path()));
    shards.history.next_segment.store(numbers.max().map_or(1, |last| last.saturating_add(1)), Ordering::Relaxed);
}

/// Fills the history of an empty store from the files that belong to this snapshot. Where they are damaged, or none of them belongs to it, they are kept
/// first, in the folder that is given with the disk.
pub(in crate::store::memory) fn restore(
    shards: &Shards,
    folder: &Path,
    snapshot: Option<[u8; 32]>,
    now_millis: u64,
    keep_in: Option<(&Disk, &Path)>,
) -> io::Result<Restored> {
    let mut restored = Restored::default();
    if let Some(digest) = snapshot {
        shards.history.set_snapshot(digest);
    }
    if shards.history.is_off() {
        return Ok(restored);
    }
    let Found { index, mut is_whole, bytes } = find_index(folder, snapshot)?;
    let mut why = "history's files are damaged or were cut off: what can't be read is skipped";
    if let Some((index, of)) = &index {
        is_whole &= read(shards, folder, index, now_millis, &mut restored)?;
        match of {
            Of::This => {}
            Of::Another => catch_up(shards),
            Of::Next => restored.is_ahead = true,
        }
    } else if snapshot.is_some() {
        // Without a snapshot they are what the first save left that a crash ended.
        restored.skipped_bytes = bytes;
        if is_whole {
            why = "no index of history's files belongs to the snapshot file: the history is not read";
        }
    }
    if restored.skipped_bytes > 0 || !is_whole {
        tracing::warn!(path = %folder.display(), skipped_bytes = restored.skipped_bytes, "{why}");
        if let Some((disk, damaged)) = keep_in {
            // The next save removes what was skipped.
            shards.history.damaged.keep_at_start(disk, folder, damaged).map_err(|error| {
                io::Error::new(error.kind(), format!("it is damaged, and can't be kept in {} as it is: {error}", damaged.display()))
            })?;
        }
    }
    Ok(restored)
}

/// Reads an index and what it names, and says whether the index is whole.
fn read(shards: &Shards, folder: &Path, index: &Path, now_millis: u64, restored: &mut Restored) -> io::Result<bool> {
    let history = &shards.history;
    let mut room = Room::of(index, history, now_millis, shards.last_write_millis())?;
    let mut segments = Segments { folder, files: HashMap::new() };
    let left_bytes = read_index(index, |record| {
        match record {
            IndexRecord::Series { source, next, series } => {
                let before = history.used_bytes();
                shards.of(&source).shard.history.restore_series(history, shards.hasher(), &source, next, &series);
                room.series_bytes += history.used_bytes().saturating_sub(before);
            }
            IndexRecord::Rollups { source, rollups } => {
                for (day, resolution, at) in rollups {
                    if room.lacks_rollups(day, resolution) {
                        room.count_rollups(history, day, resolution);
                        continue;
                    }
                    let Some(rollups) = segments.read(at, coding::decode_rollups)? else {
                        restored.skipped_bytes += u64::from(at.bytes);
                        continue;
                    };
                    room.make(shards, rollups.bytes());
                    // They may be among the oldest themselves.
                    if room.lacks_rollups(day, resolution) {
                        room.count_rollups(history, day, resolution);
                        continue;
                    }
                    rollups.stored.set(at);
                    shards.of(&source).shard.history.restore_rollups(history, &source, day, resolution, rollups);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    // Behind the rollups, which tell of which windows the samples may be left out.
    read_index(index, |record| {
        let IndexRecord::Parts { source, parts } = record else { return Ok(()) };
        for (start, at) in parts {
            let Some(part) = segments.read(at, coding::decode_part)? else {
                restored.skipped_bytes += u64::from(at.bytes);
                continue;
            };
            if !room.lacks_samples(&source, start) {
                room.make(shards, part.bytes());
            }
            let mut locked = shards.of(&source);
            if room.lacks_samples(&source, start) && locked.shard.history.leave_out_part(history, &source, start, &part, &room) {
                room.count_samples(history, start, part.samples);
                continue;
            }
            part.stored.set(at);
            locked.shard.history.restore_part(history, &source, start, part);
        }
        Ok(())
    })?;
    for mut shard in shards.each() {
        shard.history.settle(history, shards.hasher());
    }
    room.note(history);
    restored.skipped_bytes += left_bytes.unwrap_or(0);
    Ok(left_bytes.is_none())
}

/// Reads an index up to its end or to the first damaged record, and says how many bytes that leaves; nothing where it is whole.
pub(super) fn read_index(path: &Path, mut each: impl FnMut(IndexRecord) -> io::Result<()>) -> io::Result<Option<u64>> {
    let mut records = RecordReader::new(File::open(path)?)?;
    let mut is_whole = false;
    while let Some(record) = records.next(coding::decode_index)? {
        match record {
            IndexRecord::Foreign => return Err(foreign(path)),
            IndexRecord::End => is_whole = true,
            record => each(record)?,
        }
    }
    Ok((!is_whole).then(|| records.bytes - records.good_bytes))
}

/// The index is that of another snapshot, as after a time without history: counters go on from the totals that they have now.
pub(in crate::store::memory) fn catch_up(shards: &Shards) {
    shards.each().for_each(|mut shard| catch_up_shard(&mut shard, shards.hasher()));
}

fn catch_up_shard(shard: &mut Shard, hasher: &IdHasher) {
    let live: Vec<(Source, Rows)> = shard.sources().map(|(_, source)| (source.name.clone(), source.table.rows().clone())).collect();
    for (source, rows) in live {
        shard.history.catch_up(hasher, &source, &rows);
    }
}

/// Which snapshot an index was written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// The one that is in place.
    This,
    /// The one that came after it: the snapshot file was copied before a save, and the history after it.
    Next,
    Another,
}

/// What a start found in history's folder.
struct Found {
    index: Option<(PathBuf, Of)>,
    /// Whether no index had to be passed over since it is damaged.
    is_whole: bool,
    /// What all indexes and segments take, where the snapshot has no index of its own.
    bytes: u64,
}

/// The index of the snapshot that is in place; where that has none, since it was edited, copied or put there, the newest one.
///
/// One that was written for a save that never came into place holds what the journal has too, or what was never acknowledged, and is not taken. A save that
/// came into place has removed all indexes before its own, and there was one (see [`super::files`]). So an index of a save that came after the snapshot
/// is taken only where there is none from before it; of several the first, since a save may have followed on the start that took it.
fn find_index(folder: &Path, snapshot: Option<[u8; 32]>) -> io::Result<Found> {
    let mut found = Found { index: None, is_whole: true, bytes: 0 };
    let files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        files => files?,
    };
    if let Some(path) = snapshot.map(|digest| index_path(folder, &digest)).filter(|path| path.exists()) {
        found.index = Some((path, Of::This));
        return Ok(found);
    }
    let mut others: Vec<(u64, PathBuf)> = Vec::new();
    let mut next: Vec<(u64, PathBuf)> = Vec::new();
    for file in files {
        let file = file?;
        let path = file.path();
        if is_kept(&path) {
            found.bytes += file.metadata()?.len();
        }
        if !is_index(&path) {
            continue;
        }
        let (before, saved_millis) = match RecordReader::new(File::open(&path)?)?.next(coding::decode_index)? {
            Some(IndexRecord::Head { before, saved_millis }) => (before, saved_millis),
            Some(IndexRecord::Foreign) => return Err(foreign(&path)),
            _ => {
                found.is_whole = false;
                continue;
            }
        };
        let of = if before == snapshot { &mut next } else { &mut others };
        of.push((saved_millis, path));
    }
    if let Some((_, path)) = others.into_iter().max() {
        found.index = Some((path, Of::Another));
    } else if snapshot.is_some() && found.is_whole {
        found.index = next.into_iter().min().map(|(_, path)| (path, Of::Next));
    }
    if let Some((path, _)) = &found.index {
        tracing::warn!(path = %path.display(), "the history belongs to another snapshot file and is taken as it is");
    }
    Ok(found)
}

/// So many segments are open at once at most: years of history are in more files than a process may have open.
const MAX_OPEN: usize = 128;

/// Segments that are read from.
struct Segments<'a> {
    folder: &'a Path,
    /// With their lengths; none where there is no such file.
    files: HashMap<u32, Option<(File, u64)>>,
}

impl Segments<'_> {
    /// What stands there; none where it is damaged or gone.
    fn read<T>(&mut self, at: StoredAt, decode: impl FnOnce(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        if self.files.len() >= MAX_OPEN && !self.files.contains_key(&at.segment) {
            self.files.clear();
        }
        let file = match self.files.entry(at.segment) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let path = segment_path(self.folder, at.segment);
                let opened = match File::open(&path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    file => {
                        let file = file?;
                        let length = file.metadata()?.len();
                        let mut head = SEGMENT_HEAD.map(|_| 0);
                        if length >= head.len() as u64 {
                            file.read_exact_at(&mut head, 0)?;
                        }
                        if coding::is_foreign_segment(&head) {
                            return Err(foreign(&path));
                        }
                        Some((file, length))
                    }
                };
                entry.insert(opened)
            }
        };
        let Some((file, length)) = file else { return Ok(None) };
        let fits = at.offset.checked_add(at.bytes.into()).is_some_and(|end| end <= *length);
        if !fits || (at.bytes as usize) < HEAD_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; at.bytes as usize];
        file.read_exact_at(&mut bytes, at.offset)?;
        let Some((head, payload)) = bytes.split_first_chunk() else { return Ok(None) };
        if framing::head(*head) != (u32::try_from(payload.len()).unwrap_or(0), framing::sum(payload)) {
            return Ok(None);
        }
        Ok(decode(payload))
    }
}

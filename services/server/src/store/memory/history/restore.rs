//! What a start reads of history's files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::super::framing::{self, HEAD_BYTES, RecordReader};
use super::super::shards::Shards;
use super::coding::{self, IndexRecord, SEGMENT_HEAD};
use super::files::{INDEX, SEGMENT, index_path, segment_path};
use super::part::StoredAt;

/// What a start found.
#[derive(Debug, Default)]
pub(in crate::store::memory) struct Restored {
    /// Bytes of damaged records.
    pub(in crate::store::memory) skipped_bytes: u64,
}

/// Gives segments numbers that are not in use, whether they are read or not.
pub(in crate::store::memory) fn note_segments(shards: &Shards, folder: &Path) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let numbers = files.filter_map(|file| file.file_name().to_str()?.strip_prefix(SEGMENT)?.parse::<u32>().ok());
    shards.history.next_segment.store(numbers.max().map_or(1, |last| last.saturating_add(1)), Ordering::Relaxed);
}

/// Fills the history of an empty store from the files that belong to this snapshot.
pub(in crate::store::memory) fn restore(shards: &Shards, folder: &Path, snapshot: Option<[u8; 32]>) -> io::Result<Restored> {
    let mut restored = Restored::default();
    if let Some(digest) = snapshot {
        shards.history.set_snapshot(digest);
    }
    if shards.history.is_off() {
        return Ok(restored);
    }
    let Some(path) = find_index(folder, snapshot)? else { return Ok(restored) };
    let mut segments = Segments { folder, files: HashMap::new() };
    let mut records = RecordReader::new(File::open(&path)?)?;
    let mut is_whole = false;
    while let Some(record) = records.next(coding::decode_index)? {
        match record {
            IndexRecord::Head { .. } => {}
            IndexRecord::Foreign => return Err(foreign(&path)),
            IndexRecord::Series { source, next, series } => {
                let mut locked = shards.of(&source);
                locked.shard.history.restore_series(&shards.history, shards.hasher(), &source, next, &series);
            }
            IndexRecord::Parts { source, parts } => {
                for (start, at) in parts {
                    match segments.read(at, coding::decode_part)? {
                        Some(part) => {
                            let _ = part.stored.set(at);
                            shards.of(&source).shard.history.restore_part(&shards.history, &source, start, part);
                        }
                        None => restored.skipped_bytes += u64::from(at.bytes),
                    }
                }
            }
            IndexRecord::Rollups { source, rollups } => {
                for (day, resolution, at) in rollups {
                    match segments.read(at, coding::decode_rollups)? {
                        Some(rollups) => {
                            let _ = rollups.stored.set(at);
                            let mut locked = shards.of(&source);
                            locked.shard.history.restore_rollups(&shards.history, &source, day, resolution, rollups);
                        }
                        None => restored.skipped_bytes += u64::from(at.bytes),
                    }
                }
            }
            IndexRecord::End => is_whole = true,
        }
    }
    if !is_whole {
        restored.skipped_bytes += records.bytes - records.good_bytes;
    }
    for mut shard in shards.each() {
        shard.history.settle(&shards.history, shards.hasher());
    }
    if restored.skipped_bytes > 0 || !is_whole {
        tracing::warn!(
            path = %folder.display(),
            skipped_bytes = restored.skipped_bytes,
            "history's files are damaged or were cut off: what can't be read is skipped"
        );
    }
    Ok(restored)
}

/// Nothing of it is read, and no save removes it.
fn foreign(path: &Path) -> io::Error {
    let name = path.file_name().unwrap_or_default().display();
    io::Error::new(ErrorKind::InvalidData, format!("{name} was written by a newer version of golectra-server: start that version"))
}

/// The index of the snapshot that is in place; where that has none, since it was edited or put there, the newest one. One that was written
/// for a save that never came into place holds what the journal has too, or what was never acknowledged.
fn find_index(folder: &Path, snapshot: Option<[u8; 32]>) -> io::Result<Option<PathBuf>> {
    let files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        files => files?,
    };
    if let Some(path) = snapshot.map(|digest| index_path(folder, &digest)).filter(|path| path.exists()) {
        return Ok(Some(path));
    }
    let mut newest: Option<(u64, PathBuf)> = None;
    for file in files {
        let path = file?.path();
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(INDEX)) {
            continue;
        }
        let (before, saved_millis) = match RecordReader::new(File::open(&path)?)?.next(coding::decode_index)? {
            Some(IndexRecord::Head { before, saved_millis }) => (before, saved_millis),
            Some(IndexRecord::Foreign) => return Err(foreign(&path)),
            _ => continue,
        };
        if before != snapshot && newest.as_ref().is_none_or(|(newest, _)| *newest < saved_millis) {
            newest = Some((saved_millis, path));
        }
    }
    if let Some((_, path)) = &newest {
        tracing::warn!(path = %path.display(), "the history belongs to another snapshot file and is taken as it is");
    }
    Ok(newest.map(|(_, path)| path))
}

/// Segments that are read from.
struct Segments<'a> {
    folder: &'a Path,
    /// With their lengths; none where there is no such file.
    files: HashMap<u32, Option<(File, u64)>>,
}

impl Segments<'_> {
    /// What stands there; none where it is damaged or gone.
    fn read<T>(&mut self, at: StoredAt, decode: impl FnOnce(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
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

//! The first part of a save: both new files are written and synced beside the old ones, while writes go on.
//!
//! The disk writer then puts them in place (see [`super::journal`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::{Duration, Instant};

use super::copy::{ShardCopy, reports};
use super::disk::{Appender, Disk, Paths};
use super::history::{HistorySave, SavedHistory};
use super::record::{self, HEAD_FRAME_BYTES, KEYS_A_FRAME};
use super::shards::Shards;
use super::snapshot::{Hashing, SnapshotWriter};
use crate::clock::Clock;

const BUFFER_BYTES: usize = 256 * 1024;

/// Two new files, ready to take the place of the old ones.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) journal: File,
    /// The new journal's length in bytes.
    pub(super) journal_bytes: u64,
    /// The new snapshot's length in bytes.
    pub(super) snapshot_bytes: u64,
    /// How long writes to a shard waited at the most.
    pub(super) longest_pause: Duration,
    /// How many writes there were before the first shard was copied.
    pub(super) writes: u64,
    /// Writes of this epoch and later ones are not in the snapshot.
    pub(super) epoch: u64,
    /// The files of the history, where there is one.
    pub(super) history: Option<SavedHistory>,
}

/// Writes a snapshot of all shards and the journal that continues it, with the keys in it. Each shard's later writes get this epoch. What can't be written to
/// its end is removed, since a full disk needs the room. No renames of the save before may be left to do.
pub(super) fn prepare(shards: &Shards, clock: &Clock, disk: &Disk, paths: &Paths, epoch: u64) -> io::Result<Prepared> {
    write(shards, clock, disk, paths, epoch).inspect_err(|_| paths.remove_new())
}

fn write(shards: &Shards, clock: &Clock, disk: &Disk, paths: &Paths, epoch: u64) -> io::Result<Prepared> {
    let writes = shards.writes();
    let now_millis = clock.unix_millis();
    let snapshot = disk.create(&paths.snapshot_new)?;
    let journal = disk.create(&paths.journal_new)?;
    let mut keys_out = BufWriter::with_capacity(BUFFER_BYTES, Appender::new(disk, &journal));
    // The head names the snapshot's digest, which is known last; until then zeros stand in its place, which are no frame.
    keys_out.write_all(&[0; HEAD_FRAME_BYTES])?;
    let rows_out = Hashing::new(Appender::new(disk, &snapshot));
    let mut rows = SnapshotWriter::new(BufWriter::with_capacity(BUFFER_BYTES, rows_out));

    let mut history = HistorySave::begin(shards, disk, &paths.history, now_millis)?;
    let mut sources_before = 0;
    let mut longest_pause = Duration::ZERO;
    for mut shard in shards.each() {
        let started = Instant::now();
        let copy = ShardCopy::cut(&mut shard, epoch);
        let history_copy = history.as_ref().map(|history| history.copy(&shard));
        drop(shard);
        longest_pause = longest_pause.max(started.elapsed());
        for (_, source, series) in &copy.sources {
            for row in series.iter() {
                rows.row(&source.name, series.id(row), row.value(), row.version().at_millis())?;
            }
        }
        for (id, sum) in copy.retired.iter() {
            rows.retired(id, sum)?;
        }
        write_keys(&mut keys_out, &copy, &mut sources_before)?;
        if let (Some(history), Some(copy)) = (&mut history, history_copy) {
            history.write(copy)?;
        }
    }

    let (digest, snapshot_bytes) = rows.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.finish();
    disk.sync(&snapshot)?;
    let journal_bytes = keys_out.into_inner().map_err(io::IntoInnerError::into_error)?.offset;
    let mut head = Vec::with_capacity(HEAD_FRAME_BYTES);
    record::encode_head(&mut head, &digest);
    disk.write_at(&journal, &head, 0)?;
    disk.sync(&journal)?;
    let history = history.map(|history| history.finish(digest)).transpose()?;
    Ok(Prepared { journal, journal_bytes, snapshot_bytes, longest_pause, writes, epoch, history })
}

/// Writes the records of a shard's sources and its keys.
fn write_keys(out: &mut impl Write, copy: &ShardCopy, sources_before: &mut u32) -> io::Result<()> {
    let mut frames = Vec::new();
    // Keys name a source by how many came before it in the file.
    let mut numbers = HashMap::with_capacity(copy.sources.len());
    for (place, source, series) in &copy.sources {
        record::encode_source(&mut frames, source, &reports(series));
        numbers.insert(*place, *sources_before);
        *sources_before += 1;
        if frames.len() > BUFFER_BYTES {
            out.write_all(&frames)?;
            frames.clear();
        }
    }
    let mut keys = copy.keys().filter_map(|(key, place, digest)| Some((*numbers.get(&place)?, key, digest))).peekable();
    let mut some = Vec::with_capacity(KEYS_A_FRAME);
    while keys.peek().is_some() {
        some.clear();
        some.extend(keys.by_ref().take(KEYS_A_FRAME));
        record::encode_keys(&mut frames, &some);
        out.write_all(&frames)?;
        frames.clear();
    }
    out.write_all(&frames)
}

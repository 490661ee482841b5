//! The start: a store is filled from the snapshot file and the journal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use golectra_protocol::{MetricRef, Source, Value};

use super::OpenError;
use super::disk::{Disk, Paths, is_full, remove_unfinished};
use super::framing::{RecordReader, foreign};
use super::history;
use super::metrics::{MemoryMetrics, add, set};
use super::record::{self, Record};
use super::shards::Shards;
use super::snapshot::{self, Hashing, ReadError};

/// How many damaged ends of journals are kept.
const MAX_DAMAGED: u32 = 20;

/// Fills an empty store. The journal to go on with and its good length come back where it continues the snapshot. Without a disk nothing is changed there.
pub(super) fn restore(
    shards: &Shards,
    disk: Option<&Disk>,
    paths: &Paths,
    metrics: &MemoryMetrics,
    now_millis: u64,
) -> Result<Option<(File, u64)>, OpenError> {
    let digest = read_snapshot(shards, paths, metrics, now_millis)?;
    let keep_in = disk.map(|disk| (disk, paths.history_damaged.as_path()));
    let restored = history::restore(shards, &paths.history, digest, now_millis, keep_in);
    let restored = restored.map_err(|source| OpenError::History { path: paths.history.clone(), source })?;
    set(&metrics.history_skipped_bytes, restored.skipped_bytes);
    let journal_error = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Journal { path, source }
    };
    let mut journal = &paths.journal;
    let mut continues = head(journal).map_err(journal_error(journal))? == digest && digest.is_some();
    if !continues && digest.is_some() && head(&paths.journal_new).map_err(journal_error(&paths.journal_new))? == digest {
        // The process died between the renames of a save: this one belongs to the new snapshot.
        if let Some(disk) = disk {
            let renamed = disk.rename(&paths.journal_new, journal).and_then(|()| disk.sync_folder(&paths.folder));
            renamed.map_err(journal_error(&paths.journal_new))?;
        } else {
            journal = &paths.journal_new;
        }
        continues = true;
    }
    let journal = read_journal(shards, disk, paths, journal, metrics, continues, !restored.is_ahead).map_err(journal_error(journal))?;
    if restored.is_ahead {
        history::catch_up(shards);
        // The next start could not tell the writes that come to it now from those that history has: the first of them makes a save instead.
        return Ok(None);
    }
    Ok(journal)
}

/// Whether there is anything a start without RESTORE would leave behind.
pub(super) fn holds_something(paths: &Paths) -> bool {
    std::fs::metadata(&paths.snapshot).is_ok_and(|file| file.len() > "[]\n".len() as u64)
}

/// Reads the snapshot file and returns its digest; `None` where there is no file.
fn read_snapshot(shards: &Shards, paths: &Paths, metrics: &MemoryMetrics, now_millis: u64) -> Result<Option<[u8; 32]>, OpenError> {
    let path = &paths.snapshot;
    let unreadable = |source| OpenError::Unreadable { path: path.clone(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let mut input = BufReader::with_capacity(256 * 1024, Hashing::new(file));
    let read = snapshot::read(&mut input, |row| {
        // Without a time the series is older than anything that comes.
        let at_millis = row.at_millis.unwrap_or(0);
        let metric = MetricRef { id: row.metric.id.as_str(), value: row.metric.value };
        if let (true, Value::Counter(sum)) = (row.retired, metric.value) {
            shards.restore_retired(metric.id, sum);
            return Ok(());
        }
        shards.restore(&row.source, metric, at_millis, row.at_millis.unwrap_or(now_millis))
    });
    read.map_err(|error| match error {
        ReadError::Io(error) => unreadable(error),
        ReadError::Damaged(reason) => OpenError::Damaged { path: path.clone(), reason },
    })?;
    let (digest, bytes) = input.into_inner().finish();
    set(&metrics.last_snapshot_bytes, bytes);
    Ok(Some(digest))
}

/// The snapshot that a journal names; `None` where there is no journal or its first record is damaged.
fn head(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut frames = RecordReader::new(file)?;
    Ok(match frames.next(record::decode)? {
        Some(Record::Head(digest)) => Some(digest),
        Some(Record::Foreign) => return Err(foreign(path)),
        _ => None,
    })
}

/// Reads the journal. Its changes count only where it continues the snapshot; its keys are remembered in any case. Its samples come into history unless that
/// has them.
fn read_journal(
    shards: &Shards,
    disk: Option<&Disk>,
    paths: &Paths,
    journal: &Path,
    metrics: &MemoryMetrics,
    continues: bool,
    with_history: bool,
) -> io::Result<Option<(File, u64)>> {
    let file = match OpenOptions::new().read(true).write(disk.is_some()).open(journal) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut frames = RecordReader::new(file)?;
    // In the order by which keys name them.
    let mut sources: Vec<Source> = Vec::new();
    let mut left_out = 0_u64;
    while let Some(record) = frames.next(record::decode)? {
        match record {
            Record::Source(source, reports) => {
                shards.restore_source(&source, &reports, continues);
                sources.push(source.name);
            }
            Record::Keys(keys) => {
                for (source, key, digest) in keys {
                    let Some(name) = sources.get(source as usize) else { continue };
                    let mut locked = shards.of(name);
                    let place = locked.ensure(key.unix_millis());
                    locked.shard.remember(key, place, digest);
                }
            }
            Record::Mark(source) if continues => shards.replay_mark(&source),
            Record::Expiry(source, period) if continues => shards.replay_expiry(&source, period),
            Record::Forget(source) if continues => shards.replay_forget(&source),
            Record::Foreign => return Err(foreign(journal)),
            Record::Head(_) | Record::Mark(_) | Record::Expiry(..) | Record::Forget(_) => {}
            Record::Write(write) => {
                shards.replay(&write, continues, with_history);
                if continues {
                    add(&metrics.journal_replayed, 1);
                } else {
                    left_out += 1;
                }
            }
        }
    }
    let RecordReader { input, good_bytes, bytes, .. } = frames;
    let mut file = input.into_inner();
    if good_bytes < bytes {
        set(&metrics.journal_skipped_bytes, bytes - good_bytes);
        tracing::warn!(
            path = %journal.display(),
            good_bytes,
            skipped_bytes = bytes - good_bytes,
            "the journal is damaged or was cut off in the middle of a write: the rest is skipped"
        );
        if let Some(disk) = disk {
            match keep_damaged(disk, &mut file, paths, good_bytes, continues) {
                // A full disk may have room again soon. Nothing is cut off or added meanwhile: the first save that succeeds replaces the journal.
                Err(error) if is_full(&error) => {
                    tracing::warn!(%error, "the disk is full: nothing is added to the journal until it is replaced");
                    return Ok(None);
                }
                kept => kept?,
            }
            if continues {
                file.set_len(good_bytes)?;
                file.sync_all()?;
            }
        }
    }
    if left_out > 0 {
        tracing::warn!(
            path = %journal.display(),
            writes = left_out,
            "the journal belongs to another snapshot file: its keys are remembered, its values are taken to be in the snapshot"
        );
    }
    Ok(continues.then_some((file, good_bytes)))
}

/// Keeps the damaged end of a journal that is about to be cut off, or replaced by the next save.
fn keep_damaged(disk: &Disk, journal: &mut File, paths: &Paths, from: u64, is_cut: bool) -> io::Result<()> {
    // What is not cut off is found by the next start too, and may be what was kept already.
    let places = if is_cut { MAX_DAMAGED } else { 1 };
    for number in 1..=places {
        let mut name = paths.journal_damaged.as_os_str().to_owned();
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let path = PathBuf::from(name);
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("its damaged end can't be kept in {}: {error}", path.display()));
        let mut kept = match disk.create_new(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            kept => kept.map_err(failed)?,
        };
        let copied = journal.seek(SeekFrom::Start(from)).and_then(|_| io::copy(journal, &mut kept));
        let copied = copied.and_then(|_| disk.sync(&kept)).and_then(|()| disk.sync_folder(&paths.folder));
        copied.map_err(failed).inspect_err(|_| remove_unfinished(&path))?;
        tracing::warn!(path = %path.display(), "the damaged end of the journal is kept here");
        return Ok(());
    }
    tracing::warn!(
        path = %paths.journal_damaged.display(),
        "the damaged end of the journal is not kept, since what was kept before is still there: move it away"
    );
    Ok(())
}

//! Repairs what a crash left, before anything is written.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::id;
use super::recent_ids::RecentIds;
use super::segment::{self, IdLine};

/// The acknowledged part of a segment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// The length of the file of events.
    pub(super) events_bytes: u64,
    /// The length of the file of ids.
    pub(super) ids_bytes: u64,
    /// How many ids there are.
    pub(super) ids: u64,
    /// When the last event with an id came, in unix seconds.
    pub(super) last: Option<i64>,
    /// Whether every event has an id.
    pub(super) complete: bool,
}

/// Cuts the files of an uncompressed segment back to what was acknowledged, and remembers its ids. What is cut off the events is
/// kept in a file of its own.
pub(super) fn plain_segment(folder: &Path, sequence: u64, recent: &mut RecentIds, now: i64) -> io::Result<Acknowledged> {
    let mut events = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(segment::events(folder, sequence))?;
    let stored = events.metadata()?.len();
    let acknowledged = match read_ids(folder, sequence, stored, recent, now)? {
        Some(acknowledged) => acknowledged,
        // Without ids every whole line counts.
        None => begin_ids(folder, sequence, whole_lines(&mut events)?)?,
    };
    if stored > acknowledged.events_bytes {
        keep_torn(folder, sequence, &mut events, acknowledged.events_bytes)?;
        events.set_len(acknowledged.events_bytes)?;
        events.sync_all()?;
    }
    let ids = OpenOptions::new().write(true).open(segment::ids(folder, sequence))?;
    if ids.metadata()?.len() > acknowledged.ids_bytes {
        ids.set_len(acknowledged.ids_bytes)?;
        ids.sync_all()?;
    }
    segment::sync_folder(folder)?;
    Ok(acknowledged)
}

/// Starts the `.ids` of a segment whose events with ids begin at this length.
pub(super) fn begin_ids(folder: &Path, sequence: u64, events_bytes: u64) -> io::Result<Acknowledged> {
    let line = IdLine { at: 0, end: events_bytes, id: None }.line();
    let mut file = File::create(segment::ids(folder, sequence))?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    Ok(Acknowledged { events_bytes, ids_bytes: line.len() as u64, ids: 0, last: None, complete: events_bytes == 0 })
}

/// Reads a segment's ids and remembers them. `stored` is the length of its uncompressed events: what lies beyond it does not
/// count. None when there are no ids.
pub(super) fn read_ids(folder: &Path, sequence: u64, stored: u64, recent: &mut RecentIds, now: i64) -> io::Result<Option<Acknowledged>> {
    let Some(file) = segment::existing(File::open(segment::ids(folder, sequence)))? else { return Ok(None) };
    let oldest = recent.oldest(now);
    let mut lines = BufReader::new(file);
    let (mut line, mut found) = (Vec::new(), None::<Acknowledged>);
    loop {
        line.clear();
        let bytes = lines.read_until(b'\n', &mut line)? as u64;
        let whole = line.strip_suffix(b"\n").and_then(|line| IdLine::parse(std::str::from_utf8(line).ok()?));
        // From the first line that is impossible on, nothing counts.
        let before = found.unwrap_or_default();
        let Some(id_line) = whole.filter(|line| line.end <= stored && (found.is_none() || line.end > before.events_bytes)) else {
            return Ok(found);
        };
        let mut next = Acknowledged { events_bytes: id_line.end, ids_bytes: before.ids_bytes + bytes, ..before };
        match id_line.id {
            Some(id) => {
                if id_line.at >= oldest {
                    recent.insert(id::hash(id), id_line.at);
                }
                (next.ids, next.last) = (before.ids + 1, Some(id_line.at));
            }
            None => next.complete = id_line.end == 0,
        }
        found = Some(next);
    }
}

/// The length of a file up to its last newline.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let mut end = file.metadata()?.len();
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        Read::by_ref(file).take(end - start).read_to_end(&mut block)?;
        if let Some(index) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + index as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn keep_torn(folder: &Path, sequence: u64, events: &mut File, from: u64) -> io::Result<()> {
    let path = segment::torn(folder, sequence);
    events.seek(SeekFrom::Start(from))?;
    let mut torn = OpenOptions::new().create(true).append(true).open(&path)?;
    let bytes = io::copy(events, &mut torn)?;
    torn.sync_all()?;
    tracing::warn!(bytes, file = %path.display(), "the last run was ended during a write: what was not acknowledged is moved to this file");
    Ok(())
}

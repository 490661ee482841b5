//! Sets right what a crash left behind, before anything is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::id;
use super::seen::Seen;
use super::segment::{self, Mention};

/// A file's acknowledged part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) events: u64,
    pub(super) ids: u64,
}

/// Cuts the newest pair of files back to what was acknowledged. What is cut off the events is kept aside.
pub(super) fn newest(folder: &Path, sequence: u64) -> io::Result<Lengths> {
    let mut events = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(segment::events(folder, sequence))?;
    let stored = events.metadata()?.len();
    let lengths = match acknowledged(folder, sequence, stored)? {
        Some(lengths) => lengths,
        // Without ids every whole line counts.
        None => begin(folder, sequence, whole_lines(&mut events)?)?,
    };
    if stored > lengths.events {
        put_aside(folder, sequence, &mut events, lengths.events)?;
        events.set_len(lengths.events)?;
    }
    let ids = OpenOptions::new().write(true).open(segment::ids(folder, sequence))?;
    ids.set_len(lengths.ids)?;
    events.sync_all()?;
    ids.sync_all()?;
    segment::sync_folder(folder)?;
    Ok(lengths)
}

/// Makes the `.ids` of events that begin at this length.
pub(super) fn begin(folder: &Path, sequence: u64, events: u64) -> io::Result<Lengths> {
    let line = Mention { at: 0, end: events, id: None }.line();
    let mut file = File::create(segment::ids(folder, sequence))?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    Ok(Lengths { events, ids: line.len() as u64 })
}

/// Remembers the ids of every file, and removes `.ids` files of which nothing is worth remembering.
pub(super) fn remember(folder: &Path, seen: &mut Seen, now: i64) -> io::Result<()> {
    let oldest = seen.oldest(now);
    for sequence in segment::list(folder, "ids")? {
        let text = fs::read(segment::ids(folder, sequence))?;
        for mention in mentions(&text) {
            if let Some(id) = mention.id.filter(|_| mention.at >= oldest) {
                seen.insert(id::mark(id), mention.at);
            }
        }
    }
    Ok(())
}

/// Removes the `.ids` of finished files whose every id is forgotten by now.
pub(super) fn forget(folder: &Path, active: u64, oldest: i64) -> io::Result<()> {
    for sequence in segment::list(folder, "ids")? {
        let path = segment::ids(folder, sequence);
        if sequence < active && last(&path)?.is_none_or(|at| at < oldest) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// When the last event of an `.ids` file came.
fn last(path: &Path) -> io::Result<Option<i64>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Longer than any line.
    file.seek(SeekFrom::Start(length.saturating_sub(1024)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(mentions(&end).last().and_then(|mention| mention.id.map(|_| mention.at)))
}

/// The lines that are whole and make sense.
fn mentions(text: &[u8]) -> impl Iterator<Item = Mention<'_>> {
    text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\n")?;
        Mention::parse(std::str::from_utf8(line).ok()?)
    })
}

/// How much of both files belongs together; none when there are no ids to go by.
fn acknowledged(folder: &Path, sequence: u64, stored: u64) -> io::Result<Option<Lengths>> {
    let text = match fs::read(segment::ids(folder, sequence)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut found: Option<Lengths> = None;
    let mut read = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        read += line.len() as u64;
        let whole = line.strip_suffix(b"\n").and_then(|line| Mention::parse(std::str::from_utf8(line).ok()?));
        // From the first line on that says something impossible, nothing is believed.
        let Some(mention) = whole.filter(|mention| mention.end <= stored && found.is_none_or(|found| mention.end > found.events)) else {
            break;
        };
        found = Some(Lengths { events: mention.end, ids: read });
    }
    Ok(found)
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
        io::Read::by_ref(file).take(end - start).read_to_end(&mut block)?;
        if let Some(index) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + index as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn put_aside(folder: &Path, sequence: u64, events: &mut File, from: u64) -> io::Result<()> {
    let path = segment::torn(folder, sequence);
    events.seek(SeekFrom::Start(from))?;
    let mut aside = OpenOptions::new().create(true).append(true).open(&path)?;
    let bytes = io::copy(events, &mut aside)?;
    aside.sync_all()?;
    tracing::warn!(bytes, kept = %path.display(), "the last run ended while it wrote: what was not acknowledged is put aside");
    Ok(())
}

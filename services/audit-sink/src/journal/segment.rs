//! The files of the journal: their names, and the lines of `.ids` files.
//!
//! A segment is a number of events that were written one after the other. It has one file of events, `.ndjson` or, once it is
//! closed, `.ndjson.gz`, and one of their ids, `.ids`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::{GzDecoder, MultiGzDecoder};

pub(super) const EVENTS: &str = "ndjson";
pub(super) const COMPRESSED: &str = "ndjson.gz";
pub(super) const IDS: &str = "ids";
pub(super) const TORN: &str = "torn";
pub(super) const PARTIAL: &str = "ndjson.gz.partial";

/// Before the number of events in the comment of a compressed file.
const COMMENT: &str = "events=";

/// The events of a segment.
pub(super) fn events(folder: &Path, sequence: u64) -> PathBuf {
    path(folder, sequence, EVENTS)
}

/// The events of a segment, compressed.
pub(super) fn compressed(folder: &Path, sequence: u64) -> PathBuf {
    path(folder, sequence, COMPRESSED)
}

/// A compressed file that is not finished.
pub(super) fn partial(folder: &Path, sequence: u64) -> PathBuf {
    path(folder, sequence, PARTIAL)
}

/// Where events end, and their ids.
pub(super) fn ids(folder: &Path, sequence: u64) -> PathBuf {
    path(folder, sequence, IDS)
}

/// Bytes that were never acknowledged.
pub(super) fn torn(folder: &Path, sequence: u64) -> PathBuf {
    path(folder, sequence, TORN)
}

fn path(folder: &Path, sequence: u64, ending: &str) -> PathBuf {
    folder.join(format!("audit-{sequence:010}.{ending}"))
}

/// The sequence numbers of the files with this ending, oldest first.
pub(super) fn list(folder: &Path, ending: &str) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(ending)?.strip_suffix('.'));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// The sequence numbers of all segments with events, compressed or not, oldest first.
pub(super) fn with_events(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = list(folder, EVENTS)?;
    found.extend(list(folder, COMPRESSED)?);
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// A segment's file of events.
pub(super) enum Events {
    Plain(File),
    Compressed(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Events {
    /// None where the segment has been removed.
    pub(super) fn open(folder: &Path, sequence: u64) -> io::Result<Option<Self>> {
        // In this order: a plain file is only removed when the compressed one is there.
        if let Some(file) = existing(File::open(events(folder, sequence)))? {
            return Ok(Some(Self::Plain(file)));
        }
        let file = existing(File::open(compressed(folder, sequence)))?;
        Ok(file.map(|file| Self::Compressed(Box::new(MultiGzDecoder::new(BufReader::new(file))))))
    }
}

impl Read for Events {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Compressed(decoder) => decoder.read(buffer),
        }
    }
}

/// The comment of a compressed file with this many events.
pub(super) fn comment(events: u64) -> String {
    format!("{COMMENT}{events}")
}

/// How many events a compressed file says it has. None where it was made by somebody else.
pub(super) fn events_of(compressed: &Path) -> io::Result<Option<u64>> {
    let mut decoder = GzDecoder::new(BufReader::new(File::open(compressed)?));
    // The header is read with the first bytes. What can't be read does not say anything.
    let _ = decoder.read(&mut [0]);
    let comment = decoder.header().and_then(|header| std::str::from_utf8(header.comment()?).ok());
    Ok(comment.and_then(|comment| comment.strip_prefix(COMMENT)?.parse().ok()))
}

/// How many lines there are; with an error, how many there are before it.
#[expect(clippy::naive_bytecount, reason = "a closed file is counted once; that needs no crate of its own")]
pub(super) fn count_lines(mut events: impl BufRead) -> Result<u64, (u64, io::Error)> {
    let mut lines = 0;
    loop {
        let block = match events.fill_buf() {
            Ok([]) => return Ok(lines),
            Ok(block) => block,
            Err(error) => return Err((lines, error)),
        };
        lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
        let bytes = block.len();
        events.consume(bytes);
    }
}

/// None instead of the error that there is no such file.
pub(super) fn existing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// New and removed names are only on disk when their folder is synced.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// One line of an `.ids` file: `TIME END ID`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IdLine<'a> {
    /// When the event came, in unix seconds.
    pub(super) at: i64,
    /// Where its line ends in the file of events.
    pub(super) end: u64,
    /// The event's id; none in the first line, which says where the events with ids begin.
    pub(super) id: Option<&'a str>,
}

impl<'a> IdLine<'a> {
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, ' ');
        let (at, end, id) = (parts.next()?, parts.next()?, parts.next()?);
        let id = if id == "-" && at == "0" { None } else { Some(id) };
        Some(Self { at: at.parse().ok()?, end: end.parse().ok()?, id })
    }

    pub(super) fn line(&self) -> String {
        format!("{} {} {}\n", self.at, self.end, self.id.unwrap_or("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_they_are_written() {
        for line in
            [IdLine { at: 17, end: 90, id: Some("a-b") }, IdLine { at: 0, end: 3, id: None }, IdLine { at: 5, end: 9, id: Some("-") }]
        {
            assert_eq!(IdLine::parse(line.line().trim_end()), Some(line));
        }
        for line in ["", "17", "17 90", "x 90 id", "17 -1 id"] {
            assert_eq!(IdLine::parse(line), None, "{line}");
        }
    }

    #[test]
    fn only_the_journals_own_files_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "audit-0000000002.ndjson",
            "audit-0000000001.ndjson.gz",
            "audit-0000000002.ndjson.gz",
            "audit-0000000003.ndjson.gz.partial",
            "audit-1.ids",
            "audit-x.ndjson",
            "other.ndjson",
            ".lock",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(list(folder.path(), EVENTS).unwrap(), [2]);
        assert_eq!(list(folder.path(), COMPRESSED).unwrap(), [1, 2]);
        assert_eq!(list(folder.path(), PARTIAL).unwrap(), [3]);
        assert_eq!(list(folder.path(), IDS).unwrap(), [1]);
        assert_eq!(with_events(folder.path()).unwrap(), [1, 2]);
    }
}

//! The names of the journal's files, and what stands in an `.ids` file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The events of one file.
pub(super) fn events(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("audit-{sequence:010}.ndjson"))
}

/// Where the events of one file end, and their ids.
pub(super) fn ids(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("audit-{sequence:010}.ids"))
}

/// Where bytes go that were never acknowledged.
pub(super) fn torn(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("audit-{sequence:010}.torn"))
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

/// New and removed names are only safe when their folder is synced.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// One line of an `.ids` file: `TIME END ID`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mention<'a> {
    /// When the event came, in unix seconds.
    pub(super) at: i64,
    /// Where its line ends in the file of events.
    pub(super) end: u64,
    /// The event's id; none in the first line, which says where the mentioned events begin.
    pub(super) id: Option<&'a str>,
}

impl<'a> Mention<'a> {
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
    fn mentions_read_as_they_are_written() {
        for mention in
            [Mention { at: 17, end: 90, id: Some("a-b") }, Mention { at: 0, end: 3, id: None }, Mention { at: 5, end: 9, id: Some("-") }]
        {
            assert_eq!(Mention::parse(mention.line().trim_end()), Some(mention));
        }
        for line in ["", "17", "17 90", "x 90 id", "17 -1 id"] {
            assert_eq!(Mention::parse(line), None, "{line}");
        }
    }

    #[test]
    fn only_the_journals_own_files_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["audit-0000000002.ndjson", "audit-0000000001.ndjson", "audit-1.ids", "audit-x.ndjson", "other.ndjson", ".lock"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(list(folder.path(), "ndjson").unwrap(), [1, 2]);
        assert_eq!(list(folder.path(), "ids").unwrap(), [1]);
    }
}

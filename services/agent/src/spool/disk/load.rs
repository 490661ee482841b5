//! What an earlier process left in the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use super::codec::{self, Found, Offsets, Record, Scanner};
use super::folder::{DiskError, Folder};
use super::segment::{Entry, Segment, State, Sums, polls, seconds};

/// What was found.
pub(super) struct Loaded {
    /// All of them cold.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Files in which nothing waits any more, and what they take.
    pub(super) empty: Vec<(u64, u64)>,
    /// Batches that later ones replace, whether their own files say so or not.
    pub(super) replaced: Vec<Offsets>,
    /// A number that no file has. No record names it either: what names a file is not in an earlier one.
    pub(super) next_number: u64,
    /// Stretches of damage.
    pub(super) corrupt: u64,
}

/// Reads every file, a few dozen KiB at a time, and keeps sums. A damaged record costs itself; a file that cannot be read
/// costs what is behind that.
pub(super) fn load(folder: &Folder) -> Result<Loaded, DiskError> {
    let unusable = |error| DiskError::Folder { path: folder.path().to_owned(), error };
    let numbers = folder.segments().map_err(unusable)?;
    let next_number = numbers.last().map_or(1, |last| last.saturating_add(1));
    let mut loaded = Loaded { segments: BTreeMap::new(), empty: Vec::new(), replaced: Vec::new(), next_number, corrupt: 0 };
    for number in numbers {
        let path = folder.segment(number);
        let (bytes, contents) = match read(folder, number) {
            Ok(Some(read)) => read,
            Ok(None) => return Err(DiskError::Version { path }),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a file of the spool cannot be opened: what is in it is not sent");
                loaded.corrupt += 1;
                continue;
            }
        };
        if contents.corrupt > 0 {
            tracing::warn!(path = %path.display(), stretches = contents.corrupt, "parts of a file of the spool are damaged and skipped");
        }
        loaded.corrupt += contents.corrupt;
        let sums = Sums::of(&contents.waiting());
        loaded.replaced.extend(contents.replaces);
        if sums.batches == 0 {
            loaded.empty.push((number, Segment::cold(bytes, sums).disk_bytes()));
        } else {
            loaded.segments.insert(number, Segment::cold(bytes, sums));
        }
    }
    let segments = &loaded.segments;
    loaded.replaced.retain(|replaced| segments.contains_key(&replaced.segment));
    Ok(loaded)
}

/// The batches of a file that are not done with.
pub(super) fn entries(folder: &Folder, number: u64) -> io::Result<Vec<Entry>> {
    Ok(read(folder, number)?.map(|(_, contents)| contents.waiting()).unwrap_or_default())
}

/// A file's length and contents; none when it is of another version.
fn read(folder: &Folder, number: u64) -> io::Result<Option<(u64, Contents)>> {
    let path = folder.segment(number);
    let file = File::open(&path)?;
    let bytes = file.metadata()?.len();
    let mut scanner = Scanner::new(file)?;
    if scanner.is_of_another_version() {
        return Ok(None);
    }
    let mut contents = Contents::default();
    if let Err(error) = contents.read(&mut scanner) {
        tracing::error!(path = %path.display(), %error, "a file of the spool cannot be read to its end: what follows is not sent");
        contents.corrupt += 1;
    }
    Ok(Some((bytes, contents)))
}

/// One file's.
#[derive(Default)]
struct Contents {
    entries: Vec<Entry>,
    settled: BTreeSet<u32>,
    replaces: Vec<Offsets>,
    corrupt: u64,
}

impl Contents {
    fn waiting(&self) -> Vec<Entry> {
        self.entries.iter().filter(|entry| !self.settled.contains(&entry.offset)).copied().collect()
    }

    fn read(&mut self, scanner: &mut Scanner<File>) -> io::Result<()> {
        while let Some(found) = scanner.next()? {
            let (offset, payload) = match found {
                Found::Payload { offset, payload } => (u32::try_from(offset), payload),
                Found::Damage(_) => {
                    self.corrupt += 1;
                    continue;
                }
            };
            match (offset, codec::decode(payload)) {
                (Ok(offset), Some(Record::Batch { key, deltas, mut replaces, .. })) => {
                    self.replaces.append(&mut replaces);
                    self.entries.push(Entry {
                        offset,
                        at_unix_seconds: seconds(key.unix_millis()),
                        polls: polls(deltas.polls()),
                        tries: 0,
                        // The process before may have been about to hear of it.
                        may_be_applied: true,
                        state: State::Waiting,
                    });
                }
                (Ok(_), Some(Record::Settled(offsets))) => self.settled.extend(offsets),
                _ => self.corrupt += 1,
            }
        }
        Ok(())
    }
}

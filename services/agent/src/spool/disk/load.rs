//! What an earlier process left in the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use super::codec::{self, Found, Offsets, Record, Scanner};
use super::folder::{DiskError, Folder};
use super::segment::{Entry, Segment, State, polls, seconds};

/// What was found.
pub(super) struct Loaded {
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Files in which nothing waits any more.
    pub(super) empty: Vec<u64>,
    /// Batches that a later one replaces, which their own files do not say yet.
    pub(super) replaced: Vec<Offsets>,
    /// The number that no file had before.
    pub(super) next_number: u64,
    /// Stretches of damage.
    pub(super) corrupt: u64,
}

/// Reads every file, a few dozen KiB at a time. A damaged record costs itself; a file that cannot be read costs what is behind that.
pub(super) fn load(folder: &Folder) -> Result<Loaded, DiskError> {
    let unusable = |error| DiskError::Folder { path: folder.path().to_owned(), error };
    let numbers = folder.segments().map_err(unusable)?;
    let next_number = numbers.last().map_or(1, |last| last.saturating_add(1));
    let mut loaded = Loaded { segments: BTreeMap::new(), empty: Vec::new(), replaced: Vec::new(), next_number, corrupt: 0 };
    let (mut settled, mut replaces) = (BTreeMap::new(), Vec::new());
    for number in numbers {
        let path = folder.segment(number);
        let read = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), Scanner::new(file)?)));
        let (bytes, mut scanner) = match read {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a file of the spool cannot be opened: what is in it is not sent");
                loaded.corrupt += 1;
                continue;
            }
        };
        if scanner.is_of_another_version() {
            return Err(DiskError::Version { path });
        }
        let mut contents = Contents::default();
        if let Err(error) = contents.read(&mut scanner) {
            tracing::error!(path = %path.display(), %error, "a file of the spool cannot be read to its end: what follows is not sent");
            contents.corrupt += 1;
        }
        if contents.corrupt > 0 {
            tracing::warn!(path = %path.display(), stretches = contents.corrupt, "parts of a file of the spool are damaged and skipped");
        }
        loaded.corrupt += contents.corrupt;
        replaces.append(&mut contents.replaces);
        settled.insert(number, contents.settled);
        loaded.segments.insert(number, Segment::loaded(bytes, contents.entries));
    }
    for Offsets { segment, offsets } in replaces {
        let Some(known) = settled.get_mut(&segment) else { continue };
        let new: Vec<u32> = offsets.into_iter().filter(|offset| known.insert(*offset)).collect();
        if !new.is_empty() {
            loaded.replaced.push(Offsets { segment, offsets: new });
        }
    }
    loaded.segments = std::mem::take(&mut loaded.segments)
        .into_iter()
        .filter_map(|(number, segment)| {
            let done = &settled[&number];
            let mut entries = segment.entries;
            entries.retain(|entry| !done.contains(&entry.offset));
            entries.shrink_to_fit();
            if entries.is_empty() {
                loaded.empty.push(number);
                return None;
            }
            Some((number, Segment::loaded(segment.bytes, entries)))
        })
        .collect();
    loaded.replaced.retain(|replaced| loaded.segments.contains_key(&replaced.segment));
    Ok(loaded)
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

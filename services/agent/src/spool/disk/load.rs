//! Reading what an earlier process left in the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use golectra_protocol::IdempotencyKey;

use super::codec::{self, Found, Offsets, Record, Scanner};
use super::folder::{DiskError, Folder};
use super::segment::{Entry, Segment, State, Sums, Ticks, polls};
use crate::batch::Attempts;

/// How often a start tries again to read, all files together, and how long it waits before: up to a second in all.
const TRIES_AGAIN: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// What has to be known besides a file to index the batches in it.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// The wall clock at the start of this process.
    pub(super) start_unix_millis: u64,
    /// The largest time of a key on disk.
    pub(super) newest_unix_millis: u64,
    /// Batches that an earlier process was sending when it ended.
    pub(super) sending: BTreeSet<IdempotencyKey>,
}

impl Context {
    /// When a batch was sealed. The clock may have been ahead then; such batches are placed so that the newest of them was
    /// sealed when this process started, with the right distances between them.
    fn sealed(&self, unix_millis: u64) -> Ticks {
        let reference = if unix_millis > self.start_unix_millis { self.newest_unix_millis } else { self.start_unix_millis };
        Ticks::before_start(Duration::from_millis(reference.saturating_sub(unix_millis)))
    }
}

/// What was found.
pub(super) struct Loaded {
    /// Files with waiting batches, all of them cold, and files that cannot be read, or not to their ends.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Files without one, and what they take on disk.
    pub(super) empty: Vec<(u64, u64)>,
    /// Batches that later ones replace, whether this is noted in their own files or not.
    pub(super) replaced: Vec<Offsets>,
    /// Waiting batches that an earlier process was sending when it ended: file, offset and key.
    pub(super) sending: Vec<(u64, u32, IdempotencyKey)>,
    /// A number that no file has, and that no record refers to, because records refer to earlier files only.
    pub(super) next_number: u64,
    /// Damaged stretches.
    pub(super) corrupt: u64,
}

/// Reads every file, a few dozen KiB at a time, and keeps sums. A damaged record loses only itself; what follows a
/// read error in a file is left to the next process. Completes the context.
pub(super) fn load(folder: &Folder, context: &mut Context) -> Result<Loaded, DiskError> {
    let unusable = |error| DiskError::Folder { path: folder.path().to_owned(), error };
    let numbers = folder.segments().map_err(unusable)?;
    let next_number = numbers.last().map_or(1, |last| last.saturating_add(1));
    let mut loaded =
        Loaded { segments: BTreeMap::new(), empty: Vec::new(), replaced: Vec::new(), sending: Vec::new(), next_number, corrupt: 0 };
    let mut summaries = Vec::new();
    let mut tries_left = TRIES_AGAIN;
    for number in numbers {
        let path = folder.segment(number);
        let (bytes, contents) = match read_patiently(folder, number, &mut tries_left) {
            Ok(Some(read)) => read,
            Ok(None) => return Err(DiskError::Version { path }),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a file of the spool cannot be opened: the reports in it are not sent");
                loaded.corrupt += 1;
                // It takes room all the same.
                if let Ok(metadata) = std::fs::metadata(&path) {
                    loaded.segments.insert(number, Segment::unread(metadata.len()));
                }
                continue;
            }
        };
        if contents.corrupt > 0 {
            tracing::warn!(path = %path.display(), stretches = contents.corrupt, "parts of a file of the spool are damaged and are skipped");
        }
        loaded.corrupt += contents.corrupt;
        let summary = Summary::of(&contents, context.start_unix_millis);
        context.newest_unix_millis = context.newest_unix_millis.max(summary.newest_unix_millis);
        let sending = contents.waiting().filter(|batch| context.sending.contains(&batch.key));
        loaded.sending.extend(sending.map(|batch| (number, batch.offset, batch.key)));
        summaries.push((number, bytes, summary));
        loaded.replaced.extend(contents.replaces);
    }
    for (number, bytes, summary) in summaries {
        let segment = Segment::cold(bytes, summary.sums(context));
        // Behind a read error there may be batches that wait.
        if segment.live() == 0 && !summary.is_cut_off {
            loaded.empty.push((number, segment.disk_bytes()));
        } else {
            loaded.segments.insert(number, segment);
        }
    }
    let segments = &loaded.segments;
    loaded.replaced.retain(|replaced| segments.contains_key(&replaced.segment));
    Ok(loaded)
}

/// The batches of a file that are not settled; with `takes_part` those before a read error, and whether there was one.
pub(super) fn entries(folder: &Folder, number: u64, context: &Context, takes_part: bool) -> io::Result<(Vec<Entry>, bool)> {
    let Some((_, contents)) = read(folder, number, takes_part)? else { return Ok((Vec::new(), false)) };
    let same_boot = contents.boot_id.is_some() && contents.boot_id == folder.boot_id;
    let entry = |batch: &StoredRecord| {
        // The note that it was sent may be behind the read error.
        let sent = contents.is_cut_off || !same_boot || contents.sent.contains(&batch.offset) || context.sending.contains(&batch.key);
        Entry {
            offset: batch.offset,
            sealed: context.sealed(batch.key.unix_millis()),
            polls: batch.polls,
            attempts: Attempts::of_an_earlier_process(sent),
            state: State::Waiting,
            read_failures: 0,
        }
    };
    Ok((contents.waiting().map(entry).collect(), contents.is_cut_off))
}

/// As [`read`], with a few more tries where reading fails. In the end the part before a read error is taken.
fn read_patiently(folder: &Folder, number: u64, tries_left: &mut u32) -> io::Result<Option<(u64, Contents)>> {
    loop {
        match read(folder, number, *tries_left == 0) {
            Err(error) if *tries_left > 0 && super::is_passing(&error) => {
                *tries_left -= 1;
                std::thread::sleep(PAUSE.mul_f64(0.5 + fastrand::f64() / 2.0));
            }
            read => return read,
        }
    }
}

/// The length and the contents of a file, or with `takes_part` of what comes before a read error; none when it has another version.
fn read(folder: &Folder, number: u64, takes_part: bool) -> io::Result<Option<(u64, Contents)>> {
    let path = folder.segment(number);
    let file = File::open(&path)?;
    let bytes = file.metadata()?.len();
    #[cfg(test)]
    let file = folder.failing(file);
    let mut scanner = Scanner::new(file)?;
    if scanner.is_of_another_version() {
        return Ok(None);
    }
    let mut contents = Contents::default();
    if let Err(error) = contents.read(&mut scanner) {
        if !takes_part {
            return Err(error);
        }
        tracing::error!(path = %path.display(), %error, "a file of the spool cannot be read to its end: the reports after the error are not sent");
        contents.corrupt += 1;
        contents.is_cut_off = true;
        let mut beside = Contents::default();
        let notes = File::open(folder.settled(number)).and_then(Scanner::new);
        // Where they can't be read, those batches are sent again with their keys.
        if notes.and_then(|mut notes| beside.read(&mut notes)).is_ok() {
            contents.settled.append(&mut beside.settled);
        }
    }
    Ok(Some((bytes, contents)))
}

/// A batch in a file.
struct StoredRecord {
    offset: u32,
    key: IdempotencyKey,
    polls: u32,
}

/// The contents of one file.
#[derive(Default)]
struct Contents {
    batches: Vec<StoredRecord>,
    settled: BTreeSet<u32>,
    sent: BTreeSet<u32>,
    boot_id: Option<String>,
    replaces: Vec<Offsets>,
    corrupt: u64,
    /// Whether this is only the part before a read error.
    is_cut_off: bool,
}

impl Contents {
    fn waiting(&self) -> impl Iterator<Item = &StoredRecord> {
        self.batches.iter().filter(|batch| !self.settled.contains(&batch.offset))
    }

    fn read(&mut self, scanner: &mut Scanner<impl Read>) -> io::Result<()> {
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
                    self.batches.push(StoredRecord { offset, key, polls: polls(deltas.polls()) });
                }
                (Ok(_), Some(Record::Settled(offsets))) => self.settled.extend(offsets),
                (Ok(_), Some(Record::Sent(offsets))) => self.sent.extend(offsets),
                (Ok(_), Some(Record::Boot(id))) => self.boot_id = Some(id.to_owned()),
                _ => self.corrupt += 1,
            }
        }
        Ok(())
    }
}

/// What is kept of a file while the others are read.
struct Summary {
    batches: usize,
    polls: u64,
    newest_unix_millis: u64,
    /// The oldest of those whose time is not ahead of the clock, and of those whose time is.
    oldest_unix_millis: [Option<u64>; 2],
    is_cut_off: bool,
}

impl Summary {
    fn of(contents: &Contents, start_unix_millis: u64) -> Self {
        let is_cut_off = contents.is_cut_off;
        let mut summary = Self { batches: 0, polls: 0, newest_unix_millis: 0, oldest_unix_millis: [None; 2], is_cut_off };
        for batch in contents.waiting() {
            let time = batch.key.unix_millis();
            summary.batches += 1;
            summary.polls += u64::from(batch.polls);
            summary.newest_unix_millis = summary.newest_unix_millis.max(time);
            let oldest = &mut summary.oldest_unix_millis[usize::from(time > start_unix_millis)];
            *oldest = Some(oldest.map_or(time, |oldest| oldest.min(time)));
        }
        summary
    }

    fn sums(&self, context: &Context) -> Sums {
        let oldest = self.oldest_unix_millis.iter().flatten().map(|time| context.sealed(*time)).min();
        Sums { batches: self.batches, polls: self.polls, oldest }
    }
}

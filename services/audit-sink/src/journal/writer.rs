//! The one thread that writes. It takes all events that came while the disk was busy, writes them together, syncs once, and then
//! answers their senders.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use golectra_process::LogLimiter;
use tokio::sync::{mpsc, oneshot};

use super::closed::ClosedSegments;
use super::compress::Compressor;
use super::id::{self, IdHash};
use super::recent_ids::RecentIds;
use super::recover::{self, Acknowledged};
use super::segment::{self, IdLine};
use super::{Appended, Limits, ReadLimit};
use crate::inflight::InflightShare;
use crate::metrics::SinkMetrics;

/// Most events written together.
const GROUP: usize = 512;

/// The ids of short events may be longer than the events. They close a segment at this multiple of its size.
const IDS_SHARE: u64 = 4;

static LOG: LogLimiter = LogLimiter::new();

/// A request to the writer.
pub(super) enum Command {
    Append {
        id: String,
        line: Vec<u8>,
        now: i64,
        /// The memory of the event. It is given back when the event is written, even if its sender is gone by then.
        share: InflightShare,
        reply: oneshot::Sender<Result<Appended, ()>>,
    },
    /// Whether the disk takes bytes.
    Probe { reply: oneshot::Sender<bool> },
}

pub(super) struct Writer {
    folder: PathBuf,
    limits: Limits,
    metrics: SinkMetrics,
    recent: RecentIds,
    /// The active segment.
    sequence: u64,
    /// What is acknowledged; what lies beyond in the files does not count.
    acknowledged: Acknowledged,
    /// What an earlier run left in the active segment's `.torn`, in bytes.
    torn_bytes: u64,
    /// The active segment's files; none after a failure.
    open: Option<ActiveFiles>,
    closed: ClosedSegments,
    compressor: Compressor,
    read_limit: Arc<Mutex<ReadLimit>>,
    healthy: Arc<AtomicBool>,
}

struct ActiveFiles {
    events: File,
    ids: File,
}

/// The events of a group that are new.
#[derive(Default)]
struct NewEvents<'a> {
    lines: Vec<&'a [u8]>,
    bytes: u64,
    ids: String,
    /// Each id with the time when its event came.
    hashes: Vec<(IdHash, i64)>,
}

impl Writer {
    pub(super) fn open(folder: &Path, limits: Limits, metrics: SinkMetrics, now: i64) -> io::Result<Self> {
        let newest = |ending| segment::list(folder, ending).map(|list| list.last().copied());
        // A compressed segment is closed, so the active one comes after it.
        let after_compressed = newest(segment::COMPRESSED)?.map_or(1, |sequence| sequence + 1);
        let sequence = newest(segment::EVENTS)?.map_or(after_compressed, |sequence| sequence.max(after_compressed));
        let mut recent = RecentIds::new(limits.remember_ids, i64::try_from(limits.remember.as_secs()).unwrap_or(i64::MAX));
        let closed = ClosedSegments::load(folder, sequence, limits, metrics.clone(), &mut recent, now)?;
        // Repairs write to the disk, which may be full.
        closed.make_room(bytes_on_disk(folder, sequence))?;
        let acknowledged = recover::plain_segment(folder, sequence, &mut recent, now)?;
        let read_limit = Arc::new(Mutex::new(ReadLimit { sequence, bytes: acknowledged.events_bytes }));
        let mut writer = Self {
            folder: folder.to_owned(),
            limits,
            metrics,
            recent,
            sequence,
            acknowledged,
            torn_bytes: segment::torn(folder, sequence).metadata().map_or(0, |about| about.len()),
            open: None,
            compressor: Compressor::start(folder, closed.clone())?,
            closed,
            read_limit,
            healthy: Arc::new(AtomicBool::new(true)),
        };
        writer.reopen()?;
        writer.closed.make_room(writer.active_bytes())?;
        writer.tidy(now);
        Ok(writer)
    }

    pub(super) fn read_limit(&self) -> Arc<Mutex<ReadLimit>> {
        Arc::clone(&self.read_limit)
    }

    pub(super) fn health(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.healthy)
    }

    /// Works until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut group = Vec::with_capacity(GROUP);
        while queue.blocking_recv_many(&mut group, GROUP) > 0 {
            let mut events = Vec::with_capacity(group.len());
            let (mut replies, mut shares) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
            for command in group.drain(..) {
                match command {
                    Command::Append { id, line, now, share, reply } => {
                        events.push((id, line, now));
                        shares.push(share);
                        replies.push(reply);
                    }
                    Command::Probe { reply } => {
                        // Who asked may have gone.
                        let _ = reply.send(self.probe());
                    }
                }
            }
            if events.is_empty() {
                continue;
            }
            let result = self.append(&events);
            match &result {
                Err(error) => {
                    let (text, folder) = (error.to_string(), self.folder.display().to_string());
                    LOG.log("append", move |count| {
                        tracing::error!(count, error = text, folder, "events can't be written: their senders are told to try again");
                    });
                    self.fail();
                }
                Ok(_) if !self.healthy.load(Ordering::Relaxed) => tracing::info!("events are written again"),
                Ok(_) => {}
            }
            self.healthy.store(result.is_ok(), Ordering::Relaxed);
            drop((events, shares));
            for (index, reply) in replies.into_iter().enumerate() {
                let _ = reply.send(result.as_ref().map(|appended| appended[index]).map_err(|_| ()));
            }
        }
    }

    /// After a failure: takes back what was written of it, now or with the next write.
    pub(super) fn fail(&mut self) {
        self.open = None;
        if let Err(error) = self.reopen() {
            LOG.log(
                "take back",
                move |count| tracing::warn!(count, %error, "a failed write could not be taken back: trying again with the next one"),
            );
        }
    }

    /// Stores those of these events that are new: all of them, or with an error none.
    fn append(&mut self, group: &[(String, Vec<u8>, i64)]) -> io::Result<Vec<Appended>> {
        let bytes: u64 = group.iter().map(|(_, line, _)| line.len() as u64 + 1).sum();
        let ids: u64 = group.iter().map(|(id, _, _)| id.len() as u64 + 40).sum();
        let full = self.acknowledged.events_bytes + bytes > self.limits.rotate_bytes
            || self.acknowledged.ids_bytes + ids > self.limits.rotate_bytes.saturating_mul(IDS_SHARE);
        if self.acknowledged.events_bytes > 0 && full {
            self.rotate(group.last().map_or(0, |(_, _, now)| *now))?;
        }
        let mut new = NewEvents::default();
        let (mut appended, mut repeats) = (Vec::with_capacity(group.len()), Vec::new());
        for (id, line, now) in group {
            let hash = id::hash(id);
            if self.recent.contains(hash) || new.hashes.iter().any(|(other, _)| *other == hash) {
                repeats.push((hash, *now));
                appended.push(Appended::Repeat);
                continue;
            }
            new.lines.push(line);
            new.bytes += line.len() as u64 + 1;
            new.ids.push_str(&IdLine { at: *now, end: self.acknowledged.events_bytes + new.bytes, id: Some(id) }.line());
            new.hashes.push((hash, *now));
            appended.push(Appended::Stored);
        }
        if !new.hashes.is_empty() {
            self.store(&new)?;
        }
        let forgotten_after = new.hashes.into_iter().chain(repeats).filter_map(|(hash, now)| self.recent.insert(hash, now)).min();
        if let Some(seconds) = forgotten_after {
            LOG.log("forgotten", move |count| {
                tracing::warn!(
                    count,
                    seconds,
                    "more than REMEMBER_IDS events came in this time: ids are forgotten so soon that an event that comes again may be kept twice; raise REMEMBER_IDS"
                );
            });
        }
        self.metrics.ids.set(i64::try_from(self.recent.len()).unwrap_or(i64::MAX));
        Ok(appended)
    }

    fn store(&mut self, new: &NewEvents<'_>) -> io::Result<()> {
        if self.open.is_none() {
            self.reopen()?;
        }
        self.closed.make_room(self.active_bytes() + new.bytes + new.ids.len() as u64)?;
        let Some(open) = &mut self.open else { return Err(io::Error::other("the files are not open")) };
        write_lines(&mut open.events, &new.lines)?;
        open.ids.write_all(new.ids.as_bytes())?;
        let before = Instant::now();
        open.events.sync_data()?;
        open.ids.sync_data()?;
        self.metrics.sync.observe(before.elapsed().as_secs_f64());
        self.metrics.stored_bytes.inc_by(new.bytes);
        self.acknowledged.events_bytes += new.bytes;
        self.acknowledged.ids_bytes += new.ids.len() as u64;
        self.acknowledged.ids += new.hashes.len() as u64;
        self.acknowledged.last = new.hashes.last().map(|(_, now)| *now);
        self.publish();
        self.closed.show_first_event();
        Ok(())
    }

    /// Opens the active segment's files, and cuts off what a failed write left in them.
    fn reopen(&mut self) -> io::Result<()> {
        let events = OpenOptions::new().append(true).open(segment::events(&self.folder, self.sequence))?;
        let ids = OpenOptions::new().append(true).open(segment::ids(&self.folder, self.sequence))?;
        for (file, acknowledged) in [(&events, self.acknowledged.events_bytes), (&ids, self.acknowledged.ids_bytes)] {
            let bytes = file.metadata()?.len();
            if bytes < acknowledged {
                return Err(io::Error::other("acknowledged events are gone from the newest file: restart the sink to go on without them"));
            }
            if bytes > acknowledged {
                file.set_len(acknowledged)?;
                file.sync_all()?;
            }
        }
        self.open = Some(ActiveFiles { events, ids });
        Ok(())
    }

    /// Closes the active segment and begins the next one.
    fn rotate(&mut self, now: i64) -> io::Result<()> {
        // A closed segment has nothing but what is acknowledged.
        if self.open.is_none() {
            self.reopen()?;
        }
        let next = self.sequence + 1;
        let begun = self.begin(next).inspect_err(|_| {
            // A start would take them for the newest segment, and a full disk has no room to repair it. Those that can't be removed are overwritten by
            // the next attempt.
            let _ = fs::remove_file(segment::events(&self.folder, next));
            let _ = fs::remove_file(segment::ids(&self.folder, next));
        })?;
        self.closed.add(self.sequence, &self.acknowledged);
        (self.sequence, self.acknowledged, self.torn_bytes, self.open) = (next, begun, 0, None);
        self.publish();
        self.tidy(now);
        self.compressor.wake();
        Ok(())
    }

    /// Makes the files of a new segment.
    fn begin(&self, sequence: u64) -> io::Result<Acknowledged> {
        // A failed attempt may have left a file. Nothing in it was acknowledged.
        let events = File::create(segment::events(&self.folder, sequence))?;
        let begun = recover::begin_ids(&self.folder, sequence, 0)?;
        events.sync_all()?;
        segment::sync_folder(&self.folder)?;
        Ok(begun)
    }

    /// Removes what need not be kept. A failure costs room, and it is tried again with the next segment.
    fn tidy(&self, now: i64) {
        if let Err(error) = self.closed.tidy(self.recent.oldest(now)) {
            LOG.log("tidy", move |count| tracing::warn!(count, %error, "old files could not be removed"));
        }
    }

    fn probe(&mut self) -> bool {
        let path = self.folder.join(".probe");
        let wrote = File::create(&path).and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()
        });
        // It is overwritten by the next probe when it can't be removed.
        let _ = fs::remove_file(&path);
        let ok = wrote.is_ok() && (self.open.is_some() || self.reopen().is_ok());
        self.healthy.store(ok, Ordering::Relaxed);
        ok
    }

    fn active_bytes(&self) -> u64 {
        self.acknowledged.events_bytes + self.acknowledged.ids_bytes + self.torn_bytes
    }

    fn publish(&self) {
        let now = ReadLimit { sequence: self.sequence, bytes: self.acknowledged.events_bytes };
        *self.read_limit.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// What the files of an uncompressed segment take, in bytes.
fn bytes_on_disk(folder: &Path, sequence: u64) -> u64 {
    let files = [segment::events(folder, sequence), segment::ids(folder, sequence), segment::torn(folder, sequence)];
    files.iter().filter_map(|path| path.metadata().ok()).map(|about| about.len()).sum()
}

/// Writes lines with their newlines. Short ones are written together, and long ones are not copied.
fn write_lines(file: &mut File, lines: &[&[u8]]) -> io::Result<()> {
    let mut writer = io::BufWriter::with_capacity(256 << 10, file);
    let mut write = |line: &&[u8]| writer.write_all(line).and_then(|()| writer.write_all(b"\n"));
    let result = lines.iter().try_for_each(&mut write).and_then(|()| writer.flush());
    // Dropped after an error, it would write the rest of its buffer.
    let _ = writer.into_parts();
    result
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::Registry;
    use tempfile::TempDir;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn open(folder: &TempDir, rotate_bytes: u64) -> Writer {
        open_within(folder, rotate_bytes, u64::MAX).unwrap()
    }

    fn open_within(folder: &TempDir, rotate_bytes: u64, retain_bytes: u64) -> io::Result<Writer> {
        let metrics = SinkMetrics::register(&Registry::new()).unwrap();
        let remember = Duration::from_hours(48);
        let limits = Limits { rotate_bytes, retain_files: 0, retain_bytes, remember_ids: 1000, remember };
        Writer::open(folder.path(), limits, metrics, NOW)
    }

    fn event(id: &str, line: &str) -> (String, Vec<u8>, i64) {
        (id.to_owned(), line.as_bytes().to_vec(), NOW)
    }

    /// What a write leaves that failed in the middle.
    fn tear(folder: &TempDir) {
        for (path, torn) in [(segment::events(folder.path(), 1), "{2}\n{3"), (segment::ids(folder.path(), 1), "1700000000 8 b\n1700")] {
            OpenOptions::new().append(true).open(path).unwrap().write_all(torn.as_bytes()).unwrap();
        }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// The events of a segment, which may be compressed.
    fn text_of(folder: &TempDir, sequence: u64) -> String {
        let mut text = String::new();
        io::Read::read_to_string(&mut segment::Events::open(folder.path(), sequence).unwrap().unwrap(), &mut text).unwrap();
        text
    }

    #[test]
    fn a_failed_write_is_taken_back_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(&folder, 1 << 20);
        writer.append(&[event("a", "{1}")]).unwrap();
        tear(&folder);
        writer.fail();
        let (events, ids) = (segment::events(folder.path(), 1), segment::ids(folder.path(), 1));
        assert_eq!((read(&events), read(&ids)), ("{1}\n".into(), "0 0 -\n1700000000 4 a\n".into()));
        writer.append(&[event("c", "{4}")]).unwrap();
        assert_eq!((read(&events), read(&ids)), ("{1}\n{4}\n".into(), "0 0 -\n1700000000 4 a\n1700000000 8 c\n".into()));
    }

    #[test]
    fn a_segment_that_a_full_disk_did_not_let_begin_leaves_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(&folder, 10);
        writer.append(&[event("a", "{1}")]).unwrap();
        let next = event("b", "{\"long\":1}");
        std::os::unix::fs::symlink("/dev/full", segment::ids(folder.path(), 2)).unwrap();
        let error = writer.append(std::slice::from_ref(&next)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        assert!(!segment::events(folder.path(), 2).exists() && !segment::ids(folder.path(), 2).exists());
        drop(writer);
        // It starts, and goes on when there is room.
        open(&folder, 10).append(&[next]).unwrap();
        assert_eq!((text_of(&folder, 1).as_str(), text_of(&folder, 2).as_str()), ("{1}\n", "{\"long\":1}\n"));
    }

    #[test]
    fn the_oldest_segments_give_room_before_anything_is_repaired() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(segment::events(folder.path(), 1), "{\"ts\":7}\n".repeat(30)).unwrap();
        fs::write(segment::events(folder.path(), 2), "").unwrap();
        // The newest segment can't be repaired.
        fs::create_dir(segment::ids(folder.path(), 2)).unwrap();
        assert!(open_within(&folder, 1000, 100).is_err());
        assert!(!segment::events(folder.path(), 1).exists());
    }

    #[test]
    fn a_segment_is_closed_without_what_a_failed_write_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(&folder, 10);
        writer.append(&[event("a", "{1}")]).unwrap();
        tear(&folder);
        // The disk did not take it back either.
        writer.open = None;
        writer.append(&[event("b", "{\"long\":1}")]).unwrap();
        drop(writer);
        assert_eq!((text_of(&folder, 1).as_str(), read(&segment::events(folder.path(), 2)).as_str()), ("{1}\n", "{\"long\":1}\n"));
    }
}

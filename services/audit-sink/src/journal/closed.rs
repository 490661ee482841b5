//! The closed segments: what they take on disk, and which of them are removed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use golectra_process::LogLimiter;

use super::Limits;
use super::recent_ids::RecentIds;
use super::recover::{self, Acknowledged};
use super::segment::{self, Events};
use crate::metrics::{RETAIN_BYTES, RETAIN_FILES, SinkMetrics};

static LOG: LogLimiter = LogLimiter::new();

/// All closed segments of a folder. Clones are the same.
#[derive(Clone)]
pub(super) struct ClosedSegments(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    limits: Limits,
    metrics: SinkMetrics,
    segments: Mutex<Segments>,
}

#[derive(Default)]
struct Segments {
    by_sequence: BTreeMap<u64, Segment>,
    /// What the active segment takes on disk, in bytes.
    active_bytes: u64,
}

#[derive(Debug, Default)]
struct Segment {
    events: Option<EventsFile>,
    ids: Option<IdsFile>,
    torn_bytes: u64,
    /// Room for the compressed file that is being written.
    partial_bytes: u64,
}

#[derive(Debug)]
struct EventsFile {
    bytes: u64,
    compressed: bool,
    /// How many events there are, where that is known without reading them.
    events: Option<u64>,
}

#[derive(Debug)]
struct IdsFile {
    bytes: u64,
    ids: u64,
    last: Option<i64>,
}

impl Segment {
    fn bytes(&self) -> u64 {
        let events = self.events.as_ref().map_or(0, |file| file.bytes);
        let ids = self.ids.as_ref().map_or(0, |file| file.bytes);
        events + ids + self.torn_bytes + self.partial_bytes
    }
}

impl Segments {
    fn entry(&mut self, sequence: u64) -> &mut Segment {
        self.by_sequence.entry(sequence).or_default()
    }

    fn bytes(&self) -> u64 {
        self.active_bytes + self.by_sequence.values().map(Segment::bytes).sum::<u64>()
    }
}

impl ClosedSegments {
    /// Finds the segments before the active one, remembers their ids, and removes what an unfinished compression left.
    pub(super) fn load(
        folder: &Path,
        active: u64,
        limits: Limits,
        metrics: SinkMetrics,
        recent: &mut RecentIds,
        now: i64,
    ) -> io::Result<Self> {
        for sequence in segment::list(folder, segment::PARTIAL)? {
            fs::remove_file(segment::partial(folder, sequence))?;
        }
        let mut segments = Segments::default();
        let before = |sequence: &u64| *sequence < active;
        for sequence in segment::list(folder, segment::EVENTS)?.into_iter().filter(before) {
            // Where both are there, the plain file was not removed yet: the segment is compressed again.
            if segment::existing(fs::remove_file(segment::compressed(folder, sequence)))?.is_some() {
                tracing::info!(sequence, "the last run was ended during a compression, which is done again");
            }
            let bytes = segment::events(folder, sequence).metadata()?.len();
            segments.entry(sequence).events = Some(EventsFile { bytes, compressed: false, events: None });
        }
        for sequence in segment::list(folder, segment::COMPRESSED)?.into_iter().filter(before) {
            let path = segment::compressed(folder, sequence);
            let (bytes, events) = (path.metadata()?.len(), segment::events_of(&path)?);
            segments.entry(sequence).events = Some(EventsFile { bytes, compressed: true, events });
        }
        for sequence in segment::list(folder, segment::IDS)?.into_iter().filter(before) {
            let bytes = segment::ids(folder, sequence).metadata()?.len();
            let read = recover::read_ids(folder, sequence, u64::MAX, recent, now)?.unwrap_or_default();
            let segment = segments.entry(sequence);
            segment.ids = Some(IdsFile { bytes, ids: read.ids, last: read.last });
            if let Some(file) = segment.events.as_mut().filter(|file| !file.compressed && file.bytes == read.events_bytes && read.complete)
            {
                file.events = Some(read.ids);
            }
        }
        for sequence in segment::list(folder, segment::TORN)?.into_iter().filter(before) {
            segments.entry(sequence).torn_bytes = segment::torn(folder, sequence).metadata()?.len();
        }
        Ok(Self(Arc::new(Shared { folder: folder.to_owned(), limits, metrics, segments: Mutex::new(segments) })))
    }

    /// The active segment is closed.
    pub(super) fn add(&self, sequence: u64, acknowledged: &Acknowledged) {
        let torn_bytes = segment::torn(&self.0.folder, sequence).metadata().map_or(0, |about| about.len());
        let events = acknowledged.complete.then_some(acknowledged.ids);
        let segment = Segment {
            events: Some(EventsFile { bytes: acknowledged.events_bytes, compressed: false, events }),
            ids: Some(IdsFile { bytes: acknowledged.ids_bytes, ids: acknowledged.ids, last: acknowledged.last }),
            torn_bytes,
            partial_bytes: 0,
        };
        self.segments().by_sequence.insert(sequence, segment);
    }

    /// Removes the oldest segments until the folder has room for an active segment of this size. Where all of them are gone,
    /// there is no more to remove.
    pub(super) fn make_room(&self, active_bytes: u64) -> io::Result<()> {
        let mut segments = self.segments();
        segments.active_bytes = active_bytes;
        self.trim(&mut segments)?;
        self.0.metrics.folder_bytes.set(i64::try_from(segments.bytes()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Shows the time of the first event, which is the oldest as well.
    pub(super) fn show_first_event(&self) {
        if self.0.metrics.oldest_event.get() == 0 {
            self.0.metrics.oldest_event.set(oldest_event(&self.0.folder).unwrap_or(0));
        }
    }

    /// Removes what need not be kept: more than `RETAIN_FILES`, and ids that are not remembered any more.
    pub(super) fn tidy(&self, oldest_id: i64) -> io::Result<()> {
        let Shared { folder, limits, .. } = &*self.0;
        let mut segments = self.segments();
        if limits.retain_files > 0 {
            let with_events: Vec<u64> =
                segments.by_sequence.iter().filter(|(_, segment)| segment.events.is_some()).map(|(sequence, _)| *sequence).collect();
            // One of the files is the active one.
            let surplus = (with_events.len() + 1).saturating_sub(limits.retain_files).min(with_events.len());
            for sequence in &with_events[..surplus] {
                self.remove_events(*sequence, segments.entry(*sequence), RETAIN_FILES)?;
            }
        }
        let mut newer_ids = 0;
        for (sequence, segment) in segments.by_sequence.iter_mut().rev() {
            let Some(file) = &segment.ids else { continue };
            if newer_ids >= limits.remember_ids as u64 || file.last.is_none_or(|last| last < oldest_id) {
                segment::existing(fs::remove_file(segment::ids(folder, *sequence)))?;
                segment.ids = None;
            } else {
                newer_ids += file.ids;
            }
        }
        segments.by_sequence.retain(|_, segment| segment.bytes() > 0 || segment.events.is_some());
        self.trim(&mut segments)?;
        self.show(&segments);
        Ok(())
    }

    /// The oldest segment that is not compressed, with room for its compressed file.
    pub(super) fn begin_compression(&self) -> io::Result<Option<u64>> {
        let mut segments = self.segments();
        let next = segments.by_sequence.iter_mut().find(|(_, segment)| segment.events.as_ref().is_some_and(|file| !file.compressed));
        let Some((sequence, segment)) = next else { return Ok(None) };
        let sequence = *sequence;
        segment.partial_bytes = segment.events.as_ref().map_or(0, |file| file.bytes);
        self.trim(&mut segments)?;
        Ok(segments.by_sequence.contains_key(&sequence).then_some(sequence))
    }

    /// How many events a segment has, where that is known without reading them.
    pub(super) fn events_of(&self, sequence: u64) -> Option<u64> {
        self.segments().by_sequence.get(&sequence)?.events.as_ref()?.events
    }

    /// Puts a finished compressed file in the place of the plain one, unless the segment has been removed meanwhile.
    pub(super) fn finish_compression(&self, sequence: u64, events: u64) -> io::Result<()> {
        let folder = &self.0.folder;
        let partial = segment::partial(folder, sequence);
        let mut segments = self.segments();
        let Some(segment) = segments.by_sequence.get_mut(&sequence).filter(|segment| segment.events.is_some()) else {
            return fs::remove_file(partial);
        };
        let bytes = partial.metadata()?.len();
        fs::rename(&partial, segment::compressed(folder, sequence))?;
        segment::sync_folder(folder)?;
        segment.events = Some(EventsFile { bytes, compressed: true, events: Some(events) });
        segment.partial_bytes = 0;
        fs::remove_file(segment::events(folder, sequence))?;
        self.show(&segments);
        Ok(())
    }

    /// A compression failed: the plain file stays.
    pub(super) fn abort_compression(&self, sequence: u64) {
        if let Some(segment) = self.segments().by_sequence.get_mut(&sequence) {
            segment.partial_bytes = 0;
        }
        // It is overwritten by the next try when it can't be removed.
        let _ = fs::remove_file(segment::partial(&self.0.folder, sequence));
    }

    /// Removes the oldest segments, their ids with them, until all files together are within `RETAIN_BYTES`.
    fn trim(&self, segments: &mut Segments) -> io::Result<()> {
        let Shared { folder, limits, .. } = &*self.0;
        let mut removed = false;
        while segments.bytes() > limits.retain_bytes {
            let Some((sequence, mut segment)) = segments.by_sequence.pop_first() else { break };
            removed = true;
            let result = self.remove_events(sequence, &mut segment, RETAIN_BYTES).and_then(|()| {
                segment::existing(fs::remove_file(segment::ids(folder, sequence)))?;
                segment::existing(fs::remove_file(segment::torn(folder, sequence)))
            });
            if let Err(error) = result {
                segments.by_sequence.insert(sequence, segment);
                return Err(error);
            }
        }
        if removed {
            self.show(segments);
        }
        Ok(())
    }

    /// Removes the events of a segment and counts them.
    fn remove_events(&self, sequence: u64, segment: &mut Segment, limit: &'static str) -> io::Result<()> {
        let Shared { folder, metrics, .. } = &*self.0;
        let Some(file) = &segment.events else { return Ok(()) };
        let events = match file.events {
            Some(events) => events,
            // Only where somebody else made the file. A file that can't be read any more counts as far as it can.
            None => Events::open(folder, sequence)?
                .map_or(0, |events| segment::count_lines(BufReader::new(events)).unwrap_or_else(|(lines, _)| lines)),
        };
        let path = if file.compressed { segment::compressed(folder, sequence) } else { segment::events(folder, sequence) };
        segment::existing(fs::remove_file(path))?;
        segment.events = None;
        metrics.removed.with_label_values(&[limit]).inc_by(events);
        LOG.log(limit, move |count| tracing::warn!(count, sequence, limit, "the oldest files of events are removed"));
        Ok(())
    }

    fn show(&self, segments: &Segments) {
        let metrics = &self.0.metrics;
        let files = segments.by_sequence.values().filter(|segment| segment.events.is_some()).count() + 1;
        metrics.files.set(i64::try_from(files).unwrap_or(i64::MAX));
        metrics.folder_bytes.set(i64::try_from(segments.bytes()).unwrap_or(i64::MAX));
        metrics.oldest_event.set(oldest_event(&self.0.folder).unwrap_or(0));
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.0.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time of the first event in the folder.
fn oldest_event(folder: &Path) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Time {
        ts: i64,
    }
    for sequence in segment::with_events(folder).ok()? {
        let Ok(Some(events)) = Events::open(folder, sequence) else { continue };
        let mut line = Vec::new();
        BufReader::new(events).read_until(b'\n', &mut line).ok()?;
        if !line.is_empty() {
            return serde_json::from_slice::<Time>(&line).ok().map(|time| time.ts);
        }
    }
    None
}

//! The one thread that writes. It takes all that came while the disk was busy, writes it at once, syncs once, and then
//! answers each sender.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::id::{self, Mark};
use super::recover::{self, Lengths};
use super::seen::Seen;
use super::segment::{self, Mention};
use super::{Appended, Extent, Limits};
use crate::figures::Figures;

/// Events written at once.
const GROUP: usize = 512;

/// What the writer is asked.
pub(super) enum Command {
    Append {
        id: String,
        line: Vec<u8>,
        now: i64,
        reply: oneshot::Sender<Result<Appended, ()>>,
    },
    /// Whether the disk takes bytes.
    Probe {
        reply: oneshot::Sender<bool>,
    },
}

pub(super) struct Writer {
    folder: PathBuf,
    limits: Limits,
    figures: Figures,
    seen: Seen,
    sequence: u64,
    /// What is acknowledged; beyond that, nothing in the files counts.
    lengths: Lengths,
    /// The open files; none after a failure.
    open: Option<Open>,
    extent: Arc<Mutex<Extent>>,
    healthy: Arc<AtomicBool>,
}

struct Open {
    events: File,
    ids: File,
}

/// An event of a group that is new.
struct New {
    mark: Mark,
    now: i64,
}

impl Writer {
    pub(super) fn open(folder: &Path, limits: Limits, figures: Figures, now: i64) -> io::Result<Self> {
        let sequence = segment::list(folder, "ndjson")?.last().copied().unwrap_or(1);
        let lengths = recover::newest(folder, sequence)?;
        let mut seen = Seen::new(limits.remember_ids, i64::try_from(limits.remember.as_secs()).unwrap_or(i64::MAX));
        recover::remember(folder, &mut seen, now)?;
        let extent = Arc::new(Mutex::new(Extent { sequence, bytes: lengths.events }));
        let mut writer = Self {
            folder: folder.to_owned(),
            limits,
            figures,
            seen,
            sequence,
            lengths,
            open: None,
            extent,
            healthy: Arc::new(AtomicBool::new(true)),
        };
        writer.reopen()?;
        writer.tidy(now);
        Ok(writer)
    }

    pub(super) fn extent(&self) -> Arc<Mutex<Extent>> {
        Arc::clone(&self.extent)
    }

    pub(super) fn health(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.healthy)
    }

    /// Works until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut group = Vec::with_capacity(GROUP);
        while queue.blocking_recv_many(&mut group, GROUP) > 0 {
            let mut events = Vec::with_capacity(group.len());
            let mut replies = Vec::with_capacity(group.len());
            for command in group.drain(..) {
                match command {
                    Command::Append { id, line, now, reply } => {
                        events.push((id, line, now));
                        replies.push(reply);
                    }
                    Command::Probe { reply } => {
                        // The one who asked may have gone.
                        let _ = reply.send(self.probe());
                    }
                }
            }
            if events.is_empty() {
                continue;
            }
            let result = self.append(&events);
            if let Err(error) = &result {
                // A disk stays full for a while: its first failure is said, and that it works again.
                if self.healthy.load(Ordering::Relaxed) {
                    tracing::error!(%error, folder = %self.folder.display(), "events can't be written: their senders are told to come again");
                }
                self.fail();
            } else if !self.healthy.load(Ordering::Relaxed) {
                tracing::info!("events are written again");
            }
            self.healthy.store(result.is_ok(), Ordering::Relaxed);
            for (index, reply) in replies.into_iter().enumerate() {
                let _ = reply.send(result.as_ref().map(|appended| appended[index]).map_err(|_| ()));
            }
        }
    }

    /// Nothing beyond what is acknowledged counts: the next write cuts it off.
    pub(super) fn fail(&mut self) {
        self.open = None;
    }

    /// Stores the new ones of these events; all of them or, with an error, none.
    fn append(&mut self, group: &[(String, Vec<u8>, i64)]) -> io::Result<Vec<Appended>> {
        let bytes: usize = group.iter().map(|(_, line, _)| line.len() + 1).sum();
        if self.lengths.events > 0 && self.lengths.events + bytes as u64 > self.limits.rotate_bytes {
            self.rotate(group.last().map_or(0, |(_, _, now)| *now))?;
        }
        let (mut lines, mut mentions) = (Vec::with_capacity(bytes), String::new());
        let mut new: Vec<New> = Vec::new();
        let mut fates = Vec::with_capacity(group.len());
        for (id, line, now) in group {
            let mark = id::mark(id);
            if self.seen.contains(mark) || new.iter().any(|new| new.mark == mark) {
                fates.push(Appended::Repeat);
                continue;
            }
            lines.extend_from_slice(line);
            lines.push(b'\n');
            let end = self.lengths.events + lines.len() as u64;
            mentions.push_str(&Mention { at: *now, end, id: Some(id) }.line());
            new.push(New { mark, now: *now });
            fates.push(Appended::Stored);
        }
        if !new.is_empty() {
            self.store(&lines, mentions.as_bytes())?;
        }
        for New { mark, now } in new {
            self.seen.insert(mark, now);
        }
        self.figures.ids.set(i64::try_from(self.seen.len()).unwrap_or(i64::MAX));
        Ok(fates)
    }

    fn store(&mut self, lines: &[u8], mentions: &[u8]) -> io::Result<()> {
        if self.open.is_none() {
            self.reopen()?;
        }
        let Some(open) = &mut self.open else { return Err(io::Error::other("the files are not open")) };
        open.events.write_all(lines)?;
        open.ids.write_all(mentions)?;
        let before = Instant::now();
        open.events.sync_data()?;
        open.ids.sync_data()?;
        self.figures.sync.observe(before.elapsed().as_secs_f64());
        self.figures.bytes.inc_by(lines.len() as u64);
        self.lengths.events += lines.len() as u64;
        self.lengths.ids += mentions.len() as u64;
        self.publish();
        Ok(())
    }

    /// Opens the files and cuts off what a failed attempt left in them.
    fn reopen(&mut self) -> io::Result<()> {
        let events = OpenOptions::new().append(true).open(segment::events(&self.folder, self.sequence))?;
        let ids = OpenOptions::new().append(true).open(segment::ids(&self.folder, self.sequence))?;
        if events.metadata()?.len() < self.lengths.events || ids.metadata()?.len() < self.lengths.ids {
            return Err(io::Error::other("acknowledged events are gone from the newest file: start the sink again to go on without them"));
        }
        events.set_len(self.lengths.events)?;
        ids.set_len(self.lengths.ids)?;
        self.open = Some(Open { events, ids });
        Ok(())
    }

    /// Begins the next file.
    fn rotate(&mut self, now: i64) -> io::Result<()> {
        let next = self.sequence + 1;
        // A failed attempt may have left one; nothing in it was acknowledged.
        let events = File::create(segment::events(&self.folder, next))?;
        let lengths = recover::begin(&self.folder, next, 0)?;
        events.sync_all()?;
        segment::sync_folder(&self.folder)?;
        (self.sequence, self.lengths, self.open) = (next, lengths, None);
        self.publish();
        self.tidy(now);
        Ok(())
    }

    /// Removes what need not be kept. A failure costs room and is tried again with the next file.
    fn tidy(&self, now: i64) {
        if let Err(error) = self.try_to_tidy(now) {
            tracing::warn!(%error, "old files could not be removed");
        }
    }

    fn try_to_tidy(&self, now: i64) -> io::Result<()> {
        recover::forget(&self.folder, self.sequence, self.seen.oldest(now))?;
        let files = segment::list(&self.folder, "ndjson")?;
        let keep = if self.limits.retain_files == 0 { files.len() } else { self.limits.retain_files };
        let surplus = files.len().saturating_sub(keep);
        for sequence in &files[..surplus] {
            fs::remove_file(segment::events(&self.folder, *sequence))?;
            tracing::info!(sequence, "the oldest events are removed (RETAIN_FILES)");
        }
        self.figures.files.set(i64::try_from(files.len() - surplus).unwrap_or(i64::MAX));
        Ok(())
    }

    fn probe(&mut self) -> bool {
        let path = self.folder.join(".probe");
        let wrote = File::create(&path).and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()
        });
        // It is overwritten by the next one when it can't be removed.
        let _ = fs::remove_file(&path);
        let ok = wrote.is_ok() && (self.open.is_some() || self.reopen().is_ok());
        self.healthy.store(ok, Ordering::Relaxed);
        ok
    }

    fn publish(&self) {
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner) = Extent { sequence: self.sequence, bytes: self.lengths.events };
    }
}

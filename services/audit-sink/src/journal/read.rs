//! Reads acknowledged events, beside the writer and without delaying it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::segment::{self, Events};
use super::{Journal, ReadLimit};

const BLOCK: usize = 64 << 10;

/// The newest events are at most this many bytes together; the very newest is shown however long it is.
const NEWEST_BYTES: usize = 8 << 20;

impl Journal {
    /// The newest events, newest first. The permit is held until they are read, also when nobody waits for them any more.
    pub(crate) async fn newest(&self, limit: usize, permit: OwnedSemaphorePermit) -> io::Result<(Vec<Vec<u8>>, OwnedSemaphorePermit)> {
        let (folder, read_limit) = (Arc::clone(&self.folder), self.read_limit());
        let read = move || newest(&folder, read_limit, limit).map(|lines| (lines, permit));
        spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Every event that is kept now, oldest first. The permit is held until the last byte is read.
    pub(crate) fn everything(&self, permit: OwnedSemaphorePermit) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        let read_limit = self.read_limit();
        let sequences = segment::with_events(&self.folder)?.into_iter().filter(|sequence| *sequence <= read_limit.sequence).collect();
        let download = Download { folder: Arc::clone(&self.folder), read_limit, sequences, open: None, _permit: permit };
        Ok(try_unfold(download, |mut download| async move {
            let (next, download) = spawn_blocking(move || (download.next(), download)).await.map_err(io::Error::other)?;
            Ok(next?.map(|bytes| (bytes, download)))
        }))
    }
}

impl ReadLimit {
    /// A closed segment is read to its end, the active one as far as it is acknowledged.
    fn end_of(self, sequence: u64) -> u64 {
        if sequence == self.sequence { self.bytes } else { u64::MAX }
    }
}

/// All events on their way to a client.
struct Download {
    folder: Arc<Path>,
    read_limit: ReadLimit,
    sequences: VecDeque<u64>,
    open: Option<io::Take<Events>>,
    _permit: OwnedSemaphorePermit,
}

impl Download {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(events) = &mut self.open {
                let mut block = vec![0; BLOCK];
                let bytes = events.read(&mut block)?;
                if bytes > 0 {
                    block.truncate(bytes);
                    return Ok(Some(block.into()));
                }
                self.open = None;
            }
            let Some(sequence) = self.sequences.pop_front() else { return Ok(None) };
            // None where it was removed meanwhile.
            self.open = Events::open(&self.folder, sequence)?.map(|events| events.take(self.read_limit.end_of(sequence)));
        }
    }
}

fn newest(folder: &Path, read_limit: ReadLimit, limit: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut newest = Newest { lines: Vec::new(), bytes: 0, limit };
    let sequences = segment::with_events(folder)?;
    for sequence in sequences.into_iter().rev().filter(|sequence| *sequence <= read_limit.sequence) {
        let more = match Events::open(folder, sequence)? {
            None => true,
            Some(Events::Plain(mut file)) => {
                let end = file.metadata()?.len().min(read_limit.end_of(sequence));
                newest.add_plain(&mut file, end)?
            }
            Some(compressed) => newest.add_compressed(compressed)?,
        };
        if !more {
            break;
        }
    }
    Ok(newest.lines)
}

/// Lines, newest first, up to a number and [`NEWEST_BYTES`].
struct Newest {
    lines: Vec<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

impl Newest {
    /// Adds the next older line, unless there are enough; whether there may be more.
    fn add(&mut self, line: Vec<u8>) -> bool {
        self.bytes += line.len();
        if self.lines.len() == self.limit || (self.bytes > NEWEST_BYTES && !self.lines.is_empty()) {
            return false;
        }
        self.lines.push(line);
        true
    }

    /// Adds the lines of a file, from this end on to its start.
    fn add_plain(&mut self, file: &mut File, end: u64) -> io::Result<bool> {
        let mut backwards = Backwards { file, start: end, tail: Vec::new() };
        while let Some(line) = backwards.line()? {
            if !self.add(line) {
                return Ok(false);
            }
        }
        Ok(self.lines.len() < self.limit)
    }

    /// Adds the last lines of what can only be read from its start.
    fn add_compressed(&mut self, events: Events) -> io::Result<bool> {
        let (mut last, mut bytes) = (VecDeque::new(), 0);
        let mut events = BufReader::with_capacity(BLOCK, events);
        loop {
            let mut line = Vec::new();
            if events.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let line = without_newline(line);
            bytes += line.len();
            last.push_back(line);
            while last.len() > 1 && (last.len() > self.limit - self.lines.len() || bytes > NEWEST_BYTES) {
                bytes -= last.pop_front().map_or(0, |line| line.len());
            }
        }
        while let Some(line) = last.pop_back() {
            if !self.add(line) {
                return Ok(false);
            }
        }
        Ok(self.lines.len() < self.limit)
    }
}

/// The lines of a file from its end to its start.
struct Backwards<'a> {
    file: &'a mut File,
    /// Where `tail` begins in the file.
    start: u64,
    /// What has been read and not returned.
    tail: Vec<u8>,
}

impl Backwards<'_> {
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            // The tail ends with the newline of its last line.
            let before = self.tail.len().saturating_sub(1);
            if let Some(newline) = self.tail[..before].iter().rposition(|byte| *byte == b'\n') {
                return Ok(Some(without_newline(self.tail.split_off(newline + 1))));
            }
            if self.start == 0 {
                let last = std::mem::take(&mut self.tail);
                return Ok(if last.is_empty() { None } else { Some(without_newline(last)) });
            }
            let block = (BLOCK.max(self.tail.len()) as u64).min(self.start);
            self.start -= block;
            self.file.seek(SeekFrom::Start(self.start))?;
            let mut read = Vec::new();
            self.file.by_ref().take(block).read_to_end(&mut read)?;
            read.append(&mut self.tail);
            self.tail = read;
        }
    }
}

fn without_newline(mut line: Vec<u8>) -> Vec<u8> {
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    line
}

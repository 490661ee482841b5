//! Reads what is acknowledged, beside the writer and without holding it up.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio::io::AsyncReadExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::{Extent, Journal, segment};

const BLOCK: usize = 64 << 10;

/// The newest events are at most so many bytes together; the very newest is shown however long it is.
const NEWEST_BYTES: usize = 8 << 20;

impl Journal {
    /// The newest events, newest first.
    pub(crate) async fn newest(&self, limit: usize) -> io::Result<Vec<Vec<u8>>> {
        let (folder, extent) = (Arc::clone(&self.folder), self.extent());
        let read = move || newest(&folder, extent, limit);
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Every event that is kept now, oldest first. The permit is held until the last byte is read.
    pub(crate) fn everything(&self, permit: OwnedSemaphorePermit) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        let extent = self.extent();
        let files = segment::list(&self.folder, "ndjson")?.into_iter().filter(|sequence| *sequence <= extent.sequence);
        let files: VecDeque<(PathBuf, u64)> =
            files.map(|sequence| (segment::events(&self.folder, sequence), end_of(sequence, extent))).collect();
        let reading = Reading { files, open: None, _permit: permit };
        Ok(try_unfold(reading, |mut reading| async move { Ok(reading.next().await?.map(|bytes| (bytes, reading))) }))
    }
}

/// A finished file is read to its end, the newest as far as it is acknowledged.
fn end_of(sequence: u64, extent: Extent) -> u64 {
    if sequence == extent.sequence { extent.bytes } else { u64::MAX }
}

struct Reading {
    files: VecDeque<(PathBuf, u64)>,
    open: Option<tokio::io::Take<tokio::fs::File>>,
    _permit: OwnedSemaphorePermit,
}

impl Reading {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(file) = &mut self.open {
                let mut block = Vec::with_capacity(BLOCK);
                if file.read_buf(&mut block).await? > 0 {
                    return Ok(Some(block.into()));
                }
                self.open = None;
            }
            let Some((path, end)) = self.files.pop_front() else { return Ok(None) };
            match tokio::fs::File::open(path).await {
                Ok(file) => self.open = Some(file.take(end)),
                // RETAIN_FILES took it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn newest(folder: &Path, extent: Extent, limit: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    for sequence in segment::list(folder, "ndjson")?.into_iter().rev().filter(|sequence| *sequence <= extent.sequence) {
        let mut file = match File::open(segment::events(folder, sequence)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let end = file.metadata()?.len().min(end_of(sequence, extent));
        let mut backwards = Backwards { file: &mut file, start: end, tail: Vec::new() };
        while let Some(line) = backwards.line()? {
            bytes += line.len();
            if lines.len() == limit || (bytes > NEWEST_BYTES && !lines.is_empty()) {
                return Ok(lines);
            }
            lines.push(line);
        }
    }
    Ok(lines)
}

/// The lines of a file from its end to its start.
struct Backwards<'a> {
    file: &'a mut File,
    /// Where `tail` begins in the file.
    start: u64,
    /// What is read and not given out.
    tail: Vec<u8>,
}

impl Backwards<'_> {
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            // The tail ends with a newline that belongs to its last line.
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

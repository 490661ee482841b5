//! The audit file: one line of JSON an event, synced before the outbox lets go of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Fault, Pace, Sink};
use crate::audit::outbox::Delivery;

/// A file that others may rotate away under us.
#[derive(Debug, Clone)]
pub struct FileSink(Arc<Mutex<Log>>);

impl FileSink {
    /// Nothing is opened yet: a folder that is missing now may be there at the first event.
    pub fn new(path: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Log { path, open: None })))
    }
}

#[async_trait]
impl Sink for FileSink {
    fn name(&self) -> &'static str {
        "file"
    }

    fn pace(&self) -> Pace {
        Pace { batch: 512, at_once: 1 }
    }

    async fn deliver(&self, batch: &[Delivery]) -> Result<(), Fault> {
        let size = batch.iter().map(|delivery| delivery.body.len() + 1).sum();
        let mut lines = Vec::with_capacity(size);
        for delivery in batch {
            lines.extend_from_slice(&delivery.body);
            lines.push(b'\n');
        }
        let log = Arc::clone(&self.0);
        let write = move || log.lock().unwrap_or_else(PoisonError::into_inner).append(lines);
        let result = tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        result.map_err(|error| Fault::Down { reason: format!("the audit file can't be written: {error}") })
    }
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    /// Whether it is a file on a disk; a pipe or a terminal has no end to look at and nothing to sync.
    regular: bool,
    /// The last line was torn by a crash: the next one starts on its own.
    torn: bool,
}

impl Log {
    /// Writes whole lines and syncs them, or leaves the file as it was.
    fn append(&mut self, lines: Vec<u8>) -> io::Result<()> {
        let mut open = match self.open.take().filter(|open| open.stands_at(&self.path)) {
            Some(open) => open,
            None => Open::at(&self.path)?,
        };
        open.append(lines)?;
        // Only a file that took everything is kept open; after an error its end is looked at anew.
        self.open = Some(open);
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let fresh = !path.exists();
        let mut file = match OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path) {
            // A pipe's writing end can't be read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => OpenOptions::new().append(true).open(path)?,
            other => other?,
        };
        let about = file.metadata()?;
        let regular = about.is_file();
        if fresh && regular {
            sync_folder(path)?;
        }
        let torn = regular && about.len() > 0 && last_byte(&mut file)? != b'\n';
        Ok(Self { file, device: about.dev(), inode: about.ino(), regular, torn })
    }

    /// Whether the path still names this file, not another one or none.
    fn stands_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|about| about.dev() == self.device && about.ino() == self.inode)
    }

    fn append(&mut self, mut lines: Vec<u8>) -> io::Result<()> {
        if self.torn {
            lines.insert(0, b'\n');
        }
        if !self.regular {
            return self.file.write_all(&lines);
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // All of it is written again: what got there would stand twice. A failure here leaves a torn or doubled line at worst.
            let _ = self.file.set_len(before);
            return Err(error);
        }
        self.torn = false;
        Ok(())
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

/// A new file's name is only safe when its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;

    fn deliveries(bodies: &[&'static str]) -> Vec<Delivery> {
        let delivery = |body: &&'static str| Delivery {
            ticket: 0,
            id: Uuid::now_v7(),
            body: Bytes::from_static(body.as_bytes()),
            traceparent: None,
            age: Duration::ZERO,
            attempts: 0,
        };
        bodies.iter().map(delivery).collect()
    }

    #[tokio::test]
    async fn lines_are_appended_to_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.ndjson");
        fs::write(&path, "{\"old\":1}\n").unwrap();
        let sink = FileSink::new(path.clone());
        sink.deliver(&deliveries(&["{1}", "{2}"])).await.unwrap();
        sink.deliver(&deliveries(&["{3}"])).await.unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "{\"old\":1}\n{1}\n{2}\n{3}\n");
    }

    #[tokio::test]
    async fn a_torn_line_does_not_swallow_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.ndjson");
        fs::write(&path, "{1}\n{\"ts\":17").unwrap();
        let sink = FileSink::new(path.clone());
        sink.deliver(&deliveries(&["{2}"])).await.unwrap();
        sink.deliver(&deliveries(&["{3}"])).await.unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "{1}\n{\"ts\":17\n{2}\n{3}\n");
    }

    #[tokio::test]
    async fn a_rotated_file_is_left_alone_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("audit.ndjson"), folder.path().join("audit.ndjson.1"));
        let sink = FileSink::new(path.clone());
        sink.deliver(&deliveries(&["{1}"])).await.unwrap();
        fs::rename(&path, &rotated).unwrap();
        sink.deliver(&deliveries(&["{2}"])).await.unwrap();
        // Another one may stand there already.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{x}\n").unwrap();
        sink.deliver(&deliveries(&["{3}"])).await.unwrap();
        assert_eq!(fs::read_to_string(rotated).unwrap(), "{1}\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "{x}\n{3}\n");
    }

    #[tokio::test]
    async fn a_folder_that_comes_later_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later").join("audit.ndjson");
        let sink = FileSink::new(path.clone());
        let fault = sink.deliver(&deliveries(&["{1}"])).await.unwrap_err();
        assert!(matches!(&fault, Fault::Down { reason } if reason.contains("No such file")), "{fault:?}");
        fs::create_dir(folder.path().join("later")).unwrap();
        sink.deliver(&deliveries(&["{1}"])).await.unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "{1}\n");
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_and_not_the_end() {
        let sink = FileSink::new(PathBuf::from("/dev/full"));
        for _ in 0..2 {
            let fault = sink.deliver(&deliveries(&["{1}"])).await.unwrap_err();
            assert!(matches!(&fault, Fault::Down { reason } if reason.contains("No space")), "{fault:?}");
        }
    }
}

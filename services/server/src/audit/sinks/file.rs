//! The audit file: one line of JSON for each event, synced before the event is removed from the outbox.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Concurrency, DeliveryError, Sink};
use crate::audit::outbox::Delivery;

/// A file that other programs may rename at any time, like logrotate does.
#[derive(Debug, Clone)]
pub struct FileSink(Arc<Mutex<AuditFile>>);

impl FileSink {
    /// Does not open the file yet: its folder may be created before the first event.
    pub fn new(path: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(AuditFile { path, open: None, device_line_torn: false })))
    }
}

#[async_trait]
impl Sink for FileSink {
    fn name(&self) -> &'static str {
        "file"
    }

    fn concurrency(&self) -> Concurrency {
        Concurrency { batch: 512, calls: 1 }
    }

    async fn deliver(&self, batch: &[Delivery]) -> Result<(), DeliveryError> {
        let size = batch.iter().map(|delivery| delivery.content.bytes() + 1).sum();
        let mut lines = Vec::with_capacity(size);
        for delivery in batch {
            lines.extend_from_slice(&delivery.content.json());
            lines.push(b'\n');
        }
        let file = Arc::clone(&self.0);
        let write = move || file.lock().unwrap_or_else(PoisonError::into_inner).append(&lines);
        let result = tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        result.map_err(|error| DeliveryError::Down { reason: format!("the audit file can't be written: {error}") })
    }
}

#[derive(Debug)]
struct AuditFile {
    path: PathBuf,
    open: Option<OpenFile>,
    /// A pipe or a terminal has accepted a part of a line, which can't be undone: the next write begins with a line end.
    device_line_torn: bool,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    device: u64,
    inode: u64,
    /// Whether it is a file on a disk. Pipes and terminals can't be read from the end, truncated or synced.
    regular: bool,
    /// The file's last line is incomplete, after a crash: the next write begins with a line end.
    torn: bool,
}

impl AuditFile {
    /// Appends whole lines and syncs them. After an error a file on a disk has its former content.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut open = match self.open.take().filter(|open| open.is_at(&self.path)) {
            Some(open) => open,
            None => OpenFile::at(&self.path)?,
        };
        if open.regular {
            open.append(lines)?;
        } else {
            append_to_device(&mut open.file, lines, &mut self.device_line_torn)?;
        }
        // The file is kept open only after a success. After an error it is opened again and its end is checked.
        self.open = Some(open);
        Ok(())
    }
}

impl OpenFile {
    fn at(path: &Path) -> io::Result<Self> {
        let new = !path.exists();
        let mut file = match OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path) {
            // Some pipes and files can't be opened for reading.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => OpenOptions::new().append(true).open(path)?,
            other => other?,
        };
        let about = file.metadata()?;
        let regular = about.is_file();
        if new && regular {
            sync_folder(path)?;
        }
        // If the end can't be read, the last line is assumed to be incomplete: an empty line does less harm than two joined
        // lines.
        let torn = regular && about.len() > 0 && last_byte(&mut file).map_or(true, |byte| byte != b'\n');
        Ok(Self { file, device: about.dev(), inode: about.ino(), regular, torn })
    }

    /// Whether the path still refers to this file.
    fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|about| about.dev() == self.device && about.ino() == self.inode)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let fresh_line: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = self.file.write_all(fresh_line).and_then(|()| self.file.write_all(lines)).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // All lines will be written again later, so those written now have to be removed. If even that fails, the next
            // write begins with a line end. A file that has become shorter was truncated by another program.
            if self.file.metadata().is_ok_and(|about| about.len() > before) {
                let _ = self.file.set_len(before);
            }
            return Err(error);
        }
        self.torn = false;
        Ok(())
    }
}

/// Writes whole lines to a device that can't be truncated. `torn` says whether the last line is incomplete.
fn append_to_device(device: &mut impl Write, lines: &[u8], torn: &mut bool) -> io::Result<()> {
    if *torn {
        device.write_all(b"\n")?;
        *torn = false;
    }
    let mut written = 0;
    while written < lines.len() {
        match device.write(&lines[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => {
                written += bytes;
                *torn = lines[written - 1] != b'\n';
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

/// The name of a new file is only durable when its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::audit::draft::EventContent;

    fn deliveries(numbers: &[i64]) -> Vec<Delivery> {
        let delivery = |number: &i64| Delivery {
            ticket: 0,
            id: Uuid::now_v7(),
            content: EventContent { ts: *number, names: "[]".into(), ip_address: "::1".into() },
            traceparent: None,
            age: Duration::ZERO,
            attempts: 0,
        };
        numbers.iter().map(delivery).collect()
    }

    /// The line of an event.
    fn line(number: i64) -> String {
        format!("{{\"ts\":{number},\"metrics\":[],\"ip_address\":\"::1\"}}\n")
    }

    #[tokio::test]
    async fn lines_are_appended_to_an_existing_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.ndjson");
        fs::write(&path, "{\"old\":1}\n").unwrap();
        let sink = FileSink::new(path.clone());
        sink.deliver(&deliveries(&[1, 2])).await.unwrap();
        sink.deliver(&deliveries(&[3])).await.unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), format!("{{\"old\":1}}\n{}{}{}", line(1), line(2), line(3)));
    }

    #[tokio::test]
    async fn an_incomplete_line_is_not_joined_to_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.ndjson");
        fs::write(&path, "{}\n{\"ts\":17").unwrap();
        let sink = FileSink::new(path.clone());
        sink.deliver(&deliveries(&[2])).await.unwrap();
        sink.deliver(&deliveries(&[3])).await.unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), format!("{{}}\n{{\"ts\":17\n{}{}", line(2), line(3)));
    }

    #[tokio::test]
    async fn a_new_file_is_created_after_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("audit.ndjson"), folder.path().join("audit.ndjson.1"));
        let sink = FileSink::new(path.clone());
        sink.deliver(&deliveries(&[1])).await.unwrap();
        fs::rename(&path, &rotated).unwrap();
        sink.deliver(&deliveries(&[2])).await.unwrap();
        // A new file may exist already.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{x}\n").unwrap();
        sink.deliver(&deliveries(&[3])).await.unwrap();
        assert_eq!(fs::read_to_string(rotated).unwrap(), line(1));
        assert_eq!(fs::read_to_string(path).unwrap(), format!("{{x}}\n{}", line(3)));
    }

    #[tokio::test]
    async fn the_folder_may_be_created_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later").join("audit.ndjson");
        let sink = FileSink::new(path.clone());
        let error = sink.deliver(&deliveries(&[1])).await.unwrap_err();
        assert!(matches!(&error, DeliveryError::Down { reason } if reason.contains("No such file")), "{error:?}");
        fs::create_dir(folder.path().join("later")).unwrap();
        sink.deliver(&deliveries(&[1])).await.unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), line(1));
    }

    #[tokio::test]
    async fn writing_works_again_after_a_full_disk() {
        let sink = FileSink::new(PathBuf::from("/dev/full"));
        for _ in 0..2 {
            let error = sink.deliver(&deliveries(&[1])).await.unwrap_err();
            assert!(matches!(&error, DeliveryError::Down { reason } if reason.contains("No space")), "{error:?}");
        }
    }

    /// A device that accepts some bytes and then fails once.
    struct FailingDevice {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for FailingDevice {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 && !bytes.is_empty() {
                self.room = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.taken.extend_from_slice(&bytes[..taken]);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_a_pipe_accepted_in_part_is_not_joined_to_the_next_one() {
        for (room, left) in [(2, "{a\n"), (4, "{a}\n"), (6, "{a}\n{b\n"), (0, "")] {
            let mut device = FailingDevice { taken: Vec::new(), room };
            let mut torn = false;
            append_to_device(&mut device, b"{a}\n{b}\n", &mut torn).unwrap_err();
            append_to_device(&mut device, b"{a}\n{b}\n", &mut torn).unwrap();
            assert!(!torn);
            assert_eq!(String::from_utf8(device.taken).unwrap(), format!("{left}{{a}}\n{{b}}\n"), "room for {room} bytes");
        }
    }
}

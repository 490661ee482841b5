//! The folder of a spool: used by one agent at a time, with the names of the files in it.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::codec::{self, HEAD_BYTES, Head};

/// How long a start waits for the previous agent to release the folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const EXTENSION: &str = "spool";

/// The file that says which batches are being sent.
const SENDING: &str = "sending";

/// A text that is different after each start of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be created, or is no folder, or may not be read or written.
    #[error("SPOOL_DIR: {path} cannot be used as a folder: {error}; choose one that this user may write to")]
    Folder {
        /// As it was set.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Another process uses it.
    #[error("SPOOL_DIR: {path} is in use by another agent; give each agent a folder of its own")]
    InUse {
        /// As it was set.
        path: PathBuf,
    },
    /// A file in it has another version of the format.
    #[error(
        "SPOOL_DIR: {path} was written by another version of golectra-agent; run that version until it has sent what is in it, or empty the folder"
    )]
    Version {
        /// The file.
        path: PathBuf,
    },
}

/// The folder, locked for this process.
pub(super) struct Folder {
    path: PathBuf,
    /// The lock is on the folder itself, so that it does not depend on a full disk.
    handle: Arc<File>,
    /// None when the system does not tell.
    pub(super) boot_id: Option<String>,
    /// How many more bytes the disk takes, for tests of a full disk.
    #[cfg(test)]
    pub(super) room: Option<u64>,
    /// Whether what the disk took of an incomplete write cannot be cut off again, for tests.
    #[cfg(test)]
    pub(super) keeps_parts: bool,
    /// How many bytes from its start can be read of a file when it is indexed, for tests of a disk that fails.
    #[cfg(test)]
    pub(super) readable: Option<u64>,
}

impl Folder {
    /// Creates the folder if need be and locks it for this process. The system releases the lock when the process ends.
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let unusable = |error| DiskError::Folder { path: path.to_owned(), error };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let handle = File::open(path).map_err(unusable)?;
        let start = Instant::now();
        loop {
            match handle.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(DiskError::InUse { path: path.to_owned() }),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            handle: Arc::new(handle),
            boot_id: std::fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned()),
            #[cfg(test)]
            room: None,
            #[cfg(test)]
            keeps_parts: false,
            #[cfg(test)]
            readable: None,
        })
    }

    /// The folder as a file, to be synced after files were added or removed.
    pub(super) fn handle(&self) -> Arc<File> {
        Arc::clone(&self.handle)
    }

    /// As it was set.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of the spool's files, in order. Files with other names are ignored.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = PathBuf::from(entry?.file_name());
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let Some(number) = number
                && self.segment(number).file_name() == Some(path.as_os_str())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The path of a file of the spool.
    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:012}.{EXTENSION}"))
    }

    /// The path of the notes about a file of the spool that could not be read to its end: at its own end nobody would find them.
    pub(super) fn settled(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:012}.settled"))
    }

    /// The path of the file that says which batches are being sent.
    pub(super) fn sending(&self) -> PathBuf {
        self.path.join(SENDING)
    }

    /// Creates a file with its header; the file and its length. It is removed again when it cannot be completed.
    pub(super) fn create(&mut self, number: u64) -> io::Result<(File, u64)> {
        let path = self.segment(number);
        let file = File::options().append(true).create_new(true).open(&path)?;
        let mut start = codec::file_header().to_vec();
        start.extend(self.boot_id.as_deref().and_then(codec::encode_boot).unwrap_or_default());
        self.append(&file, &start, 0).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
        Ok((file, start.len() as u64))
    }

    /// Appends to a file of this length. What the disk took of an incomplete write is cut off again; readers skip it where
    /// that fails too.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests set here how much room the disk has"))]
    pub(super) fn append(&mut self, mut file: &File, bytes: &[u8], length: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(room) = &mut self.room {
            let taken = bytes.len().min(usize::try_from(*room).unwrap());
            *room -= taken as u64;
            if taken < bytes.len() {
                file.write_all(&bytes[..taken])?;
                if !self.keeps_parts {
                    file.set_len(length)?;
                    *room += taken as u64;
                }
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        file.write_all(bytes).inspect_err(|_| drop(file.set_len(length)))
    }

    /// Appends to a file that is not open.
    pub(super) fn append_to(&mut self, number: u64, bytes: &[u8], length: u64) -> io::Result<()> {
        let file = File::options().append(true).open(self.segment(number))?;
        self.append(&file, bytes, length)
    }

    /// The payload of the record at an offset. None when it is damaged.
    pub(super) fn read(&self, number: u64, offset: u64) -> io::Result<Option<Vec<u8>>> {
        let file = File::open(self.segment(number))?;
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, offset)?;
        let Some(head) = Head::parse(&head) else { return Ok(None) };
        let mut payload = vec![0; head.payload_bytes];
        file.read_exact_at(&mut payload, offset + HEAD_BYTES as u64)?;
        Ok(head.holds(&payload).then_some(payload))
    }

    /// A file as it can be read from its start.
    #[cfg(test)]
    pub(super) fn failing(&self, file: File) -> impl io::Read + use<> {
        Failing { file, readable: self.readable }
    }
}

/// A file of which only so many bytes can be read.
#[cfg(test)]
struct Failing {
    file: File,
    readable: Option<u64>,
}

#[cfg(test)]
impl io::Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(readable) = &mut self.readable else { return io::Read::read(&mut self.file, buffer) };
        let wanted = buffer.len().min(usize::try_from(*readable).unwrap());
        if wanted == 0 && !buffer.is_empty() {
            return Err(io::Error::other("the disk fails"));
        }
        let taken = io::Read::read(&mut self.file, &mut buffer[..wanted])?;
        *readable -= taken as u64;
        Ok(taken)
    }
}

//! The folder: one agent at a time, and the names in it.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::codec::{self, HEAD_BYTES, Head};

/// How long a start waits for the agent before it to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const EXTENSION: &str = "spool";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It is not there and cannot be made, or is no folder, or may not be read or written.
    #[error("SPOOL_DIR: {path} cannot be used as a folder: {error}; choose one that this user may write to")]
    Folder {
        /// As it was set.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process has it.
    #[error("SPOOL_DIR: {path} is in use by another agent; give each agent a folder of its own")]
    InUse {
        /// As it was set.
        path: PathBuf,
    },
    /// A file in it is one of another version.
    #[error("SPOOL_DIR: {path} was written by another version of golectra-agent; let that one send what is in it, or empty the folder")]
    Version {
        /// The file.
        path: PathBuf,
    },
}

/// The folder, which is this process's for as long as this exists.
pub(super) struct Folder {
    path: PathBuf,
    /// Locked; the folder itself, so that a full disk has no say in it.
    handle: Arc<File>,
    /// How many more bytes the disk takes, to see what happens when it is full.
    #[cfg(test)]
    pub(super) room: Option<u64>,
}

impl Folder {
    /// Makes the folder if need be and takes it for this process. The system gives it back when the process ends, however it ends.
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
            #[cfg(test)]
            room: None,
        })
    }

    /// The folder as a file, to be synced after files came or went.
    pub(super) fn handle(&self) -> Arc<File> {
        Arc::clone(&self.handle)
    }

    /// As it was set.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of the files that are there, in order. Other names are nobody's business.
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

    /// The path of a file.
    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:012}.{EXTENSION}"))
    }

    /// A new file with its header, ready to be appended to. One that cannot be finished is not left behind.
    pub(super) fn create(&mut self, number: u64) -> io::Result<File> {
        let path = self.segment(number);
        let file = File::options().append(true).create_new(true).open(&path)?;
        self.append(&file, &codec::file_header(), 0).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
        Ok(file)
    }

    /// Appends to a file that is `length` bytes long. Where the disk takes a part only, that is cut off again; a part that
    /// stays all the same is damage that readers skip.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests say here how much room the disk has"))]
    pub(super) fn append(&mut self, mut file: &File, bytes: &[u8], length: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(room) = &mut self.room {
            let taken = bytes.len().min(usize::try_from(*room).unwrap());
            *room -= taken as u64;
            if taken < bytes.len() {
                file.write_all(&bytes[..taken])?;
                file.set_len(length)?;
                *room += taken as u64;
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
}

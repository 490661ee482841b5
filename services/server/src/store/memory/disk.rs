//! Every change of the disk in one place, so that tests can make any of them fail, or look at the folder in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the store's files stand.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) snapshot: PathBuf,
    pub(super) snapshot_new: PathBuf,
    pub(super) journal: PathBuf,
    pub(super) journal_new: PathBuf,
    /// What was cut off a damaged journal.
    pub(super) journal_damaged: PathBuf,
    /// Held for as long as a process owns the others. A file of its own, since those are replaced.
    pub(super) lock: PathBuf,
    /// The folder of history's files.
    pub(super) history: PathBuf,
    /// History's files as they were when a start found them damaged.
    pub(super) history_damaged: PathBuf,
    pub(super) folder: PathBuf,
}

impl Paths {
    pub(super) fn of(snapshot: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = snapshot.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let folder = match snapshot.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        Self {
            snapshot: snapshot.to_owned(),
            snapshot_new: beside(".tmp"),
            journal: beside(".journal"),
            lock: beside(".lock"),
            journal_new: beside(".journal.tmp"),
            journal_damaged: beside(".journal.damaged"),
            history: beside(".history"),
            history_damaged: beside(".history.damaged"),
            folder,
        }
    }

    /// Removes the new files of a save that failed before it renamed one of them.
    pub(super) fn remove_new(&self) {
        for path in [&self.snapshot_new, &self.journal_new] {
            remove_unfinished(path);
        }
    }
}

/// Removes a file that could not be written to its end. Where that fails too, the next save writes over its own or removes them.
pub(super) fn remove_unfinished(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a file that could not be written to its end could not be removed either");
        }
        _ => {}
    }
}

/// Whether the disk, or the user's quota of it, is full. There may be space again soon.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What is about to be done, for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Create,
    CreateFolder,
    Write,
    Cut,
    Sync,
    Link,
    Rename,
    SyncFolder,
}

#[cfg(test)]
pub(super) type Hook = std::sync::Arc<dyn Fn(Op) -> io::Result<()> + Send + Sync>;

/// The disk.
#[derive(Clone, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) hook: Option<Hook>,
}

impl Disk {
    #[cfg_attr(not(test), expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests look and fail here"))]
    fn about_to(&self, op: Op) -> io::Result<()> {
        #[cfg(test)]
        if let Some(hook) = &self.hook {
            hook(op)?;
        }
        let _ = op;
        Ok(())
    }

    /// A new, empty file in place of what was there.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        self.about_to(Op::Create)?;
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
    }

    /// A new, empty file where there is none of this name.
    pub(super) fn create_new(&self, path: &Path) -> io::Result<File> {
        self.about_to(Op::Create)?;
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    /// Gives a file that nobody changes any more another name beside its own. Where there are no hard links that is a copy.
    pub(super) fn keep_as(&self, path: &Path, name: &Path) -> io::Result<()> {
        if self.link(path, name).is_ok() {
            return Ok(());
        }
        std::fs::copy(path, name)?;
        self.sync(&File::open(name)?)
    }

    /// As [`Self::keep_as`], but never a copy, which takes time and room.
    pub(super) fn link(&self, path: &Path, name: &Path) -> io::Result<()> {
        self.about_to(Op::Link)?;
        std::fs::hard_link(path, name)
    }

    /// Makes a folder where there is none, and says whether it did.
    pub(super) fn create_folder(&self, path: &Path) -> io::Result<bool> {
        if path.is_dir() {
            return Ok(false);
        }
        self.about_to(Op::CreateFolder)?;
        std::fs::create_dir(path).map(|()| true)
    }

    pub(super) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.about_to(Op::Write) {
            // A disk that fills up takes the first part.
            file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        file.write_all_at(bytes, offset)
    }

    pub(super) fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        self.about_to(Op::Cut)?;
        file.set_len(length)
    }

    /// Brings a file's bytes and its length to the disk.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.about_to(Op::Sync)?;
        file.sync_data()
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.about_to(Op::Rename)?;
        std::fs::rename(from, to)
    }

    /// Tries whether a file can be replaced, and leaves it as it is: its content and, unless its file system has no hard links, the file
    /// itself. A name for trials beside it is made and removed.
    pub(super) fn try_replace(&self, path: &Path) -> io::Result<()> {
        let mut trial = path.as_os_str().to_owned();
        trial.push(".trial");
        let trial = Path::new(&trial);
        let tried = self.try_replace_by(path, trial);
        match std::fs::remove_file(trial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tried.and(Err(error)),
            _ => tried,
        }
    }

    fn try_replace_by(&self, path: &Path, trial: &Path) -> io::Result<()> {
        // What a process that was killed in the middle of this left behind; and a new file is what every save begins with.
        drop(self.create(trial)?);
        std::fs::remove_file(trial)?;
        match self.link(path, trial) {
            // A link stays on its file system: the path is no mount point, and its folder takes new names.
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // The path is a mount point, or there are no hard links here. Where not even a copy can be made, the first save will tell.
            Err(_) => match std::fs::copy(path, trial).and_then(|_| self.sync(&File::open(trial)?)) {
                Ok(()) => self.rename(trial, path),
                Err(_) => Ok(()),
            },
        }
    }

    /// Brings renames in a folder to the disk.
    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.about_to(Op::SyncFolder)?;
        File::open(folder)?.sync_all()
    }
}

/// Writes a file from its start to its end.
pub(super) struct Appender<'a> {
    disk: &'a Disk,
    file: &'a File,
    pub(super) offset: u64,
}

impl<'a> Appender<'a> {
    pub(super) fn new(disk: &'a Disk, file: &'a File) -> Self {
        Self { disk, file, offset: 0 }
    }
}

impl Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write_at(self.file, bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

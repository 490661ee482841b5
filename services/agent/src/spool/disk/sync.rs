//! What a power cut must not undo: data is written through, and files go only after what replaces them stands.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Slow work on the disk, to be done on a thread that may wait.
pub struct SyncWork {
    /// Files whose data is to be written through.
    pub(super) files: Vec<Arc<File>>,
    /// The folder, when files came to it.
    pub(super) folder: Option<Arc<File>>,
    /// Files to remove after that, and what they take.
    pub(super) leaving: Vec<(PathBuf, u64)>,
}

/// What came of it.
pub struct SyncDone {
    pub(super) result: io::Result<()>,
    /// Files that could not be removed, and what they take.
    pub(super) staying: Vec<(PathBuf, u64)>,
}

impl SyncDone {
    /// Nothing was done.
    pub fn failed(error: io::Error) -> Self {
        Self { result: Err(error), staying: Vec::new() }
    }
}

impl SyncWork {
    /// Does it; waits for the disk. Files go even when it does not confirm, or it would fill up.
    pub fn run(self) -> SyncDone {
        let data = self.files.iter().try_for_each(|file| file.sync_data());
        let folder = self.folder.iter().try_for_each(|folder| folder.sync_all());
        let gone = |path: &PathBuf| match std::fs::remove_file(path) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        let staying = self.leaving.into_iter().filter(|(path, _)| !gone(path)).collect();
        SyncDone { result: data.and(folder), staying }
    }
}

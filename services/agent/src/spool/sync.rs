//! Disk work that has to survive a power failure: data is synced, and files are removed only after their replacements are synced.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Slow disk work, to be done on a thread that may block.
pub struct SyncWork {
    /// Files to sync.
    pub(super) files: Vec<Arc<File>>,
    /// The folder, when files were added to it.
    pub(super) folder: Option<Arc<File>>,
    /// Files to remove after that, and what they take on disk.
    pub(super) removals: Vec<(PathBuf, u64)>,
}

/// The result of the work.
pub struct SyncResult {
    pub(super) result: io::Result<()>,
    /// Files that could not be removed, and what they take on disk.
    pub(super) not_removed: Vec<(PathBuf, u64)>,
}

impl SyncResult {
    /// The work was not done.
    pub fn failed(error: io::Error) -> Self {
        Self { result: Err(error), not_removed: Vec::new() }
    }
}

impl SyncWork {
    /// Does the work; blocks. Files are removed even when the sync failed, because the disk would fill up otherwise.
    pub fn run(self) -> SyncResult {
        let data = self.files.iter().try_for_each(|file| file.sync_data());
        let folder = self.folder.iter().try_for_each(|folder| folder.sync_all());
        let removed = |path: &PathBuf| match std::fs::remove_file(path) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        let not_removed = self.removals.into_iter().filter(|(path, _)| !removed(path)).collect();
        SyncResult { result: data.and(folder), not_removed }
    }
}

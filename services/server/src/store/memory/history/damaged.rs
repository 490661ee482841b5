//! Damaged files of history: a start keeps them beside their folder, before the next save removes what the start has skipped.
//!
//! A full disk may not take that. Then they stay where they are, and the save that comes into place tries it again, with hard links alone: a copy would keep
//! the journal waiting. Where that fails too, it gives them another name in their folder, which the next start leaves alone. Where there are no hard
//! links it renames those that it does not need, and the next save tries it again. None is removed or replaced.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::disk::{Disk, is_full, remove_unfinished};
use super::files::is_kept;

/// What the name of a damaged file begins with that stays in history's folder.
const DAMAGED: &str = "damaged-";

/// Damaged files that could not be kept beside their folder.
#[derive(Debug, Default)]
pub(super) struct DamagedFiles {
    /// Those that have the name that they had at the start.
    unnamed: Mutex<BTreeSet<PathBuf>>,
    /// How many there are, under whichever name.
    in_folder: AtomicU64,
}

impl DamagedFiles {
    /// How many damaged files stay in history's folder.
    pub(super) fn in_folder(&self) -> u64 {
        self.in_folder.load(Ordering::Relaxed)
    }

    /// Keeps all indexes and segments beside their folder. Where the disk is full they stay in it.
    pub(super) fn keep_at_start(&self, disk: &Disk, folder: &Path, damaged: &Path) -> io::Result<()> {
        let files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|file| file.map(|file| file.path())).collect::<io::Result<_>>()?;
        let files: BTreeSet<PathBuf> = files.into_iter().filter(|path| is_kept(path)).collect();
        match keep(disk, &files, damaged, true) {
            Err(error) if is_full(&error) => {
                tracing::error!(
                    path = %folder.display(),
                    files = files.len(),
                    %error,
                    "the disk is full: the damaged history stays in its folder, and the next save tries to keep it beside it"
                );
                self.in_folder.store(files.len() as u64, Ordering::Relaxed);
                *self.unnamed() = files;
                Ok(())
            }
            kept => kept,
        }
    }

    /// A save is in place and files are about to be removed: tries again to keep the damaged ones beside their folder.
    pub(super) fn keep_again(&self, disk: &Disk, damaged: &Path) {
        let files = self.unnamed().clone();
        if files.is_empty() {
            return;
        }
        match keep(disk, &files, damaged, false) {
            Ok(()) => {
                self.unnamed().clear();
                self.in_folder.fetch_sub(files.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(path = %damaged.display(), %error, "the damaged history can't be kept here yet and stays in its folder");
                // The next start does not know them by their own names any more.
                for path in &files {
                    let name = name_of(path);
                    if disk.link(path, &name).is_ok() {
                        self.unnamed().remove(path);
                        tracing::warn!(path = %name.display(), "a damaged file of the history is kept here");
                    }
                }
            }
        }
    }

    /// Nothing needs any of them, and the next start would not know them: they get other names.
    pub(super) fn rename(&self, disk: &Disk) -> io::Result<()> {
        let files = self.unnamed().clone();
        files.iter().try_for_each(|path| self.remove(disk, path))
    }

    /// Removes a file that nothing needs any more. A damaged one gets another name.
    pub(super) fn remove(&self, disk: &Disk, path: &Path) -> io::Result<()> {
        if !self.unnamed().contains(path) {
            return std::fs::remove_file(path);
        }
        let name = name_of(path);
        disk.rename(path, &name)?;
        self.unnamed().remove(path);
        tracing::warn!(path = %name.display(), "a damaged file of the history is kept here");
        Ok(())
    }

    /// A file is about to be replaced: a damaged one gets another name beside it.
    pub(super) fn keep_replaced(&self, disk: &Disk, path: &Path) -> io::Result<()> {
        if !self.unnamed().contains(path) {
            return Ok(());
        }
        let name = name_of(path);
        disk.keep_as(path, &name).inspect_err(|_| remove_unfinished(&name))?;
        self.unnamed().remove(path);
        tracing::warn!(path = %name.display(), "a damaged file of the history is kept here");
        Ok(())
    }

    fn unnamed(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A free name for a damaged file beside its own, which is not one of those that history gives.
fn name_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(DAMAGED);
    name.push(path.file_name().unwrap_or_default());
    let first = path.with_file_name(&name);
    let numbered = |number: u32| {
        let mut name = name.clone();
        name.push(format!(".{number}"));
        path.with_file_name(name)
    };
    if first.exists() { (2..=u32::MAX).map(numbered).find(|path| !path.exists()).unwrap_or(first) } else { first }
}

/// Keeps files beside their folder, as copies only where it may, unless some were kept before. They are there under their name only once all are.
fn keep(disk: &Disk, files: &BTreeSet<PathBuf>, damaged: &Path, may_copy: bool) -> io::Result<()> {
    if damaged.exists() {
        tracing::warn!(path = %damaged.display(), "the damaged history is not kept, since what was kept before is still there: move it away");
        return Ok(());
    }
    let mut new = damaged.as_os_str().to_owned();
    new.push(".tmp");
    let new = Path::new(&new);
    remove_folder(new)?;
    let kept = keep_in(disk, files, new, may_copy);
    // A copy that could not be finished must not take the room that is left.
    kept.inspect_err(|_| drop(remove_folder(new)))?;
    disk.rename(new, damaged)?;
    disk.sync_folder(damaged.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    tracing::warn!(path = %damaged.display(), "the damaged history is kept here");
    Ok(())
}

fn keep_in(disk: &Disk, files: &BTreeSet<PathBuf>, folder: &Path, may_copy: bool) -> io::Result<()> {
    disk.create_folder(folder)?;
    for path in files {
        if let Some(name) = path.file_name() {
            let name = folder.join(name);
            let kept = if may_copy { disk.keep_as(path, &name) } else { disk.link(path, &name) };
            kept?;
        }
    }
    disk.sync_folder(folder)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

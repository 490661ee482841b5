//! A small disk of one's own that can be filled up: a tmpfs, which only root may mount.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use golectra_tests::skip;
use tempfile::TempDir;

/// A mounted disk, gone when it is dropped.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// A disk of this many KiB. None, with a line said, where this process may not mount one.
    pub fn mount(kib: u32) -> Option<Self> {
        let folder = TempDir::with_prefix("golectra-disk-").expect("a temporary folder can be made");
        let size = format!("size={kib}k,mode=0755");
        let outcome = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "golectra-chaos"]).arg(folder.path()).output();
        match outcome {
            Ok(outcome) if outcome.status.success() => Some(Self { folder }),
            Ok(outcome) => {
                skip(&format!("a small disk can't be mounted: {}", String::from_utf8_lossy(&outcome.stderr).trim()));
                None
            }
            Err(error) => {
                skip(&format!("mount can't be run: {error}"));
                None
            }
        }
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ballast(&self) -> PathBuf {
        self.path("ballast")
    }

    /// Leaves not a page free.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("the disk takes a file");
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    /// Makes room again.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whatever still has a file open there ends soon.
        let outcome = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        if !outcome.is_ok_and(|status| status.success()) {
            eprintln!("the disk at {} is left behind", Path::display(self.folder.path()));
        }
    }
}

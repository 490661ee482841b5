//! Reads files of /proc and /sys into one buffer.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::collect::collector::CollectError;

/// The longest file that is read; of a longer one the rest is ignored. /proc/stat of a machine with thousands of interrupts has some 100 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// The buffer that stays allocated between reads.
const KEPT_BYTES: usize = 32 << 10;

/// A buffer for one file at a time.
#[derive(Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// The contents of a file.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<&[u8]> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        File::open(path)?.take(MAX_BYTES).read_to_end(&mut self.buffer)?;
        Ok(&self.buffer)
    }

    /// The same with the error of a collector.
    pub(super) fn required(&mut self, path: &Path) -> Result<&[u8], CollectError> {
        self.read(path).map_err(|error| CollectError::Read { path: path.display().to_string().into(), error })
    }

    /// The file's text without white space around it. None when it is missing, empty or not UTF-8.
    pub(super) fn text(&mut self, path: &Path) -> Option<&str> {
        let text = std::str::from_utf8(self.read(path).ok()?.trim_ascii()).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// The number in a file that has nothing else.
    pub(super) fn number(&mut self, path: &Path) -> Option<f64> {
        self.text(path)?.parse().ok()
    }
}

/// The lines that are UTF-8. What the kernel writes in a line that is not can't be reported.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).filter(|line| !line.is_empty())
}

/// The most processors of a kernel.
const MAX_CPUS: usize = 8192;

/// The numbers of a list of processors such as `0-3,8`, as /sys has them.
pub(super) fn cpu_list(text: &str) -> Vec<u32> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().take(MAX_CPUS).collect()
}

/// The names in a folder, sorted as they are in a file list, those that are UTF-8.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, CollectError> {
    let entries = std::fs::read_dir(folder).map_err(|error| CollectError::Read { path: folder.display().to_string().into(), error })?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

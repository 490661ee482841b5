//! A folder of keys, such as a mounted Secret: a file's name is the key's id, its content is the key.
//!
//! All files are read every time: keys are few and short, and comparing contents is more reliable than comparing modification
//! times.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use secrecy::zeroize::Zeroizing;

use super::{ById, Key, KeyId};
use crate::mounted::read_settled;
use crate::settings::secret::without_line_end;

/// A folder with more files than this is refused as the wrong folder.
const MAX_FILES: usize = 256;

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 4 << 10;

/// Why the folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system returned an error.
    #[error("KEYS_DIR can't be read: {path}: {source}")]
    Unreadable {
        /// The folder.
        path: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The folder has too many files to be a folder of keys.
    #[error("KEYS_DIR has more than {MAX_FILES} files: is {path} the right folder?")]
    TooMany {
        /// The folder.
        path: String,
    },
}

/// The content of a folder.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) keys: ById,
    /// Files that hold no usable key: the file's name and the reason.
    pub(super) unusable: BTreeMap<String, String>,
}

/// Reads the folder.
pub(super) fn read(path: &Path) -> Result<Found, FolderError> {
    read_settled(|| read_once(path))
}

fn read_once(path: &Path) -> Result<Found, FolderError> {
    let unreadable = |source| FolderError::Unreadable { path: path.display().to_string(), source };
    let mut found = Found::default();
    for (index, entry) in fs::read_dir(path).map_err(unreadable)?.enumerate() {
        if index >= MAX_FILES {
            return Err(FolderError::TooMany { path: path.display().to_string() });
        }
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Kubernetes keeps a mounted Secret's data in hidden folders beside the entries.
        if name.starts_with('.') {
            continue;
        }
        let key = name
            .parse::<KeyId>()
            .map_err(|_| "has a name that is not a valid key id".to_owned())
            .and_then(|id| Ok((id, read_key(&entry.path())?)));
        match key {
            Ok((id, key)) => _ = found.keys.insert(id, key),
            Err(why) => _ = found.unusable.insert(name, why),
        }
    }
    Ok(found)
}

/// A file's content without its last line end. The error is the reason why it can't be used as a key.
fn read_key(path: &Path) -> Result<Key, String> {
    let cannot = |error: io::Error| format!("can't be read ({error})");
    // Opening must not block if it is a pipe.
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err("is not a file".to_owned());
    }
    // Allocated at its full size, because growing would leave copies of the key in memory.
    let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_KEY_BYTES + 3));
    // One byte more than the longest key with the longest line end.
    file.take(MAX_KEY_BYTES as u64 + 3).read_to_end(&mut buffer).map_err(cannot)?;
    let key = without_line_end(&buffer);
    match key.len() {
        0 => Err("is empty".to_owned()),
        length if length > MAX_KEY_BYTES => Err(format!("is longer than {MAX_KEY_BYTES} bytes")),
        _ => Ok(Key::new(key.to_vec())),
    }
}

//! A folder of keys, as a mounted Secret is one: each file's name is an id, its content the key.
//!
//! Everything is read every time: keys are few and short, and what stands in a file tells more surely than its times
//! whether it is still the same.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use secrecy::zeroize::Zeroizing;

use super::{ById, Key, KeyId};
use crate::settings::secret::without_line_end;

/// More files than this are no folder of keys.
const MAX_FILES: usize = 256;

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 4 << 10;

/// A folder that is being changed is read until it reads the same twice, this often at most.
const MAX_READS: usize = 6;

/// Why the folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system says why.
    #[error("KEYS_DIR can't be read: {path}: {source}")]
    Unreadable {
        /// The folder.
        path: String,
        /// The system's words.
        source: io::Error,
    },
    /// It is some other folder.
    #[error("KEYS_DIR has more than {MAX_FILES} files: is {path} the right folder?")]
    TooMany {
        /// The folder.
        path: String,
    },
}

/// What is in a folder.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) keys: ById,
    /// Names of files that hold no key, and why not.
    pub(super) unusable: BTreeMap<String, String>,
}

/// Reads the folder. A mounted Secret is changed by swapping a link that all its files lead through, and a look that meets the
/// swap sees some of each: hence a second look, and more until two agree.
pub(super) fn read(path: &Path) -> Result<Found, FolderError> {
    let mut last = read_once(path)?;
    for _ in 1..MAX_READS {
        let again = read_once(path)?;
        if again == last {
            break;
        }
        last = again;
    }
    Ok(last)
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
        // Of such names are the parts of a mounted Secret that are not its entries.
        if name.starts_with('.') {
            continue;
        }
        let key = name
            .parse::<KeyId>()
            .map_err(|_| "has a name that is no key's id".to_owned())
            .and_then(|id| Ok((id, read_key(&entry.path())?)));
        match key {
            Ok((id, key)) => _ = found.keys.insert(id, key),
            Err(why) => _ = found.unusable.insert(name, why),
        }
    }
    Ok(found)
}

/// A file's content without the line end that editors put behind it. The error says why it is no key.
fn read_key(path: &Path) -> Result<Key, String> {
    let cannot = |error: io::Error| format!("can't be read ({error})");
    // Without waiting, should it be a pipe that nobody writes to.
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err("is not a file".to_owned());
    }
    // Of its full size from the start, so that growing leaves no copy behind.
    let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_KEY_BYTES + 3));
    // One byte more than the longest key and the longest line end.
    file.take(MAX_KEY_BYTES as u64 + 3).read_to_end(&mut buffer).map_err(cannot)?;
    let key = without_line_end(&buffer);
    match key.len() {
        0 => Err("is empty".to_owned()),
        length if length > MAX_KEY_BYTES => Err(format!("is longer than {MAX_KEY_BYTES} bytes")),
        _ => Ok(Key::new(key.to_vec())),
    }
}

//! A list of folders.

use std::path::PathBuf;
use std::str::FromStr;

use super::limits::LimitError;

/// The most folders of a list.
const MAX_FOLDERS: usize = 16;

/// Folders by their absolute paths, written with commas between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderList(pub(super) Vec<PathBuf>);

impl FromStr for FolderList {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let folders: Vec<PathBuf> = text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        if (1..=MAX_FOLDERS).contains(&folders.len()) && folders.iter().all(|path| path.is_absolute()) {
            Ok(Self(folders))
        } else {
            Err(LimitError::new("expected 1 to 16 absolute paths with commas between them, such as /var/lib/metrics"))
        }
    }
}
